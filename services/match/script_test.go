package match

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/understudy-ft/understudy/services/flow"
)

// TestScripts runs the scripts in testdata (regenerate with -rewrite). Each
// line of a `run` block is one call; what it brings about is printed below it.
//
//	active|standby ID stream|datagram|event|pass f=FLOW end=N [d=LETTERS] [ack=N] [edge=N] [syn] [fin] [rst] [after=N] [name=...]
//	progress active|standby DELIVERED IDLE
//	reply FLOW OFFSET LETTERS|none
//	tick [DURATION]       advance the clock, then Tick
//	reset EPOCH
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) { runScript(t, path) })
	}
}

func runScript(t *testing.T, path string) {
	var s script
	datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "new":
			s = script{}
			var cfg Config
			for _, a := range d.CmdArgs {
				n, err := strconv.Atoi(a.Vals[0])
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				switch a.Key {
				case "flows":
					cfg.Limits.Flows = n
				case "perflow":
					cfg.Limits.PerFlow = n
				case "waiting":
					cfg.Limits.Waiting = n
				}
			}
			s.core = New(cfg)
			s.core.Reset(1)
			return ""
		case "run":
			var out strings.Builder
			for line := range strings.Lines(d.Input) {
				line = strings.TrimSpace(line)
				fmt.Fprintf(&out, "%s\n", line)
				if err := s.call(strings.Fields(line)); err != nil {
					d.Fatalf(t, "%s: %v", line, err)
				}
				s.effects(&out)
			}
			return out.String()
		}
		d.Fatalf(t, "unknown command %s", d.Cmd)
		return ""
	})
}

type script struct {
	core *Core
	now  time.Duration
}

func (s *script) call(w []string) error {
	switch w[0] {
	case "active", "standby":
		return s.report(w)
	case "progress":
		delivered, err := strconv.ParseUint(w[2], 10, 64)
		if err != nil {
			return err
		}
		idle, err := time.ParseDuration(w[3])
		if err != nil {
			return err
		}
		s.core.Progress(side(w[1]), delivered, idle, s.now)
	case "reply":
		id, _ := strconv.ParseUint(w[1], 10, 64)
		offset, err := strconv.ParseUint(w[2], 10, 64)
		if err != nil {
			return err
		}
		s.core.ProbeReply(flow.ID(id), offset, digest(w[3]), s.now)
	case "tick":
		if len(w) > 1 {
			d, err := time.ParseDuration(w[1])
			if err != nil {
				return err
			}
			s.now += d
		}
		s.core.Tick(s.now)
	case "reset":
		epoch, err := strconv.ParseUint(w[1], 10, 64)
		if err != nil {
			return err
		}
		s.core.Reset(epoch)
	default:
		return fmt.Errorf("unknown call")
	}
	return nil
}

func side(word string) Side {
	if word == "active" {
		return Active
	}
	return Standby
}

func digest(word string) (d flow.Digest) {
	if word != "none" {
		copy(d[:], word)
	}
	return d
}

func (s *script) report(w []string) error {
	id, err := strconv.ParseUint(w[1], 10, 64)
	if err != nil {
		return err
	}
	kinds := map[string]flow.Kind{"stream": flow.Stream, "datagram": flow.Datagram, "event": flow.Event, "pass": flow.Pass, "bogus": 9}
	out := flow.Output{Kind: kinds[w[2]]}
	var after uint64
	for _, arg := range w[3:] {
		key, val, _ := strings.Cut(arg, "=")
		n, _ := strconv.ParseUint(val, 10, 64)
		switch key {
		case "f":
			out.Flow = flow.ID(n)
		case "end":
			out.End = n
		case "d":
			out.Digest = digest(val)
		case "ack":
			out.Ack, out.Flags = n, out.Flags|flow.ACK
			if out.Edge == 0 {
				out.Edge = n + 1000
			}
		case "edge":
			out.Edge = n
		case "syn":
			out.Flags |= flow.SYN
		case "fin":
			out.Flags |= flow.FIN
		case "rst":
			out.Flags |= flow.RST
		case "after":
			after = n
		case "name":
			out.Name = strings.ReplaceAll(val, "_", " ")
		default:
			return fmt.Errorf("unknown argument %q", arg)
		}
	}
	s.core.Report(side(w[0]), id, after, out, s.now)
	return nil
}

func (s *script) effects(out *strings.Builder) {
	for _, r := range s.core.Releases() {
		fmt.Fprintf(out, "  release %d", r.ID)
		if r.EdgeMax != 0 {
			fmt.Fprintf(out, " edge<=%d", r.EdgeMax)
		}
		if r.Kind == flow.Event {
			fmt.Fprintf(out, " event %s", strings.TrimRight(string(r.Digest[:]), "\x00"))
		}
		out.WriteByte('\n')
	}
	for _, p := range s.core.Probes() {
		fmt.Fprintf(out, "  probe flow %d at %d\n", p.Flow, p.Offset)
	}
	if d := s.core.Disagreement(); d != nil {
		fmt.Fprintf(out, "  DISAGREE %v: %v\n", d.Kind, d)
	}
	s.core.Clear()
}

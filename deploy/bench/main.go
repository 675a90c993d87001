// Command bench measures, in one run and side by side, what protection costs and
// how fast the parts are. docs/bench/README.md tells the method.
//
// Each part can be run alone, a part that fails is reported and the others go
// on, and every run ends with a table for people, ratios first, and a file for
// machines. It needs no tool but Go, and mkfs.ext4 for the load that writes a
// disk.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
)

// part is a group of measurements.
type part struct {
	name, what string
	run        func(*bench, context.Context) error
}

// parts in the order in which they run. Those behind byDefault are run when they
// are asked for.
var parts = []part{
	{"engine", "speed of the interpreter and of hashing", (*bench).engine},
	{"loads", "throughput alone, as twins and protected", (*bench).loads},
	{"boots", "start to the first answer", (*bench).boots},
	{"pauses", "resynchronizations, and the wait for a release", (*bench).pauses},
	{"failovers", "the gap that clients see", (*bench).failovers},
	{"copy", "a first copy of 1 GiB while the guest serves", (*bench).firstCopy},
	{"arbiter", "one arbiter, many VMs", (*bench).arbiter},
	{"growth", "how figures grow; see --growth", (*bench).growth},
	{"soak", "divergences by cause, load by load", (*bench).soak},
}

const byDefault = 7

type options struct {
	bin, guest, memory  string
	rounds              int
	span, soak          time.Duration
	kills, resyncs, vms int
	heartbeat           string
	part, load, growth  *cli.List
	out, ledger, plots  string
}

func main() {
	cmd := cli.New("bench", "measures what protection costs, side by side")
	o := options{part: cli.NewList(), load: cli.NewList(), growth: cli.NewList()}
	cmd.StringVar(&o.bin, "bin", "bin", "`DIR` with the binaries")
	cmd.StringVar(&o.guest, "guest", "build/guest/rv64", "`DIR` with the guest's Image and initrd")
	cmd.StringVar(&o.memory, "memory", "256M", "`SIZE` of the guest's memory")
	cmd.Var(o.part, "part", "`NAMES` of what to measure, separated by commas: "+names(parts)+"\n(default: the first "+fmt.Sprint(byDefault)+", and growth where --growth is given)")
	cmd.Var(o.growth, "growth", "`NAMES` of what is to grow: "+names(growths)+", or all")
	cmd.Var(o.load, "load", "`NAMES` of loads (default: all): "+loadNames())
	cmd.IntVar(&o.rounds, "rounds", 3, "`NUMBER` of rounds; each measures every variant once")
	cmd.DurationVar(&o.span, "span", 2*time.Second, "`TIME` of each measurement of a load")
	cmd.DurationVar(&o.soak, "soak", time.Minute, "`TIME` of each load of the part soak")
	cmd.IntVar(&o.kills, "kills", 8, "`NUMBER` of fail-overs of each kind")
	cmd.IntVar(&o.resyncs, "resyncs", 40, "`NUMBER` of resynchronizations of an idle guest; of other kinds a quarter")
	cmd.IntVar(&o.vms, "vms", 1000, "`NUMBER` of VMs of the part arbiter")
	cmd.StringVar(&o.heartbeat, "heartbeat-timeout", "", "`TIME` after which a silent process counts as lost, but where that is measured; for busy machines\n(default: the programs')")
	cmd.StringVar(&o.out, "out", "build/bench.json", "`FILE` for the results")
	cmd.StringVar(&o.ledger, "ledger", "", "`FILE` that a dated entry is appended to (default: none)")
	cmd.StringVar(&o.plots, "plots", "", "`DIR` for the plots (default: none)")
	cli.Main(cmd, func(ctx context.Context, _ hclog.Logger) error {
		chosen, err := o.check()
		if err != nil {
			return fmt.Errorf("%w (%w)", err, cli.ErrUsage)
		}
		b := newBench(o)
		defer b.close()
		for _, p := range chosen {
			if ctx.Err() != nil {
				break
			}
			b.say("%s: %s", p.name, p.what)
			began := time.Now()
			if err := p.run(b, ctx); err != nil {
				b.say("%s FAILED: %v", p.name, err)
				b.report.Failed = append(b.report.Failed, failure{p.name, err.Error()})
			}
			b.say("%s took %.0f s", p.name, time.Since(began).Seconds())
			b.report.judge()
			if err := b.report.save(o.out); err != nil { // in case the next is this machine's last
				return err
			}
		}
		b.report.judge()
		b.report.Load[1] = loadAverage()
		fmt.Print(b.report.table())
		return errors.Join(b.report.write(o), ctx.Err())
	})
}

// check tells what is wrong with the options, and what is to be run.
func (o *options) check() ([]part, error) {
	if o.rounds < 1 || o.kills < 1 || o.resyncs < 4 || o.vms < 1 || o.span < 100*time.Millisecond || o.soak < time.Second {
		return nil, errors.New("--rounds, --kills and --vms must be at least 1, --resyncs 4, --span 100ms, --soak 1s")
	}
	for _, name := range o.load.Values {
		if !slices.ContainsFunc(loads, func(l workload) bool { return l.name == name }) {
			return nil, fmt.Errorf("--load %q is none of %s", name, loadNames())
		}
	}
	if slices.Equal(o.growth.Values, []string{"all"}) {
		o.growth.Values = strings.Split(names(growths), ", ")
	}
	if _, err := choose("growth", o.growth.Values, growths); err != nil {
		return nil, err
	}
	if len(o.part.Values) > 0 {
		return choose("part", o.part.Values, parts)
	}
	chosen := parts[:byDefault]
	if len(o.growth.Values) > 0 {
		grow, err := choose("part", []string{"growth"}, parts)
		return append(slices.Clone(chosen), grow...), err
	}
	return chosen, nil
}

func choose(flag string, wanted []string, from []part) (chosen []part, err error) {
	for _, name := range wanted {
		i := slices.IndexFunc(from, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--%s %q is none of %s", flag, name, names(from))
		}
		chosen = append(chosen, from[i])
	}
	return chosen, nil
}

func names(parts []part) string {
	var s []string
	for _, p := range parts {
		s = append(s, p.name)
	}
	return strings.Join(s, ", ")
}

// bench is one run.
type bench struct {
	options
	dir    string // scratch
	began  time.Time
	report *report
}

func newBench(o options) *bench {
	return &bench{options: o, began: time.Now(), report: newReport(o)}
}

func (b *bench) close() {
	if b.dir != "" {
		_ = os.RemoveAll(b.dir)
	}
}

// scratch is a directory that is removed at the end.
func (b *bench) scratch() (string, error) {
	if b.dir == "" {
		dir, err := os.MkdirTemp("", "understudy-bench-")
		if err != nil {
			return "", err
		}
		b.dir = dir
	}
	return b.dir, nil
}

// say tells who waits how far it is.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7.1f s  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

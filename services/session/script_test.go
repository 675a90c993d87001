package session

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
)

// TestScripts runs the scripts in testdata (regenerate with -rewrite). Each
// line of a `run` block is one input; its effects are printed below it. The
// arbiter's heartbeats are left out, but for `tick ... loud`.
//
//	own none | own MODE term=N active=ID [standby=ID] [rev=N] [disk=ID] [disk2=ID] (the active's and the standby's image)
//	  [suspended=yes] [drained=PROCESS]
//	disown
//	attach CONN ID ROLE [term=N] [mode=MODE] [epoch=N] [lease=N] [vm=NAME] [protocol=MIN[-MAX]]
//	  [disk=ID[:TERM][:torn][:adopt]] [boots=yes] [at=HOST] [process=NAME] [unfit=WHY]
//	detach CONN [WHY]
//	from CONN [term=N] beat [epoch=N] [input=N] [idle=DURATION] [lease=N]
//	from CONN [term=N] outputs EPOCH OUTPUT... (ID:stream|datagram|pass|event:FLOW:END:LETTERS|-[:NAME])
//	from CONN [term=N] reply EPOCH FLOW OFFSET LETTERS
//	from CONN [term=N] started EPOCH [pause=USEC]
//	from CONN [term=N] failed REASON [DETAIL]
//	from CONN [term=N] left
//	committed | failed conflict|condition|unavailable [replica=ID] [same | none | MODE term=N active=ID [standby=ID]]
//	failover TOKEN | resync TOKEN | drop TOKEN ID | switch TOKEN | test TOKEN
//	drain TOKEN ID | undrain TOKEN ID | suspend TOKEN | resume TOKEN
//	policy TOKEN [FIELD,... [flow_rules=RULE] [compare_max_ms=N] [heartbeat_timeout_ms=N]] (a rule has _ for each space)
//	tick DURATION [loud]
//	pass DURATION CONN... (time passes in which only these replicas beat)
//	status
//
// A message has the term of the last assignment on its stream unless another is
// given. A lease is 100 + the number in the replica's id.
func TestScripts(t *testing.T) {
	paths, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txt"), func(t *testing.T) {
			var s *script
			datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
				switch d.Cmd {
				case "new":
					policy := &pb.Policy{}
					if d.HasArg("epochmax") {
						d.ScanArgs(t, "epochmax", &policy.EpochMaxMs)
					}
					var most uint64 = 1
					if d.HasArg("speaks") {
						d.ScanArgs(t, "speaks", &most)
					}
					s = newScript(Config{VM: "web", Policy: policy, Speaks: protocol.Range{Min: 1, Max: uint32(most)}})
					return ""
				case "run":
					s.out.Reset()
					for line := range strings.Lines(d.Input) {
						line = strings.TrimSpace(line)
						fmt.Fprintf(&s.out, "%s\n", line)
						if err := s.line(strings.Fields(line)); err != nil {
							d.Fatalf(t, "%s: %v", line, err)
						}
					}
					return s.out.String()
				}
				d.Fatalf(t, "unknown command %s", d.Cmd)
				return ""
			})
		})
	}
}

type script struct {
	core  *Core
	now   time.Time
	terms map[Conn]uint64
	rev   int64
	loud  bool
	out   strings.Builder
}

func newScript(cfg Config) *script {
	return &script{core: New(cfg), now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC), terms: map[Conn]uint64{}}
}

// args splits words into plain ones and key=value ones.
func args(words []string) (plain []string, keys map[string]string) {
	keys = map[string]string{}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			keys[k] = v
		} else {
			plain = append(plain, w)
		}
	}
	return plain, keys
}

func num(s string) uint64 {
	n, _ := strconv.ParseUint(s, 10, 64)
	return n
}

func conn(s string) Conn { return Conn(num(s)) }

func enum(names map[string]int32, prefix, word string) (int32, error) {
	v, ok := names[prefix+word]
	if !ok {
		return 0, fmt.Errorf("unknown name %q", prefix+word)
	}
	return v, nil
}

func ref(id string) *pb.ReplicaRef {
	if id == "" {
		return nil
	}
	return &pb.ReplicaRef{Id: id, Address: id + ":7000"}
}

func record(words []string) (*pb.Record, error) {
	plain, keys := args(words)
	if len(plain) == 0 || plain[0] == "none" {
		return nil, nil
	}
	mode, err := enum(pb.Mode_value, "MODE_", plain[0])
	if err != nil {
		return nil, err
	}
	r := &pb.Record{Vm: "web", Term: num(keys["term"]), Mode: pb.Mode(mode), Active: ref(keys["active"]), Standby: ref(keys["standby"]),
		ActiveDisk: keys["disk"], StandbyDisk: keys["disk2"], Suspended: keys["suspended"] == "yes"}
	if p := keys["drained"]; p != "" {
		r.Drained = []*pb.Drained{{Process: p, SinceUnixMs: 1_795_000_000_000}}
	}
	return r, nil
}

func (s *script) line(w []string) error {
	plain, keys := args(w)
	switch w[0] {
	case "own":
		r, err := record(w[1:])
		if err != nil {
			return err
		}
		if s.rev = 0; r != nil {
			s.rev = 10
		}
		s.step(Owned{Record: r, Revision: s.rev})
	case "disown":
		s.step(Disowned{})
	case "attach":
		return s.attach(plain, keys)
	case "detach":
		why := "the stream ended"
		if len(w) > 2 {
			why = strings.Join(w[2:], " ")
		}
		s.step(Detached{Conn: conn(w[1]), Why: why})
	case "from":
		return s.from(plain, keys)
	case "committed":
		s.rev++
		s.step(Committed{Revision: s.rev})
	case "failed":
		return s.failed(plain, keys)
	case "failover":
		s.step(FailOver{Token: Token(num(w[1]))})
	case "resync":
		s.step(ResyncNow{Token: Token(num(w[1]))})
	case "drop":
		s.step(Drop{Token: Token(num(w[1])), ReplicaID: w[2]})
	case "switch":
		s.step(SwitchOver{Token: Token(num(w[1]))})
	case "test":
		s.step(TestFailOver{Token: Token(num(w[1]))})
	case "drain":
		s.step(Drain{Token: Token(num(w[1])), ReplicaID: w[2], By: "operator ann"})
	case "undrain":
		s.step(Undrain{Token: Token(num(w[1])), ReplicaID: w[2]})
	case "suspend":
		s.step(Suspend{Token: Token(num(w[1]))})
	case "resume":
		s.step(Resume{Token: Token(num(w[1]))})
	case "policy":
		p := &pb.Policy{CompareMaxMs: uint32(num(keys["compare_max_ms"])), HeartbeatTimeoutMs: uint32(num(keys["heartbeat_timeout_ms"]))}
		if rule, ok := keys["flow_rules"]; ok {
			p.FlowRules = []string{strings.ReplaceAll(rule, "_", " ")}
		}
		in := SetPolicy{Token: Token(num(w[1])), By: "ops", Policy: p}
		if len(w) > 2 {
			in.Fields = strings.Split(w[2], ",")
		}
		s.step(in)
	case "tick":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			return err
		}
		s.now = s.now.Add(d)
		s.loud = len(w) > 2
		s.step(Tick{})
		s.loud = false
	case "pass":
		d, err := time.ParseDuration(w[1])
		if err != nil {
			return err
		}
		for end := s.now.Add(d); s.now.Before(end); {
			s.now = s.now.Add(25 * time.Millisecond)
			for _, c := range w[2:] {
				s.receive(conn(c), &pb.FromReplica{Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{}}}, nil)
			}
			s.step(Tick{})
		}
	case "status":
		fmt.Fprintf(&s.out, "  %s\n", s.core.Status().GetSummary())
	case "stale":
		fmt.Fprintf(&s.out, "  %d stale\n", s.core.Counters().Stale)
	default:
		return fmt.Errorf("unknown input")
	}
	return nil
}

func (s *script) attach(plain []string, keys map[string]string) error {
	role, err := enum(pb.Role_value, "ROLE_", plain[3])
	if err != nil {
		return err
	}
	h := &pb.Hello{Protocol: ProtocolVersion, Vm: "web", Replica: ref(plain[2]), Role: pb.Role(role), Epoch: num(keys["epoch"]),
		LeaseId: leaseOf(plain[2])}
	if m, ok := keys["mode"]; ok {
		mode, err := enum(pb.Mode_value, "MODE_", m)
		if err != nil {
			return err
		}
		h.Mode = pb.Mode(mode)
	}
	if v, ok := keys["vm"]; ok {
		h.Vm = v
	}
	if v, ok := keys["at"]; ok {
		h.Replica.Address = v + ":7000"
	}
	h.Process = keys["process"]
	h.Unfit = keys["unfit"]
	if v, ok := keys["protocol"]; ok {
		low, high, _ := strings.Cut(v, "-")
		h.Protocol, h.ProtocolMax = uint32(num(low)), uint32(num(high))
	}
	if v, ok := keys["lease"]; ok {
		h.LeaseId = int64(num(v))
	}
	if v, ok := keys["disk"]; ok {
		words := strings.Split(v, ":")
		h.Disk = &pb.Disk{Id: words[0], Whole: true, Path: "/" + words[0] + ".img"}
		for _, w := range words[1:] {
			switch w {
			case "torn":
				h.Disk.Whole = false
			case "adopt":
				h.Disk.Adopt = true
			default:
				h.Disk.Term = num(w)
			}
		}
	}
	h.CanBoot = keys["boots"] == "yes"
	c := conn(plain[1])
	s.terms[c] = num(keys["term"])
	s.step(Attached{Conn: c, Hello: h, Term: num(keys["term"])})
	return nil
}

func leaseOf(id string) int64 {
	return 100 + int64(num(id[strings.LastIndexByte(id, '-')+1:]))
}

func (s *script) from(plain []string, keys map[string]string) error {
	m := &pb.FromReplica{}
	epoch := num(keys["epoch"])
	if len(plain) > 3 {
		epoch = num(plain[3])
	}
	switch plain[2] {
	case "beat":
		idle, _ := time.ParseDuration(keys["idle"])
		m.Body = &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: epoch, DeliveredInput: num(keys["input"]),
			IdleUs: uint64(idle.Microseconds()), LeaseId: int64(num(keys["lease"]))}}
	case "outputs":
		o := &pb.Outputs{Epoch: epoch}
		for _, w := range plain[4:] {
			out, err := output(w)
			if err != nil {
				return err
			}
			o.Outputs = append(o.Outputs, out)
		}
		m.Body = &pb.FromReplica_Outputs{Outputs: o}
	case "reply":
		m.Body = &pb.FromReplica_ProbeReply{ProbeReply: &pb.ProbeReply{Epoch: epoch, Flow: num(plain[4]), Offset: num(plain[5]), Digest: letters(plain[6])}}
	case "started":
		e := &pb.EpochStarted{Epoch: epoch}
		if p, ok := keys["pause"]; ok {
			e.Stats = &pb.SyncStats{PauseUs: num(p)}
		}
		m.Body = &pb.FromReplica_EpochStarted{EpochStarted: e}
	case "failed":
		reason, err := enum(pb.Reason_value, "REASON_", plain[3])
		if err != nil {
			return err
		}
		m.Body = &pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{Reason: pb.Reason(reason), Detail: strings.Join(plain[4:], " ")}}
	case "left":
		m.Body = &pb.FromReplica_Left{Left: &pb.Left{}}
	case "nothing":
	default:
		return fmt.Errorf("unknown message")
	}
	s.receive(conn(plain[1]), m, keys)
	return nil
}

func (s *script) receive(c Conn, m *pb.FromReplica, keys map[string]string) {
	m.Term = s.terms[c]
	if t, ok := keys["term"]; ok {
		m.Term = num(t)
	}
	s.step(Received{Conn: c, Msg: m})
}

func letters(word string) []byte {
	if word == "-" {
		return nil
	}
	b := make([]byte, 16)
	copy(b, word)
	return b
}

func output(word string) (*pb.Output, error) {
	f := strings.Split(word, ":")
	if len(f) < 5 {
		return nil, fmt.Errorf("output %q", word)
	}
	kind, err := enum(pb.OutputKind_value, "OUTPUT_KIND_", strings.ToUpper(f[1]))
	if err != nil {
		return nil, err
	}
	o := &pb.Output{Id: num(f[0]), Kind: pb.OutputKind(kind), Flow: num(f[2]), End: num(f[3]), Digest: letters(f[4])}
	if len(f) > 5 {
		o.Name = f[5]
	}
	return o, nil
}

func (s *script) failed(plain []string, keys map[string]string) error {
	in := CommitFailed{ReplicaID: keys["replica"], Record: s.core.record, Revision: s.rev}
	switch plain[1] {
	case "conflict":
		in.Cause = Conflict
		var words []string
		words = append(words, plain[2:]...)
		for k, v := range keys {
			words = append(words, k+"="+v)
		}
		var r *pb.Record
		if len(plain) > 2 && plain[2] == "same" { // the one proposed
			r = s.core.proposal.record
		} else {
			var err error
			if r, err = record(words); err != nil {
				return err
			}
		}
		if s.rev++; r == nil {
			s.rev = 0
		}
		in.Record, in.Revision = r, s.rev
	case "condition":
		in.Cause = Condition
	case "unavailable":
		in.Cause = Unavailable
	default:
		return fmt.Errorf("unknown cause")
	}
	s.step(in)
	return nil
}

func (s *script) step(in Input) {
	for _, e := range s.core.Step(s.now, in) {
		if line := s.describe(e); line != "" {
			fmt.Fprintf(&s.out, "  %s\n", line)
		}
	}
}

func (s *script) describe(e Effect) string {
	switch e := e.(type) {
	case Send:
		return s.message(e)
	case Close:
		if e.Refusal == nil {
			return fmt.Sprintf("close %d", e.Conn)
		}
		return fmt.Sprintf("close %d %s: %s", e.Conn, short(e.Refusal.GetAction().String()), e.Refusal.GetDetail())
	case Commit:
		line := fmt.Sprintf("COMMIT %s if rev=%d", describeRecord(e.Record), e.Expected)
		for _, k := range e.Conditions {
			if k.Absent {
				line += " no-" + k.ReplicaID
			} else {
				line += fmt.Sprintf(" %s@%d", k.ReplicaID, k.LeaseID)
			}
		}
		return line
	case Report:
		line := "event " + short(e.Event.GetType().String())
		if e.Event.GetReason() != 0 {
			line += " (" + short(e.Event.GetReason().String()) + ")"
		}
		if e.Event.GetDetail() != "" {
			line += ": " + e.Event.GetDetail()
		}
		if st := e.Event.GetStats(); st != nil {
			line += fmt.Sprintf(" [pause %d us]", st.GetPauseUs())
		}
		return line
	case Reply:
		line := fmt.Sprintf("reply %d: %v", e.Token, e.Err)
		if e.Test != nil {
			line += fmt.Sprintf(" %+v", *e.Test)
		}
		return line
	case GiveUp:
		return "give up"
	}
	return "unknown effect"
}

func short(name string) string {
	for _, p := range []string{"EVENT_TYPE_", "REASON_", "ACTION_", "MODE_"} {
		name = strings.TrimPrefix(name, p)
	}
	return name
}

func describeRecord(r *pb.Record) string {
	line := fmt.Sprintf("term=%d %s active=%s", r.GetTerm(), short(r.GetMode().String()), r.GetActive().GetId())
	if s := r.GetStandby().GetId(); s != "" {
		line += " standby=" + s
	}
	if r.GetActiveDisk() != "" {
		line += " disk=" + r.GetActiveDisk()
	}
	if r.GetStandbyDisk() != "" {
		line += " disk2=" + r.GetStandbyDisk()
	}
	if r.GetSuspended() {
		line += " SUSPENDED"
	}
	for _, d := range r.GetDrained() {
		line += " drained=" + d.GetProcess()
	}
	return line + " (" + short(r.GetReason().String()) + ")"
}

func (s *script) message(e Send) string {
	head := fmt.Sprintf("to %d t%d ", e.Conn, e.Msg.GetTerm())
	switch b := e.Msg.GetBody().(type) {
	case *pb.ToReplica_Assignment:
		s.terms[e.Conn] = b.Assignment.GetRecord().GetTerm()
		return head + fmt.Sprintf("assignment %s rev=%d lease=%d", describeRecord(b.Assignment.GetRecord()), b.Assignment.GetRevision(), b.Assignment.GetLeaseId()) + rules(b.Assignment.GetPolicy())
	case *pb.ToReplica_Release:
		head += fmt.Sprintf("release e%d", b.Release.GetEpoch())
		for _, o := range b.Release.GetOutputs() {
			head += fmt.Sprintf(" %d", o.GetId())
		}
		return head
	case *pb.ToReplica_Probes:
		head += fmt.Sprintf("probes e%d", b.Probes.GetEpoch())
		for _, p := range b.Probes.GetProbes() {
			head += fmt.Sprintf(" %d@%d", p.GetFlow(), p.GetOffset())
		}
		return head
	case *pb.ToReplica_Resync:
		return head + fmt.Sprintf("resync e%d (%s): %s", b.Resync.GetEpoch(), short(b.Resync.GetReason().String()), b.Resync.GetDetail()) + rules(b.Resync.GetPolicy())
	case *pb.ToReplica_Heartbeat:
		if !s.loud {
			return ""
		}
		return head + "heartbeat"
	}
	return head + "unknown message"
}

// Every replica hears from the arbiter in each heartbeat interval, and only
// then.
func TestHeartbeats(t *testing.T) {
	s := newScript(Config{VM: "web"})
	for _, l := range []string{"own none", "attach 1 r-1 SPARE"} {
		if err := s.line(strings.Fields(l)); err != nil {
			t.Fatal(err)
		}
	}
	var at []time.Duration
	start := s.now
	for range 40 {
		s.now = s.now.Add(10 * time.Millisecond)
		s.receive(1, &pb.FromReplica{Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{}}}, nil)
		for _, e := range s.core.Step(s.now, Tick{}) {
			if m, ok := e.(Send); ok && m.Msg.GetHeartbeat() != nil {
				at = append(at, s.now.Sub(start))
			}
		}
	}
	want := []time.Duration{50, 100, 150, 200, 250, 300, 350, 400}
	for i := range want {
		want[i] *= time.Millisecond
	}
	if !slices.Equal(at, want) {
		t.Fatalf("heartbeats at %v, want %v", at, want)
	}
}

// rules are the flow rules of a policy, where it has any.
func rules(p *pb.Policy) string {
	if len(p.GetFlowRules()) == 0 {
		return ""
	}
	return fmt.Sprintf(" rules %q", p.GetFlowRules())
}

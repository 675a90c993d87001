package session

import (
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// A Core that is told the time only when it is due does the same as one that is
// told each 10 ms, at the same time but for that interval. The latter does nothing
// before it is due.
func TestDue(t *testing.T) {
	for name, c := range map[string]struct {
		policy *pb.Policy
		then   string // once the copies are compared
		ends   bool   // something but heartbeats follows
	}{
		"compare": {&pb.Policy{CompareMaxMs: 333, HeartbeatTimeoutMs: 30_000}, "from 1 outputs 4 1:datagram:1:1:A:udp", true},
		"rst":     {&pb.Policy{CompareMaxMs: 333, HeartbeatTimeoutMs: 30_000}, "from 2 outputs 4 1:stream:1:1:A:tcp", true},
		"epoch":   {&pb.Policy{EpochMaxMs: 777, HeartbeatTimeoutMs: 30_000}, "", true},
		"silence": {&pb.Policy{HeartbeatTimeoutMs: 1111}, "", true},
		"beats":   {&pb.Policy{HeartbeatTimeoutMs: 30_000}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			eager, beats := dueRun(t, c.policy, c.then, false)
			lazy, lazyBeats := dueRun(t, c.policy, c.then, true)
			if (eager != 0) != c.ends {
				t.Fatalf("ends after %v", eager)
			}
			if late := lazy - eager; late < -tickBusy || late > tickBusy {
				t.Errorf("after %v when told often, %v when due", eager, lazy)
			}
			if beats < 6 || lazyBeats < beats-2 || lazyBeats > beats {
				t.Errorf("%d heartbeats when told often, %d when due", beats, lazyBeats)
			}
		})
	}
}

// dueRun lets two seconds pass, in which nobody says anything, and returns after
// how long something but a heartbeat happens.
func dueRun(t *testing.T, policy *pb.Policy, then string, lazy bool) (after time.Duration, beats int) {
	s := compared(t, policy, 300*time.Millisecond, then)
	for begun := s.now; s.now.Sub(begun) < 2*time.Second; {
		s.now = s.now.Add(time.Millisecond)
		early := s.now.Before(s.core.Due())
		if lazy && early || !lazy && s.now.Sub(begun)%tickBusy != 0 {
			continue
		}
		for _, e := range s.core.Step(s.now, Tick{}) {
			if early {
				t.Errorf("%T %v before it is due", e, e)
			}
			if m, ok := e.(Send); ok && m.Msg.GetHeartbeat() != nil {
				beats++
				continue
			}
			return s.now.Sub(begun), max(beats, 6)
		}
	}
	return 0, beats
}

// compared returns a script at which the outputs of epoch 4 in term 4 are
// compared, after some more lines.
func compared(t *testing.T, policy *pb.Policy, heartbeat time.Duration, then ...string) *script {
	s := newScript(Config{VM: "web", Policy: policy, Heartbeat: heartbeat})
	for _, l := range append([]string{
		"own PROTECTED term=4 active=r-1 standby=r-2",
		"attach 1 r-1 ACTIVE term=4 mode=PROTECTED epoch=3", "attach 2 r-2 STANDBY term=4 mode=PROTECTED epoch=3",
		"from 2 started 4", "from 1 started 4",
	}, then...) {
		if l == "" {
			continue
		}
		if err := s.line(strings.Fields(l)); err != nil {
			t.Fatal(err)
		}
	}
	if s.core.busy() || !s.core.steady() {
		t.Fatal("the copies are not compared")
	}
	return s
}

// TestOutputAllocations counts what two reports and their release take: the
// number of outputs must not matter.
func TestOutputAllocations(t *testing.T) {
	const outputs = 100
	s := compared(t, &pb.Policy{}, 50*time.Millisecond)
	id, released, digest := uint64(0), 0, make([]byte, 16)
	digest[0] = 1
	step := func() {
		m := &pb.Outputs{Epoch: 4, Outputs: make([]*pb.Output, outputs)}
		made := make([]pb.Output, outputs)
		for i := range made {
			id++
			o := &made[i]
			o.Id, o.Kind, o.Flow, o.End, o.Digest = id, pb.OutputKind_OUTPUT_KIND_STREAM, 1, id*100, digest
			m.Outputs[i] = o
		}
		for conn := range Conn(2) {
			for _, e := range s.core.Step(s.now, Received{Conn: conn + 1, Msg: &pb.FromReplica{Term: 4, Body: &pb.FromReplica_Outputs{Outputs: m}}}) {
				if m, ok := e.(Send); ok {
					released += len(m.Msg.GetRelease().GetOutputs())
				}
			}
		}
	}
	allocs := testing.AllocsPerRun(100, step)
	if want := 101 * outputs; released != want { // with the one that warms up
		t.Fatalf("%d outputs are released, not %d", released, want)
	}
	if allocs > 40 {
		t.Errorf("%v allocations for %d outputs of both copies", allocs, outputs)
	}
}

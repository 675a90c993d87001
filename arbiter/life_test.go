package main

import (
	"net/http"
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
)

func TestFromBootToFailOver(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")

	// Outputs leave when both copies have made them, whoever is first.
	active.output(1, 3, 0)
	standby.output(1, 2, 0)
	active.released(1, 2)
	standby.output(3, 5, 0)
	active.released(3, 3)
	active.output(4, 5, 0)
	active.released(4, 5)

	s := vmStatus(t, a, "web")
	if s.Record.Mode != pb.Mode_MODE_PROTECTED || s.Record.Active.Id != "r-1" || s.Record.Standby.Id != "r-2" ||
		s.Epoch != 1 || s.Counters.GetOutputsReleased() != 5 || len(s.Replicas) != 2 || s.Summary == "" {
		t.Errorf("status: %v", s)
	}
	for path, want := range map[string]string{
		"/":        "Protected",
		"/metrics": `understudy_outputs_released_total{vm="web"} 5`,
		"/readyz":  "ready",
		"/healthz": "ok",
	} {
		if body := get(t, a.page+path, http.StatusOK); !strings.Contains(body, want) {
			t.Errorf("%s has no %q:\n%s", path, want, body)
		}
	}

	// The arbiter is heard all the while.
	for range 2 {
		select {
		case <-standby.beats:
		case <-time.After(patience):
			t.Fatal("no heartbeats")
		}
	}
	// The active dies: its stream ends, and the standby takes over at once.
	begun := time.Now()
	active.leave()
	r := standby.assigned(pb.Mode_MODE_SOLO)
	if r.Active.Id != "r-2" || r.Term <= s.Record.Term {
		t.Errorf("took over with %v", r)
	}
	took := time.Since(begun)
	t.Logf("fail-over after %v", took)
	if took > a.options.heartbeatTimeout {
		t.Errorf("a broken stream took %v to notice, longer than a silent one", took)
	}
	// etcd says the same.
	v, err := fence.NewStore(a.client).Load(within(t, patience), "web")
	if err != nil || v.Record.GetActive().GetId() != "r-2" || v.Record.Term != r.Term || v.Owner == nil {
		t.Errorf("etcd holds %+v, %v", v, err)
	}
	// The old active, back with its copy, is told to discard it.
	active.attach(a.addr)
	if got := active.refused(); got.Action != pb.Refusal_ACTION_DISCARD {
		t.Errorf("the old active was told %v", got)
	}
}

func TestMismatchIsResynchronized(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	active.output(1, 1, 0)
	standby.output(1, 1, 9)
	m := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil })
	if r := m.GetResync(); r.Epoch != 2 || r.Reason != pb.Reason_REASON_MISMATCH {
		t.Errorf("got %v", r)
	}
	standby.startEpoch(2, nil)
	active.startEpoch(2, &pb.SyncStats{PauseUs: 900})
	standby.output(1, 1, 0)
	active.output(1, 1, 0)
	active.released(1, 1)
	if s := vmStatus(t, a, "web"); s.Epoch != 2 || s.Counters.Mismatches != 1 {
		t.Errorf("status: %v", s)
	}
}

func TestSilentReplicaIsLost(t *testing.T) {
	a := launch(t, "--heartbeat-timeout=500ms")
	active, standby := protect(t, a.addr, "web")
	active.mu.Lock() // no heartbeat leaves any more, though the stream is open
	defer active.mu.Unlock()
	if r := standby.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-2" || r.Reason != pb.Reason_REASON_LOST_REPLICA {
		t.Errorf("got %v", r)
	}
}

func TestTwoPrimariesOfOneVM(t *testing.T) {
	a := launch(t)
	first := join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE)
	first.assigned(pb.Mode_MODE_SOLO)
	second := join(t, a.addr, "web", "r-2", pb.Role_ROLE_CANDIDATE)
	if r := second.refused(); r.Action != pb.Refusal_ACTION_EXIT || !strings.Contains(r.Detail, "r-1") {
		t.Errorf("the second primary was told %v", r)
	}
	second.ended()
	if s := vmStatus(t, a, "web"); s.Record.Active.Id != "r-1" || s.Record.Mode != pb.Mode_MODE_SOLO {
		t.Errorf("status: %v", s)
	}
}

// BenchmarkRelease is what the gate adds to one output: from both reports to
// the release, over loopback.
func BenchmarkRelease(b *testing.B) {
	a := launch(b)
	active, standby := protect(b, a.addr, "web")
	id := uint64(0)
	for b.Loop() {
		id++
		active.output(id, id, 0)
		standby.output(id, id, 0)
		active.released(id, id)
	}
}

package main

import (
	"os"
	"os/exec"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func TestRestartOnTheSameDataDirectory(t *testing.T) {
	dir, listen := t.TempDir(), freePort(t)
	a := launch(t, "--data-dir", dir, "--listen", listen)
	active, standby := protect(t, a.addr, "web")
	before := vmStatus(t, a, "web")
	a.shut()
	for _, p := range []*peer{active, standby} {
		if r := p.refused(); r.Action != pb.Refusal_ACTION_RETRY {
			t.Errorf("%s was told %v", p.ref.Id, r)
		}
		p.ended()
	}

	a = launch(t, "--data-dir", dir, "--listen", listen)
	active.attach(a.addr)
	standby.attach(a.addr)
	active.assigned(pb.Mode_MODE_PROTECTED)
	// What was reported before may be lost: the copies are made equal first.
	m := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil })
	epoch := m.GetResync().Epoch
	standby.startEpoch(epoch, nil)
	active.startEpoch(epoch, &pb.SyncStats{})
	active.output(1, 2, 0)
	standby.output(1, 2, 0)
	active.released(1, 2)
	after := vmStatus(t, a, "web")
	if after.Record.Active.Id != "r-1" || after.Record.Standby.Id != "r-2" || after.Record.Term < before.Record.Term {
		t.Errorf("before: %v\nafter: %v", before.Record, after.Record)
	}
}

// TestMain lets the test binary be the arbiter, too, so that one can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_ARBITER") != "" {
		main()
	}
	os.Exit(m.Run())
}

// spawn runs an arbiter in a process of its own.
func spawn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--http=off", "--log-level=error", "--heartbeat-timeout=2s"}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_AS_ARBITER=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// An arbiter that was killed has left its lease behind. With its data directory
// in hand nobody needs to wait for that lease.
func TestRestartAfterACrash(t *testing.T) {
	dir, listen := t.TempDir(), freePort(t)
	args := []string{"--data-dir", dir, "--listen", listen, "--lease-ttl", "30s"}
	killed := spawn(t, args...)
	active, standby := protect(t, listen, "web")
	active.output(1, 1, 0)
	standby.output(1, 1, 0)
	active.released(1, 1)
	killed.Process.Kill()
	killed.Wait()
	active.ended()
	standby.ended()

	begun := time.Now()
	spawn(t, args...)
	active.attach(listen)
	standby.attach(listen)
	r := active.assigned(pb.Mode_MODE_PROTECTED)
	took := time.Since(begun)
	t.Logf("owned again after %v", took)
	if took > 25*time.Second || r.Active.Id != "r-1" || r.Standby.Id != "r-2" {
		t.Errorf("after %v: %v", took, r)
	}
	epoch := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil }).GetResync().Epoch
	standby.startEpoch(epoch, nil)
	active.startEpoch(epoch, &pb.SyncStats{})
	active.output(1, 1, 0)
	standby.output(1, 1, 0)
	active.released(1, 1)
}

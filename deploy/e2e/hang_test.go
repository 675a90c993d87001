package e2e

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
)

// hang stops a process (SIGSTOP): its sockets stay open and fill.
func hang(t *testing.T, p *cluster.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
}

func resume(t *testing.T, p *cluster.Process) {
	t.Helper()
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// silence is the heartbeat time-out where processes and links are lost in
// silence: long enough for a busy machine, short enough to be waited for often.
const silence = 3 * time.Second

// council is a cluster of two arbiters on an etcd of its own. A copy helps
// itself only long after an arbiter should have.
func council(t *testing.T) cluster.Config {
	t.Helper()
	cfg := ownEtcd(t)
	cfg.SecondArbiter = true
	cfg.HeartbeatTimeout = silence.String()
	cfg.ReplicaArgs = []string{"--solo-after", "1m"}
	return cfg
}

// whole waits until the VM is protected and a spare is there.
func whole(t *testing.T, c *cluster.Cluster) *pb.VMStatus {
	t.Helper()
	return wait(t, c, "protection with a spare", func(s *pb.VMStatus) bool {
		return mode(pb.Mode_MODE_PROTECTED, 0)(s) && slices.ContainsFunc(s.GetReplicas(), func(r *pb.ReplicaStatus) bool {
			return r.GetRole() == pb.Role_ROLE_SPARE
		})
	})
}

// outcome waits until the VM is protected by other replicas than before: led by
// active, and without the lost one.
func outcome(t *testing.T, c *cluster.Cluster, before *pb.VMStatus, active, lost string) *pb.VMStatus {
	t.Helper()
	return wait(t, c, fmt.Sprintf("%s to be protected without %s", active, lost), func(s *pb.VMStatus) bool {
		r := s.GetRecord()
		return mode(pb.Mode_MODE_PROTECTED, before.GetRecord().GetTerm())(s) && r.GetActive().GetId() == active && r.GetStandby().GetId() != lost
	})
}

// back waits until the process of a replica that was lost is attached under
// another identity: it has thrown its copy away and started over as a spare.
func back(t *testing.T, c *cluster.Cluster, lost string) {
	t.Helper()
	name := lost[:strings.LastIndex(lost, "-")+1]
	wait(t, c, lost+" to come back under another identity", func(s *pb.VMStatus) bool {
		return slices.ContainsFunc(s.GetReplicas(), func(r *pb.ReplicaStatus) bool {
			id := r.GetReplica().GetId()
			return strings.HasPrefix(id, name) && id != lost && r.GetRole() != pb.Role_ROLE_UNSPECIFIED
		})
	})
}

// untouched lets something happen that is to change nobody's part. It may happen
// again: on a busy machine a replica can be lost by chance meanwhile.
func untouched(t *testing.T, c *cluster.Cluster, happen func(*pb.VMStatus)) {
	t.Helper()
	for range 3 {
		before := whole(t, c)
		happen(before)
		now := whole(t, c)
		if now.GetRecord().GetTerm() == before.GetRecord().GetTerm() {
			return
		}
		t.Logf("the record was %v, is %v", before.GetRecord(), now.GetRecord())
	}
	t.Error("somebody's part changed each time")
}

// Each process stands still under load, and goes on after it was replaced.
// Nothing acknowledged is lost, no connection breaks, and whoever was replaced
// finds itself refused and starts over as a spare.
func TestEachProcessStandsStill(t *testing.T) {
	c := start(t, council(t), 2)
	l := begin(t, c)
	// parts names the arbiters by what they are to the VM.
	parts := func(s *pb.VMStatus) (owner, other *cluster.Process) {
		if s.GetOwner().GetAddress() == c.SecondAt {
			return c.Second, c.Arbiter
		}
		return c.Arbiter, c.Second
	}

	for _, part := range []string{"standby", "active"} {
		t.Run(part, func(t *testing.T) {
			s := whole(t, c)
			lost, stays, p := s.GetRecord().GetStandby(), s.GetRecord().GetActive(), c.Standby(s)
			if part == "active" {
				lost, stays, p = stays, lost, c.Active(s)
			}
			hang(t, p)
			outcome(t, c, s, stays.GetId(), lost.GetId())
			progress(t, l, 200)
			resume(t, p)
			back(t, c, lost.GetId())
			progress(t, l, 100)
		})
	}
	t.Run("gateway", func(t *testing.T) {
		untouched(t, c, func(*pb.VMStatus) {
			hang(t, c.Gateway)
			time.Sleep(2 * silence) // whoever waited for it would be lost by now
			resume(t, c.Gateway)
			progress(t, l, 200)
		})
	})
	t.Run("arbiter that does not own the VM", func(t *testing.T) {
		untouched(t, c, func(s *pb.VMStatus) {
			_, other := parts(s)
			hang(t, other)
			time.Sleep(2 * silence)
			progress(t, l, 200)
			resume(t, other)
			progress(t, l, 100)
		})
	})
	// The owner stands still for longer than its lease, with outputs that it was
	// about to release: the other arbiter takes the VM over. What the old one still
	// wants to say is void by its own lease, and those whom it would say it to
	// have turned away.
	t.Run("arbiter that owns the VM", func(t *testing.T) {
		s := whole(t, c)
		owner, _ := parts(s)
		hang(t, owner)
		taken := wait(t, c, "protection by the other arbiter", func(now *pb.VMStatus) bool {
			return now.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && len(now.GetReplicas()) == 3 &&
				now.GetOwner() != nil && now.GetOwner().GetAddress() != s.GetOwner().GetAddress()
		})
		progress(t, l, 200)
		resume(t, owner)
		const given = "not the owner of the VM any more"
		said := deadline(t)
		for !strings.Contains(owner.Log(), given) {
			select {
			case <-said.Done():
				t.Fatalf("the old owner does not say %q:\n%s", given, owner.LogTail(5))
			case <-time.After(50 * time.Millisecond):
			}
		}
		progress(t, l, 300)
		if now := whole(t, c); now.GetOwner().GetAddress() != taken.GetOwner().GetAddress() {
			t.Errorf("the VM went from %v back to %v", taken.GetOwner(), now.GetOwner())
		}
	})
	verify(t, l)
}

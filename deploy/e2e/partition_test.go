package e2e

import (
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"

	"github.com/understudy-ft/understudy/deploy/network"
	"github.com/understudy-ft/understudy/deploy/network/nettest"
)

// Every process but the gateway has a host of its own, and the network between
// them is cut under load: between any two that speak with each other, both ways or
// one, and around a whole host. The VM goes on within the time-outs or is not
// touched, as docs/faults.md says of each; nothing acknowledged is lost, and no
// connection breaks. The gateway is the outside, which a replica that is cut off
// still reaches: it has to keep silent by itself.
func TestPartitions(t *testing.T) {
	if !nettest.Isolated(t) {
		return
	}
	cfg := council(t)
	cfg.Network = nettest.Bridge(t, "10.90.0.1/24")
	c := start(t, cfg, 2)
	l := begin(t, c)

	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	type hosts struct{ active, standby, owner, etcd *network.Host }
	at := func(s *pb.VMStatus) hosts {
		owner := c.Arbiter
		if s.GetOwner().GetAddress() == c.SecondAt {
			owner = c.Second
		}
		return hosts{c.Host(c.Active(s).Name), c.Host(c.Standby(s).Name), c.Host(owner.Name), c.Host(c.Etcd.Name)}
	}
	// drop loses what the first host of each pair sends to the second.
	type way struct{ from, to *network.Host }
	drop := func(ways ...way) (heal func()) {
		for _, w := range ways {
			check(w.from.Drop(w.to))
		}
		return func() {
			for _, w := range ways {
				check(w.from.Pass(w.to))
			}
		}
	}
	both := func(a, b *network.Host) []way { return []way{{a, b}, {b, a}} }
	unplug := func(h *network.Host) (heal func()) {
		check(h.Unplug())
		return func() { check(h.Plug()) }
	}

	// The standby is lost: the active goes on, and a spare protects it.
	for name, cut := range map[string]func(hosts) func(){
		"active and standby":                     func(h hosts) func() { return drop(both(h.active, h.standby)...) },
		"from the active to the standby":         func(h hosts) func() { return drop(way{h.active, h.standby}) },
		"owning arbiter and standby":             func(h hosts) func() { return drop(both(h.owner, h.standby)...) },
		"from the standby to the owning arbiter": func(h hosts) func() { return drop(way{h.standby, h.owner}) },
	} {
		t.Run(name, func(t *testing.T) {
			s := whole(t, c)
			lost := s.GetRecord().GetStandby().GetId()
			heal := cut(at(s))
			outcome(t, c, s, s.GetRecord().GetActive().GetId(), lost)
			progress(t, l, 100)
			heal()
			back(t, c, lost)
		})
	}

	// The active is lost: the standby takes over, and a spare protects it. The old
	// active speaks no more, though the outside would hear it.
	for name, cut := range map[string]func(hosts) func(){
		"owning arbiter and active":             func(h hosts) func() { return drop(both(h.owner, h.active)...) },
		"from the owning arbiter to the active": func(h hosts) func() { return drop(way{h.owner, h.active}) },
		"active and all":                        func(h hosts) func() { return unplug(h.active) },
	} {
		t.Run(name, func(t *testing.T) {
			s := whole(t, c)
			lost := s.GetRecord().GetActive().GetId()
			heal := cut(at(s))
			outcome(t, c, s, s.GetRecord().GetStandby().GetId(), lost)
			progress(t, l, 100)
			heal()
			back(t, c, lost)
		})
	}

	// The active's lease ends, which PROTECTED does not rest on.
	t.Run("active and etcd", func(t *testing.T) {
		untouched(t, c, func(s *pb.VMStatus) {
			h := at(s)
			heal := drop(both(h.active, h.etcd)...)
			time.Sleep(2 * fence.DefaultTTL)
			progress(t, l, 100)
			heal()
			progress(t, l, 100)
		})
	})

	// The owner cannot prove its lease: it releases nothing more, and the other
	// arbiter takes the VM over.
	t.Run("owning arbiter and etcd", func(t *testing.T) {
		s := whole(t, c)
		h := at(s)
		heal := drop(both(h.owner, h.etcd)...)
		wait(t, c, "protection by the other arbiter", func(now *pb.VMStatus) bool {
			return now.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && now.GetOwner().GetAddress() != s.GetOwner().GetAddress() && len(now.GetReplicas()) == 3
		})
		progress(t, l, 100)
		heal()
		progress(t, l, 100)
	})

	whole(t, c)
	verify(t, l)
}

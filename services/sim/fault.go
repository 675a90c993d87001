package sim

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// fault injects one fault and plans the next.
func (w *world) fault() {
	if w.calm {
		return
	}
	w.schedule(w.now+w.between(w.opt.faultEvery/4, w.opt.faultEvery), w.fault)
	kinds := []struct {
		name string
		try  func() bool
	}{
		{"active crashes", func() bool { return w.crash(w.etcd.record.GetActive().GetId()) }},
		{"standby crashes", func() bool { return w.crash(w.etcd.record.GetStandby().GetId()) }},
		{"active stops", func() bool { return w.stop(w.etcd.record.GetActive().GetId()) }},
		{"standby stops", func() bool { return w.stop(w.etcd.record.GetStandby().GetId()) }},
		{"arbiter crashes", w.crashArbiter},
		{"arbiter stops", w.stopArbiter},
		{"etcd leaderless", w.leaderless},
		{"network cut", w.cutNetwork},
	}
	k := kinds[w.rng.IntN(len(kinds))]
	if k.try() {
		w.faults[k.name]++
	}
}

// survivable tells whether the loss of a copy can be survived now: both copies
// are whole and know it, and everything that decides can be reached.
func (w *world) survivable() bool {
	rec := w.etcd.record
	if rec.GetMode() != pb.Mode_MODE_PROTECTED || len(w.cuts) > 0 || w.now < w.etcd.leaderless {
		return false
	}
	for _, ref := range []*pb.ReplicaRef{rec.GetActive(), rec.GetStandby()} {
		r := w.host(ref.GetId())
		if r == nil || r.dead || r.stopped > w.now || r.core.Term() != rec.GetTerm() || r.attach == nil || r.copyOf() == nil {
			return false
		}
	}
	r := w.host(rec.GetActive().GetId())
	s := w.host(rec.GetStandby().GetId())
	if r.feeding == nil || s.following == nil || r.feeding.other() != s.following {
		return false
	}
	a := w.etcd.owner
	return a != nil && a.owns && !a.dead && a.stopped <= w.now
}

func (w *world) host(id string) *replica {
	for _, r := range w.hosts {
		if r.id == id {
			return r
		}
	}
	return nil
}

func (w *world) crash(id string) bool {
	r := w.host(id)
	if r == nil || !w.survivable() {
		return false
	}
	r.crash()
	w.schedule(w.now+w.between(50*time.Millisecond, 2*time.Second), func() {
		if r.dead {
			r.restart()
		}
	})
	return true
}

func (w *world) stop(id string) bool {
	r := w.host(id)
	if r == nil || !w.survivable() {
		return false
	}
	d := w.between(10*time.Millisecond, 4*time.Second)
	w.log("%s stands still for %v", r.id, d)
	r.stopped = w.now + d
	return true
}

func (w *world) crashArbiter() bool {
	a := w.arbiters[w.rng.IntN(len(w.arbiters))]
	if a.dead {
		return false
	}
	w.log("%s crashes", a.name)
	a.crash()
	w.schedule(w.now+w.between(20*time.Millisecond, 2*time.Second), func() {
		if a.dead {
			a.restart()
		}
	})
	return true
}

func (w *world) stopArbiter() bool {
	a := w.arbiters[w.rng.IntN(len(w.arbiters))]
	d := w.between(10*time.Millisecond, 5*time.Second)
	w.log("%s stands still for %v", a.name, d)
	a.stopped = w.now + d
	return true
}

func (w *world) leaderless() bool {
	d := w.between(100*time.Millisecond, 5*time.Second)
	w.log("etcd has no leader for %v", d)
	w.etcd.leaderless = w.now + d
	return true
}

// cutNetwork cuts the network between two processes for a while. The two
// copies together are never both cut off from all that could decide.
func (w *world) cutNetwork() bool {
	var all []*process
	for _, r := range w.hosts {
		all = append(all, r.process)
	}
	for _, a := range w.arbiters {
		all = append(all, a.process)
	}
	all = append(all, w.etcd.p)
	a, b := all[w.rng.IntN(len(all))], all[w.rng.IntN(len(all))]
	if a == b {
		return false
	}
	key := [2]*process{a, b}
	d := w.between(50*time.Millisecond, 4*time.Second)
	w.log("network between %s and %s is cut for %v", a.name, b.name, d)
	w.cuts[key] = true
	w.schedule(w.now+d, func() { delete(w.cuts, key) })
	return true
}

// heal ends all faults: what crashed starts, what stood still goes on.
func (w *world) heal() {
	w.calm = true
	w.log("everything heals")
	clear(w.cuts)
	w.etcd.leaderless = 0
	for _, a := range w.arbiters {
		a.stopped = 0
		if a.dead {
			a.restart()
		}
	}
	for _, r := range w.hosts {
		r.stopped = 0
		if r.dead {
			r.restart()
		}
	}
}

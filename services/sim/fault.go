package sim

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"
)

// fault injects one fault and plans the next.
func (w *world) fault() {
	if w.calm {
		return
	}
	w.schedule(w.now+w.between(w.opt.faultEvery/4, w.opt.faultEvery), w.fault)
	v := w.vms[w.rng.IntN(len(w.vms))]
	active := func() string { return v.record().GetActive().GetId() }
	standby := func() string { return v.record().GetStandby().GetId() }
	kinds := []struct {
		name string
		try  func() bool
	}{
		{"active crashes", func() bool { return v.crash(active(), false) }},
		{"active's host lost", func() bool { return v.crash(active(), true) }},
		{"standby crashes", func() bool { return v.crash(standby(), false) }},
		{"standby's host lost", func() bool { return v.crash(standby(), true) }},
		{"active lost, no arbiter", v.crashForsaken},
		{"spare crashes", v.crashSpare},
		{"active stops", func() bool { return v.stop(active()) }},
		{"standby stops", func() bool { return v.stop(standby()) }},
		{"arbiter crashes", func() bool { return w.crashArbiter(false) }},
		{"arbiter's host lost", func() bool { return w.crashArbiter(true) }},
		{"arbiter stops", w.stopArbiter},
		{"arbiter leaves", w.arbiterLeaves},
		{"etcd leaderless", w.leaderless},
		{"network cut", w.cutNetwork},
		{"network cut one way", w.cutOneWay},
		{"feed cut", v.cutFeed},
		{"process cut off", w.cutOff},
		{"order to fail over", func() bool { return v.survivable() && v.order(session.FailOver{}) }},
		{"order to resynchronize", func() bool { return v.order(session.ResyncNow{}) }},
		{"order to switch over", func() bool { return v.survivable() && v.order(session.SwitchOver{}) }},
		{"order to test the fail-over", func() bool { return v.survivable() && v.order(session.TestFailOver{}) }},
		{"order to drop a replica", func() bool { return v.survivable() && v.order(session.Drop{ReplicaID: v.anyID()}) }},
		{"order to drain a replica", func() bool { return v.survivable() && v.order(session.Drain{ReplicaID: v.anyID()}) }},
		{"order to suspend or resume", v.orderProtection},
		{"order to set the policy", v.orderPolicy},
		{"order to set the flow rules", v.orderRules},
		{"order to undrain a replica", v.orderUndrain},
		{"spare stops", v.stopSpare},
		{"replica leaves", v.replicaLeaves},
		{"secondary joins", v.join},
		{"secondary goes for good", v.part},
		{"network slow", v.slowLink},
		{"trap", func() bool { return w.setTrap(v) }},
		{"trap", func() bool { return w.setTrap(v) }},
		{"trap", func() bool { return w.setTrap(v) }},
	}
	k := kinds[w.rng.IntN(len(kinds))]
	if v.disks && w.chance(0.5) {
		v.backUp()
	}
	if w.chance(w.opt.cold) && v.coldRestart() {
		return
	}
	if w.opt.candidates && w.chance(0.3) && v.candidate() {
		w.faults["active alone cut off, candidate started"]++
		return
	}
	if k.try() && k.name != "trap" {
		w.faults[k.name]++
	}
}

// settled is how long after a disturbance of a replica nobody can be about to
// act on it any more: until then the loss of the other copy would be a second
// fault at the same time.
const settled = silentAfter + 200*time.Millisecond

// survivable tells whether the loss of a copy can be survived now: both copies
// are whole and known to be, nobody is about to do without one of them, and
// everything that decides can be reached.
func (v *vm) survivable() bool {
	a, rec := v.entry.owner, v.record()
	if !v.pairWhole() || a == nil || !a.running() || a.seats[v] == nil || !a.seats[v].owns {
		return false
	}
	return v.host(rec.GetActive().GetId()).attach != nil && v.host(rec.GetStandby().GetId()).attach != nil
}

// forsaken tells whether the loss of the active can be survived although no
// arbiter is there: the standby helps itself.
func (v *vm) forsaken() bool {
	for _, a := range v.w.arbiters {
		if !a.dead {
			return false
		}
	}
	return v.w.opt.soloAfter > 0 && v.pairWhole() && !v.host(v.record().GetActive().GetId()).claiming
}

// pairWhole tells whether both copies are whole and follow each other, and no
// arbiter is about to do without one.
func (v *vm) pairWhole() bool {
	rec, w := v.record(), v.w
	if rec.GetMode() != pb.Mode_MODE_PROTECTED || !w.quiet() {
		return false
	}
	for _, ref := range []*pb.ReplicaRef{rec.GetActive(), rec.GetStandby()} {
		r := v.host(ref.GetId())
		if r == nil || !r.running() || r.core.Term() != rec.GetTerm() || r.copyOf() == nil {
			return false
		}
	}
	r, s := v.host(rec.GetActive().GetId()), v.host(rec.GetStandby().GetId())
	if r.feeding == nil || s.following == nil || r.feeding.other() != s.following {
		return false
	}
	for _, a := range w.arbiters {
		if t := a.seats[v]; t != nil && t.deciding && !a.dead {
			return false
		}
	}
	return true
}

// alone tells whether the loss of a standby that has no whole copy yet can be
// survived: the active is there.
func (v *vm) alone() bool {
	r := v.host(v.record().GetActive().GetId())
	return v.record().GetMode() == pb.Mode_MODE_SYNCING && v.w.quiet() && r != nil && r.running() && r.guest != nil &&
		r.core.Role() == pb.Role_ROLE_ACTIVE
}

func (w *world) quiet() bool {
	return len(w.cuts) == 0 && w.now >= w.etcd.leaderless && w.now > w.disturbed+settled
}

// disturb notes that something ends in d.
func (w *world) disturb(d time.Duration) { w.disturbed = max(w.disturbed, w.now+d) }

func (p *process) running() bool { return !p.dead && p.stopped <= p.w.now }

func (v *vm) crash(id string, silent bool) bool {
	r := v.host(id)
	if r == nil || !v.survivable() {
		return false
	}
	v.lose(r, silent)
	return true
}

// lose crashes a replica and starts it again, as a spare, some time later.
func (v *vm) lose(r *replica, silent bool) {
	r.crash(silent)
	life := r.life
	v.w.schedule(v.w.now+v.w.between(50*time.Millisecond, 2*time.Second), func() {
		if r.dead && r.life == life {
			r.restart()
		}
	})
}

// crashForsaken loses the active while no arbiter is there.
func (v *vm) crashForsaken() bool {
	if !v.forsaken() {
		return false
	}
	v.lose(v.host(v.record().GetActive().GetId()), v.w.chance(0.5))
	return true
}

// spare returns a replica that plays no part, if there is one.
func (v *vm) spare() *replica {
	for _, r := range v.hosts {
		if !r.dead && r.guest == nil && r.staged == nil && !r.boot && r.core.Role() == pb.Role_ROLE_SPARE {
			return r
		}
	}
	return nil
}

func (v *vm) crashSpare() bool {
	r := v.spare()
	if r != nil {
		v.lose(r, v.w.chance(0.5))
	}
	return r != nil
}

func (v *vm) stopSpare() bool {
	r := v.spare()
	if r != nil {
		r.halt(v.w.between(10*time.Millisecond, 4*time.Second))
	}
	return r != nil
}

// replicaLeaves shuts a replica down in order; it comes back later.
func (v *vm) replicaLeaves() bool {
	r := v.hosts[v.w.rng.IntN(len(v.hosts))]
	if !r.running() || !v.survivable() {
		return false
	}
	r.leave()
	life := r.life
	v.w.schedule(v.w.now+v.w.between(50*time.Millisecond, 2*time.Second), func() {
		if r.dead && r.life == life {
			r.restart()
		}
	})
	return true
}

// leave ends the process in order.
func (r *replica) leave() {
	r.do(func() { r.core.Shutdown("the replica was told to end") })
	r.settle()
	r.end()
	r.crash(false)
}

// replicasMost bounds the replicas of a VM.
const replicasMost = 5

// join starts another secondary.
func (v *vm) join() bool {
	if len(v.hosts) >= replicasMost {
		return false
	}
	v.newReplica(fmt.Sprintf("%s/r%d", v.name, len(v.hosts)+1), false)
	return true
}

// part takes a spare out of the cluster for good.
func (v *vm) part() bool {
	r := v.spare()
	if r == nil || !v.survivable() {
		return false
	}
	r.gone = true
	r.leave()
	return true
}

// orderUndrain takes a drain back.
func (v *vm) orderUndrain() bool {
	d := v.record().GetDrained()
	return len(d) > 0 && v.order(session.Undrain{ReplicaID: d[0].GetReplicaId()})
}

// halt stops a process for a while (SIGSTOP, a suspended host). Its clock may
// jump ahead before it goes on.
func (p *process) halt(d time.Duration) {
	p.w.log("%s stands still for %v", p.name, d)
	p.stopped = p.w.now + d
	p.resumed = p.stopped
	if p.w.chance(0.3) {
		jump := p.w.between(0, 2*time.Second)
		p.w.schedule(p.stopped, func() { p.offset += jump })
	}
}

func (v *vm) stop(id string) bool {
	r := v.host(id)
	if r == nil || !v.survivable() {
		return false
	}
	d := v.w.between(10*time.Millisecond, 4*time.Second)
	r.halt(d)
	v.w.disturb(d)
	return true
}

func (w *world) anArbiter() *arbiter { return w.arbiters[w.rng.IntN(len(w.arbiters))] }

func (w *world) crashArbiter(silent bool) bool {
	a := w.anArbiter()
	if a.dead {
		return false
	}
	w.loseArbiter(a, silent)
	return true
}

func (w *world) loseArbiter(a *arbiter, silent bool) {
	w.log("%s crashes (silently %v)", a.name, silent)
	a.crash(silent)
	w.comeBack(a)
}

func (w *world) comeBack(a *arbiter) {
	life := a.life
	w.schedule(w.now+w.between(20*time.Millisecond, w.opt.absence), func() {
		if a.dead && a.life == life {
			a.restart()
		}
	})
}

func (w *world) stopArbiter() bool {
	a := w.anArbiter()
	if a.dead {
		return false
	}
	a.halt(w.between(10*time.Millisecond, 5*time.Second))
	return true
}

// arbiterLeaves shuts an arbiter down in order; it joins again later.
func (w *world) arbiterLeaves() bool {
	a := w.anArbiter()
	if !a.running() {
		return false
	}
	w.log("%s leaves", a.name)
	a.leave()
	w.comeBack(a)
	return true
}

func (w *world) leaderless() bool {
	if w.now < w.etcd.leaderless {
		return false
	}
	since, d := w.now, w.between(100*time.Millisecond, 5*time.Second)
	w.log("etcd has no leader for %v", d)
	w.etcd.leaderless = w.now + d
	w.schedule(w.now+d, func() {
		if !w.calm {
			w.etcd.lead(since)
		}
	})
	return true
}

// all are the processes that the network connects.
func (w *world) all() (all []*process) {
	for _, v := range w.vms {
		for _, r := range v.hosts {
			all = append(all, r.process)
		}
	}
	for _, a := range w.arbiters {
		all = append(all, a.process)
	}
	return append(all, w.etcd.p)
}

// cutFor keeps messages from getting from one process to another.
func (w *world) cutFor(from, to *process, d time.Duration) {
	key := [2]*process{from, to}
	w.cuts[key]++
	w.disturb(d)
	w.schedule(w.now+d, func() {
		if w.cuts[key]--; w.cuts[key] <= 0 {
			delete(w.cuts, key)
		}
	})
}

func (w *world) cutSome(bothWays bool) bool {
	all := w.all()
	a, b := all[w.rng.IntN(len(all))], all[w.rng.IntN(len(all))]
	if a == b {
		return false
	}
	d := w.between(50*time.Millisecond, 4*time.Second)
	w.log("network from %s to %s is cut for %v (both ways %v)", a.name, b.name, d, bothWays)
	w.cutFor(a, b, d)
	if bothWays {
		w.cutFor(b, a, d)
	}
	return true
}

func (w *world) cutNetwork() bool { return w.cutSome(true) }
func (w *world) cutOneWay() bool  { return w.cutSome(false) }

// slowLink makes the network slow from one process to another: often on the way
// of the releases.
func (v *vm) slowLink() bool {
	w := v.w
	all := w.all()
	from, to := all[w.rng.IntN(len(all))], all[w.rng.IntN(len(all))]
	if a, r := v.entry.owner, v.host(v.record().GetActive().GetId()); a != nil && r != nil && w.chance(0.5) {
		from, to = a.process, r.process
	}
	if from == to {
		return false
	}
	key := [2]*process{from, to}
	w.slow[key] = w.between(10*time.Millisecond, 80*time.Millisecond)
	w.log("network from %s to %s takes %v", from.name, to.name, w.slow[key])
	w.schedule(w.now+w.between(100*time.Millisecond, 2*time.Second), func() { delete(w.slow, key) })
	return true
}

// cutFeed cuts the copies from each other, which both reach all others.
func (v *vm) cutFeed() bool {
	a, s := v.host(v.record().GetActive().GetId()), v.host(v.record().GetStandby().GetId())
	if a == nil || s == nil {
		return false
	}
	w := v.w
	d := w.between(50*time.Millisecond, 3*time.Second)
	w.log("feed from %s to %s is cut for %v", a.name, s.name, d)
	w.cutFor(a.process, s.process, d)
	w.cutFor(s.process, a.process, d)
	return true
}

// cutOff cuts any process off from all others.
func (w *world) cutOff() bool {
	all := w.all()
	w.isolate(all[w.rng.IntN(len(all))], w.between(50*time.Millisecond, 4*time.Second))
	return true
}

func (w *world) isolate(p *process, d time.Duration) {
	w.log("%s is cut off for %v", p.name, d)
	for _, o := range w.all() {
		if o != p {
			w.cutFor(p, o, d)
			w.cutFor(o, p, d)
		}
	}
}

// candidate cuts an active off that is alone, for long, and starts a candidate
// for the VM. If the active's lease runs out first, the guest is lost.
func (v *vm) candidate() bool {
	w, rec := v.w, v.record()
	if rec.GetMode() != pb.Mode_MODE_SOLO && rec.GetMode() != pb.Mode_MODE_SYNCING {
		return false
	}
	a := v.host(rec.GetActive().GetId())
	for _, r := range v.hosts {
		if a == nil || r == a || r.dead || r.guest != nil || r.staged != nil {
			continue
		}
		w.isolate(a.process, w.between(time.Second, 7*time.Second))
		r.settle()
		r.end()
		r.boot, r.keeper = true, nil
		r.restart()
		return true
	}
	return false
}

// order is an operator's.
func (v *vm) order(in session.Input) bool {
	a := v.entry.owner
	if a == nil || !a.running() || a.seats[v] == nil || !a.seats[v].owns {
		return false
	}
	a.seats[v].step(in)
	v.w.disturb(0)
	return true
}

// anyID is the identity of any of the replicas.
func (v *vm) anyID() string { return v.hosts[v.w.rng.IntN(len(v.hosts))].id }

// orderProtection suspends protection, or resumes it.
func (v *vm) orderProtection() bool {
	if v.record().GetSuspended() {
		return v.order(session.Resume{})
	}
	return v.survivable() && v.order(session.Suspend{})
}

// orderPolicy sets another bound for epochs.
func (v *vm) orderPolicy() bool {
	p := &pb.Policy{EpochMaxMs: uint32(20 + v.w.rng.IntN(500))}
	return v.order(session.SetPolicy{Policy: p, Fields: []string{"epoch_max_ms"}})
}

// takeBack takes back what operators have ordered to last, until it is so.
func (w *world) takeBack() {
	for _, v := range w.vms {
		if v.record().GetSuspended() {
			v.order(session.Resume{})
		}
		for _, d := range v.record().GetDrained() {
			v.order(session.Undrain{ReplicaID: d.GetReplicaId()})
		}
	}
	w.schedule(w.now+500*time.Millisecond, w.takeBack)
}

// heal ends all faults: what crashed starts, what stood still goes on.
func (w *world) heal() {
	w.calm, w.trap = true, nil
	w.log("everything heals")
	clear(w.cuts)
	clear(w.slow)
	w.etcd.leaderless = 0
	w.takeBack()
	for _, a := range w.arbiters {
		a.stopped = 0
		if a.dead {
			a.restart()
		}
	}
	for _, v := range w.vms {
		for _, r := range v.hosts {
			r.stopped, r.resumed = 0, min(r.resumed, w.now)
			if r.dead && !r.gone {
				r.restart()
			}
		}
	}
}

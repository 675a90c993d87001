package sim

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/role"
	"github.com/understudy-ft/understudy/services/session"
)

// Of leases, as the programs' defaults.
const (
	leaseTTL    = 3 * time.Second
	leaseMargin = 500 * time.Millisecond
	renewEvery  = 500 * time.Millisecond
	etcdTimeout = time.Second
)

// etcd has the semantics that the fence relies on: per VM one record that is
// changed by transactions against its revision and an owner's key, and keys
// under leases.
type etcd struct {
	w        *world
	p        *process // for the network; never crashes
	revision int64
	leases   map[int64]*simLease
	next     int64
	// leaderless until that time: nothing is answered.
	leaderless time.Duration
}

// entry is what etcd holds of one VM.
type entry struct {
	record   *pb.Record
	revision int64
	owner    *arbiter
	ownerKey int64 // the owner's lease
}

type simLease struct {
	key     string // replica whose key is under it
	expires time.Duration
}

func newEtcd(w *world) *etcd {
	return &etcd{w: w, p: w.newProcess("etcd"), leases: map[int64]*simLease{}}
}

// do carries a request from a process to etcd and its answer back; failed is
// called instead where no answer comes in time, though the request may have been
// carried out. Exactly one of them is called.
func (e *etcd) do(p *process, request func() (answer func()), failed func()) {
	answered := false
	life := p.life
	p.after(etcdTimeout, func() {
		if !answered {
			answered = true
			failed()
		}
	})
	e.w.schedule(e.w.now+e.w.opt.delay(e.w), func() {
		if e.w.cut(p, e.p) || e.w.now < e.leaderless {
			return
		}
		answer := request()
		e.w.schedule(e.w.now+e.w.opt.delay(e.w), func() {
			if e.w.cut(e.p, p) || e.w.chance(e.w.opt.lostAnswer) {
				return
			}
			p.enter(life, func() {
				if !answered {
					answered = true
					answer()
				}
			})
		})
	})
}

// lead ends a leaderless period. A new leader does not know when leases were
// renewed last, so it may prolong them all.
func (e *etcd) lead(since time.Duration) {
	if !e.w.chance(0.5) {
		return
	}
	for _, l := range e.leases {
		if l.expires > since {
			l.expires = max(l.expires, e.w.now+leaseTTL)
		}
	}
}

// grant makes a lease with a key.
func (e *etcd) grant(key string) int64 {
	e.next++
	e.leases[e.next] = &simLease{key: key, expires: e.w.now + leaseTTL}
	return e.next
}

// held tells whether a lease exists.
func (e *etcd) held(id int64) bool {
	l := e.leases[id]
	return l != nil && e.w.now < l.expires
}

func (e *etcd) renew(id int64) bool {
	if !e.held(id) {
		return false
	}
	e.leases[id].expires = e.w.now + leaseTTL
	return true
}

// exists tells whether a replica's key is there, under any lease.
func (e *etcd) exists(key string) bool {
	for id, l := range e.leases {
		if l.key == key && e.held(id) {
			return true
		}
	}
	return false
}

// own makes an arbiter the owner of a VM if nobody is, and returns who is.
func (e *etcd) own(v *vm, a *arbiter, lease int64) *arbiter {
	n := v.entry
	if n.owner != nil && n.ownerKey != lease && e.held(n.ownerKey) {
		return n.owner
	}
	if !e.held(lease) {
		return nil
	}
	n.owner, n.ownerKey = a, lease
	return a
}

// disown gives a VM up.
func (e *etcd) disown(v *vm, lease int64) {
	if v.entry.ownerKey == lease {
		v.entry.owner, v.entry.ownerKey = nil, 0
	}
}

// commit is the arbiter's transaction.
func (e *etcd) commit(v *vm, a *arbiter, lease int64, c session.Commit) session.Input {
	n := v.entry
	if n.owner != a || n.ownerKey != lease || !e.held(lease) {
		return session.Disowned{}
	}
	return e.change(v, c)
}

// claim is a replica's transaction of its own.
func (e *etcd) claim(v *vm, id string, c role.Claim) bool {
	n, w := v.entry, e.w
	if n.owner != nil && e.held(n.ownerKey) && !w.mutated(ClaimOwned) {
		return false
	}
	conds := []session.LeaseKey{{ReplicaID: id, LeaseID: c.LeaseID}}
	if c.Gone != "" {
		conds = append(conds, session.LeaseKey{ReplicaID: c.Gone, Absent: true})
	}
	_, ok := e.change(v, session.Commit{Record: proto.CloneOf(c.Record), Expected: c.Expected, Conditions: conds}).(session.Committed)
	if ok {
		w.happened["took the VM by itself as "+map[bool]string{true: "active", false: "standby"}[c.Gone == ""]]++
	}
	return ok
}

// change is the part of a transaction that does not depend on who asks for it.
func (e *etcd) change(v *vm, c session.Commit) session.Input {
	n, w := v.entry, e.w
	if c.Expected != n.revision && !w.mutated(NoRevisions) {
		return session.CommitFailed{Cause: session.Conflict, Record: n.record, Revision: n.revision}
	}
	for _, k := range c.Conditions {
		ok := e.held(k.LeaseID) && e.leases[k.LeaseID].key == k.ReplicaID
		if k.Absent {
			ok = !e.exists(k.ReplicaID)
		}
		if !ok && !w.mutated(NoLeaseConditions) {
			return session.CommitFailed{Cause: session.Condition, ReplicaID: k.ReplicaID, Record: n.record, Revision: n.revision}
		}
	}
	if c.Record.GetTerm() <= n.record.GetTerm() && !sameParts(c.Record, n.record) {
		w.fail("rule 2: the term of %s goes from %d to %d", v.name, n.record.GetTerm(), c.Record.GetTerm())
	}
	if c.Record.GetReason() == pb.Reason_REASON_BOOT && n.record != nil {
		v.check.mayBoot(c.Record.GetActive().GetId())
	}
	w.log("etcd: %s term %d %s active %s standby %s", v.name, c.Record.GetTerm(), c.Record.GetMode(), c.Record.GetActive().GetId(), c.Record.GetStandby().GetId())
	old, rules := n.record, v.ordered()
	n.record = c.Record
	v.check.succeeds(old, rules)
	e.revision++
	n.revision = e.revision
	w.hit(committed, v)
	return session.Committed{Revision: n.revision}
}

// sameParts tells whether a record differs from another only in what operators
// have ordered, which needs no new term.
func sameParts(a, b *pb.Record) bool {
	a = proto.CloneOf(a)
	a.Policy, a.Suspended, a.Drained = b.GetPolicy(), b.GetSuspended(), b.GetDrained()
	return proto.Equal(a, b)
}

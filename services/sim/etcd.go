package sim

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"
)

// Of leases, as the programs' defaults.
const (
	leaseTTL    = 3 * time.Second
	leaseMargin = 500 * time.Millisecond
	renewEvery  = 500 * time.Millisecond
	etcdTimeout = time.Second
)

// etcd has the semantics that the fence relies on: one record that is changed
// by transactions against its revision, an owner, and keys under leases.
type etcd struct {
	w        *world
	p        *process // for the network; never crashes
	record   *pb.Record
	revision int64
	owner    *arbiter
	ownerKey int64 // the owner's lease
	leases   map[int64]*simLease
	next     int64
	// leaderless until that time: nothing is answered.
	leaderless time.Duration
}

type simLease struct {
	key     string // replica whose key is under it
	expires time.Duration
}

func newEtcd(w *world) *etcd {
	return &etcd{w: w, p: w.newProcess("etcd"), leases: map[int64]*simLease{}}
}

// do carries a request from a process to etcd and its answer back; failed is
// called instead where no answer comes in time. Exactly one of them is called.
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
			if e.w.cut(p, e.p) {
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

// own makes an arbiter the owner if nobody is.
func (e *etcd) own(a *arbiter, lease int64) bool {
	if e.owner != nil && e.owner != a && e.held(e.ownerKey) {
		return false
	}
	if !e.held(lease) {
		return false
	}
	e.owner, e.ownerKey = a, lease
	return true
}

// commit is the arbiter's transaction.
func (e *etcd) commit(a *arbiter, lease int64, c session.Commit) session.Input {
	if e.owner != a || e.ownerKey != lease || !e.held(lease) {
		return session.Disowned{}
	}
	if c.Expected != e.revision {
		return session.CommitFailed{Cause: session.Conflict, Record: e.record, Revision: e.revision}
	}
	for _, k := range c.Conditions {
		ok := e.held(k.LeaseID) && e.leases[k.LeaseID].key == k.ReplicaID
		if k.Absent {
			ok = !e.exists(k.ReplicaID)
		}
		if !ok {
			return session.CommitFailed{Cause: session.Condition, Record: e.record, Revision: e.revision}
		}
	}
	if c.Record.GetTerm() <= e.record.GetTerm() {
		e.w.fail("term goes from %d to %d", e.record.GetTerm(), c.Record.GetTerm())
	}
	e.w.log("etcd: term %d %s active %s standby %s", c.Record.GetTerm(), c.Record.GetMode(), c.Record.GetActive().GetId(), c.Record.GetStandby().GetId())
	e.record = c.Record
	e.revision++
	return session.Committed{Revision: e.revision}
}

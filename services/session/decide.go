package session

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// synchronization is a first copy (SYNCING) or what has become of the feed.
type synchronization struct {
	// staged: the standby has said that it has epoch 1 whole.
	staged bool
	// resumed: a member has attached since it began.
	resumed  bool
	deadline time.Time
	stats    *pb.SyncStats
	// outdated: the policy is another since it began.
	outdated bool
	// failed: the feed broke or a step took too long; told by the standby at
	// failedAt, or by the active or this Core where byStandby is false.
	failed    bool
	byStandby bool
	failedAt  time.Time
	reason    pb.Reason
	detail    string
}

// decide returns the change of the record that the state calls for, or nil.
func (c *Core) decide() *proposal {
	a, s := c.active(), c.standby()
	if c.ending != 0 {
		return c.end()
	}
	switch c.record.GetMode() {
	case pb.Mode_MODE_SOLO:
		return c.decideSolo(a)
	case pb.Mode_MODE_SYNCING:
		return c.decideSyncing(a, s)
	case pb.Mode_MODE_PROTECTED:
		return c.decideProtected(a, s)
	}
	if c.record == nil {
		if p := c.adoptOrphan(); p != nil {
			return p
		}
	}
	return c.boot()
}

func (c *Core) decideSolo(a *replica) *proposal {
	switch {
	case a == nil:
		return c.boot()
	case c.leases[a.id()] != a.lease:
		// Whoever takes the VM over looks at the lease key: the record must be
		// one that was made while this lease had it.
		return c.solo(a, pb.Reason_REASON_ARBITER_CHANGED, a.id()+" goes on under its present lease")
	case c.record.GetStandbyDisk() != "" && a.acted < c.record.GetTerm():
		return nil // it may never take over: the record is to name the old active's disk until it does
	}
	spare := c.nextStandby()
	if spare == nil {
		return nil
	}
	return &proposal{
		record: c.withSpare(c.next(pb.Mode_MODE_SYNCING, a.ref, spare.ref, pb.Reason_REASON_NEW_STANDBY), spare),
		conds:  []LeaseKey{holds(a), holds(spare)},
		event:  pb.EventType_EVENT_TYPE_SYNCING,
		detail: fmt.Sprintf("copying from %s to %s", a.id(), spare.id()),
	}
}

func (c *Core) decideSyncing(a, s *replica) *proposal {
	switch {
	case a == nil:
		return c.boot()
	case c.sync.failed:
		return c.solo(a, c.sync.reason, "the first copy failed: "+c.sync.detail)
	case s == nil:
		if c.waiting() && !c.lostCopy(c.record.GetStandby().GetId()) {
			return nil
		}
		return c.solo(a, pb.Reason_REASON_LOST_REPLICA, "the standby was lost during its first copy")
	case c.sync.staged:
		return &proposal{
			record: c.next(pb.Mode_MODE_PROTECTED, a.ref, s.ref, pb.Reason_REASON_NEW_STANDBY),
			conds:  []LeaseKey{holds(a), holds(s)},
			event:  pb.EventType_EVENT_TYPE_PROTECTED,
			detail: fmt.Sprintf("%s is protected by %s", a.id(), s.id()),
		}
	case c.sync.resumed:
		return c.solo(a, pb.Reason_REASON_ARBITER_CHANGED, "a replica lost the arbiter during the first copy")
	case !c.now.Before(c.sync.deadline):
		return c.solo(a, pb.Reason_REASON_LAGGING, fmt.Sprintf("the first copy took longer than %v", c.cfg.FirstCopyMax))
	case a.term < c.record.GetTerm() || s.term < c.record.GetTerm() || c.leases[a.id()] != 0 && c.leases[a.id()] != a.lease:
		return c.solo(a, pb.Reason_REASON_ARBITER_CHANGED, "the first copy was not begun under the present leases")
	}
	return nil
}

func (c *Core) decideProtected(a, s *replica) *proposal {
	switch {
	case a == nil && s == nil:
		return c.boot()
	case a == nil:
		if (c.waiting() || c.quiet(s)) && !c.lostCopy(c.record.GetActive().GetId()) {
			return nil
		}
		return c.failOver(s, pb.Reason_REASON_LOST_REPLICA, c.record.GetActive().GetId()+" was lost")
	case s == nil:
		if (c.waiting() || c.quiet(a)) && !c.lostCopy(c.record.GetStandby().GetId()) {
			return nil
		}
		return c.solo(a, pb.Reason_REASON_LOST_REPLICA, "the standby was lost")
	case c.sync.failed && (!c.sync.byStandby || c.aliveSince(a, c.sync.failedAt)):
		return c.solo(a, c.sync.reason, c.sync.detail)
	}
	return nil
}

// quiet tells whether a replica has missed heartbeats. To make it active might
// be to give the VM to a lost one, while the other comes back.
func (c *Core) quiet(r *replica) bool { return c.now.Sub(r.heard) > 3*c.cfg.Heartbeat }

// aliveSince tells whether the active was still there some time after the
// standby lost the feed. The standby may have lost it because the active's host
// died, and then notices before the arbiter does: to drop the standby on its
// word alone would lose the VM. What the active sent before it died arrives
// within a heartbeat interval.
func (c *Core) aliveSince(a *replica, t time.Time) bool {
	return !a.heard.Before(t.Add(max(2*c.cfg.Heartbeat, c.heartbeatTimeout()/4)))
}

// boot starts the guest on a candidate. Where the record names replicas that
// may hold the VM's copy, their keys must be gone.
func (c *Core) boot() *proposal {
	cand := c.candidate()
	if cand == nil || c.record != nil && c.record.GetMode() != pb.Mode_MODE_ENDED && c.waiting() && c.byID(c.record.GetActive().GetId()) != cand {
		return nil
	}
	p := &proposal{
		record: c.next(pb.Mode_MODE_SOLO, cand.ref, nil, pb.Reason_REASON_BOOT),
		conds:  []LeaseKey{holds(cand)},
		event:  pb.EventType_EVENT_TYPE_SOLO,
		detail: "booting on " + cand.id(),
	}
	p.record.ActiveDisk = cand.disk.GetId()
	gone := func(ref *pb.ReplicaRef) {
		// A replica that is attached without a copy holds its key all the same.
		if id := ref.GetId(); id != "" && !c.lostCopy(id) {
			p.conds = append(p.conds, LeaseKey{ReplicaID: id, Absent: true})
		}
	}
	switch c.record.GetMode() {
	case pb.Mode_MODE_PROTECTED:
		gone(c.record.GetStandby())
		gone(c.record.GetActive())
	case pb.Mode_MODE_SOLO, pb.Mode_MODE_SYNCING:
		gone(c.record.GetActive())
	}
	return p
}

// adoptOrphan goes on with a guest that runs although etcd holds no record of
// it: etcd's data was lost. The newest term is the truth.
func (c *Core) adoptOrphan() *proposal {
	var best *replica
	for _, r := range c.replicas {
		if r.role == pb.Role_ROLE_ACTIVE && (best == nil || r.term > best.term) {
			best = r
		}
	}
	if best == nil || c.waiting() {
		return nil
	}
	p := c.solo(best, pb.Reason_REASON_ARBITER_CHANGED, "etcd had lost its record; "+best.id()+" goes on")
	p.record.Term = best.term + 1
	p.record.ActiveDisk = best.disk.GetId()
	return p
}

// solo makes r go on alone.
func (c *Core) solo(r *replica, reason pb.Reason, why string) *proposal {
	return &proposal{
		record: c.next(pb.Mode_MODE_SOLO, r.ref, nil, reason),
		conds:  []LeaseKey{holds(r)},
		event:  pb.EventType_EVENT_TYPE_SOLO,
		detail: why,
	}
}

func (c *Core) failOver(s *replica, reason pb.Reason, why string) *proposal {
	p := c.solo(s, reason, why+"; "+s.id()+" takes over")
	p.event = pb.EventType_EVENT_TYPE_FAILOVER
	return p
}

func (c *Core) end() *proposal {
	return &proposal{
		record: c.next(pb.Mode_MODE_ENDED, c.record.GetActive(), c.record.GetStandby(), c.ending),
		event:  pb.EventType_EVENT_TYPE_ENDED,
		detail: "the guest ended itself",
	}
}

func (c *Core) next(mode pb.Mode, active, standby *pb.ReplicaRef, reason pb.Reason) *pb.Record {
	r := &pb.Record{}
	if c.record != nil {
		r = proto.CloneOf(c.record) // what an operator has set stays, and what a newer release has
	}
	r.Vm, r.Term, r.Mode, r.Active, r.Standby = c.cfg.VM, c.record.GetTerm()+1, mode, active, standby
	r.SinceUnixMs, r.Reason, r.Drained = c.now.UnixMilli(), reason, c.keptDrained()
	r.ActiveDisk, r.StandbyDisk = "", ""
	c.nameDisks(r)
	return r
}

func holds(r *replica) LeaseKey { return LeaseKey{ReplicaID: r.id(), LeaseID: r.lease} }

// failures remembers a spare whose synchronization failed.
type failures struct {
	id    string
	n     int
	until time.Time
}

// nextStandby returns the spare that becomes the standby now, nil for none.
func (c *Core) nextStandby() *replica {
	if c.record.GetSuspended() {
		return nil
	}
	if f := c.favour; c.now.Before(f.until) && f.address != "" {
		// Nobody, until it comes or has had its time.
		return c.first(pb.Role_ROLE_SPARE, func(r *replica) bool { return r.ref.GetAddress() == f.address && c.mayTry(r) })
	}
	return c.first(pb.Role_ROLE_SPARE, c.mayTry)
}

// mayTry tells whether a spare may become the standby now.
func (c *Core) mayTry(r *replica) bool {
	if c.drained(r) || c.unfit(r) != "" {
		return false
	}
	if d := r.disk.GetId(); d != "" && d == c.record.GetActiveDisk() {
		return false // the active's process is gone, though that was not noticed: this one is to boot
	}
	for _, f := range c.failures {
		if f.id == r.id() {
			return !c.now.Before(f.until)
		}
	}
	return true
}

// unfit tells why a spare cannot be the standby, in words: it has found out
// itself, or it and the active speak no common version of the protocol. "": it
// can, as far as is known.
func (c *Core) unfit(r *replica) string {
	if r.role != pb.Role_ROLE_SPARE {
		return ""
	}
	if a := c.active(); a != nil && r.unfit == "" {
		if _, err := a.speaks.Agree(r.speaks, a.id(), r.id()); err != nil {
			return err.Error()
		}
	}
	return r.unfit
}

// putOff keeps a replica from becoming the standby for a while.
func (c *Core) putOff(id string) {
	n := 0
	for i, f := range c.failures {
		if f.id == id {
			n = f.n
			c.failures = append(c.failures[:i], c.failures[i+1:]...)
			break
		}
	}
	if len(c.failures) >= failuresMax {
		c.failures = c.failures[1:]
	}
	until := c.now.Add(c.cfg.SpareBackoff << min(n, 4))
	c.failures = append(c.failures, failures{id: id, n: n + 1, until: until})
}

func (c *Core) forgive(id string) {
	for i, f := range c.failures {
		if f.id == id {
			c.failures = append(c.failures[:i], c.failures[i+1:]...)
			return
		}
	}
}

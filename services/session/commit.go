package session

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// proposal is a change of the record that is being committed.
type proposal struct {
	record *pb.Record
	conds  []LeaseKey
	event  pb.EventType
	detail string
	tokens []Token
	// plan is the one that this is a step of, if any.
	plan *plan
	// inFlight: the Commit is not answered yet. Otherwise its outcome is not
	// known, and some commit has to be tried again.
	inFlight bool
}

func (c *Core) commit(p *proposal) {
	c.proposal = p
	p.inFlight = true
	c.do(Commit{Record: proto.CloneOf(p.record), Expected: c.revision, Conditions: append([]LeaseKey(nil), p.conds...)})
}

// retry follows a Commit without an answer. The record in etcd is either the
// old one or the proposed: any Commit against the old revision will tell. So it
// is one that fits what has become of the replicas meanwhile, if there is any.
func (c *Core) retry(p *proposal) {
	c.proposal = nil
	if q := c.decide(); q != nil && c.exiting == "" && len(p.tokens) == 0 {
		p = q
	}
	c.commit(p)
}

func (c *Core) committed(revision int64) {
	p := c.proposal
	if p == nil || !p.inFlight {
		return
	}
	c.settle(p, revision)
}

// settle makes the proposal the record.
func (c *Core) settle(p *proposal, revision int64) {
	c.proposal, c.notBefore = nil, time.Time{}
	if c.record != nil && p.record.GetTerm() == c.record.GetTerm() {
		c.changed(p, revision)
		return
	}
	old := c.record
	c.record, c.revision = p.record, revision
	c.leases = make(map[string]int64)
	for _, k := range p.conds {
		if !k.Absent {
			c.leases[k.ReplicaID] = k.LeaseID
		}
	}
	if p.event == pb.EventType_EVENT_TYPE_FAILOVER {
		c.counts.Failovers++
	}
	stats, early, outdated := c.sync.stats, c.pair.early, c.sync.outdated
	c.enter(old)
	if p.record.GetMode() == pb.Mode_MODE_PROTECTED {
		c.forgive(p.record.GetStandby().GetId())
		c.pair.fromSync, c.pair.early = true, early
		c.beginEpoch(1)
		if outdated {
			c.want(pb.Reason_REASON_POLICY, "set during the first copy")
		}
	} else {
		stats = nil
	}
	c.report(p.event, p.record.GetReason(), p.detail, stats)
	c.replyAll(p.tokens, nil)
	c.planEntered(p)
}

func (c *Core) commitFailed(in CommitFailed) {
	c.counters.CommitFailures++
	p := c.proposal
	if p == nil || !p.inFlight {
		return
	}
	c.notBefore = c.now.Add(c.cfg.CommitRetry)
	switch {
	case in.Cause == Conflict && in.Record != nil && proto.Equal(in.Record, p.record):
		// An earlier try, whose answer was lost, has succeeded.
		c.settle(p, in.Revision)
		return
	case in.Cause == Conflict:
		c.proposal, c.exiting = nil, ""
		old := c.record
		c.record, c.revision, c.leases = proto.CloneOf(in.Record), in.Revision, nil
		c.enter(old)
		c.report(modeEvent(in.Record.GetMode()), in.Record.GetReason(), "the record in etcd was another: "+who(in.Record), nil)
		c.replyAll(p.tokens, ErrOvertaken)
		c.planEntered(nil)
	case in.Cause == Condition:
		c.proposal, c.exiting = nil, ""
		c.blame(p, in.ReplicaID)
		c.replyAll(p.tokens, ErrOvertaken)
		if p.plan != nil && p.plan == c.plan {
			c.endPlan(ErrOvertaken)
		}
	default:
		p.inFlight = false
	}
}

// blame sends the replica away whose key did not meet its condition: it comes
// back under a lease that etcd knows, or later.
func (c *Core) blame(p *proposal, id string) {
	if len(p.conds) == 0 {
		return
	}
	k := p.conds[len(p.conds)-1]
	for _, q := range p.conds {
		if q.ReplicaID == id {
			k = q
		}
	}
	if k.Absent {
		if r := c.byID(p.record.GetActive().GetId()); r != nil {
			c.refuse(r, pb.Refusal_ACTION_RETRY, fmt.Sprintf("%s holds VM %s and its lease is alive", k.ReplicaID, c.cfg.VM))
		}
		return
	}
	r := c.byID(k.ReplicaID)
	if r == nil {
		return
	}
	if r.role == pb.Role_ROLE_SPARE {
		c.putOff(r.id())
	}
	c.loseFor(r, fmt.Sprintf("etcd does not hold its key under lease %x", k.LeaseID), pb.Refusal_ACTION_RETRY)
}

// enter begins the term of c.record, which follows old: everybody learns his
// part.
func (c *Core) enter(old *pb.Record) {
	rec := c.record
	if s := old.GetStandby().GetId(); s != "" && !c.names(s) {
		c.putOff(s)
	}
	if !c.alone() || old.GetMode() == pb.Mode_MODE_PROTECTED || old.GetActive().GetId() != rec.GetActive().GetId() {
		c.soloSince = rec.GetTerm()
	}
	if rec.GetReason() == pb.Reason_REASON_BOOT || rec.GetMode() == pb.Mode_MODE_ENDED {
		c.ending = 0
		for _, r := range c.replicas {
			r.unfit = "" // for another guest, perhaps
		}
	}
	exiting := c.exiting
	c.exiting = ""
	c.resetTerm()
	// A replica may have attached anew since the Commit, without what it had.
	boots := rec.GetMode() == pb.Mode_MODE_SOLO && rec.GetReason() == pb.Reason_REASON_BOOT
	for _, r := range c.replicas {
		switch r.id() {
		case rec.GetActive().GetId():
			if r.hasCopy() || boots && r.boots() {
				r.role = pb.Role_ROLE_ACTIVE
				c.assign(r)
			}
		case rec.GetStandby().GetId():
			if r.hasCopy() || rec.GetMode() == pb.Mode_MODE_SYNCING && r.role == pb.Role_ROLE_SPARE {
				r.role = pb.Role_ROLE_STANDBY
				c.assign(r)
			}
		}
	}
	for _, r := range append([]*replica(nil), c.replicas...) {
		switch {
		case c.names(r.id()) || rec == nil:
		case r.id() == exiting:
			c.refuse(r, pb.Refusal_ACTION_EXIT, c.exitingWhy)
		case r.hasCopy():
			c.refuse(r, pb.Refusal_ACTION_DISCARD, c.notNamed(r))
		}
	}
	c.apart = false
	c.reunite()
}

// resetTerm forgets what belongs to a term that is over.
func (c *Core) resetTerm() {
	c.stopComparing(ErrOvertaken)
	c.matched = c.matchCounters()
	c.pair = pair{}
	c.sync = synchronization{deadline: c.now.Add(c.cfg.FirstCopyMax)}
}

// assign tells a replica its part. In SOLO and SYNCING the replica's own lease
// gates its outputs, and who takes the VM over looks at its lease key: so it
// must be the lease that the record's transaction was conditioned on. Where it
// is another, decide commits anew.
func (c *Core) assign(r *replica) {
	if c.alone() && c.leases[r.id()] != r.lease {
		return
	}
	r.term, r.mode = c.record.GetTerm(), c.record.GetMode()
	if c.alone() {
		r.epoch = 0 // they count anew
	}
	c.send(r, &pb.ToReplica{Body: &pb.ToReplica_Assignment{Assignment: &pb.Assignment{
		Record: proto.CloneOf(c.record), Revision: c.revision, LeaseId: r.lease, Policy: c.policy(),
	}}})
}

func modeEvent(m pb.Mode) pb.EventType {
	switch m {
	case pb.Mode_MODE_SYNCING:
		return pb.EventType_EVENT_TYPE_SYNCING
	case pb.Mode_MODE_PROTECTED:
		return pb.EventType_EVENT_TYPE_PROTECTED
	case pb.Mode_MODE_ENDED:
		return pb.EventType_EVENT_TYPE_ENDED
	}
	return pb.EventType_EVENT_TYPE_SOLO
}

package role

import (
	"errors"
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// ErrRefused is wrapped by the error of Host.Exit where the arbiter will not
// have this replica.
var ErrRefused = errors.New("refused by the arbiter")

// FromArbiter takes a message of the arbiter's stream.
func (c *Core) FromArbiter(now time.Duration, m *pb.ToReplica) {
	if c.ended {
		return
	}
	if m.GetRefusal() == nil {
		c.leads(now)
	}
	switch b := m.GetBody().(type) {
	case *pb.ToReplica_Assignment:
		c.assign(now, b.Assignment)
		return
	case *pb.ToReplica_Refusal:
		c.refused(b.Refusal)
		return
	}
	if m.GetTerm() != c.term {
		return
	}
	switch b := m.GetBody().(type) {
	case *pb.ToReplica_Release:
		c.release(b.Release)
	case *pb.ToReplica_Probes:
		c.probe(b.Probes)
	case *pb.ToReplica_Resync:
		c.beginResync(now, b.Resync)
	}
}

func (c *Core) refused(r *pb.Refusal) {
	switch r.GetAction() {
	case pb.Refusal_ACTION_EXIT:
		c.end(fmt.Errorf("%w: %s", ErrRefused, r.GetDetail()))
	case pb.Refusal_ACTION_DISCARD:
		c.discard(r.GetDetail())
	case pb.Refusal_ACTION_REDIRECT:
		// Whoever holds the stream goes there and says Hello anew.
	default:
		c.event("arbiter asks to come back later", pb.Reason_REASON_UNSPECIFIED, r.GetDetail())
		c.host.Reattach()
	}
}

// end stops everything for good.
func (c *Core) end(err error) {
	c.ended = true
	c.host.Mute(true)
	c.host.CloseFeed()
	c.host.Exit(err)
}

// discard gives the copy up; the owner starts over with a new Core.
func (c *Core) discard(why string) {
	if c.role == pb.Role_ROLE_CANDIDATE || c.role == pb.Role_ROLE_SPARE && c.sync.phase == idle {
		c.host.Reattach() // nothing to throw away
		return
	}
	c.ended = true
	c.host.Mute(true)
	c.host.AbortSync()
	c.host.DropStage()
	c.host.CloseFeed()
	c.event("copy discarded", pb.Reason_REASON_UNSPECIFIED, why)
	c.host.Discard(why)
}

// assign takes the replica's part in a term.
func (c *Core) assign(now time.Duration, a *pb.Assignment) {
	r := a.GetRecord()
	if r == nil || r.GetVm() != c.cfg.VM || r.GetTerm() < c.term {
		return
	}
	c.setTimes(a.GetPolicy())
	if r.GetMode() == pb.Mode_MODE_ENDED {
		c.mode, c.term = r.GetMode(), r.GetTerm()
		c.event("ended", r.GetReason(), "")
		c.end(nil)
		return
	}
	active := r.GetActive().GetId() == c.cfg.Self.GetId()
	standby := r.GetStandby().GetId() == c.cfg.Self.GetId()
	if !active && !standby {
		if c.role == pb.Role_ROLE_ACTIVE || c.role == pb.Role_ROLE_STANDBY {
			c.discard(fmt.Sprintf("term %d has other replicas", r.GetTerm()))
		}
		return
	}
	// An assignment made under a lease that has been lost since may be older
	// than what others have been told meanwhile.
	if id := a.GetLeaseId(); id != 0 && id != c.leaseID {
		c.host.Reattach()
		return
	}
	c.confirmed = true
	if r.GetTerm() == c.term && r.GetMode() == c.mode {
		return // said again to a replica that attached anew
	}
	if active {
		c.assignActive(now, a)
	} else {
		c.assignStandby(now, r)
	}
}

// setTimes takes the time-outs of a policy.
func (c *Core) setTimes(p *pb.Policy) {
	if t := p.GetSyncTimeoutMs(); t > 0 {
		c.syncTimeout = time.Duration(t) * time.Millisecond
	}
}

// enter moves to the record's term, under the lease that it counts on, which
// assign has compared with the present one.
func (c *Core) enter(r *pb.Record) {
	c.term, c.mode, c.actsUnder = r.GetTerm(), r.GetMode(), c.leaseID
}

func (c *Core) assignActive(now time.Duration, a *pb.Assignment) {
	r := a.GetRecord()
	switch c.role {
	case pb.Role_ROLE_CANDIDATE, pb.Role_ROLE_SPARE:
		can := c.role == pb.Role_ROLE_CANDIDATE || c.cfg.CanBoot && r.GetReason() == pb.Reason_REASON_BOOT
		if !can || r.GetMode() != pb.Mode_MODE_SOLO {
			c.host.Reattach()
			return
		}
		c.enter(r)
		c.role = pb.Role_ROLE_ACTIVE
		c.event("booting", r.GetReason(), "")
		c.host.Boot()
		c.host.Mute(false)
	case pb.Role_ROLE_STANDBY:
		if c.epoch == 0 && c.sync.phase != settling {
			c.discard("made active without a copy")
			return
		}
		if c.sync.phase == settling {
			c.takeover = a
			return
		}
		c.takeOver(now, a)
	case pb.Role_ROLE_ACTIVE:
		c.stayActive(now, a)
	default:
		c.host.Reattach()
	}
}

// stayActive moves the active to another mode.
func (c *Core) stayActive(now time.Duration, a *pb.Assignment) {
	r := a.GetRecord()
	switch r.GetMode() {
	case pb.Mode_MODE_SOLO:
		c.abort()
		c.enter(r)
		c.epoch = 0
		c.out.reported = 0 // events count anew in this term
		c.event("unprotected", r.GetReason(), "")
		c.emitSolo(now)
	case pb.Mode_MODE_SYNCING:
		c.abort()
		c.enter(r)
		c.epoch = 0
		c.emitSolo(now)
		c.setRules(a.GetPolicy())
		c.peer = r.GetStandby()
		c.sync = synchronization{phase: dialing, epoch: 1, reason: r.GetReason(), first: true, deadline: now + c.syncTimeout}
		c.event("copying to a standby", r.GetReason(), c.peer.GetId()+" at "+c.peer.GetAddress())
		c.host.DialFeed(c.peer)
	case pb.Mode_MODE_PROTECTED:
		c.enter(r)
		known := c.sync.phase == transferring || c.sync.phase == settling
		if !known || !c.sync.first || c.peer.GetId() != r.GetStandby().GetId() {
			c.SyncFailed(now, pb.Reason_REASON_LOST_FEED, errNoFeed)
			return
		}
		// The standby's word may still be on its way here.
		c.settle(now)
	}
}

// abort gives up a synchronization and the standby, if any.
func (c *Core) abort() {
	if c.sync.phase != idle {
		c.host.AbortSync()
	}
	c.sync = synchronization{}
	c.feeding, c.holding = false, false
	c.marks.Reset()
	c.in.fedAll()
	c.peer = nil
	if c.feedUp || c.mode == pb.Mode_MODE_PROTECTED || c.mode == pb.Mode_MODE_SYNCING {
		c.feedUp = false
		c.host.CloseFeed()
	}
	c.resume()
}

func (c *Core) assignStandby(now time.Duration, r *pb.Record) {
	switch r.GetMode() {
	case pb.Mode_MODE_SYNCING:
		if c.role != pb.Role_ROLE_SPARE && c.role != pb.Role_ROLE_STANDBY || c.epoch != 0 {
			c.discard("to take a first copy")
			return
		}
		c.enter(r)
		c.role = pb.Role_ROLE_STANDBY
		c.peer = r.GetActive()
		c.sync = synchronization{phase: copying, epoch: 1, first: true}
		c.event("receiving a copy", r.GetReason(), "from "+c.peer.GetId())
	case pb.Mode_MODE_PROTECTED:
		if c.role != pb.Role_ROLE_STANDBY || c.epoch == 0 && c.sync.phase != settling {
			c.discard("made standby without a copy")
			return
		}
		c.enter(r)
		c.event("protecting", r.GetReason(), "active "+r.GetActive().GetId())
		c.report(now)
	default:
		c.host.Reattach()
	}
}

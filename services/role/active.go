package role

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
	"github.com/understudy-ft/understudy/services/protocol"
)

// Welcomed returns the version that the standby has chosen for the feed to it,
// or why this build cannot speak it.
func Welcomed(w *pb.FeedWelcome) (uint32, error) {
	chosen := w.GetProtocol()
	if chosen == 0 {
		chosen = Protocol // it knew no other
	}
	return protocol.Spoken().Agree(protocol.Said(chosen, 0), "this replica", "the standby")
}

// FeedUp says that the standby has welcomed the feed (active), or that the
// active's feed was accepted by AcceptFeed (standby), and which version of the
// protocol it carries: that of Welcomed or AcceptFeed.
func (c *Core) FeedUp(now time.Duration, speaks uint32) {
	c.feedUp, c.feedSpeaks = true, speaks
	if c.role == pb.Role_ROLE_ACTIVE && c.sync.phase == dialing {
		// A live copy takes as long as it takes: it shows progress, and the feed
		// has its own deadlines.
		c.sync.phase, c.sync.deadline = copying, 0
		c.host.CopyLive()
	}
}

// FeedDown says that the feed has ended, or could not be opened.
func (c *Core) FeedDown(now time.Duration, err error) {
	wasUp := c.feedUp || c.sync.phase == dialing
	c.feedUp = false
	if wasUp && !c.ended {
		c.SyncFailed(now, pb.Reason_REASON_LOST_FEED, err)
	}
}

// CopyConverged says that little enough is left of a copy to pause.
func (c *Core) CopyConverged(now time.Duration) {
	switch {
	case c.role != pb.Role_ROLE_ACTIVE || c.sync.phase != copying:
	case c.sync.first:
		c.beginPause(now)
	default:
		c.sync.phase, c.sync.pauseBy = resting, now+restMost
	}
}

// beginResync begins a new epoch on the arbiter's order.
func (c *Core) beginResync(now time.Duration, m *pb.Resync) {
	if c.role != pb.Role_ROLE_ACTIVE || c.mode != pb.Mode_MODE_PROTECTED || m.GetEpoch() <= c.epoch {
		return
	}
	if c.sync.phase != idle {
		// The standby's word that it has staged an epoch may reach the arbiter,
		// and the arbiter's next order the active, before the feed brings it here.
		if m.GetEpoch() > c.sync.epoch {
			c.sync.next = m
		}
		if c.approaching() {
			c.beginPause(now) // who orders again may not know for how long what waits
		}
		return
	}
	if !c.feedUp {
		c.SyncFailed(now, pb.Reason_REASON_LOST_FEED, errNoFeed)
		return
	}
	if p := m.GetPolicy(); p != nil {
		c.setTimes(p)
		c.setRules(p)
	}
	if m.GetReason() == pb.Reason_REASON_MISMATCH {
		c.gather.disagreed(now)
	}
	c.sync = synchronization{epoch: m.GetEpoch(), reason: m.GetReason()}
	c.event("resynchronizing", m.GetReason(), m.GetDetail())
	if waits(m.GetReason()) || now-c.epochBegan < youngEpoch {
		c.beginPause(now)
		return
	}
	c.copyAhead(now)
}

func (c *Core) beginPause(now time.Duration) {
	c.sync.phase, c.sync.began, c.sync.deadline = pausing, now, now+c.syncTimeout
	c.pause()
}

// Paused says that the guest stands still and that all it transmitted was
// given to Output.
func (c *Core) Paused(now time.Duration) {
	switch {
	case c.ended:
	case c.sync.phase != pausing:
		// The synchronization was given up meanwhile.
		if !c.paused {
			c.host.Resume()
		}
	case c.role == pb.Role_ROLE_ACTIVE:
		c.sendCheckpoint(now)
	default:
		c.sync.phase = transferring
		c.host.AnswerDirty(c.sync.epoch)
	}
}

func (c *Core) sendCheckpoint(now time.Duration) {
	c.sync.phase, c.sync.deadline = transferring, now+c.syncTimeout
	c.marks.Reset()
	through := c.in.delivered
	ck := &Checkpoint{Epoch: c.sync.epoch, Reason: c.sync.reason, First: c.sync.first, ThroughInput: through,
		Flows: c.flows.Save()}
	for i := range c.out.carried {
		ck.Held = append(ck.Held, c.out.carried[i].held())
	}
	for i := range c.out.queue {
		if o := &c.out.queue[i]; !o.gone {
			ck.Held = append(ck.Held, o.held())
		}
	}
	c.host.SendCheckpoint(ck)
	// What the guest was not given yet belongs to the epoch that begins.
	c.feeding = true
	c.holding = c.sync.first
	c.in.refeed()
	c.feedInputs(now)
}

// held is the form in which a checkpoint carries an output.
func (o *output) held() *pb.HeldOutput {
	return &pb.HeldOutput{Output: o.message(), Frame: o.frame}
}

// Checkpointed says that the whole checkpoint has been handed to the feed.
func (c *Core) Checkpointed(now time.Duration, stats *pb.SyncStats) {
	if c.role == pb.Role_ROLE_ACTIVE && c.sync.phase == transferring {
		c.sync.stats, c.sync.deadline = stats, now+c.syncTimeout
	}
}

// FromStandby takes a message of the feed's way back.
func (c *Core) FromStandby(now time.Duration, m *pb.FromStandby) {
	if c.ended || c.role != pb.Role_ROLE_ACTIVE {
		return
	}
	if b, ok := m.GetBody().(*pb.FromStandby_Staged); ok {
		c.staged(now, b.Staged.GetEpoch())
	}
}

// staged is the standby's word that it has the whole checkpoint: the new epoch
// is the truth, and what the active held before it may leave.
func (c *Core) staged(now time.Duration, epoch uint64) {
	if c.sync.phase != transferring || epoch != c.sync.epoch {
		return
	}
	s := c.sync
	c.epoch, c.epochBegan = epoch, now
	c.flows.NewEpoch()
	c.events = 0
	c.carry(c.out.take())
	c.marks.Reset()
	if s.first {
		// The standby has all, but only the record says from when on it counts.
		c.sync.phase, c.sync.deadline = settling, now+c.syncTimeout
		c.settle(now)
	} else {
		c.sync = synchronization{}
		c.emitCarried()
	}
	c.resume()
	stats := s.stats
	if stats == nil {
		stats = &pb.SyncStats{}
	}
	stats.PauseUs = uint64((now - s.began).Microseconds())
	c.toArbiter(&pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: epoch, Reason: s.reason, Stats: stats}})
	c.host.Report(Event{What: "epoch started", Term: c.term, Epoch: epoch, Mode: c.mode, Reason: s.reason,
		Stats: stats, Took: now - s.began})
	if s.next != nil && c.sync.phase == idle {
		c.beginResync(now, s.next)
	}
}

// carry starts the outputs of an epoch with those that its checkpoint holds:
// frames leave once the checkpoint counts; guest events are told anew.
func (c *Core) carry(outputs []output) {
	c.out.newEpoch()
	for _, o := range outputs {
		if o.Kind != flow.Event {
			c.out.carried = append(c.out.carried, o)
			continue
		}
		c.events++
		o.End = c.events
		c.out.add(o.Output, nil, c.in.delivered)
	}
}

// settle ends a first copy that is staged and that the record counts on.
func (c *Core) settle(now time.Duration) {
	if c.sync.phase != settling || c.mode != pb.Mode_MODE_PROTECTED {
		return
	}
	c.sync, c.holding = synchronization{}, false
	c.event("protected", pb.Reason_REASON_NEW_STANDBY, "standby "+c.peer.GetId())
	c.emitCarried()
	c.report(now)
}

// emitCarried lets the outputs leave that the standby's checkpoint holds.
func (c *Core) emitCarried() {
	carried := c.out.carried
	c.out.carried = nil
	feeding := c.feeding
	c.feeding = false // they are confirmed as a whole
	for i := range carried {
		c.emit(&carried[i], 0, false)
	}
	c.feeding = feeding
	if len(carried) > 0 {
		c.toStandby(&pb.FromActive_Emitted{Emitted: &pb.Emitted{Epoch: c.epoch, Carried: true}})
	}
}

// SyncFailed gives up the synchronization under way. The guest goes on; what
// it transmits waits for the arbiter's word.
func (c *Core) SyncFailed(now time.Duration, reason pb.Reason, err error) {
	if c.ended || c.role != pb.Role_ROLE_ACTIVE && c.role != pb.Role_ROLE_STANDBY {
		return
	}
	if c.role == pb.Role_ROLE_STANDBY {
		c.stageFailed(reason, err)
		return
	}
	if c.sync.phase != idle {
		c.host.AbortSync()
	}
	c.sync = synchronization{}
	c.feedUp, c.feeding = false, false
	c.host.CloseFeed()
	c.event("standby lost", reason, err.Error())
	c.toArbiter(&pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{Reason: reason, Detail: err.Error()}})
	c.resume()
}

package session

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
	"github.com/understudy-ft/understudy/services/match"
)

// pair is the state of two copies whose outputs are compared, in one term.
type pair struct {
	// epoch is the newest that the standby is known to have staged whole.
	epoch   uint64
	began   time.Time
	matcher *match.Core
	// comparing: all outputs of the epoch, from its first, were reported here.
	comparing bool
	// fromSync: the term follows the SYNCING of the same two replicas, whose
	// last messages count.
	fromSync bool
	// lastID is the number of the last output that each side reported.
	lastID [2]uint64
	// events are the guest events of the active that wait for release.
	events []event
	early  early

	// resync is under way; wanted is to follow.
	resync *resync
	wanted *resync
}

// resync is a resynchronization that is wanted or under way.
type resync struct {
	epoch    uint64
	reason   pb.Reason
	detail   string
	deadline time.Time
	tokens   []Token
	// kept are orders that are carried out however the resynchronization ends:
	// the next epoch is as good.
	kept  []Token
	stats *pb.SyncStats
}

type event struct {
	id   uint64
	what pb.GuestEvent
}

// early holds outputs of an epoch that one side has begun, until the standby's
// word that it has staged it is here, too.
type early struct {
	epoch    uint64
	outputs  [2][]*pb.Output
	overflow bool
}

// side tells which copy a member is.
func (c *Core) side(r *replica) match.Side {
	if r.id() == c.record.GetActive().GetId() {
		return match.Active
	}
	return match.Standby
}

// beginEpoch starts to compare the outputs of an epoch that the standby has
// staged.
func (c *Core) beginEpoch(epoch uint64) {
	p := &c.pair
	policy := c.policy()
	idle, most := ms(policy.CompareIdleMs), ms(policy.CompareMaxMs)
	if p.matcher == nil {
		p.matcher = match.New(match.Config{CompareIdle: idle, CompareMax: most})
	}
	p.matcher.SetTimes(idle, most)
	p.epoch, p.began, p.comparing = epoch, c.now, true
	p.lastID = [2]uint64{}
	p.events = p.events[:0]
	p.matcher.Reset(epoch)
	e := p.early
	p.early = early{}
	if e.epoch != epoch {
		return
	}
	if e.overflow {
		c.want(pb.Reason_REASON_LAGGING, fmt.Sprintf("more than %d outputs came before the epoch began here", earlyMax))
	}
	for side, outputs := range e.outputs {
		for _, o := range outputs {
			c.output(match.Side(side), o)
		}
	}
}

// stopComparing follows the loss of a member, or the end of the term.
func (c *Core) stopComparing(err error) {
	p := &c.pair
	p.comparing = false
	p.early = early{}
	for _, r := range []*resync{p.resync, p.wanted} {
		if r != nil {
			c.replyAll(r.tokens, err)
			c.replyAll(r.kept, nil)
		}
	}
	p.resync, p.wanted = nil, nil
}

// outputs takes a report of outputs.
func (c *Core) outputs(r *replica, m *pb.Outputs) {
	for _, o := range m.GetOutputs() {
		if n := len(o.GetDigest()); n != 0 && n != len(flow.Digest{}) ||
			o.GetKind() < pb.OutputKind_OUTPUT_KIND_STREAM || o.GetKind() > pb.OutputKind_OUTPUT_KIND_EVENT {
			c.loseFor(r, "it reported an output that makes no sense", pb.Refusal_ACTION_EXIT)
			return
		}
	}
	p := &c.pair
	switch e := m.GetEpoch(); {
	case c.record.GetMode() == pb.Mode_MODE_PROTECTED && e == p.epoch && p.comparing:
		side := c.side(r)
		for _, o := range m.GetOutputs() {
			c.output(side, o)
		}
	case c.record.GetMode() == pb.Mode_MODE_PROTECTED && e == c.nextEpoch(),
		c.record.GetMode() == pb.Mode_MODE_SYNCING && e == 1:
		c.keepEarly(c.side(r), e, m.GetOutputs())
	case c.alone() && r == c.active():
		for _, o := range m.GetOutputs() {
			if o.GetKind() == pb.OutputKind_OUTPUT_KIND_EVENT {
				c.guestEvent(guestEvent(o.GetName()))
			}
		}
	default:
		c.counters.Stale++
	}
}

// nextEpoch is the epoch that follows.
func (c *Core) nextEpoch() uint64 {
	if r := c.pair.resync; r != nil {
		return max(r.epoch, c.pair.epoch+1)
	}
	return c.pair.epoch + 1
}

func (c *Core) keepEarly(side match.Side, epoch uint64, outputs []*pb.Output) {
	e := &c.pair.early
	if e.epoch != epoch {
		*e = early{epoch: epoch}
	}
	if len(e.outputs[0])+len(e.outputs[1])+len(outputs) > earlyMax {
		e.overflow = true
		return
	}
	e.outputs[side] = append(e.outputs[side], outputs...)
}

// output gives one output of the current epoch to the matcher.
func (c *Core) output(side match.Side, o *pb.Output) {
	p := &c.pair
	if o.GetId() <= p.lastID[side] {
		c.counters.Stale++
		return
	}
	p.lastID[side] = o.GetId()
	out := flow.FromMessage(o)
	if out.Kind == flow.Event {
		if side == match.Active && len(p.events) < eventsMax {
			p.events = append(p.events, event{id: o.GetId(), what: guestEvent(o.GetName())})
		}
	}
	p.matcher.Report(side, o.GetId(), o.GetAfterInput(), out, c.since())
}

func (c *Core) progress(r *replica, h *pb.Heartbeat) {
	if p := &c.pair; p.comparing && h.GetEpoch() == p.epoch && !c.leavingEpoch() {
		idle := time.Duration(min(h.GetIdleUs(), uint64(time.Hour/time.Microsecond))) * time.Microsecond
		p.matcher.Progress(c.side(r), h.GetDeliveredInput(), idle, c.since())
	}
}

func (c *Core) probeReply(r *replica, m *pb.ProbeReply) {
	var d flow.Digest
	if p := &c.pair; !p.comparing || m.GetEpoch() != p.epoch || r != c.standby() || len(m.GetDigest()) != 0 && len(m.GetDigest()) != len(d) {
		c.counters.Stale++
		return
	}
	copy(d[:], m.GetDigest())
	c.pair.matcher.ProbeReply(flow.ID(m.GetFlow()), m.GetOffset(), d, c.since())
}

// leavingEpoch tells whether the order to leave the current epoch is out:
// nothing in it is worth a disagreement any more.
func (c *Core) leavingEpoch() bool {
	return c.pair.resync != nil && c.pair.resync.epoch > c.pair.epoch
}

func (c *Core) tickPair() {
	p := &c.pair
	if p.resync != nil && !c.now.Before(p.resync.deadline) && !c.sync.failed {
		c.fail(nil, pb.Reason_REASON_LAGGING, fmt.Sprintf("the resynchronization took longer than %v", c.syncTimeout()))
	}
	if !p.comparing {
		return
	}
	if !c.leavingEpoch() {
		p.matcher.Tick(c.since())
	}
	if most := c.epochMax(); most > 0 && p.resync == nil && p.wanted == nil && c.now.Sub(p.began) >= most {
		c.want(pb.Reason_REASON_PERIODIC, fmt.Sprintf("the epoch is %v old", most))
	}
}

// takeMatched carries out what the matcher has found.
func (c *Core) takeMatched() {
	p := &c.pair
	if p.matcher == nil {
		return
	}
	if d := p.matcher.Disagreement(); d != nil && p.comparing && !c.leavingEpoch() {
		reason := pb.Reason_REASON_MISMATCH
		switch d.Kind {
		case match.Timeout:
			reason = pb.Reason_REASON_COMPARE_TIMEOUT
		case match.Overflow:
			reason = pb.Reason_REASON_LAGGING
		}
		c.want(reason, clip(d.String()))
	}
	if a, n := c.active(), len(p.matcher.Releases()); a != nil && p.comparing && n > 0 {
		released := make([]pb.Released, n) // in one piece
		release := &pb.Release{Epoch: p.epoch, Outputs: make([]*pb.Released, n)}
		for i, r := range p.matcher.Releases() {
			released[i].Id, released[i].EdgeMax = r.ID, r.EdgeMax
			release.Outputs[i] = &released[i]
			if r.Kind == flow.Event {
				c.eventReleased(r.ID)
			}
		}
		c.send(a, &pb.ToReplica{Body: &pb.ToReplica_Release{Release: release}})
	}
	if s := c.standby(); s != nil && p.comparing && len(p.matcher.Probes()) > 0 {
		probes := &pb.Probes{Epoch: p.epoch}
		for _, q := range p.matcher.Probes() {
			probes.Probes = append(probes.Probes, &pb.Probe{Flow: uint64(q.Flow), Offset: q.Offset})
		}
		c.send(s, &pb.ToReplica{Body: &pb.ToReplica_Probes{Probes: probes}})
	}
	p.matcher.Clear()
}

func (c *Core) eventReleased(id uint64) {
	for i, e := range c.pair.events {
		if e.id == id {
			c.pair.events = append(c.pair.events[:i], c.pair.events[i+1:]...)
			c.guestEvent(e.what)
			return
		}
	}
}

// guestEvent reads the name that an EVENT output carries.
func guestEvent(name string) pb.GuestEvent {
	switch name {
	case "poweroff":
		return pb.GuestEvent_GUEST_EVENT_POWEROFF
	case "reboot":
		return pb.GuestEvent_GUEST_EVENT_REBOOT
	}
	return pb.GuestEvent_GUEST_EVENT_FAULT
}

// guestEvent follows an event that counts: both copies have made it, or the
// only one.
func (c *Core) guestEvent(e pb.GuestEvent) {
	switch e {
	case pb.GuestEvent_GUEST_EVENT_POWEROFF:
		c.ending = pb.Reason_REASON_GUEST_POWEROFF
	case pb.GuestEvent_GUEST_EVENT_FAULT:
		c.ending = pb.Reason_REASON_GUEST_FAULT
	case pb.GuestEvent_GUEST_EVENT_REBOOT:
		c.report(pb.EventType_EVENT_TYPE_REBOOTED, pb.Reason_REASON_GUEST_REBOOT, "the guest rebooted", nil)
		if c.pair.comparing {
			c.want(pb.Reason_REASON_GUEST_REBOOT, "the guest rebooted")
		}
	}
}

// want asks for a resynchronization. The first reason is kept.
func (c *Core) want(reason pb.Reason, detail string) {
	if c.pair.wanted == nil {
		c.pair.wanted = &resync{reason: reason, detail: detail}
	}
}

// beginResync orders the resynchronization that is wanted, or that must be
// because outputs were not reported here, once nothing else is under way.
func (c *Core) beginResync() {
	p := &c.pair
	a, s := c.active(), c.standby()
	if c.record.GetMode() != pb.Mode_MODE_PROTECTED || a == nil || s == nil || p.resync != nil || c.proposal != nil || c.sync.failed || c.ending != 0 {
		return
	}
	if !p.comparing {
		p.epoch = max(p.epoch, a.epoch, s.epoch)
		c.want(pb.Reason_REASON_ARBITER_CHANGED, "outputs may have been reported elsewhere")
	}
	r := p.wanted
	if r == nil {
		return
	}
	p.resync, p.wanted = r, nil
	r.epoch, r.deadline = p.epoch+1, c.now.Add(c.syncTimeout())
	c.counts.Resyncs++
	for _, to := range []*replica{a, s} {
		c.send(to, &pb.ToReplica{Body: &pb.ToReplica_Resync{Resync: &pb.Resync{
			Epoch: r.epoch, Reason: r.reason, Detail: r.detail, Policy: c.policy()}}})
	}
	c.report(pb.EventType_EVENT_TYPE_RESYNC_STARTED, r.reason, r.detail, nil)
}

// epochStarted takes a replica's word that it is in an epoch.
func (c *Core) epochStarted(r *replica, m *pb.EpochStarted) {
	mode := c.record.GetMode()
	if mode != pb.Mode_MODE_SYNCING && mode != pb.Mode_MODE_PROTECTED || m.GetEpoch() > numberMax {
		c.counters.Stale++
		return
	}
	if r == c.active() {
		c.tookTime(m)
	}
	c.seen(r, m.GetEpoch())
}

// tookTime takes what the active says that a synchronization took.
func (c *Core) tookTime(m *pb.EpochStarted) {
	c.addStats(m.GetStats())
	switch p := &c.pair; {
	case c.record.GetMode() == pb.Mode_MODE_SYNCING:
		c.sync.stats = m.GetStats()
	case p.resync != nil && m.GetEpoch() >= p.resync.epoch:
		p.resync.stats = m.GetStats()
	case p.resync == nil && !(p.fromSync && m.GetEpoch() == 1):
		// One that ended while no stream was up.
		c.report(pb.EventType_EVENT_TYPE_RESYNC_DONE, m.GetReason(), "", m.GetStats())
	}
}

// seen notes the epoch in which a member says that it is. An epoch counts from
// the standby's word on, which it gives once it has staged the whole of it.
func (c *Core) seen(r *replica, epoch uint64) {
	r.epoch = max(r.epoch, epoch)
	if r == c.standby() {
		switch c.record.GetMode() {
		case pb.Mode_MODE_SYNCING:
			c.sync.staged = c.sync.staged || epoch == 1
		case pb.Mode_MODE_PROTECTED:
			if epoch > c.pair.epoch && epoch <= c.nextEpoch() {
				c.beginEpoch(epoch)
			}
		}
	}
	c.endResync()
}

// endResync ends a resynchronization that both have finished.
func (c *Core) endResync() {
	p := &c.pair
	a := c.active()
	if r := p.resync; r != nil && a != nil && p.epoch >= r.epoch && a.epoch >= r.epoch {
		p.resync = nil
		c.replyAll(append(r.tokens, r.kept...), nil)
		c.report(pb.EventType_EVENT_TYPE_RESYNC_DONE, r.reason, "", r.stats)
	}
}

func (c *Core) syncFailed(r *replica, m *pb.SyncFailed) {
	if c.record.GetMode() != pb.Mode_MODE_SYNCING && c.record.GetMode() != pb.Mode_MODE_PROTECTED {
		c.counters.Stale++
		return
	}
	reason := m.GetReason()
	if reason == pb.Reason_REASON_UNSPECIFIED {
		reason = pb.Reason_REASON_LOST_FEED
	}
	c.fail(r, reason, r.id()+": "+clip(m.GetDetail()))
}

// fail notes that the standby does not follow the active any more. The
// active's word replaces the standby's, which waits for a sign of life.
func (c *Core) fail(by *replica, reason pb.Reason, detail string) {
	byStandby := by != nil && by == c.standby()
	if c.sync.failed && (byStandby || !c.sync.byStandby) {
		return
	}
	c.sync.failed, c.sync.byStandby, c.sync.failedAt = true, byStandby, c.now
	c.sync.reason, c.sync.detail = reason, detail
}

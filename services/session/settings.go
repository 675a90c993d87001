package session

import (
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Bounds of Record.drained.
const (
	drainedMax = 64
	// drainedKept is how long a replica that is not attached stays drained.
	drainedKept = 24 * time.Hour
)

const settings = pb.EventType_EVENT_TYPE_SETTINGS

// change proposes a record that differs only in what operators have set: the
// term goes on, and nobody's part changes.
func (c *Core) change(t Token, event pb.EventType, detail string, set func(*pb.Record)) {
	r := proto.CloneOf(c.record)
	set(r)
	c.commit(&proposal{record: r, event: event, detail: detail, tokens: []Token{t}})
}

// changed follows the Commit of a change. Another policy holds from another
// epoch on, which the order waits for.
func (c *Core) changed(p *proposal, revision int64) {
	old := c.policy()
	c.record, c.revision = p.record, revision
	c.report(p.event, pb.Reason_REASON_OPERATOR, p.detail, nil)
	same := proto.Equal(old, c.policy())
	if c.record.GetMode() != pb.Mode_MODE_PROTECTED || same {
		c.sync.outdated = c.sync.outdated || !same
		c.replyAll(p.tokens, nil)
		return
	}
	c.want(pb.Reason_REASON_POLICY, p.detail)
	c.pair.wanted.kept = append(c.pair.wanted.kept, p.tokens...)
}

// orderSuspend ends protection until orderResume.
func (c *Core) orderSuspend(in Suspend) {
	err := c.canChange()
	switch {
	case err != nil:
	case c.record == nil:
		err = ErrNeverStarted
	case c.record.GetSuspended():
	case c.record.GetStandby() == nil || c.record.GetMode() == pb.Mode_MODE_ENDED:
		c.change(in.Token, settings, "protection is suspended by "+giver(in.By), suspend)
		return
	case c.active() == nil:
		err = ErrBusy // it may be the standby that goes on
	default:
		p := c.solo(c.active(), pb.Reason_REASON_OPERATOR, "protection is suspended by "+giver(in.By))
		suspend(p.record)
		p.tokens = []Token{in.Token}
		c.commit(p)
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

func suspend(r *pb.Record) { r.Suspended = true }

// orderResume lets a spare become the standby again.
func (c *Core) orderResume(in Resume) {
	err := c.canChange()
	switch {
	case err != nil:
	case c.record == nil:
		err = ErrNeverStarted
	case c.record.GetSuspended():
		c.change(in.Token, settings, "protection is resumed by "+giver(in.By), func(r *pb.Record) { r.Suspended = false })
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

// orderDrain keeps a replica from being the standby.
func (c *Core) orderDrain(in Drain) {
	r := c.byID(in.ReplicaID)
	err := c.canChange()
	switch {
	case err != nil:
	case r == nil:
		err = ErrUnknownReplica
	case c.record == nil:
		err = ErrNeverStarted
	case c.drained(r):
	case len(c.keptDrained()) >= drainedMax:
		err = ErrTooMany
	default:
		d := &pb.Drained{Process: r.process, ReplicaId: r.id(), SinceUnixMs: c.now.UnixMilli()}
		drain := func(rec *pb.Record) { rec.Drained = append(c.keptDrained(), d) }
		why := r.id() + " is drained by " + giver(in.By)
		switch {
		case r == c.active():
			c.begin(in.Token, &plan{by: in.By, drain: d})
		case r != c.standby():
			c.change(in.Token, settings, why, drain)
		case c.active() == nil:
			c.do(Reply{Token: in.Token, Err: ErrBusy})
		default:
			p := c.solo(c.active(), pb.Reason_REASON_OPERATOR, why)
			drain(p.record)
			p.tokens = []Token{in.Token}
			c.commit(p)
		}
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

// orderUndrain takes a drain back. The replica may be one that is not attached.
func (c *Core) orderUndrain(in Undrain) {
	process, known := "", false
	if r := c.byID(in.ReplicaID); r != nil {
		process, known = r.process, true
	}
	var left []*pb.Drained
	for _, d := range c.record.GetDrained() {
		if d.GetProcess() != process && d.GetProcess() != in.ReplicaID && d.GetReplicaId() != in.ReplicaID {
			left = append(left, d)
		}
	}
	found := len(left) < len(c.record.GetDrained())
	err := c.canChange()
	switch {
	case err != nil:
	case !found && !known:
		err = ErrUnknownReplica
	case found:
		c.change(in.Token, settings, in.ReplicaID+" is undrained by "+giver(in.By), func(r *pb.Record) { r.Drained = left })
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

// drained tells whether an operator does not want the replica to be used.
func (c *Core) drained(r *replica) bool {
	return slices.ContainsFunc(c.record.GetDrained(), func(d *pb.Drained) bool { return d.GetProcess() == r.process })
}

// keptDrained is Record.drained without those that have long been gone.
func (c *Core) keptDrained() (kept []*pb.Drained) {
	for _, d := range c.record.GetDrained() {
		here := slices.ContainsFunc(c.replicas, func(r *replica) bool { return r.process == d.GetProcess() })
		if here || c.now.Sub(time.UnixMilli(d.GetSinceUnixMs())) < drainedKept {
			kept = append(kept, d)
		}
	}
	return kept
}

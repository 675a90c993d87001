package role

import (
	"encoding/binary"
	"time"

	"github.com/zeebo/xxh3"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
)

// outputsPerReport bounds a message of reports.
const outputsPerReport = 256

// openingPatience bounds how long a standby keeps the report of an output that
// opens a connection while the active has not told its numbers for it. A
// release that follows the report lets the outside learn those numbers: by then
// the standby must know them, or the connection would not survive a take-over.
const openingPatience = time.Second

// Output gives a frame that the guest transmitted. The Core owns it.
func (c *Core) Output(now time.Duration, frame []byte) {
	if c.ended || c.out.full(frame) {
		return
	}
	o := c.flows.Out(frame)
	opening, opens := c.flows.Opened()
	if opens && c.feeding {
		c.feedInputs(now) // the standby hears of an opening behind what led to it
		c.toStandby(&pb.FromActive_FlowOpened{FlowOpened: &pb.FlowOpened{
			Flow: uint64(opening.Flow), Isn: opening.ISN, Tsval: opening.TSval, HasTs: opening.HasTS,
		}})
	}
	if c.role == pb.Role_ROLE_STANDBY && o.Kind == flow.Pass {
		return
	}
	if o.Bypass && c.bypasses(now) {
		c.bypassed++
		c.host.Emit(c.flows.EmitFlow(o.Flow, frame, 0), true)
		return
	}
	h := c.out.add(o, frame, c.in.delivered)
	if c.role == pb.Role_ROLE_STANDBY && c.marks.Covers(o) {
		c.out.cover(h)
	} else if opens && c.role == pb.Role_ROLE_STANDBY {
		h.opens = now + openingPatience
	}
	c.emitSolo(now)
}

// GuestEvent says that the guest powered itself off, rebooted, or cannot go
// on. It is an output like others: both copies have to make it.
func (c *Core) GuestEvent(now time.Duration, ev pb.GuestEvent, detail string) {
	if c.ended {
		return
	}
	c.events++
	o := flow.Output{Kind: flow.Event, End: c.events, Name: eventName(ev)}
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], uint64(ev))
	o.Digest = flow.Digest(xxh3.Hash128(b[:]).Bytes())
	c.out.add(o, nil, c.in.delivered)
	c.event("guest "+eventName(ev), pb.Reason_REASON_UNSPECIFIED, detail)
	c.report(now)
}

// eventName is the name of a guest event in reports; the arbiter reads it.
func eventName(ev pb.GuestEvent) string {
	switch ev {
	case pb.GuestEvent_GUEST_EVENT_POWEROFF:
		return "poweroff"
	case pb.GuestEvent_GUEST_EVENT_REBOOT:
		return "reboot"
	}
	return "fault"
}

// soloGate tells whether the replica's own lease lets outputs leave now.
func (c *Core) soloGate(now time.Duration) bool {
	if c.role != pb.Role_ROLE_ACTIVE || c.ended || now >= c.leaseUntil || c.leaseID != c.actsUnder {
		return false
	}
	switch c.mode {
	case pb.Mode_MODE_SOLO:
		return true
	case pb.Mode_MODE_SYNCING:
		// Outputs made after the pause of the first copy wait for the record.
		return !c.holding
	}
	return false
}

// bypasses tells whether an output that a rule lets past the arbiter may leave
// at once. Nothing excludes that the standby was made active a moment ago and
// this replica has not heard of it; that it must be in touch with the arbiter that
// it has its part from, and hold its lease, bounds how long such a one speaks on.
func (c *Core) bypasses(now time.Duration) bool {
	return c.role == pb.Role_ROLE_ACTIVE && c.mode == pb.Mode_MODE_PROTECTED && !c.holding && c.confirmed && now < c.leaseUntil
}

// emitSolo emits all that is held if the lease allows it.
func (c *Core) emitSolo(now time.Duration) {
	if !c.soloGate(now) || c.out.len() == 0 {
		return
	}
	c.report(now) // events are reported in SOLO, too
	for i := range c.out.carried {
		c.emit(&c.out.carried[i], 0, true)
	}
	c.out.carried = nil
	for i := range c.out.queue {
		o := &c.out.queue[i]
		if o.gone || o.Kind == flow.Event && o.id > c.out.reported {
			continue // an event waits until an arbiter can be told
		}
		c.emit(o, 0, true)
		c.out.drop(o)
	}
	c.out.trim()
}

// emit lets an output leave.
func (c *Core) emit(o *output, edgeMax uint64, leased bool) {
	if o.frame == nil {
		return
	}
	c.host.Emit(c.flows.EmitFlow(o.Flow, o.frame, edgeMax), leased)
	if o.Kind == flow.Stream {
		c.flows.Confirm(o.Flow, o.End)
	}
	if c.feeding {
		c.marks.Emitted(o.Output)
	}
}

// reportable tells whether there are outputs for report.
func (c *Core) reportable() bool {
	if !c.arbiterUp || c.out.reported == c.out.last || c.holding {
		return false
	}
	switch c.mode {
	case pb.Mode_MODE_PROTECTED:
		return true
	case pb.Mode_MODE_SOLO, pb.Mode_MODE_SYNCING:
		return c.role == pb.Role_ROLE_ACTIVE
	}
	return false
}

// report tells the arbiter of outputs that it was not told of: all of them in
// PROTECTED, and guest events in SOLO.
func (c *Core) report(now time.Duration) {
	if !c.reportable() {
		return
	}
	solo := c.mode != pb.Mode_MODE_PROTECTED
	batch := &pb.Outputs{Epoch: c.epoch}
	for i := range c.out.queue {
		o := &c.out.queue[i]
		if o.id <= c.out.reported {
			continue
		}
		if now < o.opens && c.flows.AwaitsOpening(o.Flow) {
			break // what follows waits, too: reports keep their order
		}
		c.out.reported = o.id
		if o.gone || solo && o.Kind != flow.Event {
			continue
		}
		batch.Outputs = append(batch.Outputs, o.message())
		if o.covered {
			c.out.drop(o)
		}
		if len(batch.Outputs) == outputsPerReport {
			c.toArbiter(&pb.FromReplica_Outputs{Outputs: batch})
			batch = &pb.Outputs{Epoch: c.epoch}
		}
	}
	if len(batch.Outputs) > 0 {
		c.toArbiter(&pb.FromReplica_Outputs{Outputs: batch})
	}
	if c.role == pb.Role_ROLE_STANDBY {
		c.out.trim()
	}
}

// release lets outputs of the active go on the arbiter's word.
func (c *Core) release(m *pb.Release) {
	if c.role != pb.Role_ROLE_ACTIVE || c.mode != pb.Mode_MODE_PROTECTED || m.GetEpoch() != c.epoch {
		return
	}
	for _, r := range m.GetOutputs() {
		o := c.out.get(r.GetId())
		if o == nil {
			continue
		}
		c.emit(o, r.GetEdgeMax(), false)
		c.out.drop(o)
	}
	c.out.trim()
}

// probe answers for the cumulative digest at exact offsets.
func (c *Core) probe(m *pb.Probes) {
	if m.GetEpoch() != c.epoch {
		return
	}
	for _, p := range m.GetProbes() {
		reply := &pb.ProbeReply{Epoch: c.epoch, Flow: p.GetFlow(), Offset: p.GetOffset()}
		if d, ok := c.flows.DigestAt(flow.ID(p.GetFlow()), p.GetOffset()); ok {
			reply.Digest = d[:]
		}
		c.toArbiter(&pb.FromReplica_ProbeReply{ProbeReply: reply})
	}
}

// emitted drops held outputs that the active says have left (standby).
func (c *Core) emitted(m *pb.Emitted) {
	if m.GetCarried() {
		c.out.carried = nil
	}
	if len(m.GetFlows()) == 0 {
		return
	}
	for _, f := range m.GetFlows() {
		id := flow.ID(f.GetFlow())
		c.marks.Merge(flow.EmittedMark{Flow: id, End: f.GetEnd(), Ack: f.GetAck(), Flags: flow.Flags(f.GetFlags())})
		c.flows.Confirm(id, f.GetEnd())
	}
	for i := range c.out.queue {
		o := &c.out.queue[i]
		if !o.gone && !o.covered && c.marks.Covers(o.Output) {
			c.out.cover(o)
		}
	}
	c.out.trim()
}

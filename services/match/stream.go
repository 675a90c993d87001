package match

import (
	"strconv"
	"time"

	"github.com/understudy-ft/understudy/services/flow"
)

// offsetMax bounds the offsets of a stream, so that they can be counted on.
const offsetMax = 1 << 62

// stream takes a TCP segment.
func (c *Core) stream(f *state, side Side, id uint64, out *flow.Output, m mark) {
	if out.End > offsetMax {
		c.disagree(Mismatch, f, "%v reported the offset %d", side, out.End)
		return
	}
	h := &f.halves[side]
	opens := false
	if out.Flags&flow.ACK != 0 {
		opens = h.acked && out.Edge > h.edge && out.Digest.IsZero() && out.Flags == flow.ACK
		h.ack, h.edge, h.acked = max(h.ack, out.Ack), max(h.edge, out.Edge), true
	}
	if out.Flags&flow.RST != 0 && !h.rst {
		h.rst, h.rstMark = true, m
	}
	if c.disagreed {
		// The next Reset wants to know how far the active had come.
		h.top = max(h.top, out.End)
		return
	}
	if !out.Digest.IsZero() && !c.point(f, side, out, m) {
		return
	}
	if side == Active {
		if !c.room(f, f.pending.len()) {
			return
		}
		f.pending.push(pending{id: id, end: out.End, ack: out.Ack, edge: out.Edge, digest: out.Digest,
			flags: out.Flags, opens: opens, mark: m})
	}
	c.probe(f)
	c.releaseStream(f, m.at)
}

// point takes a new cumulative digest. It returns false on a disagreement.
func (c *Core) point(f *state, side Side, out *flow.Output, m mark) bool {
	h, o := &f.halves[side], &f.halves[side.other()]
	if out.End <= h.top || out.End <= f.agreed {
		c.disagree(Mismatch, f, "%v reported new bytes up to %d, but had reported %d and agreed on %d", side, out.End, h.top, f.agreed)
		return false
	}
	h.top = out.End
	if i := search(&o.points, out.End); i < o.points.len() && o.points.at(i).end == out.End {
		return c.compare(f, out.End, out.Digest, o.points.at(i).digest)
	}
	if !c.room(f, h.points.len()) {
		return false
	}
	h.points.push(point{end: out.End, digest: out.Digest, mark: m})
	return true
}

// compare judges two digests of one offset.
func (c *Core) compare(f *state, offset uint64, a, b flow.Digest) bool {
	if a != b {
		c.disagree(Mismatch, f, "the copies differ between offsets %d and %d", f.agreed, offset)
		return false
	}
	f.agreed = offset
	for i := range f.halves {
		points := &f.halves[i].points
		n := search(points, offset+1)
		points.drop(n)
		c.waiting -= n
	}
	return true
}

// probe asks for the standby's digest at the highest boundary of the active
// that lies inside what the standby has reported. One probe at a time: the
// highest boundary that has come meanwhile covers all others.
func (c *Core) probe(f *state) {
	points := &f.halves[Active].points
	if f.probed != 0 || points.len() == 0 {
		return
	}
	// All points of the active lie above agreed, and none equals a point of
	// the standby: compare would have dropped it.
	i := search(points, f.halves[Standby].top)
	if i == 0 || f.halves[Standby].points.len() == 0 {
		return
	}
	f.probed = points.at(i - 1).end
	c.counters.Probes++
	c.probes = append(c.probes, Probe{Flow: f.id, Offset: f.probed})
}

// ProbeReply takes the standby's answer to a probe. A zero digest says that it
// cannot tell, which is a disagreement.
func (c *Core) ProbeReply(id flow.ID, offset uint64, digest flow.Digest, now time.Duration) {
	f := c.flows.find(id)
	if f == nil || c.disagreed || offset == 0 || f.probed != offset {
		return
	}
	f.probed = 0
	points := &f.halves[Active].points
	i := search(points, offset)
	if i < points.len() && points.at(i).end == offset && !c.compare(f, offset, points.at(i).digest, digest) {
		return
	}
	c.probe(f)
	c.releaseStream(f, now)
	c.flows.place(f)
}

// releaseStream releases the oldest outputs of the flow as far as they may
// leave, in their order.
func (c *Core) releaseStream(f *state, now time.Duration) {
	for f.pending.len() > 0 && !c.disagreed {
		p := f.pending.at(0)
		v, edgeMax := c.judge(f, p, now)
		if v != leave {
			return
		}
		if p.flags&flow.ACK != 0 {
			edge := p.edge
			if edgeMax != 0 {
				edge = edgeMax
			}
			f.sentAck, f.sentEdge = max(f.sentAck, p.ack), max(f.sentEdge, edge)
		}
		r := Release{ID: p.id, EdgeMax: edgeMax, Kind: flow.Stream}
		f.pending.drop(1)
		c.waiting--
		c.release(r)
	}
}

// verdict says what may happen to an output.
type verdict int

const (
	wait verdict = iota
	// idle: it would do nothing for the client yet; its waiting is no
	// disagreement.
	idle
	leave
)

// judge tells whether p, the flow's oldest, may leave, and with which limit of
// its window.
func (c *Core) judge(f *state, p *pending, now time.Duration) (v verdict, edgeMax uint64) {
	// Without a digest p repeats bytes. Those of this epoch belong to older
	// outputs of the flow, which have left; all others are of before the epoch.
	if !p.digest.IsZero() && p.end > f.agreed {
		return wait, 0
	}
	standby := &f.halves[Standby]
	if p.flags&flow.RST != 0 && !standby.rst {
		return wait, 0
	}
	if p.flags&flow.ACK == 0 {
		return leave, 0
	}
	if !standby.acked || p.ack > standby.ack {
		return wait, 0
	}
	if p.edge <= standby.edge {
		return leave, 0
	}
	if c.tellsNothing(f, p, standby.edge) {
		if shut(p.ack, standby.edge) {
			return wait, 0
		}
		if p.opens && now-p.at < c.cfg.CompareMax {
			return idle, 0
		}
	}
	return leave, max(standby.edge, 1)
}

// tellsNothing tells whether p, limited to an edge, would be a mere
// acknowledgement that says nothing new to the client. If it opens the window
// it would be lost for good: the guest does not say it again by itself. A later
// output takes it along.
func (c *Core) tellsNothing(f *state, p *pending, edge uint64) bool {
	return p.digest.IsZero() && p.flags == flow.ACK && p.ack <= f.sentAck && edge <= f.sentEdge && f.pending.len() == 1
}

// shutBelow is the window in bytes, two full segments, below which a client may
// not send any more.
const shutBelow = 2 * 1460

// shut tells whether a window is as good as shut. If only the active has opened
// it, the client would wait for ever: a difference like any other.
func shut(ack, edge uint64) bool { return edge < ack || edge-ack < shutBelow }

func utoa(v uint64) string { return strconv.FormatUint(v, 10) }

package flow

import "github.com/understudy-ft/understudy/services/packet"

// Opening tells under which numbers the outside world knows a connection that
// the guest of the active opened or accepted in this epoch.
type Opening struct {
	Flow ID
	// ISN is the guest's initial sequence number in outside space.
	ISN uint32
	// TSval is the timestamp value of its SYN in outside space, if HasTS.
	TSval uint32
	HasTS bool
}

// translation is how a connection's numbers differ between this copy's guest
// and the outside world.
type translation struct {
	// outISS is the guest's ISN in outside space. It is pinned once it was
	// learnt: the outside knows it, whatever the guest does.
	outISS uint32
	pinned bool
	// opened: in this epoch.
	opened bool

	// tsDelta added to the guest's timestamps gives those of outside space.
	tsDelta uint32
	// synTS is the timestamp of the guest's SYN, tsLast the latest that the
	// guest sent.
	synTS, tsLast    uint32
	synHasTS, tsSeen bool
	// echo is the latest timestamp, in outside space, that the peer has
	// echoed: what it was shown at least.
	echo       uint32
	echoSeen   bool
	edgeSpoken uint64 // highest window edge that was emitted
}

// delta added to the guest's sequence numbers gives those of outside space.
func (s *stream) delta() uint32 { return s.outISS - s.iss }

func (s *stream) outsideSeq(p *packet.Packet) uint32 {
	if s == nil || p.Seq == 0 && p.Flags&packet.ACK != 0 && !s.sent(0) {
		// A RST that answers a segment without ACK has sequence number 0
		// (RFC 9293 section 3.10.7.1); it is of no number space.
		return p.Seq
	}
	return p.Seq + s.delta()
}

func (s *stream) noteTSval(p *packet.Packet) {
	if p.HasTS() && (!s.tsSeen || int32(p.TSval-s.tsLast) > 0) {
		s.tsSeen, s.tsLast = true, p.TSval
	}
}

// announce notes the numbers of a SYN of a new connection, or of one whose guest
// chose a new ISN, and makes its Opening.
func (t *Table) announce(s *stream, p *packet.Packet) {
	s.synHasTS, s.synTS, s.opened = p.HasTS(), p.TSval, true
	if !s.pinned {
		s.outISS = s.iss
		s.tsDelta = 0
		if o, ok := t.learnt[s.id]; ok {
			delete(t.learnt, s.id)
			s.pin(o)
		}
	}
	t.hasOpening = true
	t.opening = Opening{Flow: s.id, ISN: s.outISS, TSval: s.synTS + s.tsDelta, HasTS: s.synHasTS}
}

func (s *stream) pin(o Opening) {
	s.outISS, s.pinned = o.ISN, true
	if o.HasTS && s.synHasTS {
		s.tsDelta = o.TSval - s.synTS
	}
}

// Opened returns the Opening that the last Out brought, if it brought one. The
// active sends it to the standby before any later input; the standby ignores
// it.
func (t *Table) Opened() (Opening, bool) {
	if !t.hasOpening {
		return Opening{}, false
	}
	return t.opening, true
}

// Learn gives the standby an Opening of the active, before or after its own
// guest opens that connection.
func (t *Table) Learn(o Opening) {
	if s := t.streams[o.Flow]; s != nil {
		s.pin(o)
		return
	}
	if _, known := t.learnt[o.Flow]; !known {
		if len(t.learntRing) < t.limits.Streams {
			t.learntRing = append(t.learntRing, o.Flow)
		} else {
			delete(t.learnt, t.learntRing[t.learntNext])
			t.learntRing[t.learntNext] = o.Flow
			t.learntNext = (t.learntNext + 1) % len(t.learntRing)
		}
	}
	t.learnt[o.Flow] = o
}

// AwaitsOpening tells whether id is a connection that this copy's guest opened or
// accepted in this epoch, and no Opening of it was learnt. A standby should not
// report outputs of such a connection: the active's SYN might leave, and the
// active be lost with the Opening, and the peer would know an ISN that nobody
// can serve. If no Opening comes in time, the copies have diverged.
func (t *Table) AwaitsOpening(id ID) bool {
	s := t.streams[id]
	return s != nil && s.opened && !s.pinned
}

// In translates a frame from outside for this copy's guest, in place, and
// returns it.
func (t *Table) In(frame []byte) []byte {
	p := &t.parsed
	p.Parse(frame)
	switch {
	case p.Form == packet.TCP:
		if s := t.tuples[inKey(p)]; s != nil {
			t.hear(s, p)
		}
	case p.IsICMPError():
		t.hearQuote(p)
	}
	return frame
}

func (t *Table) hear(s *stream, p *packet.Packet) {
	syn := p.Flags&packet.SYN != 0
	if p.Flags&packet.ACK != 0 {
		if d := s.delta(); d != 0 {
			p.SetAck(p.Ack - d)
			p.ShiftSACK(-d)
		}
		if p.HasTS() {
			s.hearEcho(p)
		}
		if off := s.offset(p.Ack); off > int64(s.acked) && off <= int64(s.next) {
			s.acked = uint64(off)
			if syn && !s.irsKnown && s.origin == openedByGuest {
				s.hearSYN(p)
			}
		}
	} else if syn && !s.irsKnown && s.origin == openedByGuest {
		s.hearSYN(p)
	}
	if p.Flags&packet.FIN != 0 && !syn && !p.Fragment && s.irsKnown {
		s.peerFIN = s.peerOffset(p.Seq) + uint64(len(p.Payload))
	}
	s.reset = p.Flags&packet.RST != 0
	t.settle(s)
}

// hearSYN notes the peer's answer to the guest's SYN. Windows are scaled if both
// sides offered it (RFC 7323 section 2.2).
func (s *stream) hearSYN(p *packet.Packet) {
	s.irs, s.irsKnown = p.Seq, true
	if p.HasScale {
		s.scale = s.ownScale
	}
}

// hearEcho translates the timestamp echo. The guest is never shown a timestamp
// later than it has sent, which would be impossible if it were alone: Linux
// refuses the answer to its SYN for that.
func (s *stream) hearEcho(p *packet.Packet) {
	if !s.echoSeen || int32(p.TSecr-s.echo) > 0 {
		s.echoSeen, s.echo = true, p.TSecr
	}
	if !s.tsSeen {
		return
	}
	v := p.TSecr - s.tsDelta
	if int32(v-s.tsLast) > 0 {
		v = s.tsLast
	}
	if v != p.TSecr {
		p.SetTSecr(v)
	}
}

// hearQuote translates the sequence number in a quoted segment of the guest:
// a guest ignores errors about segments that it has not in flight.
func (t *Table) hearQuote(p *packet.Packet) {
	q, ok := p.Quote()
	if !ok || q.SeqAt == 0 {
		return
	}
	s := t.tuples[key{
		src: q.Src, dst: q.Dst, vlans: vlanKey(p), sport: q.SrcPort, dport: q.DstPort,
		version: q.Version, proto: q.Proto, class: classTCP,
	}]
	if s != nil && s.delta() != 0 {
		p.SetQuotedSeq(&q, q.Seq-s.delta())
	}
}

// Emit translates a frame of this copy's guest for the outside, in place, and
// returns it. edgeMax, if not 0, is the offset of the peer's bytes that the
// window must not reach beyond: the window is rewritten down to it, rounded down
// by the window scale, but not below an edge that was emitted before (a window
// must not shrink). The frame's connection is the latest of its ports; EmitFlow
// is exact.
func (t *Table) Emit(frame []byte, edgeMax uint64) []byte { return t.EmitFlow(0, frame, edgeMax) }

// EmitFlow is Emit for a frame of which Out said flow id: right also for frames
// that leave after the next connection between the same ports has begun.
func (t *Table) EmitFlow(id ID, frame []byte, edgeMax uint64) []byte {
	p := &t.parsed
	p.Parse(frame)
	if p.Form != packet.TCP {
		return frame
	}
	k := outKey(p, classTCP)
	s := t.streams[id]
	if s == nil || s.key != k {
		if s = t.tuples[k]; s == nil {
			return frame
		}
	}
	seq := s.outsideSeq(p)
	if p.Flags&packet.SYN != 0 {
		seq = s.outISS // also for a SYN from before the guest chose anew
	}
	if seq != p.Seq {
		p.SetSeq(seq)
	}
	s.emitTS(p)
	if p.Flags&(packet.ACK|packet.RST) == packet.ACK && s.irsKnown {
		s.emitWindow(p, edgeMax)
	}
	return frame
}

// emitTS translates the timestamp. The copies' clocks and the moments of their
// SYNs differ a little: where the result would lie before what the peer was
// shown, the peer would drop the segment as old (RFC 7323 section 5), so the
// difference is enlarged for good.
func (s *stream) emitTS(p *packet.Packet) {
	if !p.HasTS() {
		return
	}
	v := p.TSval + s.tsDelta
	if s.echoSeen && int32(v-s.echo) < 0 {
		s.tsDelta += s.echo - v
		v = s.echo
	}
	if v != p.TSval {
		p.SetTSval(v)
	}
}

func (s *stream) emitWindow(p *packet.Packet, edgeMax uint64) {
	ack := s.peerOffset(p.Ack)
	edge := s.edge(p, ack)
	if limit := max(edgeMax, s.edgeSpoken); edgeMax != 0 && edge > limit {
		var w uint64
		if limit > ack {
			w = (limit - ack) >> s.scaleOf(p)
		}
		p.SetWindow(uint16(w))
		edge = s.edge(p, ack)
	}
	s.edgeSpoken = max(s.edgeSpoken, edge)
}

package flow

import (
	"bytes"
	"encoding/binary"

	"github.com/understudy-ft/understudy/services/packet"
)

// phase is where a connection is in its life, and the list that it is in.
type phase uint8

const (
	closed    phase = iota // by FIN both ways, acknowledged, or RST
	embryonic              // the peer has not acknowledged the guest's SYN
	open
)

// stream is one TCP connection. Numbers are in guest space unless said
// otherwise. Offsets count from the SYN of their direction.
type stream struct {
	links[stream]
	key   key
	id    ID
	phase phase

	origin byte
	// incarnation counts openings under one ISN of the peer.
	incarnation uint32

	iss      uint32
	irs      uint32
	irsKnown bool

	next    uint64 // after the last byte that the guest sent
	acked   uint64 // that the peer has acknowledged
	ackNext uint64 // of the peer's bytes, that the guest has acknowledged
	fin     uint64 // of the guest's FIN; 0: none
	peerFIN uint64 // of the peer's; 0: none
	reset   bool   // a RST was the last that was heard

	// ownScale is the window scale in the guest's SYN, scale the one in use.
	ownScale, scale uint8
	// syn is the guest's SYN as it goes into the digest.
	syn [32]byte

	translation

	action Action
	named  bool
	tail   *tail // nil: nothing sent in this epoch
	// [gapLo, gapHi) holds all offsets that were skipped in this epoch.
	gapLo, gapHi uint64
}

func (s *stream) at() *links[stream] { return &s.links }

func (s *stream) newEpoch(t *Table) {
	t.dropTail(s)
	s.named, s.opened = false, false
	s.gapLo, s.gapHi = 0, 0
}

// offset returns the offset of a sequence number: the one nearest to the end of
// what the guest has sent (RFC 9293 section 3.4). It may be negative.
func (s *stream) offset(seq uint32) int64 {
	return int64(s.next) + int64(int32(seq-s.iss-uint32(s.next)))
}

// peerOffset returns the offset of a sequence number of the peer, not below 0.
func (s *stream) peerOffset(seq uint32) uint64 {
	return uint64(max(0, int64(s.ackNext)+int64(int32(seq-s.irs-uint32(s.ackNext)))))
}

// edge returns the right edge of a window that begins at offset ack.
func (s *stream) edge(p *packet.Packet, ack uint64) uint64 {
	return ack + uint64(p.Window)<<s.scaleOf(p)
}

// scaleOf returns the scale of a segment's window: that of a SYN is never
// scaled (RFC 7323 section 2.2).
func (s *stream) scaleOf(p *packet.Packet) uint8 {
	if p.Flags&packet.SYN != 0 {
		return 0
	}
	return s.scale
}

// segment reports a TCP segment.
func (t *Table) segment(p *packet.Packet) Output {
	k := outKey(p, classTCP)
	s := t.tuples[k]
	syn, fin := p.Flags&packet.SYN != 0, p.Flags&packet.FIN != 0
	if p.Flags&packet.RST != 0 {
		if s == nil || syn || fin || len(p.Payload) > 0 || !s.sent(p.Seq) {
			return t.odd(p, s)
		}
		s.reset = true
		t.settle(s)
		return s.output(p, uint64(s.offset(p.Seq)))
	}
	if syn {
		s = t.open(p, &k, s)
	} else if s == nil {
		s = t.pickUp(p, &k)
	}
	s.noteTSval(p)

	start := s.offset(p.Seq)
	size := len(p.Payload)
	if syn {
		start = 0
		size++
	}
	if fin {
		size++
	}
	end := start + int64(size)
	if start < 0 && size > 0 {
		return t.odd(p, s)
	}
	conflict := size > 0 && uint64(start) < s.next && s.conflicts(p, uint64(start), uint64(end))
	grown := size > 0 && uint64(end) > s.next
	if grown {
		t.extend(s, p, uint64(start), uint64(end))
	}
	o := s.output(p, uint64(max(0, min(end, int64(s.next)))))
	if !syn && s.phase == embryonic {
		s.acked = max(s.acked, 1) // it speaks, so its SYN was answered
	}
	if grown {
		s.reset = false
	}
	t.settle(s)
	if conflict {
		odd := t.odd(p, s)
		if o.Name != "" {
			s.named = false // say it with the next output
		}
		return odd
	}
	if grown && s.tail != nil {
		o.Digest = digestOf(&s.tail.end)
	}
	return o
}

// sent tells whether seq is an offset that the guest has reached.
func (s *stream) sent(seq uint32) bool {
	off := s.offset(seq)
	return off >= 0 && off <= int64(s.next)
}

// output describes a segment of s that ends at offset end, without digest.
func (s *stream) output(p *packet.Packet, end uint64) Output {
	o := Output{Kind: Stream, Flow: s.id, End: end}
	if !s.named {
		s.named = true
		o.Name = s.key.name()
	}
	if p.Flags&packet.ACK != 0 {
		ack := s.acknowledge(p.Ack)
		o.Flags |= ACK
		o.Ack, o.Edge = ack, s.edge(p, ack)
	}
	if s.action != Compare {
		return Output{Kind: Pass, Flow: s.id, Bypass: s.action == Bypass, Name: o.Name}
	}
	if p.Flags&packet.SYN != 0 {
		o.Flags |= SYN
	}
	if p.Flags&packet.FIN != 0 {
		o.Flags |= FIN
	}
	if p.Flags&packet.RST != 0 {
		o.Flags |= RST
	}
	return o
}

// acknowledge notes an acknowledgement by the guest and returns its offset.
func (s *stream) acknowledge(ack uint32) uint64 {
	if !s.irsKnown {
		s.irsKnown = true
		if s.origin == pickedUp {
			s.irs, s.ackNext = 0, 1<<32|uint64(ack)
		} else {
			s.irs, s.ackNext = ack-1, 1
		}
	}
	off := s.peerOffset(ack)
	s.ackNext = max(s.ackNext, off)
	return off
}

// extend adds to the stream what a segment at [start, end) has beyond it.
func (t *Table) extend(s *stream, p *packet.Packet, start, end uint64) {
	digesting := t.digests && s.action == Compare
	if digesting && s.tail == nil {
		t.newTail(s)
	}
	if start > s.next {
		t.gap(s, start-s.next)
	}
	payload := start // offset of the payload
	if p.Flags&packet.SYN != 0 {
		payload++
		if s.next == 0 {
			s.syn = synRecord(p)
		}
	}
	if !digesting {
		s.next = end
	} else {
		l := s.tail
		if s.fin != 0 && s.fin >= l.base {
			t.rebase(s) // a FIN may only be at the end of a tail
		}
		if s.next < payload {
			_, _ = l.end.Write(s.syn[:])
			t.hold(s, placeholder)
		}
		if data := p.Payload[min(s.next-payload, uint64(len(p.Payload))):]; len(data) > 0 {
			_, _ = l.end.Write(data)
			t.hold(s, data)
		}
	}
	if p.Flags&packet.FIN != 0 {
		s.fin = end - 1
		if digesting {
			_, _ = s.tail.end.WriteString(finMarker)
			t.hold(s, placeholder)
		}
	}
}

var placeholder = []byte{0}

// conflicts tells whether a segment at [start, end) repeats bytes other than
// they were sent, or has bytes in a gap. Bytes that the peer has acknowledged do
// not count: it ignores them, and some keep-alive probes repeat one as rubbish.
func (s *stream) conflicts(p *packet.Packet, start, end uint64) bool {
	last := min(end, s.next)
	if start < s.gapHi && last > s.gapLo {
		return true
	}
	syn, fin := p.Flags&packet.SYN != 0, p.Flags&packet.FIN != 0
	if syn && s.acked == 0 && s.next > 0 && s.syn != synRecord(p) {
		return true
	}
	if fin && end <= s.next && end > s.acked && s.fin != end-1 {
		return true
	}
	payload := start
	if syn {
		payload++
	}
	stop := payload + uint64(len(p.Payload))
	if s.fin != 0 && payload <= s.fin && s.fin < stop && s.fin >= s.acked {
		return true
	}
	if s.tail == nil {
		return false
	}
	from := max(payload, s.acked, s.tail.base)
	to := min(stop, s.next)
	return from < to && !bytes.Equal(p.Payload[from-payload:to-payload],
		s.tail.held()[from-s.tail.base:to-s.tail.base])
}

// synRecord is what the peer sees of a SYN's options (RFC 9293, 7323, 2018).
func synRecord(p *packet.Packet) (r [32]byte) {
	copy(r[:], "understudy:SYN\x00\x03")
	if p.HasMSS {
		r[16] = 1
		binary.BigEndian.PutUint16(r[17:], p.MSS)
	}
	if p.HasScale {
		r[19], r[20] = 1, p.WindowScale
	}
	if p.SACKPermitted {
		r[21] = 1
	}
	if p.HasTS() {
		r[22] = 1
	}
	return r
}

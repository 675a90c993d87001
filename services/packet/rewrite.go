package packet

// The setters below change one field of a TCP segment (Form TCP) in its frame
// and in the Packet, and update the checksum by the difference. They work on
// the first fragment of a fragmented segment, too, because the rest of the
// segment need not be known. A wrong checksum stays wrong.

// SetSeq sets the sequence number.
func (p *Packet) SetSeq(v uint32) {
	p.put32(p.L4+4, p.L4+16, v)
	p.Seq = v
}

// SetAck sets the acknowledgement number.
func (p *Packet) SetAck(v uint32) {
	p.put32(p.L4+8, p.L4+16, v)
	p.Ack = v
}

// SetWindow sets the window field, unscaled.
func (p *Packet) SetWindow(v uint16) {
	at := p.L4 + 14
	old := uint32(be.Uint16(p.Frame[at:]))
	be.PutUint16(p.Frame[at:], v)
	p.amend(p.L4+16, old, uint32(v))
	p.Window = v
}

// SetTSval sets the timestamp value. The segment must have the option.
func (p *Packet) SetTSval(v uint32) {
	p.put32(p.TSAt, p.L4+16, v)
	p.TSval = v
}

// SetTSecr sets the timestamp echo reply. The segment must have the option.
func (p *Packet) SetTSecr(v uint32) {
	p.put32(p.TSAt+4, p.L4+16, v)
	p.TSecr = v
}

// ShiftSACK adds d, modulo 2^32, to every edge of the SACK option, if there
// is one.
func (p *Packet) ShiftSACK(d uint32) {
	for i := range p.SACKBlocks * 2 {
		at := p.SACKAt + 4*i
		p.put32(at, p.L4+16, be.Uint32(p.Frame[at:])+d)
	}
}

// SetQuotedSeq sets the sequence number of the TCP segment that q, the
// packet's quote, has, and updates the checksum of the ICMP message. The
// quoted segment's own checksum is left: nobody can check it.
func (p *Packet) SetQuotedSeq(q *Quote, v uint32) {
	p.put32(q.SeqAt, p.L4+2, v)
	q.Seq = v
}

// put32 writes v at offset at and amends the checksum at offset sum. at may be
// odd with respect to the transport header: then the three 16-bit words that
// it touches are exchanged.
func (p *Packet) put32(at, sum int, v uint32) {
	f := p.Frame
	if (at-p.L4)&1 == 0 {
		old := be.Uint32(f[at:])
		be.PutUint32(f[at:], v)
		p.amend(sum, old>>16+old&0xffff, v>>16+v&0xffff)
		return
	}
	words := f[at-1 : at+5]
	old := uint32(be.Uint16(words)) + uint32(be.Uint16(words[2:])) + uint32(be.Uint16(words[4:]))
	be.PutUint32(f[at:], v)
	p.amend(sum, old, uint32(be.Uint16(words))+uint32(be.Uint16(words[2:]))+uint32(be.Uint16(words[4:])))
}

// amend replaces words that sum to old by words that sum to new in the
// checksum at offset at: HC' = ~(~HC + ~m + m') (RFC 1624 equation 3).
func (p *Packet) amend(at int, old, new uint32) {
	hc := be.Uint16(p.Frame[at:])
	be.PutUint16(p.Frame[at:], ^fold(uint32(^hc)+uint32(^fold(old))+uint32(fold(new))))
}

func fold(s uint32) uint16 {
	s = s>>16 + s&0xffff
	s = s>>16 + s&0xffff
	return uint16(s)
}

// Checksum returns the Internet checksum (RFC 1071) of b, begun with the
// 16-bit words that sum to initial.
func Checksum(b []byte, initial uint32) uint16 {
	s := uint64(initial)
	for len(b) >= 4 {
		s += uint64(be.Uint32(b))
		b = b[4:]
	}
	if len(b) >= 2 {
		s += uint64(be.Uint16(b))
		b = b[2:]
	}
	if len(b) == 1 {
		s += uint64(b[0]) << 8
	}
	for s>>16 != 0 {
		s = s>>16 + s&0xffff
	}
	return ^uint16(s)
}

// TransportChecksum returns what the transport checksum of a whole datagram
// (Form TCP, UDP, ICMP or ICMPv6, no fragment) sums to with its checksum field
// as it is: 0 where the checksum is right. For the source-routed IPv6
// datagrams whose final destination is elsewhere it is not valid.
func (p *Packet) TransportChecksum() uint16 {
	b := p.Frame[p.L4:p.End]
	if p.Form == ICMP {
		return Checksum(b, 0)
	}
	return Checksum(b, pseudo(p.Src[:], p.Dst[:], len(b), p.Proto))
}

// pseudo sums the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1).
func pseudo(src, dst []byte, n int, proto uint8) uint32 {
	s := uint32(n>>16) + uint32(n&0xffff) + uint32(proto)
	for i := 0; i < len(src); i += 2 {
		s += uint32(be.Uint16(src[i:])) + uint32(be.Uint16(dst[i:]))
	}
	return s
}

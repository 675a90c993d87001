package packet

import "encoding/binary"

var be = binary.BigEndian

// Parse reads frame into p, which keeps a view of it. What p held before is
// gone.
func (p *Packet) Parse(frame []byte) {
	*p = Packet{Frame: frame, End: len(frame)}
	if len(frame) < etherLen {
		return
	}
	at := etherLen
	et := be.Uint16(frame[12:])
	for et == EtherVLAN || et == EtherQinQ || et == EtherOldQ {
		if len(frame) < at+tagLen || p.TagCount == MaxTags {
			p.EtherType = et
			return
		}
		p.Tags[p.TagCount] = be.Uint16(frame[at:]) & 0xfff
		p.TagCount++
		et = be.Uint16(frame[at+2:])
		at += tagLen
	}
	p.EtherType = et
	p.L3, p.L4 = at, at
	p.Payload = frame[at:]
	switch et {
	case EtherIPv4:
		p.parseIPv4()
	case EtherIPv6:
		p.parseIPv6()
	case EtherARP:
		p.parseARP()
	default:
		p.Form = Link
	}
}

func (p *Packet) parseARP() {
	b := p.Frame[p.L3:]
	if len(b) < arpLen || be.Uint16(b) != 1 || be.Uint16(b[2:]) != EtherIPv4 || b[4] != 6 || b[5] != 4 {
		p.Form = Link
		return
	}
	p.Form = ARP
	p.Operation = be.Uint16(b[6:])
	copy(p.Sender[:], b[8:])
	copy(p.SenderIP[:], b[14:])
}

// parseIPv4 follows RFC 791 section 3.1.
func (p *Packet) parseIPv4() {
	b := p.Frame[p.L3:]
	if len(b) < ipv4Len || b[0]>>4 != 4 {
		return
	}
	header, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if header < ipv4Len || total < header || total > len(b) {
		return
	}
	p.Version = 4
	p.TOS, p.TTL, p.Proto = b[1], b[8], b[9]
	copy(p.Src[:4], b[12:])
	copy(p.Dst[:4], b[16:])
	frag := be.Uint16(b[6:])
	p.DontFragment = frag&0x4000 != 0
	p.MoreFragments = frag&0x2000 != 0
	p.FragmentOffset = frag & 0x1fff << 3
	p.Fragment = p.MoreFragments || p.FragmentOffset != 0
	p.L4, p.End = p.L3+header, p.L3+total
	p.parseTransport()
}

// parseIPv6 follows RFC 8200. Jumbograms are Malformed.
func (p *Packet) parseIPv6() {
	b := p.Frame[p.L3:]
	if len(b) < ipv6Len || b[0]>>4 != 6 {
		return
	}
	end := ipv6Len + int(be.Uint16(b[4:]))
	if end > len(b) {
		return
	}
	next, at := b[6], ipv6Len
	for n := 0; ; n++ {
		size := 0
		switch next {
		case ProtoHopByHop, ProtoRouting, ProtoDestOpts, ProtoMobility, ProtoHIP, ProtoShim6:
			if at+8 > end {
				return
			}
			size = int(b[at+1])*8 + 8
		case ProtoAH: // RFC 4302: in units of 4 bytes, minus 2
			if at+8 > end {
				return
			}
			size = int(b[at+1])*4 + 8
		case ProtoFragment:
			if at+8 > end {
				return
			}
			size = 8
			frag := be.Uint16(b[at+2:])
			p.FragmentOffset, p.MoreFragments = frag&^7, frag&1 != 0
			p.Fragment = p.MoreFragments || p.FragmentOffset != 0
			p.FragmentAt = p.L3 + at
		}
		if size == 0 {
			break
		}
		if at+size > end || n == maxIPv6Exts {
			return
		}
		next, at = b[at], at+size
		if p.FragmentOffset != 0 {
			break // what follows is the middle of something
		}
	}
	p.Version = 6
	p.TOS, p.TTL, p.Proto = b[0]<<4|b[1]>>4, b[7], next
	copy(p.Src[:], b[8:])
	copy(p.Dst[:], b[24:])
	p.L4, p.End = p.L3+at, p.L3+end
	p.parseTransport()
}

func (p *Packet) parseTransport() {
	p.Form = IP
	b := p.Frame[p.L4:p.End:p.End]
	p.Payload = b
	if p.FragmentOffset != 0 {
		return
	}
	switch p.Proto {
	case ProtoTCP:
		p.parseTCP(b)
	case ProtoUDP:
		if len(b) < udpLen {
			return
		}
		p.SrcPort, p.DstPort = be.Uint16(b), be.Uint16(b[2:])
		p.Payload = b[udpLen:]
		p.Form = UDP
	case ProtoICMP, ProtoICMPv6:
		if len(b) < icmpLen || (p.Proto == ProtoICMP) != (p.Version == 4) {
			return
		}
		p.Type, p.Code = b[0], b[1]
		p.Form = ICMP
		if p.Proto == ProtoICMPv6 {
			p.Form = ICMPv6
		}
		if p.IsEcho() {
			p.ID, p.Sequence = be.Uint16(b[4:]), be.Uint16(b[6:])
		}
		p.Payload = b[icmpLen:]
	}
}

// parseTCP follows RFC 9293 section 3.1.
func (p *Packet) parseTCP(b []byte) {
	if len(b) < tcpLen {
		return
	}
	header := int(b[12]>>4) * 4
	if header < tcpLen || header > len(b) {
		return
	}
	p.SrcPort, p.DstPort = be.Uint16(b), be.Uint16(b[2:])
	p.Seq, p.Ack = be.Uint32(b[4:]), be.Uint32(b[8:])
	p.Flags, p.Window = b[13], be.Uint16(b[14:])
	p.Payload = b[header:]
	p.Form = TCP
	if header > tcpLen {
		p.parseOptions(b[:header])
	}
}

// parseOptions reads TCP options as Linux does: an ill-formed one ends the
// list, and of two of a kind the later one counts.
func (p *Packet) parseOptions(h []byte) {
	for at := tcpLen; at < len(h); {
		kind := h[at]
		if kind == 0 {
			return
		}
		if kind == 1 {
			at++
			continue
		}
		if at+2 > len(h) {
			return
		}
		size := int(h[at+1])
		if size < 2 || at+size > len(h) {
			return
		}
		switch {
		case kind == 2 && size == 4:
			p.HasMSS, p.MSS = true, be.Uint16(h[at+2:])
		case kind == 3 && size == 3:
			p.HasScale, p.WindowScale = true, h[at+2]
		case kind == 4 && size == 2:
			p.SACKPermitted = true
		case kind == 5 && size >= 10 && (size-2)%8 == 0:
			p.SACKAt, p.SACKBlocks = p.L4+at+2, (size-2)/8
		case kind == 8 && size == 10:
			p.TSAt = p.L4 + at + 2
			p.TSval, p.TSecr = be.Uint32(h[at+2:]), be.Uint32(h[at+6:])
		}
		at += size
	}
}

// Quote is what an ICMP error quotes of a TCP segment, as far as every
// implementation must quote it (RFC 792: 8 bytes of the transport).
type Quote struct {
	Version          uint8
	Src, Dst         [16]byte
	Proto            uint8
	SrcPort, DstPort uint16
	// Seq is the sequence number of a TCP segment, at offset SeqAt of the
	// frame.
	Seq   uint32
	SeqAt int
}

// Quote reads the datagram that an ICMP error quotes. It tells whether there
// is one whose first transport bytes could be read; ports are set for TCP and
// UDP, Seq for TCP.
func (p *Packet) Quote() (q Quote, ok bool) {
	if !p.IsICMPError() {
		return q, false
	}
	at := p.L4 + icmpLen
	b := p.Frame[at:p.End]
	switch {
	case p.Version == 4 && len(b) >= ipv4Len && b[0]>>4 == 4:
		header := int(b[0]&15) * 4
		if header < ipv4Len || be.Uint16(b[6:])&0x1fff != 0 {
			return q, false
		}
		q.Version, q.Proto = 4, b[9]
		copy(q.Src[:4], b[12:])
		copy(q.Dst[:4], b[16:])
		at += header
	case p.Version == 6 && len(b) >= ipv6Len && b[0]>>4 == 6:
		q.Version, q.Proto = 6, b[6]
		copy(q.Src[:], b[8:])
		copy(q.Dst[:], b[24:])
		at += ipv6Len
	default:
		return q, false
	}
	if at+8 > p.End {
		return q, false
	}
	if q.Proto == ProtoTCP || q.Proto == ProtoUDP {
		q.SrcPort, q.DstPort = be.Uint16(p.Frame[at:]), be.Uint16(p.Frame[at+2:])
	}
	if q.Proto == ProtoTCP {
		q.SeqAt, q.Seq = at+4, be.Uint32(p.Frame[at+4:])
	}
	return q, true
}

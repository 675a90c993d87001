package flow

import (
	"encoding/binary"

	"github.com/understudy-ft/understudy/services/packet"
)

// datagrams is a flow whose outputs are compared one by one.
type datagrams struct {
	links[datagrams]
	key    key
	id     ID
	count  uint64
	action Action
}

func (d *datagrams) at() *links[datagrams] { return &d.links }

// next returns the Output of the next datagram of the flow k, without digest.
func (t *Table) next(k *key) Output {
	var name string
	d := t.datagrams[*k]
	if d == nil {
		for len(t.datagrams) >= t.limits.Datagrams {
			old := t.recent.first
			remove(&t.recent, old)
			delete(t.datagrams, old.key)
			t.counters.DatagramsEvicted++
		}
		d = &datagrams{key: *k, id: t.id(k, datagramFlow, 0), action: t.rules.action(k)}
		t.datagrams[*k] = d
		name = k.name()
	} else {
		remove(&t.recent, d)
	}
	push(&t.recent, d)
	if d.action != Compare {
		return Output{Kind: Pass, Flow: d.id, Bypass: d.action == Bypass, Name: name}
	}
	d.count++
	return Output{Kind: Datagram, Flow: d.id, End: d.count, Name: name}
}

// datagram reports an IP datagram of flow k. mask is the offset in the
// transport's bytes of a 16-bit checksum that is not compared, or negative.
func (t *Table) datagram(p *packet.Packet, k key, mask int) Output {
	o := t.next(&k)
	if o.Kind == Datagram && t.digests {
		t.hashIP(p)
		t.hashMasked(p.Frame[p.L4:p.End], mask)
		o.Digest = t.sum()
	}
	return o
}

// hashIP begins a digest with the parts of the IP header that a receiver sees:
// not the identification, the header checksum, ECN and the flow label.
func (t *Table) hashIP(p *packet.Packet) {
	flags := byte(0)
	if p.DontFragment {
		flags |= 1
	}
	if p.MoreFragments {
		flags |= 2
	}
	h := append(t.scratch[:0], p.Version, p.Proto, p.TTL, p.TOS&^3, flags)
	h = binary.LittleEndian.AppendUint16(h, p.FragmentOffset)
	h = append(h, p.Src[:]...)
	h = append(h, p.Dst[:]...)
	options := p.Frame[p.L3+20 : p.L4]
	if p.Version == 6 {
		options = p.Frame[p.L3+40 : p.L4]
	}
	h = binary.LittleEndian.AppendUint16(h, uint16(len(options)))
	t.hash.Reset()
	t.write(h)
	if p.FragmentAt != 0 {
		id := p.FragmentAt + 4 - (p.L4 - len(options))
		t.write(options[:id])
		options = options[id+4:]
	}
	t.write(options)
}

func (t *Table) hashMasked(b []byte, at int) {
	if at >= 0 && at+2 <= len(b) {
		t.write(b[:at])
		b = b[at+2:]
	}
	t.write(b)
}

func (t *Table) write(b []byte) { _, _ = t.hash.Write(b) }

func (t *Table) sum() Digest { return digestOf(&t.hash) }

// fragment reports a part of a datagram. The parts of one (source,
// destination, protocol) form a flow, because only the first has ports.
func (t *Table) fragment(p *packet.Packet) Output {
	k := outKey(p, classFragment)
	k.sport, k.dport = 0, 0
	switch p.Form {
	case packet.UDP:
		return t.datagram(p, k, 6)
	case packet.ICMP, packet.ICMPv6:
		return t.datagram(p, k, 2)
	case packet.TCP:
		o := t.next(&k)
		if o.Kind == Datagram && t.digests {
			t.hashIP(p)
			t.hashSegment(p)
			o.Digest = t.sum()
		}
		return o
	}
	return t.datagram(p, k, -1)
}

// hashSegment adds a TCP segment without what differs between copies that ran
// freely: the numbers of the sequence spaces, window, checksum, urgent pointer
// and the values of SACK and timestamps.
func (t *Table) hashSegment(p *packet.Packet) {
	b := p.Frame[p.L4:p.End]
	header := len(b) - len(p.Payload)
	h := append(t.scratch[:0], b[:header]...)
	clear(h[4:12])
	clear(h[14:20])
	if p.SACKAt != 0 {
		clear(h[p.SACKAt-p.L4:][:p.SACKBlocks*8])
	}
	if p.TSAt != 0 {
		clear(h[p.TSAt-p.L4:][:8])
	}
	t.write(h)
	t.write(p.Payload)
}

func (t *Table) icmp(p *packet.Packet) Output {
	if p.Form == packet.ICMPv6 {
		switch {
		case p.Type >= 133 && p.Type <= 137:
			return t.pass(classND)
		case p.Type >= 130 && p.Type <= 132, p.Type == 143:
			return t.pass(classMLD)
		}
	}
	if p.IsEcho() {
		k := outKey(p, classEcho)
		k.sport, k.dport = p.ID, uint16(p.Type)
		return t.datagram(p, k, 2)
	}
	k := outKey(p, classICMP)
	k.dport = uint16(p.Type)<<8 | uint16(p.Code)
	q, ok := p.Quote()
	if !ok {
		return t.datagram(p, k, 2)
	}
	// The quoted segment is as the guest received it, with translated
	// numbers: compare which flow it is of.
	o := t.next(&k)
	if o.Kind == Datagram && t.digests {
		t.hashIP(p)
		h := append(t.scratch[:0], p.Frame[p.L4:p.L4+2]...)
		h = append(h, p.Frame[p.L4+4:p.L4+8]...)
		h = append(h, q.Version, q.Proto)
		h = append(h, q.Src[:]...)
		h = append(h, q.Dst[:]...)
		h = binary.LittleEndian.AppendUint16(h, q.SrcPort)
		h = binary.LittleEndian.AppendUint16(h, q.DstPort)
		t.write(h)
		o.Digest = t.sum()
	}
	return o
}

// raw reports a frame that was not understood: it is compared as it is.
func (t *Table) raw(p *packet.Packet) Output {
	k := key{class: classRaw, vlans: vlanKey(p), dport: p.EtherType}
	o := t.next(&k)
	if o.Kind == Datagram && t.digests {
		t.hash.Reset()
		t.write(p.Frame)
		o.Digest = t.sum()
	}
	return o
}

// odd reports a segment that does not belong to the stream that its connection
// s has sent. s may be nil for a RST, which may answer anything: its numbers are
// compared in outside space.
func (t *Table) odd(p *packet.Packet, s *stream) Output {
	t.counters.Odd++
	k := outKey(p, classTCPOdd)
	o := t.next(&k)
	if o.Kind == Datagram && t.digests {
		t.hashIP(p)
		if p.Flags&packet.RST != 0 {
			h := binary.LittleEndian.AppendUint32(t.scratch[:0], s.outsideSeq(p))
			h = binary.LittleEndian.AppendUint32(h, p.Ack)
			t.write(h)
		} else {
			t.write(binary.LittleEndian.AppendUint64(t.scratch[:0], uint64(s.offset(p.Seq))))
		}
		t.hashSegment(p)
		o.Digest = t.sum()
	}
	return o
}

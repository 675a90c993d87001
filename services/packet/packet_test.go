package packet

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"
)

// tcpFrame draws a whole TCP segment, serialized by gopacket with right
// checksums.
func tcpFrame(t *rapid.T) []byte {
	tcp := &layers.TCP{
		SrcPort: layers.TCPPort(rapid.Uint16().Draw(t, "sport")),
		DstPort: layers.TCPPort(rapid.Uint16().Draw(t, "dport")),
		Seq:     rapid.Uint32().Draw(t, "seq"), Ack: rapid.Uint32().Draw(t, "ack"),
		Window: rapid.Uint16().Draw(t, "window"),
		SYN:    rapid.Bool().Draw(t, "SYN"), ACK: rapid.Bool().Draw(t, "ACK"), FIN: rapid.Bool().Draw(t, "FIN"),
		RST: rapid.Bool().Draw(t, "RST"), PSH: rapid.Bool().Draw(t, "PSH"),
	}
	nop := layers.TCPOption{OptionType: layers.TCPOptionKindNop}
	for range rapid.IntRange(0, 3).Draw(t, "nops") {
		tcp.Options = append(tcp.Options, nop) // moves what follows to odd offsets, too
	}
	raw := func(n int, name string) []byte { return rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name) }
	if tcp.SYN {
		tcp.Options = append(tcp.Options,
			layers.TCPOption{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: raw(2, "mss")},
			layers.TCPOption{OptionType: layers.TCPOptionKindWindowScale, OptionLength: 3, OptionData: raw(1, "scale")},
			layers.TCPOption{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2})
	}
	if rapid.Bool().Draw(t, "TS") {
		tcp.Options = append(tcp.Options,
			layers.TCPOption{OptionType: layers.TCPOptionKindTimestamps, OptionLength: 10, OptionData: raw(8, "ts")})
	}
	if n := rapid.IntRange(0, 2).Draw(t, "blocks"); n > 0 && !tcp.SYN {
		tcp.Options = append(tcp.Options,
			layers.TCPOption{OptionType: layers.TCPOptionKindSACK, OptionLength: uint8(2 + 8*n), OptionData: raw(8*n, "sack")})
	}
	eth := &layers.Ethernet{SrcMAC: raw(6, "src"), DstMAC: raw(6, "dst")}
	var ls []gopacket.SerializableLayer
	ls = append(ls, eth)
	next := &eth.EthernetType
	for i := range rapid.IntRange(0, 3).Draw(t, "tags") {
		tag := &layers.Dot1Q{VLANIdentifier: uint16(100 + i)}
		*next = layers.EthernetTypeDot1Q
		next = &tag.Type
		ls = append(ls, tag)
	}
	if rapid.Bool().Draw(t, "v6") {
		ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolTCP, SrcIP: raw(16, "sip"), DstIP: raw(16, "dip")}
		*next = layers.EthernetTypeIPv6
		ls = append(ls, ip)
		_ = tcp.SetNetworkLayerForChecksum(ip)
	} else {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: raw(4, "sip"), DstIP: raw(4, "dip")}
		if rapid.Bool().Draw(t, "options") {
			ip.Options = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
		}
		*next = layers.EthernetTypeIPv4
		ls = append(ls, ip)
		_ = tcp.SetNetworkLayerForChecksum(ip)
	}
	payload := gopacket.Payload(rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "payload"))
	ls = append(ls, tcp, payload)
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ls...); err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(buf.Bytes())
	return append(b, raw(rapid.IntRange(0, 8).Draw(t, "padding"), "pad")...)
}

func TestParseAgreesWithGopacket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame := tcpFrame(t)
		var p Packet
		p.Parse(frame)
		compare(t, &p, frame)
		if p.Form != TCP {
			t.Fatalf("form %d", p.Form)
		}
		if p.TransportChecksum() != 0 {
			t.Fatal("checksum found wrong")
		}
	})
}

type failer interface{ Fatalf(string, ...any) }

// compare holds what p says of a frame against gopacket's decoder.
func compare(t failer, p *Packet, frame []byte) {
	g := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{NoCopy: true})
	if ip, ok := g.Layer(layers.LayerTypeIPv4).(*layers.IPv4); ok && p.Version == 4 && g.ErrorLayer() == nil {
		if string(p.Src[:4]) != string(ip.SrcIP.To4()) || string(p.Dst[:4]) != string(ip.DstIP.To4()) || p.TTL != ip.TTL || p.TOS != ip.TOS ||
			p.Proto != uint8(ip.Protocol) || p.FragmentOffset != ip.FragOffset*8 {
			t.Fatalf("IPv4: %+v, gopacket %+v", p, ip)
		}
	}
	tcp, ok := g.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if !ok || g.ErrorLayer() != nil || p.Form != TCP || p.Fragment {
		return
	}
	if p.SrcPort != uint16(tcp.SrcPort) || p.DstPort != uint16(tcp.DstPort) || p.Seq != tcp.Seq || p.Ack != tcp.Ack || p.Window != tcp.Window {
		t.Fatalf("TCP: %+v, gopacket %+v", p, tcp)
	}
	if p.Flags&SYN != 0 != tcp.SYN || p.Flags&FIN != 0 != tcp.FIN || p.Flags&RST != 0 != tcp.RST || p.Flags&ACK != 0 != tcp.ACK {
		t.Fatalf("flags %#x, gopacket %+v", p.Flags, tcp)
	}
	if !bytes.Equal(p.Payload, tcp.Payload) {
		t.Fatalf("payload %x, gopacket %x", p.Payload, tcp.Payload)
	}
	for _, o := range tcp.Options {
		switch {
		case o.OptionType == layers.TCPOptionKindTimestamps && o.OptionLength == 10:
			if !p.HasTS() {
				t.Fatalf("timestamps not found")
			}
		case o.OptionType == layers.TCPOptionKindSACK && o.OptionLength >= 10 && o.OptionLength%8 == 2:
			if p.SACKAt == 0 {
				t.Fatalf("SACK not found")
			}
		}
	}
}

// Every setter changes its field only, and leaves a checksum that a full
// computation finds right.
func TestRewriteKeepsChecksumRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame := tcpFrame(t)
		var p, q Packet
		p.Parse(frame)
		want := p
		edges := sackEdges(&p)
		shift := uint32(0)
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			// Values around the ends catch the two zeros of one's complement.
			v := rapid.OneOf(rapid.Uint32(), rapid.SampledFrom([]uint32{0, 1, 0xffff, 0x10000, 0xffff0000, 0xffffffff})).Draw(t, "value")
			switch rapid.IntRange(0, 5).Draw(t, "field") {
			case 0:
				p.SetSeq(v)
				want.Seq = v
			case 1:
				p.SetAck(v)
				want.Ack = v
			case 2:
				p.SetWindow(uint16(v))
				want.Window = uint16(v)
			case 3:
				if p.HasTS() {
					p.SetTSval(v)
					want.TSval = v
				}
			case 4:
				if p.HasTS() {
					p.SetTSecr(v)
					want.TSecr = v
				}
			case 5:
				p.ShiftSACK(v)
				shift += v
			}
			q.Parse(frame)
			if q.TransportChecksum() != 0 {
				t.Fatalf("checksum off by %#x", q.TransportChecksum())
			}
			if q.Seq != want.Seq || q.Ack != want.Ack || q.Window != want.Window || q.TSval != want.TSval || q.TSecr != want.TSecr || q.Flags != want.Flags {
				t.Fatalf("fields %+v, want %+v", q, want)
			}
			if q.Seq != p.Seq || q.Ack != p.Ack || q.Window != p.Window || q.TSval != p.TSval || q.TSecr != p.TSecr {
				t.Fatalf("packet %+v, frame %+v", p, q)
			}
			for i, e := range sackEdges(&q) {
				if e != edges[i]+shift {
					t.Fatalf("edge %d is %d, want %d", i, e, edges[i]+shift)
				}
			}
			compare(t, &q, frame)
		}
	})
}

func sackEdges(p *Packet) (edges []uint32) {
	for i := range p.SACKBlocks * 2 {
		edges = append(edges, be.Uint32(p.Frame[p.SACKAt+4*i:]))
	}
	return edges
}

// A checksum that was wrong must not become right by a rewrite.
func TestRewriteKeepsChecksumWrong(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		frame := tcpFrame(t)
		var p Packet
		p.Parse(frame)
		be.PutUint16(frame[p.L4+16:], be.Uint16(frame[p.L4+16:])+uint16(rapid.IntRange(1, 0xfffd).Draw(t, "error")))
		before := p.TransportChecksum()
		if before == 0 {
			t.Skip("the two zeros")
		}
		p.SetSeq(rapid.Uint32().Draw(t, "seq"))
		if got := p.TransportChecksum(); got != before {
			t.Fatalf("error %#x became %#x", before, got)
		}
	})
}

func TestParseSpecialFrames(t *testing.T) {
	eth := func(et uint16, body ...byte) []byte {
		return append([]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, byte(et >> 8), byte(et)}, body...)
	}
	v6 := func(next byte, body ...byte) []byte {
		h := make([]byte, 40)
		h[0], h[5], h[6], h[7] = 0x60, byte(len(body)), next, 64
		return eth(EtherIPv6, append(h, body...)...)
	}
	v4 := func(proto byte, frag uint16, body ...byte) []byte {
		h := make([]byte, 20)
		h[0], h[3], h[6], h[7], h[9] = 0x45, byte(20+len(body)), byte(frag>>8), byte(frag), proto
		return eth(EtherIPv4, append(h, body...)...)
	}
	udp := []byte{0, 53, 0, 99, 0, 9, 0, 0, 'x'}
	tags := func(n int) []byte {
		b := eth(EtherVLAN)
		for i := range n {
			b = append(b, 0xe0, byte(i), 0x81, 0)
		}
		return append(b[:len(b)-2], 0x88, 0xcc)
	}
	tests := []struct {
		name  string
		frame []byte
		want  Form
		check func(p *Packet) bool
	}{
		{"empty", nil, Malformed, nil},
		{"13 bytes", make([]byte, 13), Malformed, nil},
		{"LLDP", eth(EtherLLDP, 1, 2), Link, func(p *Packet) bool { return len(p.Payload) == 2 }},
		{"802.3 length", eth(38, make([]byte, 46)...), Link, nil},
		{"four tags", tags(4), Link, func(p *Packet) bool { return p.TagCount == 4 && p.Tags[3] == 3 && p.EtherType == EtherLLDP }},
		{"five tags", tags(5), Malformed, nil},
		{"tag cut off", eth(EtherVLAN, 0, 1, 8), Malformed, nil},
		{"IPv4 cut off", eth(EtherIPv4, 0x45, 0, 0), Malformed, nil},
		{"IPv4 header of 16 bytes", eth(EtherIPv4, append([]byte{0x44}, make([]byte, 30)...)...), Malformed, nil},
		{"IPv4 longer than the frame", eth(EtherIPv4, append([]byte{0x45, 0, 0xff, 0xff}, make([]byte, 30)...)...), Malformed, nil},
		{"IPv6 in an IPv4 EtherType", eth(EtherIPv4, append([]byte{0x60}, make([]byte, 60)...)...), Malformed, nil},
		{"UDP", v4(ProtoUDP, 0, udp...), UDP, func(p *Packet) bool { return p.SrcPort == 53 && p.DstPort == 99 && string(p.Payload) == "x" }},
		{"UDP header cut off", v4(ProtoUDP, 0, udp[:7]...), IP, nil},
		{"first fragment", v4(ProtoUDP, 0x2000, udp...), UDP, func(p *Packet) bool { return p.Fragment && p.MoreFragments }},
		{"later fragment", v4(ProtoUDP, 0x0001, udp...), IP, func(p *Packet) bool { return p.Fragment && p.FragmentOffset == 8 }},
		{"TCP header cut off", v4(ProtoTCP, 0, make([]byte, 19)...), IP, nil},
		{"TCP offset too small", v4(ProtoTCP, 0, make([]byte, 20)...), IP, nil},
		{"TCP offset too large", v4(ProtoTCP, 0, append(make([]byte, 12), 0xf0, 0, 0, 0, 0, 0, 0, 0, 0, 0)...), IP, nil},
		{"ICMPv6 in IPv4", v4(ProtoICMPv6, 0, make([]byte, 8)...), IP, nil},
		{"echo", v4(ProtoICMP, 0, 8, 0, 0, 0, 1, 2, 0, 3), ICMP, func(p *Packet) bool { return p.IsEcho() && p.ID == 0x102 && p.Sequence == 3 }},
		{"IPv6 UDP", v6(ProtoUDP, udp...), UDP, nil},
		{"IPv6 hop-by-hop, destination options, UDP",
			v6(ProtoHopByHop, append([]byte{ProtoDestOpts, 0, 0, 0, 0, 0, 0, 0, ProtoUDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, udp...)...), UDP,
			func(p *Packet) bool { return p.Proto == ProtoUDP && p.L4 == 14+40+24 }},
		{"IPv6 authentication header", v6(ProtoAH, append([]byte{ProtoUDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, udp...)...), UDP, nil},
		{"IPv6 extension beyond the datagram", v6(ProtoHopByHop, ProtoUDP, 9, 0, 0, 0, 0, 0, 0), Malformed, nil},
		{"IPv6 first fragment", v6(ProtoFragment, append([]byte{ProtoUDP, 0, 0, 1, 1, 2, 3, 4}, udp...)...), UDP,
			func(p *Packet) bool { return p.Fragment && p.FragmentAt == 14+40 }},
		{"IPv6 later fragment", v6(ProtoFragment, append([]byte{ProtoDestOpts, 0, 0, 0x10, 1, 2, 3, 4}, udp...)...), IP,
			func(p *Packet) bool { return p.FragmentOffset == 16 && p.Proto == ProtoDestOpts }},
		{"IPv6 atomic fragment", v6(ProtoFragment, append([]byte{ProtoUDP, 0, 0, 0, 1, 2, 3, 4}, udp...)...), UDP,
			func(p *Packet) bool { return !p.Fragment }},
		{"IPv6 seventeen extensions", v6(ProtoDestOpts, bytes.Repeat([]byte{ProtoDestOpts, 0, 0, 0, 0, 0, 0, 0}, 17)...), Malformed, nil},
		{"ARP for Ethernet and IPv4", GratuitousARP(MAC{2}, netip.MustParseAddr("10.0.0.2"))[0], ARP,
			func(p *Packet) bool {
				return p.Operation == 1 && p.Sender == MAC{2} && p.SenderIP == [4]byte{10, 0, 0, 2}
			}},
		{"ARP for something else", eth(EtherARP, make([]byte, 28)...), Link, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var p Packet
			p.Parse(test.frame)
			if p.Form != test.want {
				t.Fatalf("form %d, want %d: %+v", p.Form, test.want, p)
			}
			if test.check != nil && !test.check(&p) {
				t.Fatalf("%+v", p)
			}
		})
	}
}

func TestIllFormedTCPOptions(t *testing.T) {
	tests := []struct {
		name    string
		options []byte
		want    func(p *Packet) bool
	}{
		{"length 0 ends the list", []byte{2, 0, 3, 3, 7, 0, 0, 0}, func(p *Packet) bool { return !p.HasMSS && !p.HasScale }},
		{"length 1 ends the list", []byte{2, 1, 3, 3, 7, 0, 0, 0}, func(p *Packet) bool { return !p.HasScale }},
		{"beyond the header", []byte{1, 1, 8, 10}, func(p *Packet) bool { return !p.HasTS() }},
		{"kind without length", []byte{1, 1, 1, 8}, func(p *Packet) bool { return !p.HasTS() }},
		{"end of list", []byte{0, 3, 3, 7}, func(p *Packet) bool { return !p.HasScale }},
		{"MSS of wrong size", []byte{2, 3, 1, 3, 3, 7, 0, 0}, func(p *Packet) bool { return !p.HasMSS && p.HasScale }},
		{"SACK of 9 bytes", []byte{5, 9, 1, 2, 3, 4, 5, 6, 7, 0, 0, 0}, func(p *Packet) bool { return p.SACKAt == 0 }},
		{"the later of two counts", []byte{2, 4, 0, 1, 2, 4, 0, 2}, func(p *Packet) bool { return p.MSS == 2 }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := make([]byte, 14+20+20)
			h[12], h[13] = 8, 0
			h[14], h[23] = 0x45, ProtoTCP
			h = append(h, test.options...)
			be.PutUint16(h[16:], uint16(len(h)-14))
			h[14+20+12] = byte((20 + len(test.options)) / 4 << 4)
			var p Packet
			p.Parse(h)
			if p.Form != TCP || !test.want(&p) {
				t.Fatalf("%+v", p)
			}
		})
	}
}

func TestQuotedSequenceNumber(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inner := tcpFrame(t)
		var in Packet
		in.Parse(inner)
		quoted := inner[in.L3:in.End]
		if rapid.Bool().Draw(t, "short") {
			quoted = quoted[:in.L4-in.L3+8]
		}
		var ip gopacket.SerializableLayer
		var icmp []gopacket.SerializableLayer
		eth := &layers.Ethernet{SrcMAC: make([]byte, 6), DstMAC: make([]byte, 6)}
		if in.Version == 4 {
			eth.EthernetType = layers.EthernetTypeIPv4
			ip = &layers.IPv4{Version: 4, TTL: 9, Protocol: layers.IPProtocolICMPv4, SrcIP: make([]byte, 4), DstIP: make([]byte, 4)}
			icmp = []gopacket.SerializableLayer{&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(3, 4), Seq: 1400}}
		} else {
			eth.EthernetType = layers.EthernetTypeIPv6
			ip6 := &layers.IPv6{Version: 6, HopLimit: 9, NextHeader: layers.IPProtocolICMPv6, SrcIP: make([]byte, 16), DstIP: make([]byte, 16)}
			ip = ip6
			h := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(2, 0)}
			_ = h.SetNetworkLayerForChecksum(ip6)
			icmp = []gopacket.SerializableLayer{h, gopacket.Payload{0, 0, 5, 120}}
		}
		buf := gopacket.NewSerializeBuffer()
		ls := append([]gopacket.SerializableLayer{eth, ip}, icmp...)
		if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, append(ls, gopacket.Payload(quoted))...); err != nil {
			t.Fatal(err)
		}
		frame := buf.Bytes()
		var p Packet
		p.Parse(frame)
		q, ok := p.Quote()
		if !ok || q.Seq != in.Seq || q.SrcPort != in.SrcPort || q.DstPort != in.DstPort || q.Src != in.Src || q.Dst != in.Dst {
			t.Fatalf("%v %+v of %+v", ok, q, in)
		}
		v := rapid.Uint32().Draw(t, "seq")
		p.SetQuotedSeq(&q, v)
		if q, _ = p.Quote(); q.Seq != v || p.TransportChecksum() != 0 {
			t.Fatalf("seq %d, want %d; checksum %#x", q.Seq, v, p.TransportChecksum())
		}
	})
}

func TestAnnouncements(t *testing.T) {
	mac := MAC{0x52, 0x54, 0, 0, 0, 1}
	frames := Announce([]Announcement{
		{MAC: mac, IP: netip.MustParseAddr("10.0.0.2")},
		{MAC: mac, IP: netip.MustParseAddr("2001:db8::2")},
		{MAC: mac, IP: netip.MustParseAddr("10.5.0.2"), Tags: []uint16{5}},
	})
	var kinds []string
	for _, f := range frames {
		if len(f) < minFrame {
			t.Errorf("frame of %d bytes", len(f))
		}
		g := gopacket.NewPacket(f, layers.LayerTypeEthernet, gopacket.Default)
		eth := g.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
		if MAC(eth.SrcMAC) != mac {
			t.Errorf("from %v", eth.SrcMAC)
		}
		kind := ""
		if tag, ok := g.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q); ok {
			kind = "vlan " + string(rune('0'+tag.VLANIdentifier)) + " "
			eth.EthernetType = tag.Type
		}
		arp, isARP := g.Layer(layers.LayerTypeARP).(*layers.ARP)
		na, isNA := g.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
		switch {
		case eth.EthernetType == EtherRARP:
			kind += "RARP"
		case isARP && arp.Operation == layers.ARPRequest:
			kind += "request " + netip.AddrFrom4([4]byte(arp.SourceProtAddress)).String()
		case isARP && arp.Operation == layers.ARPReply:
			kind += "reply " + netip.AddrFrom4([4]byte(arp.SourceProtAddress)).String()
		case isNA:
			var p Packet
			p.Parse(f)
			if !na.Override() || na.Solicited() || p.TTL != 255 || p.TransportChecksum() != 0 || len(na.Options) != 1 || MAC(na.Options[0].Data) != mac {
				t.Errorf("%+v", na)
			}
			kind += "NA " + na.TargetAddress.String()
		}
		if isARP && string(arp.SourceProtAddress) != string(arp.DstProtAddress) {
			t.Errorf("%+v", arp)
		}
		kinds = append(kinds, kind)
	}
	want := []string{
		"RARP", "vlan 5 RARP", "request 10.0.0.2", "reply 10.0.0.2", "NA 2001:db8::2",
		"vlan 5 request 10.5.0.2", "vlan 5 reply 10.5.0.2",
	}
	if len(kinds) != len(want) {
		t.Fatalf("%q, want %q", kinds, want)
	}
	for i := range want {
		if kinds[i] != want[i] {
			t.Errorf("frame %d is %q, want %q", i, kinds[i], want[i])
		}
	}
}

func FuzzParse(f *testing.F) {
	mac := MAC{2, 0, 0, 0, 0, 1}
	for _, b := range Announce([]Announcement{{MAC: mac, IP: netip.MustParseAddr("10.0.0.2"), Tags: []uint16{1, 2}}, {MAC: mac, IP: netip.MustParseAddr("fe80::1")}}) {
		f.Add(b)
	}
	gen := rapid.Custom(tcpFrame)
	for i := range 8 {
		f.Add(gen.Example(i))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		var p Packet
		p.Parse(frame)
		compare(t, &p, frame)
		if p.L3 > p.L4 || p.L4 > p.End || p.End > len(frame) {
			t.Fatalf("offsets %d %d %d of %d", p.L3, p.L4, p.End, len(frame))
		}
		if q, ok := p.Quote(); ok && q.SeqAt != 0 {
			p.SetQuotedSeq(&q, 1)
		}
		p.NDTarget()
		if p.Form != TCP {
			return
		}
		good := !p.Fragment && p.TransportChecksum() == 0
		p.SetSeq(p.Seq + 0x01020304)
		p.SetAck(^p.Ack)
		p.SetWindow(p.Window + 1)
		p.ShiftSACK(77)
		if p.HasTS() {
			p.SetTSval(0)
			p.SetTSecr(0xffffffff)
		}
		if good && p.TransportChecksum() != 0 {
			t.Fatalf("checksum off by %#x", p.TransportChecksum())
		}
	})
}

func BenchmarkParse(b *testing.B) {
	frame := rapid.Custom(tcpFrame).Example(3)
	var p Packet
	b.ReportAllocs()
	for b.Loop() {
		p.Parse(frame)
	}
}

func BenchmarkSetSeq(b *testing.B) {
	frame := rapid.Custom(tcpFrame).Example(3)
	var p Packet
	p.Parse(frame)
	b.ReportAllocs()
	for b.Loop() {
		p.SetSeq(p.Seq + 1)
	}
}

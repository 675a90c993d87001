package flow

import (
	"bytes"
	"net/netip"
	"slices"
	"testing"

	"github.com/understudy-ft/understudy/services/packet"
)

func etherFrame(et uint16, body ...byte) []byte {
	return append(ether(guestMAC, peerMAC, nil, et), body...)
}

func TestKinds(t *testing.T) {
	g, p, g6, p6 := guest4.Addr(), peer4.Addr(), guest6.Addr(), peer6.Addr()
	plain := func(proto uint8, body ...byte) []byte {
		return frameOf(g, p, nil, ip(g, p, proto, 0, 64, 1, 0, 0, body))
	}
	tests := []struct {
		name  string
		frame []byte
		kind  Kind
		flow  string
	}{
		{"TCP", seg{flags: fSYN}.frame(), Stream, "tcp 10.0.0.2:6379 > 10.0.0.9:4711"},
		{"TCP in two VLANs", seg{flags: fSYN, vlans: []uint16{7, 0}}.frame(), Stream, "tcp 10.0.0.2:6379 > 10.0.0.9:4711 vlan 7.0"},
		{"TCP over IPv6", seg{flags: fSYN, from: guest6, to: peer6}.frame(), Stream, "tcp [2001:db8::2]:6379 > [2001:db8::9]:4711"},
		{"UDP", udp(guest4, peer4, 1, "x"), Datagram, "udp 10.0.0.2:6379 > 10.0.0.9:4711"},
		{"echo", icmp(g, p, 8, 0, 77<<16|1, nil), Datagram, "echo 10.0.0.2 > 10.0.0.9 type 8 id 77"},
		{"echo reply over IPv6", icmp(g6, p6, 129, 0, 77<<16|1, nil), Datagram, "echo 2001:db8::2 > 2001:db8::9 type 129 id 77"},
		{"ICMP error", icmp(g, p, 3, 3, 0, plain(17, 1, 2, 3, 4, 5, 6, 7, 8)[14:]), Datagram, "icmp 10.0.0.2 > 10.0.0.9 type 3 code 3"},
		{"SCTP", plain(132, 1, 2, 3, 4), Datagram, "ip 10.0.0.2 > 10.0.0.9 protocol 132"},
		{"fragment", frameOf(g, p, nil, ip(g, p, 17, 0, 64, 1, 0x2000, 0, make([]byte, 16))), Datagram, "fragments 10.0.0.2 > 10.0.0.9 protocol 17"},
		{"TCP cut off", plain(6, 1, 2, 3), Datagram, "ip 10.0.0.2 > 10.0.0.9 protocol 6"},
		{"ARP", packet.GratuitousARP(guestMAC, g)[0], Pass, "arp"},
		{"neighbour advertisement", packet.UnsolicitedNA(guestMAC, g6), Pass, "nd"},
		{"router solicitation", icmp(g6, p6, 133, 0, 0, nil), Pass, "nd"},
		{"MLD", icmp(g6, p6, 143, 0, 0, nil), Pass, "mld"},
		{"IGMP", plain(2, 0x16, 0, 0, 0, 0, 0, 0, 0), Pass, "igmp"},
		{"LLDP", etherFrame(0x88cc, 1, 2), Pass, "link"},
		{"spanning tree", etherFrame(38, make([]byte, 46)...), Pass, "link"},
		{"RARP", packet.RARP(guestMAC), Pass, "link"},
		{"PPPoE may carry somebody's data", etherFrame(0x8864, 1, 2, 3), Datagram, "frames of ethertype 0x8864"},
		{"ill-formed IPv4", etherFrame(0x0800, 1, 2, 3), Datagram, "frames of ethertype 0x0800"},
		{"runt", []byte{1, 2, 3}, Datagram, "frames of ethertype 0x0000"},
		{"empty", nil, Datagram, "frames of ethertype 0x0000"},
	}
	tab := NewTable(1)
	ids := map[ID]string{}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o := tab.Out(test.frame)
			if o.Kind != test.kind || o.Name != "" && o.Name != test.flow {
				t.Errorf("%+v, want %v %q", o, test.kind, test.flow)
			}
			if known := ids[o.Flow]; known != "" && known != test.flow || known == "" && o.Name == "" {
				t.Errorf("flow of %q, named %q, want %q", known, o.Name, test.flow)
			}
			ids[o.Flow] = test.flow
			if again := NewTable(1).Out(test.frame); again.Flow != o.Flow || again.Name != test.flow {
				t.Errorf("another table says %+v", again)
			}
		})
	}
}

// What differs between copies without a client seeing it is not compared; all
// else is.
func TestDatagramNormalization(t *testing.T) {
	g, p, g6, p6 := guest4.Addr(), peer4.Addr(), guest6.Addr(), peer6.Addr()
	d4 := func(tos, ttl uint8, id, frag uint16, body string) []byte {
		return frameOf(g, p, nil, ip(g, p, 17, tos, ttl, id, frag, 0, []byte(body)))
	}
	d6 := func(label uint32, ttl uint8, body string) []byte {
		return frameOf(g6, p6, nil, ip(g6, p6, 17, 0, ttl, 0, 0, label, []byte(body)))
	}
	frag6 := func(id, offset byte, body string) []byte {
		return frameOf(g6, p6, nil, ip(g6, p6, 44, 0, 64, 0, 0, 0, append([]byte{17, 0, 0, offset | 1, 0, 0, 0, id}, body...)))
	}
	frag4 := func(proto uint8, body []byte) []byte {
		return frameOf(g, p, nil, ip(g, p, proto, 0, 64, 9, 0x2000, 0, body))
	}
	quote := func(seq uint32, to netip.AddrPort) []byte {
		return icmp(g, p, 3, 3, 0, seg{from: peer4, to: to, seq: seq, flags: fACK, ack: seq}.frame()[14:])
	}
	echo := func(seq uint32, payload string) []byte { return icmp(g, p, 8, 0, 5<<16|seq, []byte(payload)) }
	const u = "\x18\xeb\x12\x67\x00\x0c"
	corrupt := func(f []byte) []byte { f[24] ^= 0xff; return f } // IPv4 header checksum
	tests := []struct {
		name string
		a, b []byte
		same bool
	}{
		{"IP identification", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(0, 64, 2, 0, u+"\x00\x00abcd"), true},
		{"ECN", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(3, 64, 1, 0, u+"\x00\x00abcd"), true},
		{"DSCP", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(4, 64, 1, 0, u+"\x00\x00abcd"), false},
		{"TTL", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(0, 63, 1, 0, u+"\x00\x00abcd"), false},
		{"don't fragment", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(0, 64, 1, 0x4000, u+"\x00\x00abcd"), false},
		{"header checksum", d4(0, 64, 1, 0, u+"\x00\x00abcd"), corrupt(d4(0, 64, 1, 0, u+"\x00\x00abcd")), true},
		{"UDP checksum", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(0, 64, 1, 0, u+"\x12\x34abcd"), true},
		{"UDP payload", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(0, 64, 1, 0, u+"\x00\x00abce"), false},
		{"UDP length", d4(0, 64, 1, 0, u+"\x00\x00abcd"), d4(0, 64, 1, 0, u+"\x00\x00abcde"), false},
		{"Ethernet padding", d4(0, 64, 1, 0, u+"\x00\x00abcd"), append(d4(0, 64, 1, 0, u+"\x00\x00abcd"), 1, 2), true},
		{"IPv6 flow label", d6(1, 64, u+"\x00\x00abcd"), d6(2, 64, u+"\x00\x00abcd"), true},
		{"IPv6 hop limit", d6(1, 64, u+"\x00\x00abcd"), d6(1, 65, u+"\x00\x00abcd"), false},
		{"IPv6 fragment identification", frag6(1, 0, u+"\x00\x00abcdefghij"), frag6(2, 0, u+"\x00\x00abcdefghij"), true},
		{"IPv6 fragment offset", frag6(1, 8, "abcdefgh"), frag6(1, 16, "abcdefgh"), false},
		{"IPv6 fragment payload", frag6(1, 8, "abcdefgh"), frag6(1, 8, "abcdefgi"), false},
		{"IPv4 fragment identification", d4(0, 64, 1, 0x2001, "abcdefgh"), d4(0, 64, 2, 0x2001, "abcdefgh"), true},
		{"IPv4 fragment offset", d4(0, 64, 1, 0x2001, "abcdefgh"), d4(0, 64, 1, 0x2002, "abcdefgh"), false},
		{"more fragments", d4(0, 64, 1, 0x2001, "abcdefgh"), d4(0, 64, 1, 0x0001, "abcdefgh"), false},
		{"echo checksum", echo(1, "abc"), echo(1, "abc"), true},
		{"echo sequence", echo(1, "abc"), echo(2, "abc"), false},
		{"echo payload", echo(1, "abc"), echo(1, "abd"), false},
		{"numbers in a quoted segment", quote(1, guest4), quote(99, guest4), true},
		{"connection of a quoted segment", quote(1, guest4), quote(1, netip.AddrPortFrom(g, 80)), false},
		{"numbers in the first fragment of a segment",
			frag4(6, seg{from: guest4, to: peer4, seq: 1, ack: 2, window: 3, ts: &[2]uint32{4, 5}, sack: []uint32{6, 7}, payload: []byte("x")}.tcp()),
			frag4(6, seg{from: guest4, to: peer4, seq: 8, ack: 9, window: 8, ts: &[2]uint32{7, 6}, sack: []uint32{5, 4}, payload: []byte("x")}.tcp()), true},
		{"payload of the first fragment of a segment",
			frag4(6, seg{from: guest4, to: peer4, payload: []byte("x")}.tcp()),
			frag4(6, seg{from: guest4, to: peer4, payload: []byte("y")}.tcp()), false},
		{"flags of the first fragment of a segment",
			frag4(6, seg{from: guest4, to: peer4, flags: fACK}.tcp()),
			frag4(6, seg{from: guest4, to: peer4, flags: fACK | fFIN}.tcp()), false},
		{"frame that is not understood", etherFrame(0x9999, 1), etherFrame(0x9999, 2), false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			a, b := NewTable(1).Out(test.a), NewTable(1).Out(test.b)
			if a.Kind != Datagram || a.End != 1 || a.Digest.IsZero() || a.Flow != b.Flow || a.Name != b.Name {
				t.Fatalf("%+v and %+v", a, b)
			}
			if same := a.Digest == b.Digest; same != test.same {
				t.Errorf("same digest: %v", same)
			}
		})
	}
}

func TestDatagramsAreCounted(t *testing.T) {
	tab := NewTable(1)
	other := netip.MustParseAddrPort("10.0.0.9:9")
	for i := range uint64(3) {
		if o := tab.Out(udp(guest4, peer4, 1, "x")); o.End != i+1 || (o.Name != "") != (i == 0) {
			t.Errorf("%d: %+v", i, o)
		}
	}
	if o := tab.Out(udp(guest4, other, 1, "x")); o.End != 1 {
		t.Errorf("another flow: %+v", o)
	}
	tab.NewEpoch()
	if o := tab.Out(udp(guest4, peer4, 1, "x")); o.End != 1 || o.Name == "" {
		t.Errorf("new epoch: %+v", o)
	}
}

func TestDatagramFlowsAreBounded(t *testing.T) {
	tab := NewTable(1)
	l := DefaultLimits
	l.Datagrams = 10
	tab.SetLimits(l)
	for i := range uint16(100) {
		tab.Out(udp(guest4, netip.AddrPortFrom(peer4.Addr(), 1000+i), 1, "x"))
		tab.Out(udp(guest4, peer4, 1, "kept, because used"))
	}
	if n := len(tab.datagrams); n != 10 || tab.Counters().DatagramsEvicted != 91 {
		t.Errorf("%d flows, %d evicted", n, tab.Counters().DatagramsEvicted)
	}
	if o := tab.Out(udp(guest4, peer4, 1, "x")); o.End != 101 {
		t.Errorf("%+v", o)
	}
}

func TestDigestsOff(t *testing.T) {
	tab := NewTable(1)
	tab.SetDigests(false)
	a := tab.Out(seg{flags: fSYN | fACK, seq: 5, ack: 1}.frame())
	b := tab.Out(udp(guest4, peer4, 1, "x"))
	if !a.Digest.IsZero() || !b.Digest.IsZero() || tab.pool.out != 0 || a.End != 1 || b.End != 1 {
		t.Errorf("%+v %+v", a, b)
	}
	tab.SetDigests(true)
	tab.NewEpoch()
	on := NewTable(1)
	on.Out(seg{flags: fSYN | fACK, seq: 5, ack: 1}.frame())
	on.NewEpoch()
	data := seg{flags: fACK, seq: 6, ack: 1, payload: []byte("x")}.frame()
	if x, y := tab.Out(data), on.Out(data); x != y || x.Digest.IsZero() {
		t.Errorf("%+v and %+v", x, y)
	}
}

func TestAddresses(t *testing.T) {
	tab := NewTable(1)
	show := func() (s []string) {
		for _, a := range tab.Addresses() {
			text := "-"
			if a.IP.IsValid() {
				text = a.IP.String()
			}
			if a.MAC != guestMAC {
				t.Errorf("MAC %v", a.MAC)
			}
			for _, tag := range a.Tags {
				text += "." + string(rune('0'+tag))
			}
			s = append(s, text)
		}
		slices.Sort(s)
		return s
	}
	expect := func(what string, want ...string) {
		t.Helper()
		if got := show(); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("nothing sent")
	tab.Out(packet.RARP(guestMAC))
	expect("a MAC alone", "-")
	tab.Out(udp(guest4, peer4, 1, "x"))
	expect("source of a datagram", "10.0.0.2")
	foreign := netip.MustParseAddrPort("192.0.2.7:1")
	tab.Out(udp(foreign, peer4, 1, "routed"))
	expect("a guest that routes, before it spoke for itself", "10.0.0.2", "192.0.2.7")
	tab.Out(packet.GratuitousARP(guestMAC, guest4.Addr())[1])
	expect("its own by ARP", "10.0.0.2")
	tab.Out(packet.GratuitousARP(guestMAC, netip.IPv4Unspecified())[0])
	proxied := packet.GratuitousARP(peerMAC, peer4.Addr())[0]
	copy(proxied[6:], guestMAC[:])
	tab.Out(proxied)
	tab.Out(seg{flags: fSYN, from: guest6, to: peer6}.frame())
	tab.Out(packet.UnsolicitedNA(guestMAC, netip.MustParseAddr("fe80::2")))
	expect("its own by ND", "10.0.0.2", "fe80::2")
	tab.Out(packet.UnsolicitedNA(guestMAC, guest6.Addr(), 5))
	expect("in a VLAN", "10.0.0.2", "2001:db8::2.5", "fe80::2")
	for i := range 1000 {
		tab.Out(udp(netip.AddrPortFrom(netip.AddrFrom4([4]byte{172, 16, byte(i >> 8), byte(i)}), 1), peer4, 1, "routed"))
	}
	expect("after many routed", "10.0.0.2", "2001:db8::2.5", "fe80::2")
	if n := len(tab.addresses.seen.known); n != DefaultLimits.Addresses {
		t.Errorf("%d addresses seen", n)
	}
	loaded := NewTable(9)
	if err := loaded.Load(tab.Save()); err != nil {
		t.Fatal(err)
	}
	tab = loaded
	expect("loaded", "10.0.0.2", "2001:db8::2.5", "fe80::2")
}

func TestMarks(t *testing.T) {
	var active, standby Marks
	outs := []Output{
		{Kind: Stream, Flow: 1, End: 1, Ack: 1, Flags: SYN | ACK},
		{Kind: Stream, Flow: 1, End: 100, Ack: 50, Flags: ACK},
		{Kind: Stream, Flow: 1, End: 60, Ack: 40, Flags: ACK}, // older
		{Kind: Datagram, Flow: 2, End: 3},
		{Kind: Pass, Flow: 3},
	}
	for _, o := range outs {
		active.Emitted(o)
	}
	marks := active.Take(nil)
	if want := []EmittedMark{{1, 100, 50, SYN | ACK}, {2, 3, 0, 0}}; !slices.Equal(marks, want) {
		t.Fatalf("%+v, want %+v", marks, want)
	}
	if again := active.Take(nil); len(again) != 0 {
		t.Errorf("again %+v", again)
	}
	active.Emitted(outs[1])
	if again := active.Take(nil); len(again) != 0 {
		t.Errorf("nothing new, but %+v", again)
	}
	for _, m := range marks {
		standby.Merge(m)
	}
	standby.Merge(EmittedMark{1, 5, 5, 0}) // late
	tests := []struct {
		name string
		o    Output
		want bool
	}{
		{"all of it left", outs[1], true},
		{"bytes beyond", Output{Kind: Stream, Flow: 1, End: 101, Ack: 50, Flags: ACK}, false},
		{"acknowledges more", Output{Kind: Stream, Flow: 1, End: 100, Ack: 51, Flags: ACK}, false},
		{"no acknowledgement", Output{Kind: Stream, Flow: 1, End: 1, Flags: SYN}, true},
		{"a reset that did not leave", Output{Kind: Stream, Flow: 1, End: 100, Flags: RST}, false},
		{"another flow", Output{Kind: Stream, Flow: 9, End: 1}, false},
		{"datagram that left", Output{Kind: Datagram, Flow: 2, End: 3}, true},
		{"datagram that did not", Output{Kind: Datagram, Flow: 2, End: 4}, false},
		{"event that did not", Output{Kind: Event, Flow: 7, End: 1}, false},
		{"passed", Output{Kind: Pass}, true},
	}
	for _, test := range tests {
		if got := standby.Covers(test.o); got != test.want {
			t.Errorf("%s: covered %v", test.name, got)
		}
	}
	if HeldCovered(outs[1], EmittedMark{2, 100, 50, SYN | ACK}) {
		t.Error("covered by another flow's mark")
	}
	for i := range ID(5 * marksKeep) {
		standby.Merge(EmittedMark{Flow: i, End: 1})
	}
	if n := len(standby.now) + len(standby.before); n > 2*marksKeep {
		t.Errorf("%d marks", n)
	}
	if !standby.Covers(Output{Kind: Datagram, Flow: 4*marksKeep + 1, End: 1}) {
		t.Error("a recent mark is forgotten")
	}
}

// The parts of a datagram keep its identification when they leave: only what is
// compared is normalized.
func TestOutLeavesFramesAlone(t *testing.T) {
	for _, f := range [][]byte{
		seg{flags: fSYN, seq: 1, ts: &[2]uint32{1, 2}}.frame(), udp(guest4, peer4, 7, "x"),
		icmp(guest4.Addr(), peer4.Addr(), 3, 3, 0, seg{}.frame()[14:]),
		frameOf(guest4.Addr(), peer4.Addr(), nil, ip(guest4.Addr(), peer4.Addr(), 6, 0, 64, 1, 0x2000, 0, seg{}.tcp())),
	} {
		before := bytes.Clone(f)
		NewTable(1).Out(f)
		if !bytes.Equal(f, before) {
			t.Errorf("%x became %x", before, f)
		}
	}
}

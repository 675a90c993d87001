package flow

import (
	"encoding/binary"
	"net/netip"

	"github.com/understudy-ft/understudy/services/packet"
)

var be = binary.BigEndian

var (
	guestMAC = packet.MAC{0x52, 0x54, 0, 0, 0, 1}
	peerMAC  = packet.MAC{0x52, 0x54, 0, 0, 0, 2}
	guest4   = netip.MustParseAddrPort("10.0.0.2:6379")
	peer4    = netip.MustParseAddrPort("10.0.0.9:4711")
	guest6   = netip.MustParseAddrPort("[2001:db8::2]:6379")
	peer6    = netip.MustParseAddrPort("[2001:db8::9]:4711")
)

// seg is a TCP segment to build.
type seg struct {
	from, to  netip.AddrPort
	vlans     []uint16
	seq, ack  uint32
	flags     uint8
	window    uint16
	ts        *[2]uint32
	mss       uint16 // 0: no option
	scale     int    // 0: no option
	sackOK    bool
	sack      []uint32 // edges
	payload   []byte
	tos, ttl  uint8
	flowLabel uint32
	id        uint16
}

func ether(from, to packet.MAC, vlans []uint16, et uint16) []byte {
	b := append(append([]byte(nil), to[:]...), from[:]...)
	for _, v := range vlans {
		b = be.AppendUint16(b, packet.EtherVLAN)
		b = be.AppendUint16(b, v)
	}
	return be.AppendUint16(b, et)
}

// ip returns a datagram with a right header checksum.
func ip(from, to netip.Addr, proto, tos, ttl uint8, id uint16, frag uint16, label uint32, body []byte) []byte {
	if from.Is4() {
		h := make([]byte, 20)
		h[0], h[1], h[8], h[9] = 0x45, tos, ttl, proto
		be.PutUint16(h[2:], uint16(20+len(body)))
		be.PutUint16(h[4:], id)
		be.PutUint16(h[6:], frag)
		copy(h[12:], from.AsSlice())
		copy(h[16:], to.AsSlice())
		be.PutUint16(h[10:], packet.Checksum(h, 0))
		return append(h, body...)
	}
	h := make([]byte, 40)
	be.PutUint32(h, 6<<28|uint32(tos)<<20|label)
	be.PutUint16(h[4:], uint16(len(body)))
	h[6], h[7] = proto, ttl
	copy(h[8:], from.AsSlice())
	copy(h[24:], to.AsSlice())
	return append(h, body...)
}

func frameOf(from, to netip.Addr, vlans []uint16, datagram []byte) []byte {
	et := uint16(packet.EtherIPv4)
	if from.Is6() {
		et = packet.EtherIPv6
	}
	return append(ether(guestMAC, peerMAC, vlans, et), datagram...)
}

// fix sets the transport checksum of a frame.
func fix(frame []byte) []byte {
	var p packet.Packet
	p.Parse(frame)
	at := map[packet.Form]int{packet.TCP: 16, packet.UDP: 6, packet.ICMP: 2, packet.ICMPv6: 2}[p.Form]
	be.PutUint16(frame[p.L4+at:], 0)
	be.PutUint16(frame[p.L4+at:], p.TransportChecksum())
	return frame
}

func (s seg) tcp() []byte {
	h := make([]byte, 20)
	be.PutUint16(h, s.from.Port())
	be.PutUint16(h[2:], s.to.Port())
	be.PutUint32(h[4:], s.seq)
	be.PutUint32(h[8:], s.ack)
	h[13] = s.flags
	be.PutUint16(h[14:], s.window)
	if s.mss != 0 {
		h = be.AppendUint16(append(h, 2, 4), s.mss)
	}
	if s.scale != 0 {
		h = append(h, 1, 3, 3, byte(s.scale))
	}
	if s.sackOK {
		h = append(h, 4, 2)
	}
	if s.ts != nil {
		h = be.AppendUint32(be.AppendUint32(append(h, 8, 10), s.ts[0]), s.ts[1])
	}
	if len(s.sack) > 0 {
		h = append(h, 5, byte(2+4*len(s.sack)))
		for _, e := range s.sack {
			h = be.AppendUint32(h, e)
		}
	}
	for len(h)%4 != 0 {
		h = append(h, 1)
	}
	h[12] = byte(len(h) / 4 << 4)
	return append(h, s.payload...)
}

// frame builds the segment with right checksums.
func (s seg) frame() []byte {
	if !s.from.IsValid() {
		s.from, s.to = guest4, peer4
	}
	if s.ttl == 0 {
		s.ttl = 64
	}
	d := ip(s.from.Addr(), s.to.Addr(), packet.ProtoTCP, s.tos, s.ttl, s.id, 0, s.flowLabel, s.tcp())
	return fix(frameOf(s.from.Addr(), s.to.Addr(), s.vlans, d))
}

// reply is the segment from the other side.
func (s seg) reply() seg {
	if !s.from.IsValid() {
		s.from, s.to = guest4, peer4
	}
	s.from, s.to = s.to, s.from
	return s
}

func udp(from, to netip.AddrPort, id uint16, payload string) []byte {
	h := be.AppendUint16(nil, from.Port())
	h = be.AppendUint16(h, to.Port())
	h = be.AppendUint16(h, uint16(8+len(payload)))
	h = append(be.AppendUint16(h, 0), payload...)
	return fix(frameOf(from.Addr(), to.Addr(), nil, ip(from.Addr(), to.Addr(), packet.ProtoUDP, 0, 64, id, 0, 0, h)))
}

func icmp(from, to netip.Addr, kind, code uint8, rest uint32, payload []byte) []byte {
	h := be.AppendUint32([]byte{kind, code, 0, 0}, rest)
	proto := uint8(packet.ProtoICMP)
	if from.Is6() {
		proto = packet.ProtoICMPv6
	}
	return fix(frameOf(from, to, nil, ip(from, to, proto, 0, 255, 0, 0, 0, append(h, payload...))))
}

// parse returns the packet of a frame that must be TCP with a right checksum.
func parse(t interface{ Fatalf(string, ...any) }, frame []byte) packet.Packet {
	var p packet.Packet
	p.Parse(frame)
	if p.Form != packet.TCP || p.TransportChecksum() != 0 {
		t.Fatalf("form %d, checksum off by %#x", p.Form, p.TransportChecksum())
	}
	return p
}

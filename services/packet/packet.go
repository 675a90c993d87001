// Package packet reads Ethernet frames in place: VLAN tags, ARP, IPv4, IPv6,
// TCP, UDP, ICMP and ICMPv6. It rewrites TCP fields in place with incremental
// checksum updates (RFC 1624), and it builds the frames that announce a moved
// guest.
//
// Parsing allocates nothing: a Packet holds numbers and offsets into the
// frame, and can be used again for the next frame. No frame makes a function
// of this package panic; what is inconsistent is reported as Malformed or as
// the last layer that made sense.
//
// Rewriting takes complete checksums for granted. A frame whose checksum was
// left to an offload (virtio-net NEEDS_CSUM) must be completed first.
package packet

import "net/netip"

// EtherTypes that the parser knows.
const (
	EtherIPv4   = 0x0800
	EtherARP    = 0x0806
	EtherRARP   = 0x8035
	EtherVLAN   = 0x8100
	EtherIPv6   = 0x86dd
	EtherSlow   = 0x8809
	EtherPause  = 0x8808
	EtherEAPOL  = 0x888e
	EtherQinQ   = 0x88a8
	EtherLLDP   = 0x88cc
	EtherOldQ   = 0x9100
	EtherLoop   = 0x9000
	EtherLLCMax = 0x05dc // up to here the field is a length (IEEE 802.3)
)

// IP protocol numbers that the parser knows.
const (
	ProtoHopByHop = 0
	ProtoICMP     = 1
	ProtoIGMP     = 2
	ProtoTCP      = 6
	ProtoUDP      = 17
	ProtoRouting  = 43
	ProtoFragment = 44
	ProtoAH       = 51
	ProtoICMPv6   = 58
	ProtoNoNext   = 59
	ProtoDestOpts = 60
	ProtoMobility = 135
	ProtoHIP      = 139
	ProtoShim6    = 140
)

// TCP flags (RFC 9293 section 3.1).
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
)

// ICMP and ICMPv6 types that the parser knows (RFC 792, 4443, 4861).
const (
	ICMPEchoReply     = 0
	ICMPUnreachable   = 3
	ICMPEcho          = 8
	ICMPTimeExceeded  = 11
	ICMPParameter     = 12
	ICMPv6Unreachable = 1
	ICMPv6TooBig      = 2
	ICMPv6Time        = 3
	ICMPv6Parameter   = 4
	ICMPv6Echo        = 128
	ICMPv6EchoReply   = 129
	ICMPv6NS          = 135
	ICMPv6NA          = 136
)

// MaxTags is the number of stacked VLAN tags that a frame may have; a frame
// with more is Malformed.
const MaxTags = 4

const (
	etherLen    = 14
	tagLen      = 4
	ipv4Len     = 20
	ipv6Len     = 40
	tcpLen      = 20
	udpLen      = 8
	icmpLen     = 8
	arpLen      = 28
	maxIPv6Exts = 16
)

// MAC is an Ethernet address.
type MAC [6]byte

// Form says how far a frame was understood.
type Form uint8

const (
	// Malformed is a frame that is too short, inconsistent, or not what its
	// EtherType says.
	Malformed Form = iota
	// Link is a frame of an EtherType that is neither IP nor ARP, or an
	// IEEE 802.3 frame with a length.
	Link
	// ARP is an ARP packet for IPv4 over Ethernet.
	ARP
	// IP is an IP datagram of which the transport is none of the below, is
	// cut off, or lies in another fragment.
	IP
	// TCP, UDP, ICMP and ICMPv6 have a whole transport header. Of a
	// fragmented datagram only the first fragment can be one of these.
	TCP
	UDP
	ICMP
	ICMPv6
)

// Packet is a parsed frame. Offsets count from the frame's first byte. Fields
// of a layer are valid as far as Form says.
type Packet struct {
	Frame []byte
	Form  Form

	// Tags are the VLAN identifiers (12 bits each), outermost first.
	Tags      [MaxTags]uint16
	TagCount  uint8
	EtherType uint16

	// L3 is where the network header begins (for Link: the payload), L4 where
	// the transport does, End where the datagram ends: Ethernet padding lies
	// behind it.
	L3, L4, End int

	// Version is 4, 6, or 0 where the frame is not IP. An IPv4 address
	// takes the first 4 bytes of Src and Dst.
	Version  uint8
	Src, Dst [16]byte
	// Proto is the transport's protocol number, after any IPv6 extension
	// headers.
	Proto uint8
	TTL   uint8
	// TOS is the IPv4 type of service or the IPv6 traffic class.
	TOS          uint8
	DontFragment bool

	// Fragment tells that the datagram is not whole in this frame.
	// FragmentOffset is in bytes; FragmentAt is the offset of the IPv6
	// fragment header.
	Fragment       bool
	MoreFragments  bool
	FragmentOffset uint16
	FragmentAt     int

	// SrcPort and DstPort belong to TCP and UDP.
	SrcPort, DstPort uint16

	// TCP header and options. WindowScale is as sent, uncapped. TSAt and
	// SACKAt are the offsets of the timestamp values and of the first SACK
	// edge, 0 where the option is absent.
	Seq, Ack      uint32
	Window        uint16
	Flags         uint8
	HasMSS        bool
	HasScale      bool
	SACKPermitted bool
	MSS           uint16
	WindowScale   uint8
	TSval, TSecr  uint32
	TSAt          int
	SACKAt        int
	SACKBlocks    int

	// ICMP or ICMPv6 type and code. ID and Sequence belong to echo messages.
	Type, Code   uint8
	ID, Sequence uint16

	// Operation, Sender and SenderIP belong to ARP.
	Operation uint16
	Sender    MAC
	SenderIP  [4]byte

	// Payload is what follows the last header that was understood.
	Payload []byte
}

// SrcMAC returns the source address of a frame that is not shorter than an
// Ethernet header.
func (p *Packet) SrcMAC() (m MAC) {
	if len(p.Frame) >= etherLen {
		copy(m[:], p.Frame[6:12])
	}
	return m
}

// DstMAC returns the destination address of a frame that is not shorter than
// an Ethernet header.
func (p *Packet) DstMAC() (m MAC) {
	if len(p.Frame) >= etherLen {
		copy(m[:], p.Frame[:6])
	}
	return m
}

// SrcAddr returns the source IP address, invalid where Version is 0.
func (p *Packet) SrcAddr() netip.Addr { return Addr(p.Version, p.Src) }

// DstAddr returns the destination IP address, invalid where Version is 0.
func (p *Packet) DstAddr() netip.Addr { return Addr(p.Version, p.Dst) }

// Addr turns an address as a Packet holds it into a netip.Addr.
func Addr(version uint8, a [16]byte) netip.Addr {
	switch version {
	case 4:
		return netip.AddrFrom4([4]byte(a[:4]))
	case 6:
		return netip.AddrFrom16(a)
	}
	return netip.Addr{}
}

// HasTS tells whether a TCP header has a timestamps option.
func (p *Packet) HasTS() bool { return p.TSAt != 0 }

// IsEcho tells whether the packet is an ICMP or ICMPv6 echo request or reply.
func (p *Packet) IsEcho() bool {
	switch p.Form {
	case ICMP:
		return p.Type == ICMPEcho || p.Type == ICMPEchoReply
	case ICMPv6:
		return p.Type == ICMPv6Echo || p.Type == ICMPv6EchoReply
	}
	return false
}

// IsICMPError tells whether the packet is an ICMP or ICMPv6 error, which
// quotes the datagram that it is about.
func (p *Packet) IsICMPError() bool {
	switch p.Form {
	case ICMP:
		return p.Type == ICMPUnreachable || p.Type == ICMPTimeExceeded || p.Type == ICMPParameter
	case ICMPv6:
		return p.Type >= ICMPv6Unreachable && p.Type <= ICMPv6Parameter
	}
	return false
}

// NDTarget returns the target address of a neighbour solicitation or
// advertisement (RFC 4861 sections 4.3 and 4.4).
func (p *Packet) NDTarget() (a [16]byte, ok bool) {
	if p.Form != ICMPv6 || p.Type != ICMPv6NS && p.Type != ICMPv6NA || p.End-p.L4 < 24 {
		return a, false
	}
	copy(a[:], p.Frame[p.L4+8:])
	return a, true
}

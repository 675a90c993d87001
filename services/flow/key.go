package flow

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/understudy-ft/understudy/services/packet"
)

// class tells apart kinds of flows that may share addresses and ports.
type class uint8

const (
	classTCP class = iota + 1
	classTCPOdd
	classUDP
	classEcho
	classICMP
	classIP
	classFragment
	classRaw // not understood; compared as a whole
	// The classes below are passed.
	classARP
	classND
	classMLD
	classIGMP
	classLink
	classes
)

var classNames = [classes]string{
	classTCP: "tcp", classTCPOdd: "tcp-odd", classUDP: "udp", classEcho: "echo", classICMP: "icmp",
	classIP: "ip", classFragment: "fragments", classRaw: "frames",
	classARP: "arp", classND: "nd", classMLD: "mld", classIGMP: "igmp", classLink: "link",
}

// key is a flow's place on the network. The guest is src.
type key struct {
	src, dst     [16]byte
	vlans        uint64 // 16 bits a tag, identifier + 1, outermost highest
	sport, dport uint16
	version      uint8
	proto        uint8
	class        class
}

func vlanKey(p *packet.Packet) uint64 {
	return vlansKey(p.Tags[:p.TagCount])
}

func vlanTags(v uint64) (tags []uint16) {
	for shift := 48; shift >= 0; shift -= 16 {
		if tag := uint16(v >> shift); tag != 0 {
			tags = append(tags, tag-1)
		}
	}
	return tags
}

// outKey returns the key of a frame that the guest transmitted.
func outKey(p *packet.Packet, c class) key {
	return key{
		src: p.Src, dst: p.Dst, vlans: vlanKey(p),
		sport: p.SrcPort, dport: p.DstPort,
		version: p.Version, proto: p.Proto, class: c,
	}
}

// inKey returns the key of the connection that a frame from outside belongs
// to.
func inKey(p *packet.Packet) key {
	return key{
		src: p.Dst, dst: p.Src, vlans: vlanKey(p),
		sport: p.DstPort, dport: p.SrcPort,
		version: p.Version, proto: p.Proto, class: classTCP,
	}
}

func (k *key) append(b []byte) []byte {
	b = append(b, k.src[:]...)
	b = append(b, k.dst[:]...)
	b = binary.LittleEndian.AppendUint64(b, k.vlans)
	b = binary.LittleEndian.AppendUint16(b, k.sport)
	b = binary.LittleEndian.AppendUint16(b, k.dport)
	return append(b, k.version, k.proto, byte(k.class))
}

// Origins of a connection, which go into its ID.
const (
	openedByPeer  = 'P' // the number is the peer's ISN and the incarnation
	openedByGuest = 'G' // the number counts epochs and the guest's openings in one
	pickedUp      = 'M'
	datagramFlow  = 'D'
)

// id hashes what both copies know of a flow. It is never 0.
func (t *Table) id(k *key, origin byte, number uint64) ID {
	b := append(t.scratch[:0], origin)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = k.append(b)
	return ID(max(xxh3.HashSeed(b, t.seed), 1))
}

// name is the flow in words.
func (k *key) name() string {
	var b strings.Builder
	src, dst := packet.Addr(k.version, k.src), packet.Addr(k.version, k.dst)
	switch k.class {
	case classTCP, classTCPOdd, classUDP:
		fmt.Fprintf(&b, "%s %v > %v", classNames[k.class],
			netip.AddrPortFrom(src, k.sport), netip.AddrPortFrom(dst, k.dport))
	case classEcho:
		fmt.Fprintf(&b, "echo %v > %v type %d id %d", src, dst, k.dport, k.sport)
	case classICMP:
		fmt.Fprintf(&b, "icmp %v > %v type %d code %d", src, dst, k.dport>>8, k.dport&0xff)
	case classIP, classFragment:
		fmt.Fprintf(&b, "%s %v > %v protocol %d", classNames[k.class], src, dst, k.proto)
	case classRaw:
		fmt.Fprintf(&b, "frames of ethertype %#04x", k.dport)
	default:
		b.WriteString(classNames[k.class])
	}
	for i, tag := range vlanTags(k.vlans) {
		if i == 0 {
			b.WriteString(" vlan ")
		} else {
			b.WriteByte('.')
		}
		fmt.Fprint(&b, tag)
	}
	return b.String()
}

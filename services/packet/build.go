package packet

import "net/netip"

const minFrame = 60 // without the frame check sequence (IEEE 802.3)

var broadcast = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// GratuitousARP returns the two frames that tell neighbours that ip, an IPv4
// address, is at mac: a request and a reply, because hosts differ in which of
// them they believe (RFC 5227 section 3).
func GratuitousARP(mac MAC, ip netip.Addr, tags ...uint16) [][]byte {
	return [][]byte{
		arpFrame(EtherARP, 1, mac, ip.As4(), MAC{}, tags),
		arpFrame(EtherARP, 2, mac, ip.As4(), mac, tags),
	}
}

// RARP returns the frame by which switches learn where mac is now, without any
// IP address (RFC 903 request, as hypervisors send after a migration).
func RARP(mac MAC, tags ...uint16) []byte {
	return arpFrame(EtherRARP, 3, mac, [4]byte{}, mac, tags)
}

func arpFrame(et, op uint16, sha MAC, ip [4]byte, tha MAC, tags []uint16) []byte {
	b := etherHeader(broadcast, sha, et, tags)
	b = be.AppendUint16(b, 1)
	b = be.AppendUint16(b, EtherIPv4)
	b = append(b, 6, 4)
	b = be.AppendUint16(b, op)
	b = append(b, sha[:]...)
	b = append(b, ip[:]...)
	b = append(b, tha[:]...)
	b = append(b, ip[:]...)
	return pad(b)
}

// UnsolicitedNA returns the neighbour advertisement that tells all nodes that
// ip, an IPv6 address, is at mac (RFC 4861 section 7.2.6), with the override
// flag set.
func UnsolicitedNA(mac MAC, ip netip.Addr, tags ...uint16) []byte {
	src := ip.As16()
	dst := [16]byte{0: 0xff, 1: 0x02, 15: 1}
	b := etherHeader(MAC{0x33, 0x33, 0, 0, 0, 1}, mac, EtherIPv6, tags)
	const size = 32
	b = append(b, 0x60, 0, 0, 0, 0, size, ProtoICMPv6, 255)
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	at := len(b)
	b = append(b, ICMPv6NA, 0, 0, 0, 0x20, 0, 0, 0)
	b = append(b, src[:]...)
	b = append(b, 2, 1) // target link-layer address
	b = append(b, mac[:]...)
	be.PutUint16(b[at+2:], Checksum(b[at:], pseudo(src[:], dst[:], size, ProtoICMPv6)))
	return b
}

func etherHeader(dst, src MAC, et uint16, tags []uint16) []byte {
	b := make([]byte, 0, 96+tagLen*len(tags))
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	for i, vid := range tags {
		tpid := uint16(EtherVLAN)
		if i < len(tags)-1 {
			tpid = EtherQinQ
		}
		b = be.AppendUint16(b, tpid)
		b = be.AppendUint16(b, vid&0xfff)
	}
	return be.AppendUint16(b, et)
}

func pad(b []byte) []byte {
	for len(b) < minFrame {
		b = append(b, 0)
	}
	return b
}

// Announcement is an address at which the guest is known.
type Announcement struct {
	MAC MAC
	// IP is invalid for a guest that is known by its MAC only.
	IP netip.Addr
	// Tags are the VLAN identifiers under which it is known, outermost first.
	Tags []uint16
}

// Announce returns the frames that tell the network where the guest is now:
// one RARP for each MAC and VLAN, then gratuitous ARP and unsolicited neighbour
// advertisements for its addresses.
func Announce(addrs []Announcement) [][]byte {
	var out, ips [][]byte
	seen := make(map[string]bool)
	for _, a := range addrs {
		rarp := RARP(a.MAC, a.Tags...)
		if !seen[string(rarp)] {
			seen[string(rarp)] = true
			out = append(out, rarp)
		}
		switch {
		case a.IP.Is4():
			ips = append(ips, GratuitousARP(a.MAC, a.IP, a.Tags...)...)
		case a.IP.Is6() && !a.IP.Is4In6():
			ips = append(ips, UnsolicitedNA(a.MAC, a.IP, a.Tags...))
		}
	}
	return append(out, ips...)
}

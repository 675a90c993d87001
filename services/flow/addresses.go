package flow

import (
	"slices"

	"github.com/understudy-ft/understudy/services/packet"
)

// addressBook holds the addresses at which the guest is known, learnt from its
// frames. What it says of itself in ARP and neighbour discovery counts; the
// source addresses of its datagrams count only for a MAC and family of which
// nothing better is known, because a guest that routes sends datagrams of
// others, and announcing those would hijack them.
type addressBook struct {
	own, seen addressRing
	last      address // the last one looked up
}

// addressRing holds distinct addresses; a new one takes the place of the oldest.
type addressRing struct {
	known []address
	next  int
}

func (r *addressRing) add(a address, limit int) {
	switch {
	case slices.Contains(r.known, a):
	case len(r.known) < limit:
		r.known = append(r.known, a)
	default:
		r.next %= len(r.known)
		r.known[r.next] = a
		r.next++
	}
}

type address struct {
	mac     packet.MAC
	version uint8 // 0: the MAC alone
	own     bool  // said by the guest of itself
	ip      [16]byte
	vlans   uint64
}

func (b *addressBook) learn(p *packet.Packet, limit int) {
	if p.Form == packet.Malformed {
		return
	}
	a := address{mac: p.SrcMAC(), vlans: vlanKey(p)}
	if a.mac[0]&1 != 0 || a.mac == (packet.MAC{}) {
		return
	}
	switch {
	case p.Form == packet.ARP:
		if p.Sender != a.mac {
			return
		}
		a.version, a.own = 4, true
		copy(a.ip[:], p.SenderIP[:])
	case p.Version == 0:
	default:
		a.version, a.ip = p.Version, p.Src
		if p.Form == packet.ICMPv6 && p.TTL == 255 {
			switch p.Type {
			case packet.ICMPv6NA:
				if target, ok := p.NDTarget(); ok {
					a.ip, a.own = target, true
				}
			case packet.ICMPv6NS:
				a.own = true
			}
		}
	}
	if a == b.last {
		return
	}
	b.last = a
	if a.version != 0 {
		ip := packet.Addr(a.version, a.ip)
		if !ip.IsGlobalUnicast() && !ip.IsLinkLocalUnicast() {
			a.version, a.own, a.ip = 0, false, [16]byte{}
		}
	}
	if a.own {
		b.own.add(a, limit)
	} else {
		b.seen.add(a, limit)
	}
}

// Addresses returns the addresses at which the guest is known, for
// packet.Announce.
func (t *Table) Addresses() []packet.Announcement {
	var out []packet.Announcement
	known := slices.Concat(t.addresses.own.known, t.addresses.seen.known)
	for _, a := range known {
		better := func(c address) bool {
			return c.mac == a.mac && c.vlans == a.vlans &&
				(a.version == 0 && c.version != 0 || c.version == a.version && c.own && !a.own)
		}
		if !slices.ContainsFunc(known, better) {
			out = append(out, packet.Announcement{
				MAC: a.mac, IP: packet.Addr(a.version, a.ip), Tags: vlanTags(a.vlans),
			})
		}
	}
	return out
}

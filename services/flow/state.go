package flow

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
)

// ErrState is returned by Load for a state that is of another version or that
// contradicts itself.
var ErrState = errors.New("invalid flow state")

const stateVersion = 1

// offsetMax bounds offsets in a saved state, far from overflow.
const offsetMax = 1 << 62

var origins = map[byte]understudyv1.StreamOrigin{
	openedByPeer:  understudyv1.StreamOrigin_STREAM_ORIGIN_PEER,
	openedByGuest: understudyv1.StreamOrigin_STREAM_ORIGIN_GUEST,
	pickedUp:      understudyv1.StreamOrigin_STREAM_ORIGIN_PICKED_UP,
}

// Save returns the connections and addresses that the table knows, and the
// rules, for the epoch that begins now: just before or just after NewEpoch.
// Digests and datagram counts are not part of it: they restart with the epoch.
func (t *Table) Save() []byte {
	st := &understudyv1.FlowTableState{Version: stateVersion, Seed: t.seed, Generation: t.nextGeneration(), Rules: t.nextRules.Texts()}
	for i := range t.lists {
		for s := t.lists[i].first; s != nil; s = s.after {
			st.Streams = append(st.Streams, t.saveStream(s))
		}
	}
	for _, r := range []addressRing{t.addresses.own, t.addresses.seen} {
		for i := range r.known {
			a := r.known[(r.next+i)%len(r.known)]
			st.Addresses = append(st.Addresses, &understudyv1.GuestAddress{
				Mac: a.mac[:], Ip: saveIP(a.version, a.ip), Vlans: saveVLANs(a.vlans), Own: a.own,
			})
		}
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(st)
	if err != nil {
		panic(fmt.Sprintf("flow: marshal own state: %v", err)) // no field can fail
	}
	return b
}

func (t *Table) saveStream(s *stream) *understudyv1.StreamState {
	return &understudyv1.StreamState{
		GuestIp: saveIP(s.key.version, s.key.src), PeerIp: saveIP(s.key.version, s.key.dst),
		GuestPort: uint32(s.key.sport), PeerPort: uint32(s.key.dport), Vlans: saveVLANs(s.key.vlans),
		Id: uint64(s.id), Origin: origins[s.origin], Incarnation: s.incarnation,
		Replaced: t.tuples[s.key] != s, Reset_: s.reset,
		Iss: s.iss, Irs: s.irs, IrsKnown: s.irsKnown,
		Next: s.next, Acked: s.acked, AckNext: s.ackNext, Fin: s.fin, PeerFin: s.peerFIN,
		OwnScale: uint32(s.ownScale), Scale: uint32(s.scale), Syn: s.syn[:],
		OutsideIss: s.outISS, Pinned: s.pinned, TimestampDelta: s.tsDelta,
		SynTimestamp: s.synTS, SynHasTimestamp: s.synHasTS,
		LastTimestamp: s.tsLast, TimestampSeen: s.tsSeen,
		Echo: s.echo, EchoSeen: s.echoSeen, EdgeSpoken: s.edgeSpoken,
	}
}

// Load replaces all that the table knows by a saved state and begins a new
// epoch. Limits and counters stay. When it returns an error, which
// wraps ErrState, the table is as it was.
func (t *Table) Load(state []byte) error {
	st := &understudyv1.FlowTableState{}
	if err := proto.Unmarshal(state, st); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if st.Version != stateVersion {
		return fmt.Errorf("%w: version %d, want %d", ErrState, st.Version, stateVersion)
	}
	rules, err := ParseRules(st.Rules)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	n := &Table{
		seed: st.Seed, generation: st.Generation, limits: t.limits, digests: t.digests, counters: t.counters,
		rules: rules, nextRules: rules,
	}
	n.clear()
	n.pool.limit = t.pool.limit
	for i, m := range st.Streams {
		s, err := loadStream(m)
		if err != nil {
			return fmt.Errorf("%w: stream %d: %w", ErrState, i, err)
		}
		if n.streams[s.id] != nil {
			return fmt.Errorf("%w: stream %d: second of its identity", ErrState, i)
		}
		if !m.Replaced && n.tuples[s.key] != nil {
			return fmt.Errorf("%w: stream %d: second of its ports", ErrState, i)
		}
		for len(n.streams) >= n.limits.Streams {
			n.evict()
		}
		n.streams[s.id] = s
		if !m.Replaced {
			n.tuples[s.key] = s
		}
		s.action = n.rules.action(&s.key)
		push(&n.lists[closed], s)
		s.phase = closed
		if !m.Replaced {
			n.settle(s)
		}
	}
	for i, m := range st.Addresses {
		a := address{own: m.Own}
		var err error
		if a.vlans, err = loadVLANs(m.Vlans); err != nil {
			return fmt.Errorf("%w: address %d: %w", ErrState, i, err)
		}
		if len(m.Mac) != len(a.mac) {
			return fmt.Errorf("%w: address %d: MAC of %d bytes", ErrState, i, len(m.Mac))
		}
		a.mac = packet.MAC(m.Mac)
		if len(m.Ip) > 0 {
			if a.version, a.ip, err = loadIP(m.Ip); err != nil {
				return fmt.Errorf("%w: address %d: %w", ErrState, i, err)
			}
		}
		if a.own {
			n.addresses.own.add(a, n.limits.Addresses)
		} else {
			n.addresses.seen.add(a, n.limits.Addresses)
		}
	}
	*t = *n
	return nil
}

func loadStream(m *understudyv1.StreamState) (*stream, error) {
	s := &stream{
		id: ID(m.Id), incarnation: m.Incarnation, reset: m.Reset_,
		iss: m.Iss, irs: m.Irs, irsKnown: m.IrsKnown,
		next: m.Next, acked: m.Acked, ackNext: m.AckNext, fin: m.Fin, peerFIN: m.PeerFin,
		ownScale: uint8(m.OwnScale), scale: uint8(m.Scale),
		translation: translation{
			outISS: m.OutsideIss, pinned: m.Pinned, tsDelta: m.TimestampDelta,
			synTS: m.SynTimestamp, synHasTS: m.SynHasTimestamp,
			tsLast: m.LastTimestamp, tsSeen: m.TimestampSeen,
			echo: m.Echo, echoSeen: m.EchoSeen, edgeSpoken: m.EdgeSpoken,
		},
	}
	for o, v := range origins {
		if v == m.Origin {
			s.origin = o
		}
	}
	var version uint8
	var err error
	if s.key.version, s.key.src, err = loadIP(m.GuestIp); err != nil {
		return nil, err
	}
	if version, s.key.dst, err = loadIP(m.PeerIp); err != nil {
		return nil, err
	}
	if s.key.vlans, err = loadVLANs(m.Vlans); err != nil {
		return nil, err
	}
	s.key.class, s.key.proto = classTCP, packet.ProtoTCP
	s.key.sport, s.key.dport = uint16(m.GuestPort), uint16(m.PeerPort)
	copy(s.syn[:], m.Syn)
	switch {
	case version != s.key.version:
		return nil, errors.New("addresses of two IP versions")
	case m.GuestPort > 0xffff || m.PeerPort > 0xffff:
		return nil, fmt.Errorf("ports %d and %d", m.GuestPort, m.PeerPort)
	case s.id == 0 || s.origin == 0:
		return nil, errors.New("no identity or origin")
	case len(m.Syn) != len(s.syn):
		return nil, fmt.Errorf("SYN record of %d bytes", len(m.Syn))
	case m.OwnScale > 14 || m.Scale > 14:
		return nil, fmt.Errorf("window scales %d and %d", m.OwnScale, m.Scale)
	case m.Next > offsetMax || m.AckNext > offsetMax || m.PeerFin > offsetMax:
		return nil, errors.New("offset out of range")
	case m.Acked > m.Next || m.Fin > m.Next:
		return nil, errors.New("acknowledgement or FIN beyond what was sent")
	}
	return s, nil
}

func saveIP(version uint8, a [16]byte) []byte {
	switch version {
	case 4:
		return a[:4]
	case 6:
		return a[:]
	}
	return nil
}

func loadIP(b []byte) (version uint8, a [16]byte, err error) {
	switch len(b) {
	case 4:
		version = 4
	case 16:
		version = 6
	default:
		return 0, a, fmt.Errorf("IP address of %d bytes", len(b))
	}
	copy(a[:], b)
	return version, a, nil
}

func saveVLANs(v uint64) (tags []uint32) {
	for _, tag := range vlanTags(v) {
		tags = append(tags, uint32(tag))
	}
	return tags
}

func loadVLANs(tags []uint32) (v uint64, err error) {
	if len(tags) > packet.MaxTags {
		return 0, fmt.Errorf("%d VLAN tags", len(tags))
	}
	for _, tag := range tags {
		if tag > 0xfff {
			return 0, fmt.Errorf("VLAN identifier %d", tag)
		}
		v = v<<16 | uint64(tag+1)
	}
	return v, nil
}

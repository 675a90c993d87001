package flow

import (
	"github.com/zeebo/xxh3"

	"github.com/understudy-ft/understudy/services/packet"
)

// open returns the connection that a SYN of the guest belongs to. old is the
// latest connection of the tuple, or nil.
func (t *Table) open(p *packet.Packet, k *key, old *stream) *stream {
	s := &stream{key: *k, iss: p.Seq, phase: embryonic}
	if p.Flags&packet.ACK != 0 {
		s.origin = openedByPeer
		s.irs, s.irsKnown = p.Ack-1, true
		if p.HasScale {
			s.scale = min(p.WindowScale, 14)
		}
		if old != nil && old.phase != closed && old.iss == p.Seq && old.origin != pickedUp &&
			(!old.irsKnown || old.irs == s.irs) {
			return old // said again, or a simultaneous open
		}
		if old != nil && old.origin == openedByPeer && old.irs == s.irs {
			if old.next <= 1 {
				// The guest forgot the request and answers its repetition:
				// the same connection to the peer.
				old.iss = p.Seq
				t.announce(old, p)
				return old
			}
			s.incarnation = old.incarnation + 1
		}
		for {
			s.id = t.id(k, s.origin, uint64(s.irs)<<32|uint64(s.incarnation))
			if t.streams[s.id] == nil {
				break
			}
			s.incarnation++
		}
	} else {
		if old != nil && old.origin == openedByGuest && old.phase != closed && old.iss == p.Seq {
			return old
		}
		s.origin = openedByGuest
		s.id = t.id(k, s.origin, t.generation<<32|uint64(t.countOpening(k)))
	}
	if p.HasScale {
		s.ownScale = min(p.WindowScale, 14)
	}
	t.add(s)
	t.announce(s, p)
	return s
}

// openingsMax bounds the tuples whose openings are counted in an epoch.
const openingsMax = 1 << 17

// countOpening counts the openings by the guest of one tuple in this epoch,
// whether or not their connections are still known: an ID must not come back
// while the arbiter remembers it.
func (t *Table) countOpening(k *key) uint32 {
	h := xxh3.Hash(k.append(t.scratch[:0]))
	if len(t.openings) >= openingsMax {
		clear(t.openings)
	}
	t.openings[h]++
	return t.openings[h]
}

// pickUp returns a new stream for a connection whose opening was not seen.
func (t *Table) pickUp(p *packet.Packet, k *key) *stream {
	s := &stream{key: *k, origin: pickedUp, phase: open, next: 1<<32 | uint64(p.Seq)}
	s.gapHi = s.next
	s.id = t.id(k, s.origin, 0)
	t.add(s)
	return s
}

func (t *Table) add(s *stream) {
	if old := t.streams[s.id]; old != nil {
		t.drop(old)
	}
	for len(t.streams) >= t.limits.Streams {
		t.evict()
	}
	s.action = t.rules.action(&s.key)
	if old := t.tuples[s.key]; old != nil && old.phase != closed {
		remove(&t.lists[old.phase], old)
		old.phase = closed // replaced
		push(&t.lists[closed], old)
	}
	t.tuples[s.key] = s
	t.streams[s.id] = s
	push(&t.lists[s.phase], s)
}

func (t *Table) evict() {
	for i := range t.lists {
		if s := t.lists[i].first; s != nil {
			if phase(i) != closed {
				t.counters.StreamsEvicted++
			}
			t.drop(s)
			return
		}
	}
}

func (t *Table) drop(s *stream) {
	t.dropTail(s)
	remove(&t.lists[s.phase], s)
	delete(t.streams, s.id)
	if t.tuples[s.key] == s {
		delete(t.tuples, s.key)
	}
}

// settle notes that s was used and puts it where its phase says.
func (t *Table) settle(s *stream) {
	was := s.phase
	switch {
	case s.reset, s.fin != 0 && s.acked > s.fin && s.peerFIN != 0 && s.ackNext > s.peerFIN:
		s.phase = closed
	case s.acked == 0 && s.origin != pickedUp:
		s.phase = embryonic
	default:
		s.phase = open
	}
	if was == s.phase && s.after == nil {
		return // it is the last of its list already
	}
	remove(&t.lists[was], s)
	push(&t.lists[s.phase], s)
}

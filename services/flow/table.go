package flow

import (
	"github.com/zeebo/xxh3"

	"github.com/understudy-ft/understudy/services/packet"
)

// Limits bounds what a Table keeps.
type Limits struct {
	// Streams and Datagrams are the numbers of TCP connections and of other
	// flows that are known at once.
	Streams, Datagrams int
	// HeldPerStream and Held bound the bytes kept for probes, of one
	// connection and of all together. A connection beyond forgets its oldest.
	HeldPerStream, Held int
	// Addresses bounds the guest addresses learnt.
	Addresses int
}

// DefaultLimits are the limits of a new Table. They hold it under some 150 MiB
// at worst: a connection takes 0.4 KiB, 2.4 KiB more once it has sent in the
// epoch, and the bytes held for it.
var DefaultLimits = Limits{
	Streams:       16384,
	Datagrams:     16384,
	HeldPerStream: 4 << 20,
	Held:          64 << 20,
	Addresses:     64,
}

// Counters tell what a Table gave up and met, since it was made.
type Counters struct {
	// StreamsEvicted counts connections forgotten that were not closed.
	StreamsEvicted uint64
	// DatagramsEvicted counts other flows forgotten within an epoch.
	DatagramsEvicted uint64
	// HeldDropped counts the times that held bytes were dropped unconfirmed.
	HeldDropped uint64
	// Gaps counts gaps in what the guest sent, Odd the segments of "tcp-odd".
	Gaps, Odd uint64
}

// Table knows the flows of one copy of a guest. It is not safe for use by
// several goroutines.
type Table struct {
	seed     uint64
	limits   Limits
	digests  bool
	counters Counters

	// rules are those of the epoch, nextRules those of the next.
	rules, nextRules *Rules

	tuples    map[key]*stream // the latest connection of each tuple
	streams   map[ID]*stream
	lists     [3]list[stream] // by lifecycle
	datagrams map[key]*datagrams
	recent    list[datagrams]
	passed    [classes]bool // named in this epoch

	// generation counts the epochs in which the guest opened connections;
	// both copies have the same.
	generation uint64
	openings   map[uint64]uint32 // by the guest in this epoch, by hash of tuple

	// Openings learnt for connections that the guest has not opened yet, in a
	// ring in order of arrival.
	learnt     map[ID]Opening
	learntRing []ID
	learntNext int

	opening    Opening
	hasOpening bool

	pool      bufferPool
	addresses addressBook

	parsed  packet.Packet
	hash    xxh3.Hasher128
	scratch [256]byte
}

// NewTable returns an empty table in its first epoch. seed keys the flow IDs;
// both copies must have the same, and Load takes over that of the saved state.
func NewTable(seed uint64) *Table {
	t := &Table{seed: seed, digests: true}
	t.clear()
	t.SetLimits(DefaultLimits)
	return t
}

func (t *Table) clear() {
	t.tuples = make(map[key]*stream)
	t.streams = make(map[ID]*stream)
	for i := range t.lists {
		t.lists[i] = list[stream]{}
	}
	t.datagrams = make(map[key]*datagrams)
	t.recent = list[datagrams]{}
	t.openings = make(map[uint64]uint32)
	t.learnt = make(map[ID]Opening)
	t.learntRing, t.learntNext = nil, 0
	t.hasOpening = false
	t.pool.reset()
}

// SetLimits changes the limits. Each must be at least 1. What is beyond them
// goes when room is needed next.
func (t *Table) SetLimits(l Limits) {
	t.limits = l
	t.pool.limit = l.Held
}

// SetRules sets what is done with which flows from the next epoch on: the one
// that the next NewEpoch begins, and whose state Save returns, so that both
// copies change at one point. Not between the two.
func (t *Table) SetRules(rs *Rules) { t.nextRules = rs }

// Rules returns the rules of the present epoch.
func (t *Table) Rules() *Rules { return t.rules }

// SetDigests turns digests and the keeping of bytes on or off: a replica alone
// needs neither. Turned on, they are right from the next NewEpoch on.
func (t *Table) SetDigests(on bool) { t.digests = on }

// Counters returns the counters.
func (t *Table) Counters() Counters { return t.counters }

// NewEpoch restarts digests and datagram counts, and forgets Openings of
// connections that the guest did not open. Stream offsets go on.
func (t *Table) NewEpoch() {
	changed := t.rules != t.nextRules
	t.rules = t.nextRules
	for i := range t.lists {
		for s := t.lists[i].first; s != nil; s = s.after {
			s.newEpoch(t)
			if changed {
				s.action = t.rules.action(&s.key)
			}
		}
	}
	clear(t.datagrams)
	t.recent = list[datagrams]{}
	t.passed = [classes]bool{}
	t.generation = t.nextGeneration()
	clear(t.openings)
	clear(t.learnt)
	t.learntRing, t.learntNext = t.learntRing[:0], 0
}

func (t *Table) nextGeneration() uint64 {
	if len(t.openings) > 0 {
		return t.generation + 1
	}
	return t.generation
}

// Out describes a frame that the guest transmitted. It keeps no reference to
// frame.
func (t *Table) Out(frame []byte) Output {
	p := &t.parsed
	p.Parse(frame)
	t.hasOpening = false
	t.addresses.learn(p, t.limits.Addresses)
	switch p.Form {
	case packet.ARP:
		return t.pass(classARP)
	case packet.Link:
		if isChatter(p.EtherType) {
			return t.pass(classLink)
		}
		return t.raw(p)
	case packet.Malformed:
		return t.raw(p)
	}
	if p.Fragment {
		return t.fragment(p)
	}
	switch p.Form {
	case packet.TCP:
		return t.segment(p)
	case packet.UDP:
		return t.datagram(p, outKey(p, classUDP), 6)
	case packet.ICMP, packet.ICMPv6:
		return t.icmp(p)
	}
	if p.Proto == packet.ProtoIGMP && p.Version == 4 {
		return t.pass(classIGMP)
	}
	return t.datagram(p, outKey(p, classIP), -1)
}

// isChatter tells whether an EtherType belongs to link protocols between
// neighbours. Frames of other EtherTypes may carry somebody's data and are
// compared.
func isChatter(et uint16) bool {
	switch et {
	case packet.EtherARP, packet.EtherRARP, packet.EtherLLDP, packet.EtherEAPOL,
		packet.EtherSlow, packet.EtherPause, packet.EtherLoop:
		return true
	}
	return et <= packet.EtherLLCMax
}

func (t *Table) pass(c class) Output {
	k := key{class: c}
	o := Output{Kind: Pass, Flow: t.id(&k, datagramFlow, 0)}
	if !t.passed[c] {
		t.passed[c] = true
		o.Name = k.name()
	}
	return o
}

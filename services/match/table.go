package match

import (
	"time"

	"github.com/understudy-ft/understudy/services/flow"
)

// mark says when a side made something: after which input, and when the
// report came.
type mark struct {
	after uint64
	at    time.Duration
}

// point is a cumulative digest of a stream at an offset, or the digest of the
// datagram or event with that index.
type point struct {
	end    uint64
	digest flow.Digest
	mark
}

// pending is an output of the active that was not released yet.
type pending struct {
	id        uint64
	end       uint64
	ack, edge uint64
	digest    flow.Digest
	flags     flow.Flags
	// opens: a mere window update, which opens the window further than before.
	opens bool
	mark
}

// half is what one side has made in a flow.
type half struct {
	// points of a stream lie above the agreed offset, ascending. Of a sequence
	// only the standby's are kept here: those without a counterpart.
	points queue[point]
	// top is the highest end that was reported with a digest.
	top uint64
	// ack and edge are the highest that were reported; valid with acked.
	ack, edge uint64
	acked     bool
	// rst: an RST was sent, at rstMark.
	rst     bool
	rstMark mark
}

// state is what is known about a flow.
type state struct {
	id   flow.ID
	kind flow.Kind
	name string

	// agreed: all bytes of the stream below it are equal in both copies.
	agreed  uint64
	halves  [2]half
	pending queue[pending]
	// probed is the offset of the probe under way; 0: none.
	probed uint64
	// sentAck and sentEdge are the highest that were released.
	sentAck, sentEdge uint64

	// slot is the index in table.busy, or -1 in the list of flows at rest.
	slot       int
	prev, next *state
}

// nameMax bounds the kept length of a flow's name, in bytes.
const nameMax = 120

func (f *state) setName(s string) {
	if len(s) > nameMax {
		s = s[:nameMax]
	}
	if f.name != s {
		f.name = s
	}
}

// busy tells whether anything in the flow has no counterpart yet.
func (f *state) busy() bool {
	return f.pending.len() > 0 || f.halves[Active].points.len() > 0 || f.halves[Standby].points.len() > 0 ||
		f.halves[Standby].rst && !f.halves[Active].rst
}

// oldestOfStandby returns what the standby has made longest ago and the active
// has not: an RST, or what ends at an offset or number.
func (f *state) oldestOfStandby() (end uint64, m mark, ok bool) {
	h, top := &f.halves[Standby], f.halves[Active].top
	if f.kind != flow.Stream {
		top = 0 // of a sequence only the unmatched are kept
	}
	if i := search(&h.points, top+1); i < h.points.len() {
		p := h.points.at(i)
		end, m, ok = p.end, p.mark, true
	}
	if h.rst && !f.halves[Active].rst && (!ok || h.rstMark.at < m.at) {
		end, m, ok = 0, h.rstMark, true
	}
	return end, m, ok
}

// describeOldest says what a side has made longest ago and the other has not.
func (f *state) describeOldest(of Side) string {
	if of == Active {
		return f.describe(f.pending.at(0))
	}
	if end, _, _ := f.oldestOfStandby(); end > 0 {
		return "what ends at " + utoa(end)
	}
	return "an RST"
}

// describe says what of p, an output of the active, the standby lacks.
func (f *state) describe(p *pending) string {
	standby := &f.halves[Standby]
	switch {
	case f.kind != flow.Stream:
		return "number " + utoa(p.end)
	case p.flags&flow.RST != 0 && !standby.rst:
		return "an RST"
	case p.flags&flow.ACK != 0 && (!standby.acked || p.ack > standby.ack) && (p.digest.IsZero() || p.end <= f.agreed):
		return "an acknowledgement of " + utoa(p.ack)
	case p.digest.IsZero() || p.end <= f.agreed:
		return "an opening of its window to " + utoa(p.edge)
	}
	return "bytes up to offset " + utoa(p.end)
}

// search returns the index of the first point whose end is not below end.
func search(q *queue[point], end uint64) int {
	lo, hi := 0, q.len()
	for lo < hi {
		if mid := (lo + hi) / 2; q.at(mid).end < end {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo
}

// table holds the flows: those with something unmatched in busy, the others in
// a list by last use.
type table struct {
	max  int
	byID map[flow.ID]*state
	last *state // found last; nil: none
	busy []*state
	// rest is the ring of flows at rest, oldest first; the sentinel itself is
	// no flow.
	rest *state
	free *state // linked by next
}

func newTable(max int) table {
	rest := &state{}
	rest.prev, rest.next = rest, rest
	return table{max: max, byID: make(map[flow.ID]*state), rest: rest}
}

func (t *table) find(id flow.ID) *state {
	if t.last == nil || t.last.id != id {
		t.last = t.byID[id]
	}
	return t.last
}

// add returns a new flow, or nil where none can be forgotten for it.
func (t *table) add(id flow.ID, kind flow.Kind) *state {
	if len(t.byID) >= t.max {
		if t.rest.next == t.rest {
			return nil
		}
		t.forget(t.rest.next)
	}
	f := t.free
	if f != nil {
		t.free, f.next = f.next, nil
	} else {
		f = &state{}
	}
	f.id, f.kind = id, kind
	t.byID[id] = f
	f.slot = -1
	t.link(f, t.rest.prev)
	return f
}

// place moves f to the list where its state belongs. A flow at rest becomes
// the last used; a closed one the first to be forgotten.
func (t *table) place(f *state) {
	switch busy := f.busy(); {
	case busy && f.slot < 0:
		f.unlink()
		f.slot = len(t.busy)
		t.busy = append(t.busy, f)
	case !busy:
		t.retire(f)
		after := t.rest.prev
		if f.halves[Active].rst {
			after = t.rest
		}
		t.link(f, after)
	}
}

// retire takes f out of whichever list it is in.
func (t *table) retire(f *state) {
	if f.slot < 0 {
		f.unlink()
		return
	}
	last := len(t.busy) - 1
	t.busy[f.slot] = t.busy[last]
	t.busy[f.slot].slot = f.slot
	t.busy[last] = nil
	t.busy = t.busy[:last]
	f.slot = -1
}

func (t *table) link(f, after *state) {
	f.prev, f.next = after, after.next
	f.prev.next, f.next.prev = f, f
}

func (f *state) unlink() {
	f.prev.next, f.next.prev = f.next, f.prev
	f.prev, f.next = nil, nil
}

// forget drops a flow at rest.
func (t *table) forget(f *state) {
	delete(t.byID, f.id)
	t.last = nil
	f.unlink()
	f.wipe()
	f.next, t.free = t.free, f
}

// wipe makes f a new flow and keeps the room of its queues.
func (f *state) wipe() {
	a, s, p := f.halves[Active].points, f.halves[Standby].points, f.pending
	a.clear()
	s.clear()
	p.clear()
	*f = state{pending: p, slot: -1}
	f.halves[Active].points, f.halves[Standby].points = a, s
}

// rebase takes all flows over into a new epoch (see the package comment).
func (t *table) rebase() {
	for len(t.busy) > 0 {
		f := t.busy[len(t.busy)-1]
		t.retire(f)
		t.link(f, t.rest.prev)
	}
	for f := t.rest.next; f != t.rest; {
		next := f.next
		if f.kind != flow.Stream || f.halves[Active].rst {
			t.forget(f)
		} else {
			f.rebase()
		}
		f = next
	}
}

func (f *state) rebase() {
	old := f.halves[Active]
	id, kind, name, agreed := f.id, f.kind, f.name, max(f.agreed, old.top)
	prev, next := f.prev, f.next
	f.wipe()
	f.id, f.kind, f.name, f.agreed = id, kind, name, agreed
	f.prev, f.next = prev, next
	for i := range f.halves {
		h := &f.halves[i]
		h.top = agreed
		h.ack, h.edge, h.acked = old.ack, old.edge, old.acked
	}
	f.sentAck, f.sentEdge = old.ack, old.edge
}

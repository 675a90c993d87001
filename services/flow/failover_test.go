package flow

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

// heldFrame is an output that waits.
type heldFrame struct {
	Output
	frame []byte
}

// host is one copy of the guest with its table.
type host struct {
	guest *endpoint
	table *Table
	held  []heldFrame
	marks Marks
	top   uint64 // what was reported
	ack   uint64
	edge  uint64
}

// pair is a guest in two copies, their links, and the peer of the guest's only
// connection.
type pair struct {
	t               *rapid.T
	clock           uint32
	lag             [2]uint32
	active, standby *host
	peer            *endpoint
	solo            bool
	loss            int  // of 100 frames
	together        bool // all timers run out together
	opening         *Opening
}

func newPair(t *rapid.T, guestOpens bool) *pair {
	w := &pair{t: t, clock: 1000}
	g, p := guest4, peer4
	if rapid.Bool().Draw(t, "v6") {
		g, p = guest6, peer6
	}
	echoBy := rapid.Bool().Draw(t, "guest echoes")
	mk := func(name string, i int) *endpoint {
		e := &endpoint{
			t: t, name: name, local: g, remote: p, guest: i < 2, isn: isns.Draw(t, name+" ISN"),
			scale: 7, window: rapid.Uint16Range(1000, 60000).Draw(t, name+" window"),
			tsBase: rapid.Uint32().Draw(t, name+" timestamps"), ahead: map[uint64][]byte{},
			echo: (i < 2) == echoBy,
		}
		e.now = func() uint32 {
			if i < 2 {
				return w.clock - w.lag[i]
			}
			return w.clock
		}
		return e
	}
	w.lag[0], w.lag[1] = rapid.Uint32Range(0, 90).Draw(t, "lag"), rapid.Uint32Range(0, 90).Draw(t, "lag")
	a, b := mk("first", 0), mk("second", 1)
	w.peer = mk("peer", 2)
	w.peer.local, w.peer.remote = p, g
	w.active = &host{guest: a, table: NewTable(3)}
	w.standby = &host{guest: b, table: NewTable(3)}
	if guestOpens {
		a.open()
		b.open()
	} else {
		w.peer.open()
	}
	return w
}

// collect takes what a guest has sent.
func (w *pair) collect(h *host) {
	for _, f := range h.guest.take() {
		o := h.table.Out(f)
		if opening, ok := h.table.Opened(); ok && h == w.active {
			w.opening = &opening
		}
		if o.Kind != Stream {
			p := parse(w.t, f)
			w.t.Fatalf("%s: %+v of %+v, stream %+v", h.guest.name, o, p, h.table.tuples[outKey(&p, classTCP)])
		}
		if !o.Digest.IsZero() {
			h.top = o.End
		}
		if o.Flags&ACK != 0 {
			h.ack, h.edge = max(h.ack, o.Ack), max(h.edge, o.Edge)
		}
		h.held = append(h.held, heldFrame{o, f})
	}
}

// settle moves outputs until none can leave: those of the active that the
// standby has made, too, go to the peer.
func (w *pair) settle() {
	w.collect(w.active)
	if w.solo {
		for _, h := range w.active.held {
			w.emit(h, 0)
		}
		w.active.held = nil
		return
	}
	w.collect(w.standby)
	if w.opening != nil && rapid.Bool().Draw(w.t, "opening goes now") {
		w.learn()
	}
	a, b := w.active, w.standby
	for len(a.held) > 0 {
		h := a.held[0]
		if b.table.AwaitsOpening(h.Flow) || h.End > b.top && !h.Digest.IsZero() || h.Flags&ACK != 0 && h.Ack > b.ack {
			break
		}
		if !h.Digest.IsZero() {
			if d, ok := b.table.DigestAt(h.Flow, h.End); !ok || d != h.Digest {
				w.t.Fatalf("at %d: %x, standby %x %v", h.End, h.Digest, d, ok)
			}
		}
		a.held = a.held[1:]
		max := uint64(0)
		if h.Flags&ACK != 0 && h.Edge > b.edge {
			max = b.edge
		}
		w.emit(h, max)
		a.marks.Emitted(h.Output)
		a.table.Confirm(h.Flow, h.End)
	}
	for _, m := range a.marks.Take(nil) {
		b.marks.Merge(m)
		b.table.Confirm(m.Flow, m.End)
	}
	kept := b.held[:0]
	for _, h := range b.held {
		if !b.marks.Covers(h.Output) {
			kept = append(kept, h)
		}
	}
	b.held = kept
}

func (w *pair) learn() {
	if w.opening != nil && !w.solo {
		w.standby.table.Learn(*w.opening)
		w.opening = nil
	}
}

func (w *pair) emit(h heldFrame, edgeMax uint64) {
	f := w.active.table.EmitFlow(h.Flow, bytes.Clone(h.frame), edgeMax)
	if edgeMax != 0 {
		p := parse(w.t, f)
		if s := w.active.table.streams[h.Flow]; s.edge(&p, h.Ack) > max(edgeMax, s.edgeSpoken) {
			w.t.Fatalf("window to %d, allowed %d", s.edge(&p, h.Ack), edgeMax)
		}
	}
	if rapid.IntRange(0, 99).Draw(w.t, "loss") >= w.loss {
		w.peer.receive(f)
	}
}

// deliver gives what the peer has sent to both copies, except for lost frames.
func (w *pair) deliver() {
	for _, f := range w.peer.take() {
		if rapid.IntRange(0, 99).Draw(w.t, "loss") < w.loss {
			continue
		}
		w.learn()
		w.active.guest.receive(w.active.table.In(bytes.Clone(f)))
		if !w.solo {
			w.standby.guest.receive(w.standby.table.In(bytes.Clone(f)))
		}
	}
}

// resync copies the active to the standby.
func (w *pair) resync() {
	w.collect(w.active)
	for _, h := range w.active.held {
		w.emit(h, 0) // staged: the standby has made them now
	}
	w.active.held = nil
	w.active.table.NewEpoch()
	n := &host{guest: w.active.guest.clone(), table: NewTable(0), top: w.active.top, ack: w.active.ack, edge: w.active.edge}
	n.guest.name += "'"
	if err := n.table.Load(w.active.table.Save()); err != nil {
		w.t.Fatal(err)
	}
	w.active.marks.Reset()
	w.standby, w.opening, w.solo = n, nil, false
}

// failOver makes the standby active: it emits what it holds.
func (w *pair) failOver() {
	w.collect(w.standby)
	w.active, w.standby, w.solo, w.opening = w.standby, nil, true, nil
	w.settle()
}

func (w *pair) timeouts() {
	for _, e := range []*endpoint{w.peer, w.active.guest} {
		if w.together || rapid.Bool().Draw(w.t, "timer") {
			e.timeout()
		}
	}
	if !w.solo && (w.together || rapid.Bool().Draw(w.t, "timer")) {
		w.standby.guest.timeout()
	}
}

// A peer sees one consistent connection through resynchronizations, fail-overs
// and losses, though each copy has its own ISN, timestamps, clock, windows and
// segments.
func TestConnectionSurvives(t *testing.T) {
	for _, guestOpens := range []bool{false, true} {
		name := map[bool]string{false: "peer opens", true: "guest opens"}[guestOpens]
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { survive(t, guestOpens) })
		})
	}
}

func survive(t *rapid.T, guestOpens bool) {
	w := newPair(t, guestOpens)
	w.loss = rapid.SampledFrom([]int{0, 10, 30}).Draw(t, "loss")
	data := rapid.SliceOfN(rapid.Byte(), 1, 400).Draw(t, "data")
	data = bytes.Repeat(data, rapid.IntRange(1, 12).Draw(t, "times"))
	sender := w.peer
	if w.peer.echo {
		sender = nil
	}
	sent := 0
	say := func(n int) {
		n = min(n, len(data)-sent)
		chunk := data[sent : sent+n]
		sent += n
		say := func(e *endpoint) {
			e.app = append(e.app, chunk...)
			if e.synced && e.una > 0 {
				e.push()
			}
		}
		if sender != nil {
			say(sender)
			return
		}
		say(w.active.guest)
		if !w.solo {
			say(w.standby.guest)
		}
	}
	for range rapid.IntRange(5, 60).Draw(t, "steps") {
		w.clock += rapid.Uint32Range(0, 20).Draw(t, "time")
		switch rapid.SampledFrom([]string{"say", "say", "deliver", "deliver", "settle", "settle", "timeout", "resync", "fail over"}).Draw(t, "what") {
		case "say":
			say(rapid.IntRange(0, 700).Draw(t, "size"))
		case "deliver":
			w.deliver()
		case "settle":
			w.settle()
		case "timeout":
			w.timeouts()
		case "resync":
			w.resync()
		case "fail over":
			if !w.solo {
				w.failOver()
			}
		}
	}
	// Now all heals, and the connection must come to its end.
	w.loss, w.together = 0, true
	say(len(data))
	if sender == nil {
		w.active.guest.finished = true
		if !w.solo {
			w.standby.guest.finished = true
		}
	} else {
		sender.finished = true
	}
	guest := func() *endpoint { return w.active.guest }
	done := func() bool {
		g := guest()
		return w.peer.peerFIN && g.peerFIN && g.una == uint64(len(g.app))+2 && w.peer.una == uint64(len(w.peer.app))+2
	}
	for round := 0; !done(); round++ {
		if round == 400 {
			t.Fatalf("no end: guest sent %d acked %d got %d, peer sent %d acked %d got %d",
				guest().nxt, guest().una, guest().rcv, w.peer.nxt, w.peer.una, w.peer.rcv)
		}
		w.clock += 50
		w.timeouts()
		w.settle()
		w.deliver()
		w.settle()
		if w.peer.peerFIN {
			w.peer.finished = true
		}
	}
	echoed := make([]byte, len(data))
	for i, c := range data {
		echoed[i] = c ^ 0x5a
	}
	there, back := guest().in, w.peer.in
	if sender == nil {
		there, back = back, there
	}
	if !bytes.Equal(there, data) || !bytes.Equal(back, echoed) {
		t.Fatalf("said %d bytes, arrived %d; %d came back", len(data), len(there), len(back))
	}
}

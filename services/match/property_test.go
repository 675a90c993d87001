package match

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/flow"
)

// copyOf is one copy's side of a connection: it sends a stream in segments of
// its own choice, acknowledges what its peer sent, and repeats itself.
type copyOf struct {
	stream    []byte
	base      int // offset at the start of the epoch
	pos       int
	ack, edge uint64
}

// digestAt is the cumulative digest from the start of the epoch.
func (c *copyOf) digestAt(end int) flow.Digest {
	return flow.Digest(xxh3.Hash128(append(binary.LittleEndian.AppendUint64(nil, uint64(c.base)), c.stream[c.base:end]...)).Bytes())
}

// next makes an output. Without more, only repetitions and acknowledgements
// are left once everything was sent.
func (c *copyOf) next(t *rapid.T, peerSent uint64) flow.Output {
	out := flow.Output{Kind: flow.Stream, Flags: flow.ACK}
	switch rapid.IntRange(0, 5).Draw(t, "what") {
	case 0: // an acknowledgement
		out.End = uint64(c.pos)
	case 1: // a retransmission
		out.End = uint64(rapid.IntRange(0, c.pos).Draw(t, "again"))
	default:
		n := min(rapid.IntRange(1, 40).Draw(t, "bytes"), len(c.stream)-c.pos)
		c.pos += n
		out.End = uint64(c.pos)
		if n > 0 {
			out.Digest = c.digestAt(c.pos)
		}
	}
	if c.ack < peerSent {
		c.ack += rapid.Uint64Range(0, peerSent-c.ack).Draw(t, "ack")
	}
	c.edge = max(c.edge, c.ack+rapid.Uint64Range(0, 100).Draw(t, "window"))
	out.Ack, out.Edge = c.ack, c.edge
	return out
}

// finish sends all that is left.
func (c *copyOf) finish(peerSent uint64) flow.Output {
	out := flow.Output{Kind: flow.Stream, Flags: flow.ACK, End: uint64(len(c.stream))}
	if c.pos < len(c.stream) {
		c.pos = len(c.stream)
		out.Digest = c.digestAt(c.pos)
	}
	c.ack, c.edge = peerSent, peerSent+1000
	out.Ack, out.Edge = c.ack, c.edge
	return out
}

// made is an output of the active that was reported and not yet released.
type made struct {
	id  uint64
	out flow.Output
}

// world holds a few connections of two copies and checks every release.
type world struct {
	t        *rapid.T
	core     *Core
	now      time.Duration
	copies   [][2]*copyOf // by flow
	diverged []int        // by flow: the offset of the first differing byte, or -1
	standby  []flow.Output
	held     [][]made
	probes   []Probe
	ids      [2]uint64
	peerSent []uint64
}

func newWorld(t *rapid.T, diverge bool) *world {
	n := rapid.IntRange(1, 3).Draw(t, "flows")
	w := &world{t: t, core: New(Config{}), copies: make([][2]*copyOf, n), held: make([][]made, n),
		standby: make([]flow.Output, n), peerSent: make([]uint64, n), diverged: make([]int, n)}
	w.core.Reset(1)
	for f := range n {
		stream := rapid.SliceOfN(rapid.Byte(), 1, 200).Draw(t, "stream")
		other := append([]byte(nil), stream...)
		w.diverged[f] = -1
		if diverge && f == 0 {
			at := rapid.IntRange(0, len(stream)-1).Draw(t, "differs")
			other[at] ^= 0x40
			w.diverged[f] = at
		}
		start := 0
		if !diverge {
			start = rapid.IntRange(0, len(stream)).Draw(t, "sent before")
		}
		w.copies[f] = [2]*copyOf{{stream: stream, base: start, pos: start}, {stream: other, base: start, pos: start}}
	}
	return w
}

func (w *world) report(f int, side Side, out flow.Output) {
	out.Flow = flow.ID(f + 1)
	w.ids[side]++
	if side == Active {
		w.held[f] = append(w.held[f], made{w.ids[side], out})
	} else {
		s := &w.standby[f]
		s.End, s.Ack, s.Edge = max(s.End, out.End), max(s.Ack, out.Ack), max(s.Edge, out.Edge)
	}
	w.core.Report(side, w.ids[side], 0, out, w.now)
	w.check()
}

// check takes the effects and holds each release against what the standby has
// reported.
func (w *world) check() {
	for _, r := range w.core.Releases() {
		f := -1
		for i := range w.held {
			if len(w.held[i]) > 0 && w.held[i][0].id == r.ID {
				f = i
			}
		}
		if f < 0 {
			w.t.Fatalf("released %d: unknown, twice, or out of its order", r.ID)
		}
		out, s := w.held[f][0].out, w.standby[f]
		w.held[f] = w.held[f][1:]
		base := uint64(w.copies[f][Active].base)
		if out.End > base && out.End > s.End {
			w.t.Fatalf("released bytes up to %d, the standby has sent %d", out.End, s.End)
		}
		if d := w.diverged[f]; d >= 0 && out.End > uint64(d) {
			w.t.Fatalf("released bytes up to %d, the copies differ at %d", out.End, d)
		}
		if out.Ack > s.Ack {
			w.t.Fatalf("released an acknowledgement of %d, the standby's is %d", out.Ack, s.Ack)
		}
		edge := out.Edge
		if r.EdgeMax != 0 {
			if r.EdgeMax >= max(edge, 2) { // 1 stands for a limit of 0, too
				w.t.Fatalf("limit %d for the edge %d", r.EdgeMax, edge)
			}
			edge = r.EdgeMax
		}
		if edge > max(s.Edge, 1) {
			w.t.Fatalf("released the edge %d, the standby's is %d", edge, s.Edge)
		}
	}
	w.probes = append(w.probes, w.core.Probes()...)
	d := w.core.Disagreement()
	if d != nil && w.diverged[0] < 0 {
		w.t.Fatalf("equal copies disagree: %v", d)
	}
	w.core.Clear()
}

// answer lets the standby answer the oldest probe.
func (w *world) answer() {
	p := w.probes[0]
	w.probes = w.probes[1:]
	c := w.copies[p.Flow-1][Standby]
	if int(p.Offset) > c.pos || int(p.Offset) <= c.base {
		w.t.Fatalf("probe at %d outside of (%d, %d]", p.Offset, c.base, c.pos)
	}
	w.core.ProbeReply(p.Flow, p.Offset, c.digestAt(int(p.Offset)), w.now)
	w.check()
}

// resync makes the standby a copy of the active and begins an epoch.
func (w *world) resync(epoch uint64) {
	for f := range w.copies {
		a := w.copies[f][Active]
		a.base = a.pos
		b := *a
		w.copies[f][Standby] = &b
		// All that the active held leaves with the checkpoint.
		w.held[f] = nil
		w.standby[f] = flow.Output{End: uint64(a.pos), Ack: a.ack, Edge: a.edge}
	}
	w.ids, w.probes = [2]uint64{}, nil
	w.core.Reset(epoch)
}

// prompt holds that what may leave has left: once all probes are answered, the
// oldest output of each flow waits for something that the standby lacks.
func (w *world) prompt() {
	for len(w.probes) > 0 {
		w.answer()
	}
	for f, held := range w.held {
		if len(held) == 0 || w.core.Counters().Mismatches > 0 {
			continue
		}
		out, s := held[0].out, w.standby[f]
		pos := uint64(w.copies[f][Standby].pos)
		if (out.Digest.IsZero() || out.End <= pos) && out.Ack <= s.Ack && s.Ack > 0 && (out.Edge <= s.Edge || !out.Digest.IsZero()) {
			w.t.Fatalf("flow %d: %+v is held, the standby has sent %d and %+v", f+1, out, pos, s)
		}
	}
}

func (w *world) run(resyncs bool) {
	epoch := uint64(1)
	for range rapid.IntRange(0, 120).Draw(w.t, "steps") {
		f := rapid.IntRange(0, len(w.copies)-1).Draw(w.t, "flow")
		side := Side(rapid.IntRange(0, 1).Draw(w.t, "side"))
		switch k := rapid.IntRange(0, 19).Draw(w.t, "step"); {
		case k == 0 && resyncs:
			epoch++
			w.resync(epoch)
		case k < 4:
			w.peerSent[f] += rapid.Uint64Range(0, 50).Draw(w.t, "peer sends")
		case k < 9 && len(w.probes) > 0:
			w.answer()
		default:
			w.report(f, side, w.copies[f][side].next(w.t, w.peerSent[f]))
		}
	}
	w.prompt()
	order := rapid.Permutation([]Side{Active, Standby}).Draw(w.t, "who ends last")
	for f := range w.copies {
		for _, side := range order {
			w.report(f, side, w.copies[f][side].finish(w.peerSent[f]))
		}
	}
	for len(w.probes) > 0 {
		w.answer()
	}
	w.now += time.Hour
	w.core.Tick(w.now)
	w.check()
}

// Whatever the segmentation and the order of reports, equal copies never
// disagree, and all that the active made leaves once, in the order of its flow,
// never before the standby made the same.
func TestEqualCopies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, false)
		w.run(true)
		for f, held := range w.held {
			if len(held) > 0 {
				t.Fatalf("flow %d: %d outputs were never released, first %+v", f+1, len(held), held[0])
			}
		}
		if n := w.core.Waiting(); n != 0 {
			t.Fatalf("%d unmatched at rest", n)
		}
	})
}

// One differing byte: nothing at or beyond it leaves (checked at each release),
// and it is found.
func TestDivergingByte(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t, true)
		w.run(false)
		if c := w.core.Counters(); c.Mismatches != 1 {
			t.Fatalf("the differing byte was not found: %+v", c)
		}
	})
}

// Datagrams leave in order, and only those that both copies have sent.
func TestDatagrams(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		payloads := rapid.SliceOfN(rapid.Byte(), 1, 40).Draw(t, "datagrams")
		differs := rapid.IntRange(0, len(payloads)).Draw(t, "differs")
		core := New(Config{})
		var sent [2]int
		released := 0
		for sent[0] < len(payloads) || sent[1] < len(payloads) {
			side := Side(rapid.IntRange(0, 1).Draw(t, "side"))
			if sent[side] == len(payloads) {
				side = side.other()
			}
			i := sent[side]
			sent[side]++
			d := flow.Digest{payloads[i], 1}
			if side == Standby && i == differs {
				d[1] = 2
			}
			core.Report(side, uint64(i+1), 0, flow.Output{Kind: flow.Datagram, Flow: 1, End: uint64(i + 1), Digest: d}, 0)
			for _, r := range core.Releases() {
				released++
				if int(r.ID) != released || released > min(sent[0], sent[1]) || released > differs {
					t.Fatalf("release %d as number %d, sent %v, different from %d", r.ID, released, sent, differs)
				}
			}
			core.Clear()
		}
		if released != differs {
			t.Fatalf("released %d of %d equal datagrams", released, differs)
		}
	})
}

// FuzzCore throws arbitrary calls at a small Core: it must not panic, stay
// within its limits, release nothing twice and keep its count right.
func FuzzCore(f *testing.F) {
	f.Add([]byte{0, 1, 10, 1, 0x88, 10, 1, 1, 10, 1, 0x88, 10})
	f.Add([]byte{1, 1, 90, 2, 0x88, 3, 0, 1, 50, 3, 0x88, 3, 4, 1, 50, 3, 0, 0})
	f.Add([]byte{0, 2, 1, 1, 0x10, 0, 1, 2, 1, 2, 0x10, 0, 3, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0})
	f.Add([]byte{1, 3, 1, 0, 0x0c, 1, 2, 9, 255, 0, 0, 0, 0, 3, 1, 0, 0x0c, 1})
	f.Fuzz(func(t *testing.T, data []byte) { drive(t, data) })
}

// The same with calls that are drawn.
func TestCore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) { drive(t, rapid.SliceOfN(rapid.Byte(), 0, 1200).Draw(t, "calls")) })
}

// drive makes the calls of FuzzCore that data stands for, of 6 bytes each.
func drive(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, data []byte,
) {
	limits := Limits{Flows: 4, PerFlow: 6, Waiting: 12}
	c := New(Config{Limits: limits})
	var id [2]uint64
	released := map[uint64]bool{}
	var now time.Duration
	for ; len(data) >= 6; data = data[6:] {
		op, fl, end, dg, flags, ack := data[0]%6, flow.ID(data[1]%6), uint64(data[2]), data[3], data[4], uint64(data[5])
		switch op {
		case 0, 1:
			out := flow.Output{Kind: flow.Kind(flags>>4&3 + 1), Flow: fl, End: end, Flags: flow.Flags(flags & 15), Ack: ack, Edge: ack + uint64(dg)}
			if flags>>6 == 2 {
				out.Kind = flow.Stream
			}
			if end == 255 {
				out.End = ^uint64(0)
			}
			out.Digest[0] = dg
			id[op]++
			c.Report(Side(op), id[op], ack, out, now)
		case 2:
			c.Progress(Side(dg&1), end, time.Duration(flags)*10*time.Millisecond, now)
		case 3:
			now += time.Duration(end) * 10 * time.Millisecond
			early := now < c.Due()
			c.Tick(now)
			if early && len(c.Releases())+len(c.Probes()) > 0 || early && c.Disagreement() != nil {
				t.Fatalf("a Tick before it was due: %v %v %v", c.Releases(), c.Probes(), c.Disagreement())
			}
			if c.Due() <= now && c.Disagreement() == nil {
				t.Fatalf("due at %v after a Tick at %v", c.Due(), now)
			}
		case 4:
			c.ProbeReply(fl, end, flow.Digest{dg}, now)
		case 5:
			c.Reset(c.Epoch() + 1)
			id, released = [2]uint64{}, map[uint64]bool{}
		}
		for _, r := range c.Releases() {
			if released[r.ID] || r.ID > id[Active] || r.ID == 0 {
				t.Fatalf("release %d of %d", r.ID, id[Active])
			}
			released[r.ID] = true
		}
		if err := c.check(); err != nil {
			t.Fatal(err)
		}
		c.Clear()
	}
}

// check compares the Core's count and lists with what its flows hold.
func (c *Core) check() error {
	n := 0
	for id, f := range c.flows.byID {
		if f.id != id {
			return fmt.Errorf("flow %d is listed as %d", f.id, id)
		}
		if f.busy() != (f.slot >= 0) {
			return fmt.Errorf("flow %d: busy %v, slot %d", id, f.busy(), f.slot)
		}
		if f.slot >= 0 && c.flows.busy[f.slot] != f {
			return fmt.Errorf("flow %d is not in its slot", id)
		}
		for i := range f.halves {
			points := &f.halves[i].points
			n += points.len()
			for k := 1; k < points.len(); k++ {
				if points.at(k).end <= points.at(k-1).end {
					return fmt.Errorf("flow %d: points do not ascend", id)
				}
			}
			if points.len() > 0 && points.at(0).end <= f.agreed {
				return fmt.Errorf("flow %d: a point at %d, agreed on %d", id, points.at(0).end, f.agreed)
			}
		}
		n += f.pending.len()
	}
	rest := 0
	for f := c.flows.rest.next; f != c.flows.rest; f = f.next {
		rest++
	}
	switch {
	case n != c.waiting:
		return fmt.Errorf("counted %d unmatched, there are %d", c.waiting, n)
	case n > c.cfg.Limits.Waiting || len(c.flows.byID) > c.cfg.Limits.Flows:
		return fmt.Errorf("%d unmatched in %d flows", n, len(c.flows.byID))
	case rest+len(c.flows.busy) != len(c.flows.byID):
		return fmt.Errorf("%d at rest and %d busy of %d flows", rest, len(c.flows.busy), len(c.flows.byID))
	}
	return nil
}

// A steady load allocates nothing: neither per report nor for flows that come
// and go.
func TestNoAllocations(t *testing.T) {
	c := New(Config{Limits: Limits{Flows: 64}})
	var id, end uint64
	step := func() {
		id++
		end += 1000
		out := flow.Output{Kind: flow.Stream, Flow: flow.ID(id % 100), End: end, Digest: flow.Digest{1}, Flags: flow.ACK, Ack: id, Edge: id}
		c.Report(Active, id, id, out, 0)
		c.Report(Standby, id, id, out, 0)
		c.Progress(Standby, id, 0, 0)
		c.Tick(0)
		if len(c.Releases()) != 1 {
			t.Fatalf("%d releases, %v", len(c.Releases()), c.Disagreement())
		}
		c.Clear()
	}
	for range 1000 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Fatalf("%v allocations per pair of reports", n)
	}
}

// The rate of one pair of reports of a bulk stream with a lagging standby.
func BenchmarkStream(b *testing.B) {
	c := New(Config{})
	var id [2]uint64
	report := func(side Side) {
		id[side]++
		n := id[side]
		c.Report(side, n, n, flow.Output{Kind: flow.Stream, Flow: 1, End: n * 1448, Digest: flow.Digest{1}, Flags: flow.ACK, Ack: 1, Edge: 1}, 0)
		c.Clear()
	}
	for range 1000 {
		report(Active)
	}
	b.ReportAllocs()
	for b.Loop() {
		report(Active)
		report(Standby)
	}
}

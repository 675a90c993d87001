package flow

import (
	"testing"

	"github.com/understudy-ft/understudy/services/packet"
)

// accepted returns a standby's table with a connection that its guest accepted
// with ISN own, and that the outside knows under ISN out.
func accepted(t *testing.T, own, out uint32, first string) (*Table, ID) {
	t.Helper()
	tab := NewTable(1)
	synack := seg{flags: fSYN | fACK, seq: own, ack: 501, window: 8000, scale: 4, ts: &[2]uint32{20000, 90}}
	id := NewTable(1).Out(synack.frame()).Flow
	learn := func() { tab.Learn(Opening{Flow: id, ISN: out, TSval: 77000, HasTS: true}) }
	if first == "learn" {
		learn()
	}
	if got := tab.Out(synack.frame()).Flow; got != id {
		t.Fatalf("flow %x, want %x", got, id)
	}
	if first != "learn" {
		if !tab.AwaitsOpening(id) {
			t.Fatal("awaits no opening")
		}
		learn()
	}
	if tab.AwaitsOpening(id) {
		t.Fatal("still awaits its opening")
	}
	return tab, id
}

func TestStandbyTranslates(t *testing.T) {
	for _, first := range []string{"learn", "open"} {
		t.Run(first+" first", func(t *testing.T) {
			const own, out = 0xffff_ff00, 0x10
			tab, id := accepted(t, own, out, first)
			tab.Out(seg{flags: fACK, seq: own + 1, ack: 501, payload: make([]byte, 1000), ts: &[2]uint32{20700, 90}}.frame())

			in := seg{flags: fACK, seq: 501, ack: out + 101, ts: &[2]uint32{95, 77300}, sack: []uint32{out + 201, out + 301, out + 401, out + 501}}.reply()
			frame := tab.In(in.frame())
			p := parse(t, frame)
			if p.Ack != own+101&0xffff_ffff || p.Seq != 501 || p.TSecr != 20300 || p.TSval != 95 {
				t.Errorf("in: %+v", p)
			}
			for i, want := range []uint32{201, 301, 401, 501} {
				if e := be.Uint32(frame[p.SACKAt+4*i:]) - 0xffff_ff00; e != want {
					t.Errorf("SACK edge %d, want %d", e, want)
				}
			}

			p = parse(t, tab.EmitFlow(id, seg{flags: fACK, seq: 0, ack: 501, ts: &[2]uint32{20400, 95}, sack: []uint32{601, 701}}.frame(), 0))
			if p.Seq != 0x100+0x10 || p.Ack != 501 || p.TSval != 77400 || p.TSecr != 95 || be.Uint32(p.Frame[p.SACKAt:]) != 601 {
				t.Errorf("out: %+v", p)
			}
		})
	}
}

// Only connections of this epoch have Openings to wait for.
func TestNoOpeningIsAwaitedAfterTheEpoch(t *testing.T) {
	tab := NewTable(1)
	id := tab.Out(seg{flags: fSYN, seq: 1}.frame()).Flow
	if !tab.AwaitsOpening(id) || tab.AwaitsOpening(id+1) {
		t.Error("in the epoch")
	}
	if tab.NewEpoch(); tab.AwaitsOpening(id) {
		t.Error("after it")
	}
}

// The active changes nothing.
func TestActiveIsTransparent(t *testing.T) {
	tab := NewTable(1)
	synack := seg{flags: fSYN | fACK, seq: 9, ack: 501, window: 8000, scale: 4, ts: &[2]uint32{20000, 90}}.frame()
	tab.Out(synack)
	o, ok := tab.Opened()
	if !ok || o.ISN != 9 || o.TSval != 20000 || !o.HasTS {
		t.Fatalf("%+v %v", o, ok)
	}
	for _, s := range []seg{
		{flags: fACK, seq: 10, ack: 501, payload: []byte("x"), ts: &[2]uint32{20001, 90}},
		{flags: fACK, seq: 11, ack: 501, ts: &[2]uint32{20009, 90}},
	} {
		f := s.frame()
		tab.Out(f)
		if _, ok := tab.Opened(); ok {
			t.Error("opened again")
		}
		if string(tab.Emit(s.frame(), 0)) != string(f) {
			t.Error("output changed")
		}
	}
	in := seg{flags: fACK, seq: 501, ack: 11, ts: &[2]uint32{95, 20001}, sack: []uint32{12, 13}}.reply().frame()
	if want := string(in); string(tab.In(in)) != want {
		t.Error("input changed")
	}
}

// A guest must not be shown an echo of a timestamp that it has not sent: the
// active may have repeated its SYN when the standby had not.
func TestEchoIsNotFromTheFuture(t *testing.T) {
	tab, _ := accepted(t, 1, 100, "open")
	p := parse(t, tab.In(seg{flags: fACK, seq: 501, ack: 101, ts: &[2]uint32{95, 78000}}.reply().frame()))
	if p.TSecr != 20000 {
		t.Errorf("echo %d, sent 20000", p.TSecr)
	}
}

// After a fail-over timestamps go on from what the peer has seen, though the
// standby's SYN was later than the active's.
func TestTimestampsDoNotRunBackward(t *testing.T) {
	tab, id := accepted(t, 1, 100, "open")
	tab.In(seg{flags: fACK, seq: 501, ack: 101, ts: &[2]uint32{95, 77500}}.reply().frame())
	emit := func(ts uint32) uint32 {
		f := seg{flags: fACK, seq: 2, ack: 501, ts: &[2]uint32{ts, 95}}.frame()
		tab.Out(f)
		p := parse(t, tab.EmitFlow(id, f, 0))
		return p.TSval
	}
	if a, b := emit(20400), emit(20450); a != 77500 || b != 77550 {
		t.Errorf("timestamps %d and %d, want 77500 and 77550", a, b)
	}
	p := parse(t, tab.In(seg{flags: fACK, seq: 501, ack: 101, ts: &[2]uint32{96, 77550}}.reply().frame()))
	if p.TSecr != 20450 {
		t.Errorf("echo %d, want 20450", p.TSecr)
	}
}

func TestWindowIsLimited(t *testing.T) {
	tab := NewTable(1)
	id := tab.Out(seg{flags: fSYN | fACK, seq: 9, ack: 501, window: 65535, scale: 4}.frame()).Flow
	steps := []struct {
		name    string
		flags   uint8
		ack     uint32 // offset
		window  uint16
		edgeMax uint64
		want    uint16
	}{
		{"no limit", fACK, 1, 100, 0, 100},
		{"limit not reached", fACK, 1, 100, 1601, 100},
		{"limit is exact", fACK, 1, 101, 1617, 101},
		{"rounded down by the scale", fACK, 1, 200, 2000, 124},
		{"an edge that was emitted stays", fACK, 501, 200, 1000, 92}, // 1 + 124*16 = 1985
		{"the limit lies before the acknowledgement", fACK, 3001, 50, 2500, 0},
		{"a SYN is not scaled", fSYN | fACK, 1, 65535, 5000, 4999},
		{"a reset has no window", fRST | fACK, 1, 999, 10, 999},
	}
	for _, s := range steps {
		p := parse(t, tab.EmitFlow(id, seg{flags: s.flags, seq: 10, ack: 500 + s.ack, window: s.window}.frame(), s.edgeMax))
		if p.Window != s.want {
			t.Errorf("%s: window %d, want %d", s.name, p.Window, s.want)
		}
	}
}

// The window of a connection that the guest opens is scaled only if the peer
// offered it, too.
func TestScaleNeedsBothSides(t *testing.T) {
	for _, scale := range []int{0, 3} {
		tab := NewTable(1)
		tab.Out(seg{flags: fSYN, seq: 9, window: 100, scale: 7}.frame())
		tab.In(seg{flags: fSYN | fACK, seq: 500, ack: 10, window: 100, scale: scale}.reply().frame())
		want := uint64(1 + 100<<7)
		if scale == 0 {
			want = 101
		}
		if o := tab.Out(seg{flags: fACK, seq: 10, ack: 501, window: 100}.frame()); o.Edge != want || o.Ack != 1 {
			t.Errorf("peer's scale %d: %+v", scale, o)
		}
	}
}

// A SYN that waited while the guest chose another ISN leaves under the ISN that
// the outside knows.
func TestSYNFromBeforeAnotherISN(t *testing.T) {
	tab, id := accepted(t, 1, 100, "open")
	old := seg{flags: fSYN | fACK, seq: 1, ack: 501}.frame()
	tab.Out(seg{flags: fSYN | fACK, seq: 999, ack: 501, window: 8000, scale: 4, ts: &[2]uint32{21000, 90}}.frame())
	if o, ok := tab.Opened(); !ok || o.ISN != 100 || o.TSval != 78000 {
		t.Errorf("opening in outside space: %+v %v", o, ok)
	}
	for _, f := range [][]byte{old, seg{flags: fSYN | fACK, seq: 999, ack: 501}.frame()} {
		if p := parse(t, tab.EmitFlow(id, f, 0)); p.Seq != 100 {
			t.Errorf("SYN left with %d", p.Seq)
		}
	}
	if p := parse(t, tab.In(seg{flags: fACK, seq: 501, ack: 101}.reply().frame())); p.Ack != 1000 {
		t.Errorf("acknowledgement %d, want 1000", p.Ack)
	}
}

// A frame that waited belongs to its connection, not to the next one of the same
// ports.
func TestEmitFlowAfterReuse(t *testing.T) {
	tab, id := accepted(t, 1000, 5000, "open")
	data := seg{flags: fACK, seq: 1001, ack: 501, payload: []byte("last words")}.frame()
	tab.Out(data)
	next := tab.Out(seg{flags: fSYN | fACK, seq: 70, ack: 9999}.frame()).Flow
	if p := parse(t, tab.EmitFlow(id, data, 0)); p.Seq != 5001 {
		t.Errorf("old connection's data left with %d", p.Seq)
	}
	if p := parse(t, tab.EmitFlow(next, seg{flags: fACK, seq: 71, ack: 9999}.frame(), 0)); p.Seq != 71 {
		t.Errorf("new connection's left with %d", p.Seq)
	}
	if d, ok := tab.DigestAt(id, 11); !ok || d.IsZero() {
		t.Error("the old connection cannot be probed")
	}
}

// Resets: in the connection's numbers they are translated; the one that answers
// a segment without ACK has the number 0 in any space.
func TestResetsAreTranslated(t *testing.T) {
	tab, _ := accepted(t, 1000, 5000, "open")
	for _, test := range []struct {
		flags     uint8
		seq, want uint32
	}{{fRST, 1001, 5001}, {fRST | fACK, 1001, 5001}, {fRST | fACK, 0, 0}, {fRST, 0, 4000}} {
		f := seg{flags: test.flags, seq: test.seq, ack: 7}.frame()
		o := tab.Out(f)
		if p := parse(t, tab.EmitFlow(o.Flow, f, 0)); p.Seq != test.want {
			t.Errorf("flags %#x: %d left as %d, want %d", test.flags, test.seq, p.Seq, test.want)
		}
	}
	// A RST in answer to rubbish is the same in both copies.
	act := NewTable(1)
	act.Out(seg{flags: fSYN | fACK, seq: 5000, ack: 501, window: 8000, scale: 4, ts: &[2]uint32{77000, 90}}.frame())
	rubbish := seg{flags: fACK, seq: 501, ack: 123456}.reply()
	a, b := parse(t, act.In(rubbish.frame())), parse(t, tab.In(rubbish.frame()))
	x := act.Out(seg{flags: fRST, seq: a.Ack}.frame())
	y := tab.Out(seg{flags: fRST, seq: b.Ack}.frame())
	if x.Kind != Datagram || x.Digest != y.Digest {
		t.Errorf("%+v and %+v", x, y)
	}
}

func TestQuotedSegmentIsTranslated(t *testing.T) {
	tab, _ := accepted(t, 1000, 5000, "open")
	quoted := seg{flags: fACK, seq: 5001, ack: 501, payload: []byte("too big")}.frame()
	var q packet.Packet
	q.Parse(quoted)
	frame := icmp(peer4.Addr(), guest4.Addr(), packet.ICMPUnreachable, 4, 1400, quoted[q.L3:])
	q.Parse(tab.In(frame))
	if got, ok := q.Quote(); !ok || got.Seq != 1001 || q.TransportChecksum() != 0 {
		t.Errorf("%+v %v", got, ok)
	}
}

func TestOpeningsLearntAreBounded(t *testing.T) {
	tab := NewTable(1)
	l := DefaultLimits
	l.Streams = 4
	tab.SetLimits(l)
	for i := range ID(100) {
		tab.Learn(Opening{Flow: i + 1, ISN: 5})
		tab.Learn(Opening{Flow: i + 1, ISN: 6})
	}
	if len(tab.learnt) != 4 || tab.learnt[100].ISN != 6 || tab.learnt[97].ISN != 6 {
		t.Errorf("%v", tab.learnt)
	}
	tab.NewEpoch()
	if len(tab.learnt) != 0 || len(tab.learntRing) != 0 {
		t.Error("openings survived the epoch")
	}
}

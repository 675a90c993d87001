package flow

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/packet"
)

const (
	fSYN = packet.SYN
	fACK = packet.ACK
	fFIN = packet.FIN
	fRST = packet.RST
)

// isns are initial sequence numbers, many of them close to a wraparound.
var isns = rapid.OneOf(rapid.Uint32(), rapid.Uint32Range(0xffff_f000, 0xffff_ffff), rapid.Uint32Range(0x7fff_f000, 0x7fff_ffff))

// copyOf sends one stream in its own way.
type copyOf struct {
	table   *Table
	isn     uint32
	irs     uint32
	stream  []byte
	sent    uint64 // offset
	digests map[uint64]Digest
	id      ID
}

// transmit sends [from, to) of the stream, where offset 0 is SYN and the last
// offset is FIN.
func (c *copyOf) transmit(t *rapid.T, from, to uint64) Output {
	last := uint64(len(c.stream)) + 1
	s := seg{
		seq: c.isn + uint32(from), ack: c.irs + 1, flags: fACK,
		window: rapid.Uint16().Draw(t, "window"), id: rapid.Uint16().Draw(t, "id"),
		ts: &[2]uint32{rapid.Uint32().Draw(t, "TSval"), 7},
	}
	if rapid.Bool().Draw(t, "ECN") {
		s.tos = 2
	}
	begin := from
	if from == 0 {
		s.flags |= fSYN
		s.mss, s.scale, s.sackOK = 1460, 7, true
		begin++
	}
	if from <= last && to == last+1 {
		s.flags |= fFIN
	}
	if end := min(to, last); begin < end {
		s.payload = c.stream[begin-1 : end-1]
	}
	o := c.table.Out(s.frame())
	if o.Kind != Stream || o.End != to {
		t.Fatalf("%d to %d gave %+v", from, to, o)
	}
	if fresh := to > c.sent; fresh == o.Digest.IsZero() {
		t.Fatalf("%d to %d of %d gave digest %x", from, to, c.sent, o.Digest)
	}
	if c.id != 0 && o.Flow != c.id {
		t.Fatalf("flow %x became %x", c.id, o.Flow)
	}
	c.id = o.Flow
	if !o.Digest.IsZero() {
		c.digests[to] = o.Digest
	}
	c.sent = max(c.sent, to)
	return o
}

// transmitAll sends the stream with random cuts, repetitions and pure
// acknowledgements.
func (c *copyOf) transmitAll(t *rapid.T) {
	c.transmit(t, 0, 1)
	for end := uint64(len(c.stream)) + 2; c.sent < end; {
		to := min(c.sent+uint64(rapid.IntRange(1, 1460).Draw(t, "size")), end)
		switch rapid.IntRange(0, 9).Draw(t, "what") {
		case 0: // a repetition of part of what was sent
			from := rapid.Uint64Range(1, c.sent).Draw(t, "from")
			c.transmit(t, from, rapid.Uint64Range(from, c.sent).Draw(t, "to"))
		case 1: // a repetition that goes on with new bytes
			c.transmit(t, rapid.Uint64Range(max(1, c.sent-min(c.sent, 2000)), c.sent).Draw(t, "from"), to)
		case 2: // a pure acknowledgement
			c.transmit(t, c.sent, c.sent)
		default:
			c.transmit(t, c.sent, to)
		}
	}
}

func newCopy(t *rapid.T, irs uint32, stream []byte) *copyOf {
	return &copyOf{
		table: NewTable(1), isn: isns.Draw(t, "ISN"), irs: irs, stream: stream, digests: make(map[uint64]Digest),
	}
}

// Copies that send the same bytes, cut and repeated in different ways, under
// different numbers, agree at every offset that either reports.
func TestCopiesAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := rapid.SliceOfN(rapid.Byte(), 0, 6000).Draw(t, "stream")
		irs := isns.Draw(t, "irs")
		a, b := newCopy(t, irs, stream), newCopy(t, irs, stream)
		b.table.limits.HeldPerStream = 1 << 20
		a.transmitAll(t)
		b.transmitAll(t)
		if a.id != b.id {
			t.Fatalf("flows %x and %x", a.id, b.id)
		}
		for _, pair := range [][2]*copyOf{{a, b}, {b, a}} {
			x, y := pair[0], pair[1]
			for end, d := range x.digests {
				got, ok := y.table.DigestAt(y.id, end)
				if !ok || got != d {
					t.Fatalf("at %d: reported %x, the other says %x %v", end, d, got, ok)
				}
				if direct, ok := y.digests[end]; ok && direct != d {
					t.Fatalf("at %d: %x and %x", end, d, direct)
				}
			}
		}
		// After a confirmation, offsets from there on are still known.
		end := rapid.Uint64Range(0, a.sent).Draw(t, "confirmed")
		a.table.Confirm(a.id, end)
		for at := range a.sent + 1 {
			got, ok := a.table.DigestAt(a.id, at)
			want, _ := b.table.DigestAt(b.id, at)
			if ok != (at >= end) || ok && got != want {
				t.Fatalf("confirmed %d: at %d %x %v, want %x", end, at, got, ok, want)
			}
		}
		if _, ok := a.table.DigestAt(a.id, a.sent+1); ok {
			t.Fatal("digest of what was not sent")
		}
	})
}

// One byte that differs is seen at its offset and at every later one, and
// nowhere before.
func TestOneFlippedByteDisagrees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		stream := rapid.SliceOfN(rapid.Byte(), 1, 4000).Draw(t, "stream")
		flipped := rapid.IntRange(0, len(stream)-1).Draw(t, "flipped")
		other := bytes.Clone(stream)
		other[flipped] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		a, b := newCopy(t, 5, stream), newCopy(t, 5, other)
		a.transmitAll(t)
		b.transmitAll(t)
		for end, d := range a.digests {
			got, ok := b.table.DigestAt(b.id, end)
			if same := end < uint64(flipped)+2; !ok || same != (got == d) {
				t.Fatalf("byte at offset %d flipped: at %d %x and %x", flipped+1, end, d, got)
			}
		}
	})
}

// A stream that ends is not the stream that goes on.
func TestFINIsSeen(t *testing.T) {
	run := func(s seg) (Output, *Table) {
		tab := NewTable(1)
		tab.Out(seg{flags: fSYN | fACK, seq: 9, ack: 6}.frame())
		return tab.Out(s.frame()), tab
	}
	fin, _ := run(seg{flags: fFIN | fACK, seq: 10, ack: 6, payload: []byte("ab")})
	data, tab := run(seg{flags: fACK, seq: 10, ack: 6, payload: []byte("abc")})
	if fin.End != 4 || data.End != 4 || fin.Digest == data.Digest || fin.Flags != FIN|ACK {
		t.Fatalf("%+v and %+v", fin, data)
	}
	late := tab.Out(seg{flags: fFIN | fACK, seq: 13, ack: 6}.frame())
	if late.End != 5 || late.Digest.IsZero() {
		t.Fatalf("%+v", late)
	}
	if before, ok := tab.DigestAt(late.Flow, 4); !ok || before == late.Digest {
		t.Fatalf("FIN changes nothing: %x %v", before, ok)
	}
}

// step is a segment that the guest sends, and what is said of it.
type step struct {
	s    seg
	want Output // Flow, Name and Digest are not compared
	new  bool   // a digest is expected
}

func TestSegments(t *testing.T) {
	const isn, irs, irs2 = 0xffff_fff0, 0xffff_fffe, 0
	synack := step{seg{flags: fSYN | fACK, seq: isn, ack: irs + 1, window: 1000, scale: 3, mss: 1460},
		Output{Kind: Stream, End: 1, Ack: 1, Edge: 1001, Flags: SYN | ACK}, true}
	data := func(at uint32, payload string) seg {
		return seg{flags: fACK, seq: isn + at, ack: irs2, window: 100, payload: []byte(payload)}
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"windows are scaled after the SYN", []step{synack,
			{data(1, "x"), Output{Kind: Stream, End: 2, Ack: 2, Edge: 802, Flags: ACK}, true}}},
		{"a repeated SYN brings nothing", []step{synack, {synack.s, synack.want, false}}},
		{"a SYN repeated with other options is odd", []step{synack,
			{seg{flags: fSYN | fACK, seq: isn, ack: irs + 1, mss: 9000}, Output{Kind: Datagram, End: 1}, true}}},
		{"a pure acknowledgement brings nothing", []step{synack,
			{data(1, ""), Output{Kind: Stream, End: 1, Ack: 2, Edge: 802, Flags: ACK}, false}}},
		{"a keep-alive probe brings nothing", []step{synack,
			{data(0, ""), Output{Kind: Stream, End: 0, Ack: 2, Edge: 802, Flags: ACK}, false}}},
		{"an acknowledgement from beyond ends where the stream does", []step{synack,
			{data(99, ""), Output{Kind: Stream, End: 1, Ack: 2, Edge: 802, Flags: ACK}, false}}},
		{"repeated bytes bring nothing, across the wraparound", []step{synack,
			{data(1, "abcdefghijklmnopqrstuvwxyz"), Output{Kind: Stream, End: 27, Ack: 2, Edge: 802, Flags: ACK}, true},
			{data(10, "jklmnopqr"), Output{Kind: Stream, End: 19, Ack: 2, Edge: 802, Flags: ACK}, false},
			{data(20, "tuvwxyz01"), Output{Kind: Stream, End: 29, Ack: 2, Edge: 802, Flags: ACK}, true}}},
		{"other bytes in place of sent ones are odd", []step{synack,
			{data(1, "abcdef"), Output{Kind: Stream, End: 7, Ack: 2, Edge: 802, Flags: ACK}, true},
			{data(3, "cdXf"), Output{Kind: Datagram, End: 1}, true},
			{data(7, "g"), Output{Kind: Stream, End: 8, Ack: 2, Edge: 802, Flags: ACK}, true}}},
		{"a gap and who fills it", []step{synack,
			{data(5, "efg"), Output{Kind: Stream, End: 8, Ack: 2, Edge: 802, Flags: ACK}, true},
			{data(1, "abcd"), Output{Kind: Datagram, End: 1}, true},
			{data(5, "efg"), Output{Kind: Stream, End: 8, Ack: 2, Edge: 802, Flags: ACK}, false}}},
		{"bytes from before the connection are odd", []step{synack,
			{data(0xffff_fff0, "abcd"), Output{Kind: Datagram, End: 1}, true}}},
		{"a reset takes no offset", []step{synack,
			{data(1, "ab"), Output{Kind: Stream, End: 3, Ack: 2, Edge: 802, Flags: ACK}, true},
			{seg{flags: fRST | fACK, seq: isn + 3, ack: irs2}, Output{Kind: Stream, End: 3, Ack: 2, Edge: 2, Flags: RST | ACK}, false}}},
		{"a reset that the connection has not come to is odd", []step{synack,
			{seg{flags: fRST, seq: 999}, Output{Kind: Datagram, End: 1}, true}}},
		{"a reset with data is odd", []step{synack,
			{seg{flags: fRST, seq: isn + 1, payload: []byte("why")}, Output{Kind: Datagram, End: 1}, true}}},
		{"a FIN at another offset is odd", []step{synack,
			{seg{flags: fFIN | fACK, seq: isn + 1, ack: irs + 1, payload: []byte("abc")}, Output{Kind: Stream, End: 5, Ack: 1, Edge: 1, Flags: ACK | FIN}, true},
			{seg{flags: fFIN | fACK, seq: isn + 4, ack: irs + 1}, Output{Kind: Stream, End: 5, Ack: 1, Edge: 1, Flags: ACK | FIN}, false},
			{seg{flags: fFIN | fACK, seq: isn + 1, ack: irs + 1, payload: []byte("ab")}, Output{Kind: Datagram, End: 1}, true}}},
		{"data in place of FIN is odd", []step{synack,
			{seg{flags: fFIN | fACK, seq: isn + 1, ack: irs + 1, payload: []byte("abc")}, Output{Kind: Stream, End: 5, Ack: 1, Edge: 1, Flags: ACK | FIN}, true},
			{seg{flags: fACK, seq: isn + 1, ack: irs + 1, payload: []byte("abc\x00")}, Output{Kind: Datagram, End: 1}, true}}},
		{"an unknown connection is picked up with absolute numbers", []step{
			{seg{flags: fACK, seq: 7, ack: 5, window: 2, payload: []byte("abc")}, Output{Kind: Stream, End: 1<<32 + 10, Ack: 1<<32 + 5, Edge: 1<<32 + 7, Flags: ACK}, true},
			{seg{flags: fACK, seq: 10, ack: 5, window: 2, payload: []byte("d")}, Output{Kind: Stream, End: 1<<32 + 11, Ack: 1<<32 + 5, Edge: 1<<32 + 7, Flags: ACK}, true},
			{seg{flags: fACK, seq: 5, ack: 5, payload: []byte("Xa")}, Output{Kind: Datagram, End: 1}, true}}},
		{"a reset of no connection is odd", []step{
			{seg{flags: fRST | fACK, seq: 0, ack: 5}, Output{Kind: Datagram, End: 1}, true}}},
		{"a SYN with data", []step{
			{seg{flags: fSYN, seq: isn, window: 9, payload: []byte("hello")}, Output{Kind: Stream, End: 6, Flags: SYN}, true},
			{seg{flags: fSYN, seq: isn, window: 9}, Output{Kind: Stream, End: 1, Flags: SYN}, false}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tab := NewTable(1)
			names := map[ID]string{}
			for i, st := range test.steps {
				o := tab.Out(st.s.frame())
				if o.Digest.IsZero() == st.new {
					t.Errorf("step %d: digest %x", i, o.Digest)
				}
				if first := names[o.Flow] == ""; first == (o.Name == "") {
					t.Errorf("step %d: name %q", i, o.Name)
				}
				names[o.Flow] += o.Name
				o.Flow, o.Name, o.Digest = 0, "", Digest{}
				if o != st.want {
					t.Errorf("step %d: %+v, want %+v", i, o, st.want)
				}
			}
		})
	}
}

// What the peer has acknowledged may be repeated as rubbish: the peer ignores it.
func TestKeepAliveWithRubbish(t *testing.T) {
	for _, acked := range []bool{false, true} {
		tab := NewTable(1)
		tab.Out(seg{flags: fSYN | fACK, seq: 1, ack: 6}.frame())
		tab.Out(seg{flags: fACK, seq: 2, ack: 6, payload: []byte("abc")}.frame())
		if acked {
			tab.In(seg{flags: fACK, seq: 6, ack: 5}.reply().frame())
		}
		o := tab.Out(seg{flags: fACK, seq: 4, ack: 6, payload: []byte("X")}.frame())
		if (o.Kind == Stream) != acked {
			t.Errorf("acknowledged %v: %+v", acked, o)
		}
	}
}

// Whatever a hostile guest sends, a table that had to forget and one that was
// told of confirmations say the same as one that holds all, or nothing.
func TestHostileGuest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		small, free := NewTable(1), NewTable(1)
		l := DefaultLimits
		l.HeldPerStream, l.Held = rapid.IntRange(1, 200).Draw(t, "per stream"), rapid.IntRange(1, 9<<10).Draw(t, "all")
		small.SetLimits(l)
		base := isns.Draw(t, "base")
		ends := map[ID]uint64{}
		for range rapid.IntRange(1, 40).Draw(t, "segments") {
			s := seg{
				seq: base + rapid.Uint32Range(0, 60).Draw(t, "seq"), ack: rapid.Uint32Range(5, 6).Draw(t, "ack"),
				flags:   rapid.SampledFrom([]uint8{fACK, fACK, fACK, fACK, fACK | fFIN, fACK | fFIN, fFIN, fSYN, fSYN | fACK, fRST, fSYN | fFIN, 0, 0xff}).Draw(t, "flags"),
				payload: rapid.SliceOfN(rapid.ByteRange(0, 1), 0, 60).Draw(t, "payload"),
			}
			a, b := small.Out(s.frame()), free.Out(s.frame())
			a.Name, b.Name = "", ""
			if a.Kind == b.Kind && a.Kind == Stream && a != b || a.Kind == Datagram && b.Kind == Stream {
				t.Fatalf("%+v and %+v", a, b) // only who holds bytes can find others in their place
			}
			if a.Kind == Stream {
				if !a.Digest.IsZero() && a.End <= ends[a.Flow] {
					t.Fatalf("%+v is not new: %d", a, ends[a.Flow])
				}
				ends[a.Flow] = max(ends[a.Flow], a.End)
				switch rapid.IntRange(0, 5).Draw(t, "then") {
				case 0:
					small.Confirm(a.Flow, rapid.Uint64Range(0, a.End+1).Draw(t, "confirmed"))
				case 1:
					in := seg{flags: fACK, seq: 5, ack: s.seq}.reply()
					small.In(in.frame())
					free.In(in.frame())
				}
			}
			for id, end := range ends {
				for at := end - min(end, 70); at <= end; at++ {
					x, ok := small.DigestAt(id, at)
					if y, known := free.DigestAt(id, at); ok && (!known || x != y) {
						t.Fatalf("at %d of %d: %x, free %x %v", at, end, x, y, known)
					}
				}
			}
		}
	})
}

// Copies that leave the same gap agree, others do not.
func TestGapIsCompared(t *testing.T) {
	run := func(at uint32) Output {
		tab := NewTable(1)
		tab.Out(seg{flags: fSYN | fACK, seq: at, ack: 6}.frame())
		return tab.Out(seg{flags: fACK, seq: at + 101, ack: 6, payload: []byte("late")}.frame())
	}
	shifted := func() Output {
		tab := NewTable(1)
		tab.Out(seg{flags: fSYN | fACK, seq: 0, ack: 6}.frame())
		tab.Out(seg{flags: fACK, seq: 51, ack: 6, payload: []byte("x")}.frame())
		return tab.Out(seg{flags: fACK, seq: 101, ack: 6, payload: []byte("late")}.frame())
	}
	a, b, c := run(0), run(1<<31), shifted()
	if a.Digest != b.Digest || a.End != b.End || a.End != c.End || a.Digest == c.Digest {
		t.Fatalf("%+v\n%+v\n%+v", a, b, c)
	}
}

// What the peer can see of a SYN is compared, what it cannot is not.
func TestSYNOptions(t *testing.T) {
	base := seg{flags: fSYN | fACK, seq: 5, ack: 6, mss: 1460, scale: 7, sackOK: true, ts: &[2]uint32{1, 2}, window: 1}
	digest := func(s seg) Digest { return NewTable(1).Out(s.frame()).Digest }
	same := base
	same.seq, same.window, same.ts, same.id, same.ttl = 99, 77, &[2]uint32{8, 9}, 3, 1
	if digest(base) != digest(same) {
		t.Error("ISN, window, timestamps, IP id or TTL are seen")
	}
	for name, change := range map[string]func(*seg){
		"MSS":        func(s *seg) { s.mss++ },
		"no MSS":     func(s *seg) { s.mss = 0 },
		"scale":      func(s *seg) { s.scale++ },
		"no scale":   func(s *seg) { s.scale = 0 },
		"SACK":       func(s *seg) { s.sackOK = false },
		"timestamps": func(s *seg) { s.ts = nil },
	} {
		other := base
		change(&other)
		if digest(base) == digest(other) {
			t.Errorf("%s is not seen", name)
		}
	}
}

// Digests restart with an epoch, offsets do not.
func TestNewEpoch(t *testing.T) {
	a, b := NewTable(1), NewTable(1)
	send := func(tab *Table, isn, at uint32, payload string) Output {
		return tab.Out(seg{flags: fACK, seq: isn + at, ack: 6, payload: []byte(payload)}.frame())
	}
	var before [2]Output
	for i, tab := range []*Table{a, b} {
		tab.Out(seg{flags: fSYN | fACK, seq: uint32(i), ack: 6}.frame())
		before[i] = send(tab, uint32(i), 1, []string{"abc", "axc"}[i])
		tab.NewEpoch()
		if d, ok := tab.DigestAt(before[i].Flow, 4); !ok || d != func() Digest { tab.hash.Reset(); return tab.sum() }() {
			t.Errorf("start of the epoch: %x %v", d, ok)
		}
		if o := send(tab, uint32(i), 2, "bc"); o.End != 4 || !o.Digest.IsZero() || o.Name == "" {
			t.Errorf("repetition across the epoch: %+v", o)
		}
	}
	if before[0].Digest == before[1].Digest {
		t.Error("difference not seen")
	}
	x, y := send(a, 0, 4, "d"), send(b, 1, 4, "d")
	if x.Digest != y.Digest || x.End != 5 || x.Digest == before[0].Digest {
		t.Errorf("%+v and %+v", x, y)
	}
}

func TestFlowIdentity(t *testing.T) {
	out := func(tab *Table, s seg) ID { return tab.Out(s.frame()).Flow }
	passive := func(isn, irs uint32) seg { return seg{flags: fSYN | fACK, seq: isn, ack: irs + 1} }
	active := func(isn uint32) seg { return seg{flags: fSYN, seq: isn} }
	data := func(seq uint32) seg { return seg{flags: fACK, seq: seq, ack: 1, payload: []byte("x")} }

	a, b, other := NewTable(1), NewTable(1), NewTable(2)
	first := out(a, passive(100, 7))
	if out(b, passive(9000, 7)) != first {
		t.Error("accepted: own ISN changes the identity")
	}
	if out(other, passive(100, 7)) == first {
		t.Error("the seed does not count")
	}
	if out(a, data(101)) != first {
		t.Error("data is of another flow than its SYN")
	}
	second := out(a, passive(200, 8))
	if second == first || out(b, passive(1, 8)) != second {
		t.Error("accepted again: identities")
	}
	third := out(a, active(300))
	if third == first || third == second || out(b, active(2)) != third {
		t.Error("opened by the guest: identities")
	}
	if out(a, active(300)) != third {
		t.Error("a repeated SYN is another flow")
	}
	fourth := out(a, active(301))
	if fourth == third || out(b, active(3)) != fourth {
		t.Error("opened anew: identities")
	}
	vlan := passive(100, 7)
	vlan.vlans = []uint16{5}
	if out(NewTable(1), vlan) == first {
		t.Error("VLAN does not count")
	}
	swapped := passive(100, 7).reply()
	if out(NewTable(1), swapped) == first {
		t.Error("direction does not count")
	}
	picked := out(NewTable(1), data(5))
	if picked == first || out(NewTable(1), data(999)) != picked {
		t.Error("picked up: identities")
	}
}

// A guest that forgot a request and answers its repetition with another ISN has
// the same connection, unless it was in use.
func TestSYNAnsweredAnew(t *testing.T) {
	tab := NewTable(1)
	first := tab.Out(seg{flags: fSYN | fACK, seq: 100, ack: 8}.frame())
	again := tab.Out(seg{flags: fSYN | fACK, seq: 5000, ack: 8}.frame())
	o, ok := tab.Opened()
	if again.Flow != first.Flow || !again.Digest.IsZero() || !ok || o.ISN != 5000 || o.Flow != first.Flow {
		t.Fatalf("%+v, %+v, %+v %v", first, again, o, ok)
	}
	tab.Out(seg{flags: fACK, seq: 5001, ack: 8, payload: []byte("used")}.frame())
	third := tab.Out(seg{flags: fSYN | fACK, seq: 70000, ack: 8}.frame())
	if third.Flow == first.Flow || third.Digest.IsZero() {
		t.Fatalf("%+v", third)
	}
}

// Offsets go on beyond 32 bits.
func TestOffsetsAreWide(t *testing.T) {
	tab := NewTable(1)
	tab.SetDigests(false)
	tab.Out(seg{flags: fSYN | fACK, seq: 0xffff_0000, ack: 1}.frame())
	payload := make([]byte, 60000)
	want, ack := uint64(1), uint64(1)
	for want < 3<<32 {
		o := tab.Out(seg{flags: fACK, seq: 0xffff_0000 + uint32(want), ack: uint32(ack), payload: payload, window: 5}.frame())
		want += uint64(len(payload))
		if o.End != want || o.Ack != ack || o.Edge != ack+5 {
			t.Fatalf("%+v, want %d, %d", o, want, ack)
		}
		// The table jumps ahead as a stream of many segments would.
		s := tab.streams[o.Flow]
		s.next += 1 << 30
		want += 1 << 30
		ack += 1<<31 - 1
	}
}

// Held bytes are bounded; what is forgotten cannot be probed, the rest can.
func TestHeldBytesAreBounded(t *testing.T) {
	tab, free := NewTable(1), NewTable(1)
	l := DefaultLimits
	l.HeldPerStream, l.Held = 64<<10, 96<<10
	tab.SetLimits(l)
	const conns = 4
	var ids [conns]ID
	var end uint64
	for round := range 100 {
		for c := range conns {
			s := seg{flags: fSYN | fACK, seq: 1, ack: 2}
			if round > 0 {
				s = seg{flags: fACK, seq: 2 + uint32(round-1)*3000, ack: 2, payload: bytes.Repeat([]byte{byte(round)}, 3000)}
			}
			s.from, s.to = guest4, peer4
			s.to = peer4
			s.vlans = []uint16{uint16(c)}
			o := tab.Out(s.frame())
			if f := free.Out(s.frame()); f != o {
				t.Fatalf("limited %+v, free %+v", o, f)
			}
			ids[c], end = o.Flow, o.End
			if tab.pool.out > l.Held {
				t.Fatalf("%d bytes held", tab.pool.out)
			}
		}
	}
	if tab.Counters().HeldDropped == 0 {
		t.Fatal("nothing was dropped")
	}
	for _, id := range ids {
		known := false
		for at := uint64(0); at <= end; at += 500 {
			got, ok := tab.DigestAt(id, at)
			want, _ := free.DigestAt(id, at)
			if ok && got != want || known && !ok {
				t.Fatalf("at %d: %x %v, want %x", at, got, ok, want)
			}
			known = ok
		}
		tab.Confirm(id, end)
	}
	if tab.pool.out != 0 {
		t.Errorf("%d bytes handed out after all was confirmed", tab.pool.out)
	}
}

package flow

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/packet"
)

// FuzzTable lets a hostile guest and a hostile peer send anything. The input is
// a script: a byte for the operation, a length, a frame.
func FuzzTable(f *testing.F) {
	script := func(parts ...[]byte) (b []byte) {
		for i, p := range parts {
			b = append(b, byte(i%5), byte(len(p)))
			b = append(b, p...)
		}
		return b
	}
	syn := seg{flags: fSYN | fACK, seq: 1, ack: 2, mss: 1, scale: 7, ts: &[2]uint32{1, 2}}.frame()
	data := seg{flags: fACK, seq: 2, ack: 2, payload: []byte("0123456789"), ts: &[2]uint32{1, 2}}
	back := seg{flags: fACK | fFIN, seq: 2, ack: 9, sack: []uint32{1, 2, 3, 4}, ts: &[2]uint32{1, 2}}.reply().frame()
	f.Add(script(syn, back, data.frame(), syn, data.frame()))
	f.Add(script(packet.UnsolicitedNA(guestMAC, guest6.Addr(), 1), icmp(peer4.Addr(), guest4.Addr(), 3, 4, 0, data.frame()[14:]), udp(guest4, peer4, 1, "x")))
	data.flags |= fFIN
	f.Add(script(data.frame(), back, data.frame(), data.frame(), back, seg{flags: fRST}.frame()))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := Limits{Streams: 3, Datagrams: 3, HeldPerStream: 100, Held: 8 << 10, Addresses: 2}
		x, y := NewTable(1), NewTable(1)
		x.SetLimits(l)
		y.SetLimits(l)
		for len(b) >= 2 {
			op, n := b[0], min(int(b[1]), len(b)-2)
			frame := b[2 : 2+n]
			b = b[2+n:]
			switch op % 8 {
			default:
				o, again := x.Out(bytes.Clone(frame)), y.Out(bytes.Clone(frame))
				if o != again {
					t.Fatalf("one guest, two outputs: %+v and %+v", o, again)
				}
				if o.Kind == Stream && !o.Digest.IsZero() {
					if d, ok := x.DigestAt(o.Flow, o.End); !ok || d != o.Digest {
						t.Fatalf("reported %+v, probed %x %v", o, d, ok)
					}
					for back := range uint64(40) {
						x.DigestAt(o.Flow, o.End-back)
					}
				}
				if op&8 != 0 {
					x.Confirm(o.Flow, o.End-uint64(op>>4))
				}
				sent := x.EmitFlow(o.Flow, bytes.Clone(frame), uint64(op))
				if len(sent) != len(frame) {
					t.Fatal("length changed")
				}
			case 1:
				if in := x.In(bytes.Clone(frame)); len(in) != len(frame) {
					t.Fatal("length changed")
				}
				y.In(bytes.Clone(frame))
			case 5:
				o := Opening{Flow: ID(op >> 4), ISN: uint32(n), HasTS: op&8 != 0}
				for id := range x.streams {
					o.Flow = max(o.Flow, id)
				}
				x.Learn(o)
				y.Learn(o)
			case 6:
				rules := &Rules{rules: []rule{{anyProto: true, dst: pattern{lo: uint16(n), hi: uint16(n) + 200}, action: Action(op>>3) % 3}}}
				x.SetRules(rules)
				y.SetRules(rules)
				x.NewEpoch()
				y.NewEpoch()
			case 7:
				if err := x.Load(x.Save()); err != nil {
					t.Fatal(err)
				}
				if err := y.Load(y.Save()); err != nil {
					t.Fatal(err)
				}
			}
			held := 0
			for _, s := range x.streams {
				if s.tail != nil {
					held += cap(s.tail.buf)
					if got := s.tail.base + uint64(len(s.tail.held())); got != s.next {
						t.Fatalf("held up to %d of %d", got, s.next)
					}
				}
			}
			if len(x.streams) > 3 || len(x.datagrams) > 3 || held > l.Held || held != x.pool.out || len(x.learnt) > 3 {
				t.Fatalf("%d streams, %d datagram flows, %d bytes held, %d counted", len(x.streams), len(x.datagrams), held, x.pool.out)
			}
		}
		x.Addresses()
	})
}

// FuzzLoad gives a table any state, then uses it.
func FuzzLoad(f *testing.F) {
	tab := NewTable(1)
	tab.Out(seg{flags: fSYN | fACK, seq: 1, ack: 2, mss: 1, scale: 7, ts: &[2]uint32{1, 2}}.frame())
	tab.Out(packet.UnsolicitedNA(guestMAC, guest6.Addr(), 1))
	tab.SetRules(rulesOf(f, "tcp any:1-9 > 10.0.0.0/8 vlan 5: pass"))
	f.Add(tab.Save())
	f.Fuzz(func(t *testing.T, b []byte) {
		tab := NewTable(1)
		if tab.Load(b) != nil {
			return
		}
		if err := NewTable(1).Load(tab.Save()); err != nil {
			t.Fatal(err)
		}
		for _, s := range []seg{
			{flags: fACK, seq: 2, ack: 2, payload: []byte("abc")}, {flags: fSYN | fACK, seq: 1, ack: 2},
			{flags: fFIN | fACK, seq: 5, ack: 2}, {flags: fACK, seq: 9, ack: 2, payload: []byte("abc")}, {flags: fRST, seq: 5},
		} {
			o := tab.Out(s.frame())
			tab.DigestAt(o.Flow, o.End-1)
			tab.Emit(s.frame(), 9)
			tab.In(s.reply().frame())
		}
	})
}

// Nothing allocates once a flow is known.
func TestSteadyStateDoesNotAllocate(t *testing.T) {
	tab, id := accepted(t, 1000, 5000, "open")
	payload := bytes.Repeat([]byte("x"), 1400)
	seq, ack := uint32(1001), uint32(501)
	data := seg{flags: fACK, window: 100, ts: &[2]uint32{20001, 95}, payload: payload}.frame()
	in := seg{flags: fACK, window: 100, ts: &[2]uint32{95, 20001}, sack: []uint32{1, 2}, payload: payload}.reply().frame()
	dgram := udp(guest4, peer4, 1, "hello")
	arp := packet.GratuitousARP(guestMAC, guest4.Addr())[0]
	var p packet.Packet
	var marks Marks
	var taken []EmittedMark
	step := func() {
		p.Parse(data)
		p.SetSeq(seq)
		p.SetAck(ack)
		o := tab.Out(data)
		tab.DigestAt(id, o.End-700)
		tab.EmitFlow(o.Flow, data, 1)
		tab.Confirm(id, o.End-100)
		marks.Emitted(o)
		taken = marks.Take(taken[:0])
		marks.Covers(o)
		p.Parse(in)
		p.SetAck(5000 + seq - 1000)
		tab.In(in)
		tab.Out(dgram)
		tab.Out(arp)
		seq += uint32(len(payload))
		ack += uint32(len(payload))
	}
	for range 100 {
		step()
	}
	if n := testing.AllocsPerRun(1000, step); n != 0 {
		t.Errorf("%v allocations per step", n)
	}
}

func BenchmarkOutSmallSegment(b *testing.B) { benchmarkSegment(b, 64) }
func BenchmarkOutFullSegment(b *testing.B)  { benchmarkSegment(b, 1448) }

func benchmarkSegment(b *testing.B, size int) {
	tab := NewTable(1)
	id := tab.Out(seg{flags: fSYN | fACK, seq: 0, ack: 1}.frame()).Flow
	frame := seg{flags: fACK, seq: 1, ack: 1, payload: make([]byte, size), ts: &[2]uint32{1, 2}}.frame()
	var p packet.Packet
	b.ReportAllocs()
	b.SetBytes(int64(len(frame)))
	for b.Loop() {
		p.Parse(frame)
		p.SetSeq(p.Seq + uint32(size))
		o := tab.Out(frame)
		if o.End&0xffff < uint64(size) {
			tab.Confirm(id, o.End)
		}
	}
}

func BenchmarkOutAcknowledgement(b *testing.B) {
	tab := NewTable(1)
	tab.Out(seg{flags: fSYN | fACK, seq: 0, ack: 1}.frame())
	frame := seg{flags: fACK, seq: 1, ack: 1, ts: &[2]uint32{1, 2}}.frame()
	b.ReportAllocs()
	for b.Loop() {
		tab.Out(frame)
	}
}

func BenchmarkOutDatagram(b *testing.B) {
	tab := NewTable(1)
	frame := udp(guest4, peer4, 1, "a small datagram")
	b.ReportAllocs()
	for b.Loop() {
		tab.Out(frame)
	}
}

func BenchmarkInTranslated(b *testing.B) {
	tab := NewTable(1)
	id := tab.Out(seg{flags: fSYN | fACK, seq: 0, ack: 1}.frame()).Flow
	tab.Learn(Opening{Flow: id, ISN: 99})
	frame := seg{flags: fACK, seq: 1, ack: 100, ts: &[2]uint32{1, 2}, sack: []uint32{1, 2}}.reply().frame()
	b.ReportAllocs()
	for b.Loop() {
		tab.In(frame)
	}
}

func BenchmarkDigestAt(b *testing.B) {
	tab := NewTable(1)
	tab.Out(seg{flags: fSYN | fACK, seq: 0, ack: 1}.frame())
	id := tab.Out(seg{flags: fACK, seq: 1, ack: 1, payload: rapid.SliceOfN(rapid.Byte(), 1400, 1400).Example(1)}.frame()).Flow
	b.ReportAllocs()
	for b.Loop() {
		tab.DigestAt(id, 700)
	}
}

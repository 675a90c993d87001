package flow

import (
	"bytes"
	"errors"
	"net/netip"
	"testing"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// busyTable has connections of every origin and phase.
func busyTable(t *testing.T) *Table {
	t.Helper()
	tab, _ := accepted(t, 1000, 5000, "open")
	tab.In(seg{flags: fACK, seq: 501, ack: 5001, ts: &[2]uint32{95, 77000}}.reply().frame())
	tab.Out(seg{flags: fACK, seq: 1001, ack: 501, payload: []byte("hello"), window: 50, ts: &[2]uint32{20100, 95}}.frame())
	tab.Emit(seg{flags: fACK, seq: 1001, ack: 501, payload: []byte("hello"), window: 50, ts: &[2]uint32{20100, 95}}.frame(), 0)
	tab.Out(seg{flags: fSYN, seq: 7, from: guest6, to: peer6, vlans: []uint16{5}}.frame())
	tab.Out(seg{flags: fSYN | fACK, seq: 70, ack: 1, from: guest6, to: peer6}.frame())
	tab.Out(seg{flags: fRST, seq: 71, from: guest6, to: peer6}.frame())
	tab.Out(seg{flags: fSYN | fACK, seq: 90, ack: 2, from: guest6, to: peer6}.frame())
	tab.Out(seg{flags: fACK, seq: 3, ack: 9, from: guest4, to: peer4, vlans: []uint16{1, 2, 3, 4}, payload: []byte("x")}.frame())
	o := tab.Out(pinned(3).frame())
	tab.Learn(Opening{Flow: o.Flow, ISN: 4000})
	tab.NewEpoch()
	return tab
}

// pinned is the guest's answer to a peer whose Opening was learnt.
func pinned(isn uint32) seg {
	return seg{flags: fSYN | fACK, seq: isn, ack: 44, from: guest4, to: netip.MustParseAddrPort("10.0.0.9:44")}
}

// A loaded table goes on exactly as the saved one.
func TestLoadGoesOnLikeSaved(t *testing.T) {
	tab := busyTable(t)
	state := tab.Save()
	loaded := NewTable(0)
	loaded.Out(seg{flags: fSYN, seq: 1, from: guest4, to: netip.MustParseAddrPort("1.2.3.4:5")}.frame()) // goes
	loaded.Learn(Opening{Flow: 9})
	if err := loaded.Load(state); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(loaded.Save(), state) {
		t.Fatal("saved again, the state differs")
	}
	if len(loaded.streams) != 6 || len(loaded.tuples) != 5 || len(loaded.learnt) != 0 {
		t.Fatalf("%d connections, %d tuples", len(loaded.streams), len(loaded.tuples))
	}
	frames := []seg{
		{flags: fACK, seq: 1006, ack: 501, payload: []byte("world"), window: 70, ts: &[2]uint32{19900, 95}},
		{flags: fSYN, seq: 7, from: guest6, to: peer6, vlans: []uint16{5}},
		{flags: fSYN, seq: 8, from: guest6, to: peer6, vlans: []uint16{5}},
		{flags: fACK, seq: 91, ack: 2, from: guest6, to: peer6, payload: []byte("y")},
		{flags: fACK, seq: 4, ack: 9, vlans: []uint16{1, 2, 3, 4}, payload: []byte("x")},
		{flags: fFIN | fACK, seq: 1011, ack: 501},
		pinned(3), pinned(888),
	}
	for i, s := range frames {
		a, b := tab.Out(s.frame()), loaded.Out(s.frame())
		if a != b {
			t.Errorf("frame %d: %+v, loaded %+v", i, a, b)
		}
		m, _ := tab.Opened()
		if n, _ := loaded.Opened(); m != n {
			t.Errorf("frame %d: opening %+v, loaded %+v", i, m, n)
		}
		x, y := tab.EmitFlow(a.Flow, s.frame(), 300), loaded.EmitFlow(a.Flow, s.frame(), 300)
		if !bytes.Equal(x, y) {
			t.Errorf("frame %d: left as %x, loaded %x", i, x, y)
		}
		in := s.reply()
		in.flags, in.seq, in.ack = fACK, 600, 5003
		in.ts = &[2]uint32{100, 99999}
		if x, y := tab.In(in.frame()), loaded.In(in.frame()); !bytes.Equal(x, y) {
			t.Errorf("frame %d: arrives as %x, loaded %x", i, x, y)
		}
	}
	if !bytes.Equal(loaded.Save(), tab.Save()) {
		t.Error("after the same frames, the states differ")
	}
}

// The guest's next connections have the same identity in both copies whichever
// of Save and NewEpoch came first, and never one of before, even if the table
// has forgotten the connections in between.
func TestOpeningsInTheNextEpoch(t *testing.T) {
	for _, first := range []string{"Save", "NewEpoch"} {
		tab, loaded := NewTable(1), NewTable(0)
		l := DefaultLimits
		l.Streams = 2
		tab.SetLimits(l)
		seen := map[ID]bool{}
		isn := uint32(0)
		open := func(port uint16) seg {
			isn++
			return seg{flags: fSYN, seq: isn, from: guest4, to: netip.AddrPortFrom(peer4.Addr(), port)}
		}
		for range 4 {
			for range 3 {
				for port := range uint16(5) {
					id := tab.Out(open(port).frame()).Flow
					if seen[id] {
						t.Fatalf("%s first: an identity came back", first)
					}
					seen[id] = true
				}
			}
			var state []byte
			if first == "Save" {
				state = tab.Save()
				tab.NewEpoch()
			} else {
				tab.NewEpoch()
				state = tab.Save()
			}
			if err := loaded.Load(state); err != nil {
				t.Fatal(err)
			}
			s := open(3)
			if a, b := tab.Out(s.frame()), loaded.Out(s.frame()); a != b {
				t.Fatalf("%s first: %+v, loaded %+v", first, a, b)
			}
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	tests := map[string]func(*understudyv1.FlowTableState){
		"version":            func(s *understudyv1.FlowTableState) { s.Version = 2 },
		"guest address":      func(s *understudyv1.FlowTableState) { s.Streams[0].GuestIp = []byte{1} },
		"peer address":       func(s *understudyv1.FlowTableState) { s.Streams[0].PeerIp = nil },
		"IP versions":        func(s *understudyv1.FlowTableState) { s.Streams[0].PeerIp = make([]byte, 20-len(s.Streams[0].PeerIp)) },
		"port":               func(s *understudyv1.FlowTableState) { s.Streams[0].PeerPort = 65536 },
		"VLAN":               func(s *understudyv1.FlowTableState) { s.Streams[0].Vlans = []uint32{4096} },
		"VLANs":              func(s *understudyv1.FlowTableState) { s.Streams[0].Vlans = make([]uint32, 5) },
		"no identity":        func(s *understudyv1.FlowTableState) { s.Streams[0].Id = 0 },
		"identity twice":     func(s *understudyv1.FlowTableState) { s.Streams[0].Id = s.Streams[1].Id },
		"ports twice":        func(s *understudyv1.FlowTableState) { s.Streams[0].Replaced = false },
		"origin":             func(s *understudyv1.FlowTableState) { s.Streams[0].Origin = 77 },
		"SYN record":         func(s *understudyv1.FlowTableState) { s.Streams[0].Syn = nil },
		"scale":              func(s *understudyv1.FlowTableState) { s.Streams[0].Scale = 15 },
		"own scale":          func(s *understudyv1.FlowTableState) { s.Streams[0].OwnScale = 257 },
		"offset":             func(s *understudyv1.FlowTableState) { s.Streams[0].Next = 1 << 63 },
		"peer offset":        func(s *understudyv1.FlowTableState) { s.Streams[0].AckNext = 1 << 63 },
		"acknowledged":       func(s *understudyv1.FlowTableState) { s.Streams[0].Acked = s.Streams[0].Next + 1 },
		"FIN":                func(s *understudyv1.FlowTableState) { s.Streams[0].Fin = s.Streams[0].Next + 1 },
		"MAC":                func(s *understudyv1.FlowTableState) { s.Addresses[0].Mac = []byte{1} },
		"address of a guest": func(s *understudyv1.FlowTableState) { s.Addresses[0].Ip = []byte{1} },
		"VLAN of a guest":    func(s *understudyv1.FlowTableState) { s.Addresses[0].Vlans = make([]uint32, 5) },
	}
	state := busyTable(t).Save()
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			st := &understudyv1.FlowTableState{}
			if err := proto.Unmarshal(state, st); err != nil {
				t.Fatal(err)
			}
			if !st.Streams[0].Replaced {
				t.Fatal("the first stream is meant to be a replaced one")
			}
			change(st)
			bad, err := proto.Marshal(st)
			if err != nil {
				t.Fatal(err)
			}
			tab := busyTable(t)
			if err := tab.Load(bad); !errors.Is(err, ErrState) {
				t.Fatalf("error %v", err)
			}
			if !bytes.Equal(tab.Save(), state) {
				t.Error("the table changed")
			}
		})
	}
	if err := NewTable(1).Load([]byte{0xff}); !errors.Is(err, ErrState) {
		t.Errorf("garbage: %v", err)
	}
	if err := NewTable(1).Load(nil); !errors.Is(err, ErrState) {
		t.Errorf("nothing: %v", err)
	}
}

// Connections are bounded: closed ones go first, then half-open ones, then the
// least recently used.
func TestStreamsAreBounded(t *testing.T) {
	tab := NewTable(1)
	l := DefaultLimits
	l.Streams = 8
	tab.SetLimits(l)
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(peer4.Addr(), port) }
	out := func(port uint16, flags uint8, seq uint32, payload string) ID {
		return tab.Out(seg{from: guest4, to: at(port), flags: flags, seq: seq, ack: 1, payload: []byte(payload)}.frame()).Flow
	}
	in := func(port uint16, flags uint8, seq, ack uint32) {
		tab.In(seg{from: at(port), to: guest4, flags: flags, seq: seq, ack: ack}.frame())
	}
	established := func(port uint16) ID {
		id := out(port, fSYN|fACK, 0, "")
		in(port, fACK, 1, 1)
		return id
	}
	a, b := established(1), established(2)
	c := established(3)
	// c is closed by FIN both ways, a by nothing.
	out(3, fFIN|fACK, 1, "")
	in(3, fFIN|fACK, 1, 2)
	tab.Out(seg{from: guest4, to: at(3), flags: fACK, seq: 2, ack: 2}.frame())
	d := established(4)
	in(4, fRST, 1, 0)
	half := out(5, fSYN|fACK, 0, "")
	known := func(ids ...ID) {
		t.Helper()
		for _, id := range []ID{a, b, c, d, half} {
			want := false
			for _, k := range ids {
				want = want || k == id
			}
			if got := tab.streams[id] != nil; got != want {
				t.Errorf("flow %x known: %v", id, got)
			}
		}
	}
	established(6)
	established(7)
	established(8)
	known(a, b, c, d, half)
	established(9)
	known(a, b, d, half)
	established(10)
	known(a, b, half)
	if n := tab.Counters().StreamsEvicted; n != 0 {
		t.Errorf("%d evicted", n)
	}
	out(1, fACK, 1, "a is used")
	established(11)
	known(a, b)
	established(12)
	known(a)
	if n := tab.Counters().StreamsEvicted; n != 2 || len(tab.streams) != 8 || len(tab.tuples) != 8 {
		t.Errorf("%d evicted, %d known", n, len(tab.streams))
	}
	// A flood of openings takes none of the established.
	for port := uint16(100); port < 300; port++ {
		out(port, fSYN|fACK, 0, "")
	}
	if tab.streams[a] == nil {
		t.Error("a flood of openings evicted a connection in use")
	}
}

// A connection that was replaced by another one of the same ports goes early.
func TestReplacedStreamsGo(t *testing.T) {
	tab := NewTable(1)
	l := DefaultLimits
	l.Streams = 3
	tab.SetLimits(l)
	other := tab.Out(seg{flags: fACK, seq: 1, from: guest6, to: peer6}.frame()).Flow
	for n := range uint32(50) {
		tab.Out(seg{flags: fSYN | fACK, seq: n, ack: n + 7}.frame())
		tab.Out(seg{flags: fACK, seq: n + 1, ack: n + 7, payload: []byte("x")}.frame())
	}
	if tab.streams[other] == nil || len(tab.streams) != 3 || len(tab.tuples) != 2 || tab.Counters().StreamsEvicted != 0 {
		t.Errorf("%d known, %d tuples, %+v", len(tab.streams), len(tab.tuples), tab.Counters())
	}
}

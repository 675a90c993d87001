package flow

import (
	"net/netip"
	"runtime"
	"testing"
)

// A guest that opens 50,000 connections, sends on all of them and answers as many
// peers by datagrams is held to the default limits, with digests of all.
func TestFloodIsBounded(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	tab := NewTable(1)
	payload := make([]byte, 1400)
	const flows = 50_000
	for i := range flows {
		peer := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 80)
		syn := seg{from: guest4, flags: fSYN, seq: 1, to: peer}.frame()
		data := seg{from: guest4, flags: fACK, seq: 2, ack: 1, to: peer, payload: payload}.frame()
		if o := tab.Out(syn); o.Kind != Stream || o.Digest.IsZero() {
			t.Fatalf("opening %d: %+v", i, o)
		}
		if o := tab.Out(data); o.Kind != Stream || o.Digest.IsZero() {
			t.Fatalf("segment %d: %+v", i, o)
		}
		if o := tab.Out(udp(guest4, peer, 1, "x")); o.Kind != Datagram || o.End != 1 {
			t.Fatalf("datagram %d: %+v", i, o)
		}
	}
	l := DefaultLimits
	if len(tab.streams) > l.Streams || len(tab.tuples) > l.Streams || len(tab.datagrams) > l.Datagrams || tab.pool.out > l.Held {
		t.Errorf("%d connections, %d datagram flows, %d bytes held", len(tab.streams), len(tab.datagrams), tab.pool.out)
	}
	if c := tab.Counters(); c.StreamsEvicted < flows-uint64(l.Streams) || c.DatagramsEvicted < flows-uint64(l.Datagrams) {
		t.Errorf("the least recently used do not go: %+v", c)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 200<<20 {
		t.Errorf("the table takes %d MiB", grown>>20)
	}
	if state := tab.Save(); len(state) > 16<<20 {
		t.Errorf("its state has %d bytes", len(state))
	}
	runtime.KeepAlive(tab)
}

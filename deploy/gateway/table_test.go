package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var (
	guestA = mac{0x52, 0x54, 0, 0, 0, 0xa}
	guestB = mac{0x52, 0x54, 0, 0, 0, 0xb}
	all    = mac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
)

func frameOf(dst, src mac, payload string) []byte {
	b := append(append(append([]byte(nil), dst[:]...), src[:]...), 0x88, 0xb5) // local experimental EtherType
	return append(b, payload...)
}

// step is one thing that happens at the switch, and where a frame goes.
type step struct {
	what     string // "add", "remove", "mute", "unmute" or "frame"
	port     portID
	dst, src mac
	to       []portID
	moved    bool
}

func TestFramesGoWhereTheyBelong(t *testing.T) {
	add := func(p portID) step { return step{what: "add", port: p} }
	remove := func(p portID) step { return step{what: "remove", port: p} }
	mute := func(p portID) step { return step{what: "mute", port: p} }
	unmute := func(p portID) step { return step{what: "unmute", port: p} }
	frame := func(p portID, dst, src mac, to ...portID) step {
		return step{what: "frame", port: p, dst: dst, src: src, to: to}
	}
	moved := func(s step) step { s.moved = true; return s }

	for name, steps := range map[string][]step{
		"an unknown address is flooded, but not to the router": {
			add(1), add(2), add(3), unmute(1), unmute(2),
			frame(1, guestB, guestA, 2, 3),
			frame(routerPort, guestB, routerMAC, 1, 2, 3),
		},
		"a known address gets its frames alone": {
			add(1), add(2), add(3), unmute(1), unmute(2), unmute(3),
			frame(1, all, guestA, routerPort, 2, 3),
			frame(routerPort, guestA, routerMAC, 1),
			frame(2, guestA, guestB, 1),
			frame(1, guestB, guestA, 2),
		},
		"muted ports hear what a guest is sent": {
			add(1), add(2), unmute(1),
			frame(1, all, guestA, routerPort, 2),
			frame(routerPort, guestA, routerMAC, 1, 2),
		},
		"muted ports do not hear what a guest sends to the router": {
			add(1), add(2), unmute(1),
			frame(1, routerMAC, guestA, routerPort),
		},
		"a new port is muted, and a muted port cannot speak": {
			add(1), add(2),
			frame(1, all, guestA), frame(1, routerMAC, guestA),
			unmute(1), frame(1, all, guestA, routerPort, 2),
			mute(1), frame(1, all, guestA),
		},
		"the address follows who spoke last": {
			add(1), add(2), unmute(1), unmute(2),
			frame(1, all, guestA, routerPort, 2),
			moved(frame(2, all, guestA, routerPort, 1)),
			frame(routerPort, guestA, routerMAC, 2),
			moved(frame(1, all, guestA, routerPort, 2)),
			frame(routerPort, guestA, routerMAC, 1),
		},
		"a port that is removed owns nothing": {
			add(1), add(2), unmute(1), frame(1, all, guestA, routerPort, 2),
			remove(1), frame(routerPort, guestA, routerMAC, 2), frame(1, all, guestA),
		},
		"a port that falls silent owns nothing": {
			add(1), add(2), add(3), unmute(1), unmute(2), frame(1, all, guestA, routerPort, 2, 3),
			mute(1), frame(routerPort, guestA, routerMAC, 1, 2, 3),
		},
		"nobody takes the router's address": {
			add(1), add(2), unmute(1), unmute(2),
			frame(1, all, routerMAC), frame(2, routerMAC, guestB, routerPort),
		},
		"a group address is nobody's": {
			add(1), add(2), unmute(1), frame(1, guestB, all),
		},
		"a frame does not go back": {
			add(1), add(2), unmute(1), unmute(2),
			frame(1, all, guestA, routerPort, 2), frame(1, guestA, guestB),
		},
	} {
		t.Run(name, func(t *testing.T) {
			table := newTable(routerMAC)
			for i, s := range steps {
				switch s.what {
				case "add":
					table.add(s.port)
				case "remove":
					table.remove(s.port)
				case "mute", "unmute":
					table.setMuted(s.port, s.what == "mute")
				case "frame":
					v := table.forward(nil, s.port, frameOf(s.dst, s.src, ""))
					slices.Sort(v.to)
					if !slices.Equal(v.to, s.to) || v.moved != s.moved {
						t.Fatalf("step %d: frame from %s to %s at port %d goes to %v (moved %v), want %v (%v)",
							i, s.src, s.dst, s.port, v.to, v.moved, s.to, s.moved)
					}
				}
			}
		})
	}
}

func TestInventedAddressesAreBounded(t *testing.T) {
	table := newTable(routerMAC)
	table.add(1)
	table.add(2)
	table.setMuted(1, false)
	table.setMuted(2, false)
	table.forward(nil, 2, frameOf(all, guestB, ""))
	for i := range 10_000 {
		table.forward(nil, 1, frameOf(all, mac{2, 0, 0, 0, byte(i >> 8), byte(i)}, ""))
		if len(table.owner) > maxAddresses+1 {
			t.Fatalf("%d addresses after %d frames", len(table.owner), i+1)
		}
	}
	if v := table.forward(nil, routerPort, frameOf(guestB, routerMAC, "")); !slices.Equal(v.to, []portID{2}) {
		t.Fatalf("the other port's guest is at %v", v.to)
	}
}

// Whatever happens: no frame returns to its port, none leaves a port that is
// muted or unknown, none goes to a port that does not exist or twice to the
// same, and counts match.
func TestTableInvariants(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		table := newTable(routerMAC)
		var script []string
		macs := []mac{guestA, guestB, routerMAC, all}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			p := portID(rapid.IntRange(0, 4).Draw(t, "port"))
			what := rapid.SampledFrom([]string{"add", "remove", "mute", "unmute", "frame", "frame", "frame"}).Draw(t, "what")
			script = append(script, fmt.Sprint(what, p))
			switch {
			case what == "frame":
				muted, known := table.muted[p]
				frame := frameOf(rapid.SampledFrom(macs).Draw(t, "dst"), rapid.SampledFrom(macs).Draw(t, "src"), "")
				v := table.forward(nil, p, frame)
				slices.Sort(v.to)
				for _, to := range v.to {
					_, exists := table.muted[to]
					if to == p || to != routerPort && !exists {
						t.Fatalf("%s: goes to %v", strings.Join(script, " "), v.to)
					}
				}
				if len(slices.Compact(slices.Clone(v.to))) != len(v.to) {
					t.Fatalf("%s: goes to %v", strings.Join(script, " "), v.to)
				}
				if p != routerPort && (!known || muted) && len(v.to) > 0 {
					t.Fatalf("%s: a silent port reaches %v", strings.Join(script, " "), v.to)
				}
			case p == routerPort:
			case what == "add" && !known(table, p):
				table.add(p)
			case what == "remove":
				table.remove(p)
			case what == "mute", what == "unmute":
				table.setMuted(p, what == "mute")
			}
			counts := map[portID]int{}
			for _, o := range table.owner {
				counts[o]++
				if muted, ok := table.muted[o]; !ok || muted {
					t.Fatalf("%s: port %d owns an address", strings.Join(script, " "), o)
				}
			}
			for q, n := range table.learnt {
				if counts[q] != n {
					t.Fatalf("%s: port %d is said to own %d, and owns %d", strings.Join(script, " "), q, n, counts[q])
				}
			}
		}
	})
}

func known(t *table, p portID) bool {
	_, ok := t.muted[p]
	return ok
}

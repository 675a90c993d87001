// Package protocol says which versions of the protocol a build speaks, and
// which one two parties of different builds speak with each other.
//
// Each party names the lowest and the highest version that it speaks, and the
// one that is asked chooses the highest that both do. A build that raises the
// highest version goes on speaking the one before, so that a deployment is
// upgraded process by process. A message carries the lowest version where
// builds that knew no range had their only one, which these compare with
// theirs.
package protocol

import (
	"fmt"
	"strconv"
	"strings"
)

// speaks is the range of this build, "N" or "MIN-MAX". The linker sets it for
// tests of upgrades:
// -X github.com/understudy-ft/understudy/services/protocol.speaks=1-2
var speaks = "1"

var spoken = parse(speaks)

// Range is a range of versions, both inclusive.
type Range struct{ Min, Max uint32 }

// Spoken returns what this build speaks.
func Spoken() Range { return spoken }

// Said returns the range of a peer's message. A peer that knows no range says
// only its lowest.
func Said(lowest, highest uint32) Range { return Range{lowest, max(lowest, highest)} }

func (r Range) String() string {
	if r.Min == r.Max {
		return strconv.Itoa(int(r.Min))
	}
	return fmt.Sprintf("%d to %d", r.Min, r.Max)
}

// Agree returns the highest version that both speak. The error says what to
// upgrade; self and peer name the parties, such as "this arbiter".
func (r Range) Agree(p Range, self, peer string) (uint32, error) {
	v := min(r.Max, p.Max)
	if v >= r.Min && v >= p.Min && v > 0 {
		return v, nil
	}
	older := self
	if p.Max < r.Max {
		older = peer
	}
	return 0, fmt.Errorf("%s speaks protocol %v, %s %v: upgrade %s first, to a release that speaks both or the same", self, r, peer, p, older)
}

// parse reads what the linker set. What makes no sense is a range that agrees
// with nobody.
func parse(s string) Range {
	low, high, both := strings.Cut(s, "-")
	if !both {
		high = low
	}
	l, err1 := strconv.ParseUint(low, 10, 31)
	h, err2 := strconv.ParseUint(high, 10, 31)
	if err1 != nil || err2 != nil || l > h {
		return Range{}
	}
	return Range{uint32(l), uint32(h)}
}

package conform

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// mmuResult is what a case leaves: the trap's cause and addresses, what was
// loaded, and the page-table entry afterwards.
type mmuResult struct {
	cause, epc, tval, loaded, pte uint64
}

const mmuResultWords = 5

func (r mmuResult) String() string {
	return fmt.Sprintf("cause %d sepc %#x stval %#x loaded %#x pte %#x", r.cause, r.epc, r.tval, r.loaded, r.pte)
}

// Causes of exceptions.
const (
	causeFetchAccess     = 1
	causeBreakpoint      = 3
	causeLoadMisaligned  = 4
	causeLoadAccess      = 5
	causeStoreMisaligned = 6
	causeStoreAccess     = 7
	causeFetchPage       = 12
	causeLoadPage        = 13
	causeStorePage       = 15
)

func mmuResults(cases []mmuCase, out []byte) []mmuResult {
	list := make([]mmuResult, len(cases))
	for i := range list {
		w := func(n int) uint64 { return binary.LittleEndian.Uint64(out[(i*mmuResultWords+n)*8:]) }
		list[i] = mmuResult{w(0), w(1), w(2), w(3), w(4)}
		if list[i].cause == causeBreakpoint {
			list[i].tval = 0 // may be 0 or the address
		}
	}
	return list
}

// correct turns what QEMU 7.2 does against the privileged ISA into what it
// should do:
//
//   - An atomic faults like a load, where it should fault like a store
//     (3.1.15, "store/AMO").
//   - An access to a page table outside of memory is a page fault, where it
//     should be an access fault (12.3.2, step 2).
func (r *mmuResult) correct(c *mmuCase) {
	switch {
	case c.stub == stubAMO || c.stub == stubAMOW:
		switch r.cause {
		case causeLoadMisaligned:
			r.cause = causeStoreMisaligned
		case causeLoadAccess:
			r.cause = causeStoreAccess
		case causeLoadPage:
			r.cause = causeStorePage
		}
	case c.lostTable:
		switch r.cause {
		case causeFetchPage:
			r.cause = causeFetchAccess
		case causeLoadPage:
			r.cause = causeLoadAccess
		case causeStorePage:
			r.cause = causeStoreAccess
		}
	}
}

// lines is a payload's results for testdata: of the permission matrix a line
// for each mode and access, otherwise one for each case.
func (p *Payload) lines(cases []mmuCase, results []mmuResult) []string {
	var lines []string
	if len(cases)%256 != 0 {
		for i, c := range cases {
			lines = append(lines, c.name+": "+results[i].String())
		}
		return lines
	}
	// One character for each set of flags.
	for ; len(cases) > 0; cases, results = cases[256:], results[256:] {
		var b strings.Builder
		for i, r := range results[:256] {
			b.WriteByte(r.symbol(&cases[i]))
		}
		lines = append(lines, cases[0].name+": "+b.String())
	}
	return lines
}

// symbol is '.' for a page fault, or says which flags the access has set: '-'
// none, 'a' accessed, 'd' dirty, 'b' both. Anything else is '?'.
func (r *mmuResult) symbol(c *mmuCase) byte {
	set := r.pte ^ c.pte
	switch {
	case set&^(pteA|pteD) != 0 || r.pte&c.pte != c.pte:
	case r.cause == causeBreakpoint:
		return "-adb"[set>>6]
	case (r.cause == causeFetchPage || r.cause == causeLoadPage || r.cause == causeStorePage) && r.tval == c.va && set == 0:
		return '.'
	}
	return '?'
}

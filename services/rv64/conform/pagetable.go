package conform

import "encoding/binary"

// Bits of page-table entries (privileged ISA, "Sv39").
const (
	pteV = 1 << iota
	pteR
	pteW
	pteX
	pteU
	pteG
	pteA
	pteD
)

const (
	satpSv39  = 8 << 60
	satpSv48  = 9 << 60
	pageSize  = 4096
	leafFlags = pteV | pteA | pteD
)

// pageTables builds Sv39 or Sv48 tables in pages from base on.
type pageTables struct {
	mode uint64 // of satp
	top  int    // level of the root
	base uint64
	mem  []byte // the pages in use, the root first
}

func newPageTables(base uint64) *pageTables {
	return &pageTables{mode: satpSv39, top: 2, base: base, mem: make([]byte, pageSize)}
}

func newSv48Tables(base uint64) *pageTables {
	return &pageTables{mode: satpSv48, top: 3, base: base, mem: make([]byte, pageSize)}
}

// satp switches these tables on.
func (t *pageTables) satp() uint64 { return t.mode | t.base>>12 }

// entry returns the guest-physical address of va's entry at a level (0 for 4
// KiB, 1 for 2 MiB, 2 for 1 GiB, 3 for 512 GiB), adding the tables above it.
func (t *pageTables) entry(va uint64, level int) uint64 {
	table := t.base
	for l := t.top; ; l-- {
		at := table + va>>(12+9*l)&511*8
		if l == level {
			return at
		}
		pte := t.get(at)
		if pte&pteV == 0 {
			next := t.base + uint64(len(t.mem))
			t.mem = append(t.mem, make([]byte, pageSize)...)
			pte = next>>12<<10 | pteV
			t.put(at, pte)
		}
		table = pte >> 10 << 12
	}
}

func (t *pageTables) get(at uint64) uint64 { return binary.LittleEndian.Uint64(t.mem[at-t.base:]) }

func (t *pageTables) put(at, pte uint64) { binary.LittleEndian.PutUint64(t.mem[at-t.base:], pte) }

// mapPage maps the page of va at a level to pa.
func (t *pageTables) mapPage(va, pa uint64, level int, flags uint64) {
	t.put(t.entry(va, level), pa>>12<<10|flags)
}

// mapRange maps [start, end) to itself by 4-KiB pages.
func (t *pageTables) mapRange(start, end, flags uint64) {
	for va := start; va < end; va += pageSize {
		t.mapPage(va, va, 0, flags)
	}
}

package rv64

import (
	"sync/atomic"
	"unsafe"

	"github.com/understudy-ft/understudy/services/mem"
)

// access is the kind of a memory access, in the order of the trap causes.
type access uint8

const (
	accFetch access = iota
	accLoad
	accStore
)

// Page-table entry bits (privileged ISA, 12.3 "Sv32", 12.4 "Sv39").
const (
	pteV = 1 << 0
	pteR = 1 << 1
	pteW = 1 << 2
	pteX = 1 << 3
	pteU = 1 << 4
	pteA = 1 << 6
	pteD = 1 << 7

	ptePPNMask  = 1<<44 - 1
	pteReserved = 0xffc << 52 // N, PBMT and reserved: none of them is offered
)

const (
	satpBare = 0
	satpSv39 = 8
	satpSv48 = 9
)

const (
	tlbBits = 8
	tlbSize = 1 << tlbBits
	xtlbLen = 64
	jcBits  = 10
	jcSize  = 1 << jcBits

	// tagNone matches no address. The checks of tags leave of an address its
	// page and the bits below its size, 1 to 8: bit 3 is in between. And no
	// pc is odd.
	tagNone = 1<<3 | 1
)

// tlbEntry maps a page of virtual addresses to RAM: the byte at va lies at
// offset va+delta of the memory. The check va&^(0xfff-(size-1)) == tag fails
// for misaligned accesses, too.
type tlbEntry struct {
	tag   uint64
	delta uint64
}

// jump is an entry of the cache of block starts.
type jump struct {
	pc uint64
	b  *block
}

// A space caches the translations of one satp value in one mode: user,
// supervisor, or supervisor with access to user pages.
type space struct {
	r  [tlbSize]tlbEntry
	w  [tlbSize]tlbEntry
	x  [xtlbLen]tlbEntry // delta is the offset of the page in memory
	jc [jcSize]jump
	// code has a bit, by hash, for each page with blocks in jc.
	code [jcSize / 64]uint64

	satp uint64
	mode spaceMode
	// What was flushed since: see hart.tlbGen and hart.jcGen.
	tlbGen, jcGen uint64
	used          uint64
}

type spaceMode uint8

const (
	modeU spaceMode = iota
	modeS
	modeSUM
	modeMXR // any with MXR set: nothing is kept
	spaceModes
)

func (s *space) flushTLB() {
	for i := range s.r {
		s.r[i].tag = tagNone
	}
	for i := range s.x {
		s.x[i].tag = tagNone
	}
	s.flushWrite()
}

func (s *space) flushWrite() {
	for i := range s.w {
		s.w[i].tag = tagNone
	}
}

func (s *space) flushJumps() {
	for i := range s.jc {
		s.jc[i] = jump{pc: tagNone}
	}
	s.code = [len(s.code)]uint64{}
}

// enter puts a block into jc.
func (s *space) enter(pc uint64, b *block) {
	s.jc[pc>>1%jcSize] = jump{pc, b}
	page := pc >> mem.PageShift
	s.code[page/64%uint64(len(s.code))] |= 1 << (page % 64)
	if !b.inPage(pc) {
		page++
		s.code[page/64%uint64(len(s.code))] |= 1 << (page % 64)
	}
}

// flushPage drops one page's translations. Blocks of that page are found
// through jc alone; if it may hold one, all of jc goes.
func (s *space) flushPage(va uint64) {
	page := va >> mem.PageShift
	s.r[page%tlbSize].tag = tagNone
	s.w[page%tlbSize].tag = tagNone
	s.x[page%xtlbLen].tag = tagNone
	if s.code[page/64%uint64(len(s.code))]>>(page%64)&1 != 0 {
		s.flushJumps()
	}
}

// maxSpaces bounds the spaces of a hart.
const maxSpaces = 24

// enterSpace makes h.sp the space of the present satp, privilege, SUM and MXR.
func (h *hart) enterSpace() {
	mode := modeU
	if h.priv == privS {
		mode = modeS
		if h.sstatus&sstatusSUM != 0 {
			mode = modeSUM
		}
	}
	satp := h.satp
	if satp>>60 == satpBare {
		satp, mode = 0, modeS
	} else if h.sstatus&sstatusMXR != 0 {
		mode = modeMXR
	}
	sp := h.sp
	if sp == nil || sp.satp != satp || sp.mode != mode {
		sp = h.findSpace(satp, mode)
		h.sp = sp
	}
	if sp.tlbGen != h.tlbGen || mode == modeMXR {
		sp.flushTLB()
		sp.flushJumps()
		sp.tlbGen, sp.jcGen = h.tlbGen, h.jcGen
	} else if sp.jcGen != h.jcGen {
		sp.flushJumps()
		sp.jcGen = h.jcGen
	}
}

func (h *hart) findSpace(satp uint64, mode spaceMode) *space {
	h.spaceUse++
	oldest := -1
	for i, s := range h.spaces {
		if s.satp == satp && s.mode == mode {
			s.used = h.spaceUse
			return s
		}
		if oldest < 0 || s.used < h.spaces[oldest].used {
			oldest = i
		}
	}
	var s *space
	if len(h.spaces) < maxSpaces {
		s = new(space)
		h.spaces = append(h.spaces, s)
	} else {
		s = h.spaces[oldest]
	}
	s.satp, s.mode, s.used = satp, mode, h.spaceUse
	s.tlbGen = h.tlbGen - 1 // flushed by the caller
	return s
}

// flushAll drops every translation of addresses.
func (h *hart) flushAll() {
	h.tlbGen++
	h.jcGen++
	h.large = superpages{}
	h.enterSpace()
}

// flushJumps drops every cached block start.
func (h *hart) flushJumps() {
	h.jcGen++
	h.enterSpace()
}

// flushVA drops the translations of the page of va in all spaces.
func (h *hart) flushVA(va uint64) {
	if h.large.has(va) {
		h.flushAll()
		return
	}
	va &^= mem.PageSize - 1
	for _, s := range h.spaces {
		if s.tlbGen == h.tlbGen {
			s.flushPage(va)
		}
	}
}

// flushWrites makes the next store to every page take the slow path, which
// marks it dirty again. The hart must be parked.
func (h *hart) flushWrites() {
	for _, s := range h.spaces {
		s.flushWrite()
	}
}

// translate returns the physical address of va for an access of the present
// mode. On failure it leaves the exception in h.exc and returns false.
func (h *hart) translate(va uint64, acc access) (uint64, bool) {
	levels := 0
	switch h.satp >> 60 {
	case satpBare:
		return va, true
	case satpSv39:
		levels = 3
	case satpSv48:
		levels = 4
	}
	shift := uint(64 - (12 + 9*levels))
	if uint64(int64(va<<shift)>>shift) != va {
		return 0, h.pageFault(va, acc)
	}
	table := (h.satp & ptePPNMask) << 12
	for level := levels - 1; level >= 0; level-- {
		lsb := uint(12 + 9*level)
		addr := table + va>>lsb&511*8
		if !h.mem.Contains(addr, 8) {
			return 0, h.raise(causeAccess[acc], va)
		}
		p := h.word64(addr - h.base)
	retry:
		pte := atomic.LoadUint64(p)
		if pte&pteV == 0 || pte&(pteR|pteW) == pteW || pte&pteReserved != 0 {
			return 0, h.pageFault(va, acc)
		}
		if pte&(pteR|pteX) == 0 {
			if pte&(pteA|pteD|pteU) != 0 {
				return 0, h.pageFault(va, acc)
			}
			table = pte >> 10 & ptePPNMask << 12
			continue
		}
		if !h.permitted(pte, acc) {
			return 0, h.pageFault(va, acc)
		}
		pa := pte >> 10 & ptePPNMask << 12
		if pa&(1<<lsb-1) != 0 {
			return 0, h.pageFault(va, acc) // misaligned superpage
		}
		want := pte | pteA
		if acc == accStore {
			want |= pteD
		}
		if want != pte {
			if !atomic.CompareAndSwapUint64(p, pte, want) {
				goto retry
			}
			h.dirty.Set((addr - h.base) >> mem.PageShift)
		}
		if level > 0 {
			h.large.note(va, level)
		}
		return pa | va&(1<<lsb-1), true
	}
	return 0, h.pageFault(va, acc)
}

// superpages remembers, by hash, which 2 MiB and 1 GiB regions of addresses
// were translated by a superpage. The TLB holds such a page in pieces, all of
// which a fence of any of its addresses must drop.
type superpages struct {
	mega, giga [16]uint64
	tera       bool
}

func (s *superpages) note(va uint64, level int) {
	switch level {
	case 1:
		s.mega[va>>27&15] |= 1 << (va >> 21 & 63)
	case 2:
		s.giga[va>>36&15] |= 1 << (va >> 30 & 63)
	default:
		s.tera = true
	}
}

func (s *superpages) has(va uint64) bool {
	return s.tera || s.mega[va>>27&15]>>(va>>21&63)&1 != 0 || s.giga[va>>36&15]>>(va>>30&63)&1 != 0
}

func (h *hart) permitted(pte uint64, acc access) bool {
	if h.priv == privU {
		if pte&pteU == 0 {
			return false
		}
	} else if pte&pteU != 0 && (acc == accFetch || h.sstatus&sstatusSUM == 0) {
		return false
	}
	switch acc {
	case accFetch:
		return pte&pteX != 0
	case accLoad:
		return pte&pteR != 0 || pte&pteX != 0 && h.sstatus&sstatusMXR != 0
	}
	return pte&pteW != 0
}

func (h *hart) pageFault(va uint64, acc access) bool { return h.raise(causePage[acc], va) }

// raise notes an exception for the caller to take; it returns false.
func (h *hart) raise(cause, tval uint64) bool {
	h.exc, h.excVal = cause, tval
	return false
}

// word64 and the others point into RAM; off and the size must lie inside.
func (h *hart) word64(off uint64) *uint64 { return (*uint64)(unsafe.Add(h.ram, off)) }
func (h *hart) word32(off uint64) *uint32 { return (*uint32)(unsafe.Add(h.ram, off)) }
func (h *hart) word16(off uint64) *uint16 { return (*uint16)(unsafe.Add(h.ram, off)) }
func (h *hart) word8(off uint64) *uint8   { return (*uint8)(unsafe.Add(h.ram, off)) }

// ramRead and ramWrite access RAM at any alignment.
func (h *hart) ramRead(off uint64, size int) uint64 {
	switch size {
	case 1:
		return uint64(*h.word8(off))
	case 2:
		return uint64(*h.word16(off))
	case 4:
		return uint64(*h.word32(off))
	}
	return *h.word64(off)
}

func (h *hart) ramWrite(off uint64, size int, v uint64) {
	switch size {
	case 1:
		*h.word8(off) = uint8(v)
	case 2:
		*h.word16(off) = uint16(v)
	case 4:
		*h.word32(off) = uint32(v)
	default:
		*h.word64(off) = v
	}
}

// readEntry returns the offset in RAM of va for a load, filling the TLB.
// inRAM is false where the access goes to the bus at the returned address.
func (h *hart) readOffset(va uint64) (off uint64, inRAM, ok bool) {
	page := va &^ (mem.PageSize - 1)
	e := &h.sp.r[va>>mem.PageShift%tlbSize]
	if e.tag == page {
		return va + e.delta, true, true
	}
	pa, ok := h.translate(va, accLoad)
	if !ok {
		return 0, false, false
	}
	off = pa - h.base
	if off >= h.size {
		return pa, false, true
	}
	*e = tlbEntry{page, off - va}
	return off, true, true
}

// writeOffset is readOffset for a store; it marks the page dirty.
func (h *hart) writeOffset(va uint64) (off uint64, inRAM, ok bool) {
	page := va &^ (mem.PageSize - 1)
	e := &h.sp.w[va>>mem.PageShift%tlbSize]
	if e.tag == page {
		return va + e.delta, true, true
	}
	pa, ok := h.translate(va, accStore)
	if !ok {
		return 0, false, false
	}
	off = pa - h.base
	if off >= h.size {
		return pa, false, true
	}
	h.dirty.Set(off >> mem.PageShift)
	*e = tlbEntry{page, off - va}
	return off, true, true
}

// load reads size bytes, zero-extended, of any alignment, from RAM or bus.
func (h *hart) load(va uint64, size int) (uint64, bool) {
	if va&(mem.PageSize-1)+uint64(size) > mem.PageSize {
		var v uint64
		for i := range size {
			off, inRAM, ok := h.readOffset(va + uint64(i))
			if !ok {
				return 0, false
			}
			if !inRAM {
				return 0, h.raise(causeAccess[accLoad], va+uint64(i))
			}
			v |= uint64(*h.word8(off)) << (8 * i)
		}
		return v, true
	}
	off, inRAM, ok := h.readOffset(va)
	if !ok {
		return 0, false
	}
	if inRAM {
		return h.ramRead(off, size), true
	}
	if v, ok := h.eng.busRead(off, size); ok {
		return v, true
	}
	return 0, h.raise(causeAccess[accLoad], va)
}

// store writes size bytes of any alignment to RAM or bus. A store that
// crosses into a page that it may not write changes nothing.
func (h *hart) store(va uint64, size int, v uint64) bool {
	if va&(mem.PageSize-1)+uint64(size) > mem.PageSize {
		// Offsets first, so that a fault on either page leaves both alone.
		first, in1, ok := h.writeOffset(va)
		if !ok {
			return false
		}
		n := mem.PageSize - va&(mem.PageSize-1)
		second, in2, ok := h.writeOffset(va + n)
		if !ok {
			return false
		}
		if !in1 {
			return h.raise(causeAccess[accStore], va)
		}
		if !in2 {
			return h.raise(causeAccess[accStore], va+n)
		}
		for i := range uint64(size) {
			if i < n {
				*h.word8(first + i) = uint8(v >> (8 * i))
			} else {
				*h.word8(second + i - n) = uint8(v >> (8 * i))
			}
		}
		return true
	}
	off, inRAM, ok := h.writeOffset(va)
	if !ok {
		return false
	}
	if inRAM {
		h.ramWrite(off, size, v)
		return true
	}
	if size < 8 {
		v &= 1<<(8*size) - 1
	}
	if h.eng.busWrite(off, size, v) {
		return true
	}
	return h.raise(causeAccess[accStore], va)
}

// fetchPage returns the offset in RAM of the page that holds the code at va.
func (h *hart) fetchPage(va uint64) (uint64, bool) {
	page := va &^ (mem.PageSize - 1)
	e := &h.sp.x[va>>mem.PageShift%xtlbLen]
	if e.tag == page {
		return e.delta, true
	}
	pa, ok := h.translate(va, accFetch)
	if !ok {
		return 0, false
	}
	off := pa - h.base
	if off >= h.size {
		return 0, h.raise(causeAccess[accFetch], va)
	}
	off &^= mem.PageSize - 1
	*e = tlbEntry{page, off}
	return off, true
}

package conform

import "encoding/binary"

// A soup runs instruction words one by one in U mode, from registers that are
// the same each time, and records how each ended: by the EBREAK behind it, or
// by a trap of its own. The state after each is all registers, fcsr and the
// trap's cause and addresses.
//
// Half of the integer registers point to memory that may be read and written,
// which lasts from word to word.

// Words of the state, in the order of the trap handler's save area.
const (
	soupX     = 0  // x0 to x31
	soupF     = 32 // f0 to f31
	soupFCSR  = 64
	soupCause = 65
	soupEPC   = 66
	soupTval  = 67
	soupWords = 68
)

const (
	soupCodeVA   = 0x10000000 // two pages before and two behind the slot
	soupSlot     = soupCodeVA + 2*pageSize + 0x800
	soupMemoryVA = 0x20000000
	soupCodePA   = payloadPages
	soupMemoryPA = payloadPages + 0x10000
	soupSavePA   = payloadPages + 0x20000
)

const digestFactor = 0x9e3779b97f4a7c15

// soupPayload runs words; those below 1<<16 with low bits other than 11 are
// compressed instructions. The results are one digest for each word, or the
// whole states.
func soupPayload(name string, s source, list []uint32, whole bool) (*Payload, error) {
	size := uint64(len(list) * 8)
	if whole {
		size *= soupWords
	}
	tables := newPageTables(payloadTables)
	for pa := uint64(SupervisorBase); pa < payloadEnd; pa += 2 << 20 {
		tables.mapPage(pa, pa, 1, kernelFlags)
	}
	for i := range uint64(5) {
		tables.mapPage(soupCodeVA+i*pageSize, soupCodePA+i*pageSize, 0, leafFlags|pteR|pteX|pteU)
	}
	for i := range uint64(2) {
		tables.mapPage(soupMemoryVA+i*pageSize, soupMemoryPA+i*pageSize, 0, leafFlags|pteR|pteW|pteU)
	}

	a := newPayload()
	trap, table, registers := a.newLabel(), a.newLabel(), a.newLabel()
	a.la(t0, trap)
	a.i(csrw(csrStvec, t0), csrw(csrScounteren, zero))
	a.li(t0, tables.satp())
	a.i(csrw(csrSatp, t0), sfenceVMA)
	a.la(s0, table)
	a.li(s1, payloadResult)
	a.li(s2, uint64(len(list)))
	a.li(s3, soupCodePA+soupSlot-soupCodeVA)
	a.li(s4, soupSavePA)

	// Place a word with EBREAKs behind, save the loop's registers, load the
	// program's.
	loop := a.here()
	a.i(iType(0x03, 6, t0, s0, 0)) // lwu
	a.i(sType(0x23, 1, s3, t0, 0)) // sh
	long := a.newLabel()
	a.i(andi(t1, t0, 3), addi(t1, t1, -3), srli(t0, t0, 16))
	a.beqz(t1, long)
	a.li(t0, 0x9002)
	a.bind(long)
	a.i(sType(0x23, 1, s3, t0, 2), fenceI)
	a.li(t0, statusSPP)
	a.i(csrc(csrSstatus, t0))
	a.li(t0, statusFS)
	a.i(csrs(csrSstatus, t0))
	a.li(t0, soupSlot)
	a.i(csrw(csrSepc, t0), csrw(csrSscratch, s4))
	a.i(andi(t0, s2, 7), slli(t0, t0, 5), csrw(csrFcsr, t0)) // valid and invalid modes of frm
	a.i(sd(s0, s4, 8*soupWords), sd(s1, s4, 8*soupWords+8), sd(s2, s4, 8*soupWords+16), sd(s3, s4, 8*soupWords+24))
	a.la(t6, registers)
	for r := range 32 {
		a.i(fld(r, t6, int32(8*(soupF+r))))
	}
	for r := 1; r < 32; r++ {
		a.i(ld(r, t6, int32(8*r)))
	}
	a.i(sret)

	a.align(4)
	a.bind(trap)
	a.i(iType(0x73, 1, sp, sp, csrSscratch)) // swap
	for r := 1; r < 32; r++ {
		if r != sp {
			a.i(sd(r, sp, int32(8*r)))
		}
	}
	for r := range 32 {
		a.i(fsd(r, sp, int32(8*(soupF+r))))
	}
	a.i(csrr(t0, csrSscratch), sd(t0, sp, 8*2))
	a.i(csrr(t0, csrFcsr), sd(t0, sp, 8*soupFCSR))
	a.i(csrr(t0, csrSepc), sd(t0, sp, 8*soupEPC))
	// What stval holds after EBREAK and illegal instructions is up to the
	// implementation.
	known := a.newLabel()
	a.i(csrr(t0, csrStval), csrr(t1, csrScause), andi(t2, t1, -2), addi(t2, t2, -2))
	a.bnez(t2, known)
	a.i(mv(t0, zero))
	a.bind(known)
	a.i(sd(t0, sp, 8*soupTval))
	// QEMU 7.2 takes atomics for loads where they fault: cause 4, 5 or 13
	// instead of 6, 7 or 15. The translation cases tell them apart.
	same := a.newLabel()
	a.i(ld(t0, sp, 8*soupWords), iType(0x03, 6, t0, t0, 0), andi(t2, t0, 0x7f), addi(t2, t2, -0x2f))
	a.bnez(t2, same)
	a.i(srli(t0, t0, 27), addi(t0, t0, -amoLR))
	a.beqz(t0, same)
	a.i(iType(0x13, 6, t1, t1, 2)) // ori
	a.bind(same)
	a.i(sd(t1, sp, 8*soupCause))
	a.i(ld(s0, sp, 8*soupWords), ld(s1, sp, 8*soupWords+8), ld(s2, sp, 8*soupWords+16), ld(s3, sp, 8*soupWords+24), mv(s4, sp))
	// No reservation outlives a trap.
	a.i(addi(t0, sp, 8*soupWords+32), amo(amoSC, 3, 0, zero, t0, zero))

	a.i(mv(a0, zero), mv(t0, sp), addi(t1, sp, 8*soupWords))
	a.li(a1, digestFactor)
	each := a.here()
	a.i(ld(t2, t0, 0))
	if whole {
		a.i(sd(t2, s1, 0), addi(s1, s1, 8))
	} else {
		a.i(rType(0x33, 4, 0, a0, a0, t2), rType(0x33, 0, 1, a0, a0, a1)) // xor, mul
		a.i(srli(t2, a0, 29), rType(0x33, 4, 0, a0, a0, t2))
	}
	a.i(addi(t0, t0, 8))
	a.branch(1, t0, t1, each)
	if !whole {
		a.i(sd(a0, s1, 0), addi(s1, s1, 8))
	}
	a.i(addi(s0, s0, 4), addi(s2, s2, -1))
	done := a.newLabel()
	a.beqz(s2, done)
	a.j(loop)
	a.bind(done)
	shutDown(a)

	a.align(8)
	a.bind(registers)
	for r := range 32 {
		if r%2 == 0 {
			a.data(soupMemoryVA + pageSize + uint64(s.IntN(17)-8)*8)
		} else {
			a.data(s.word())
		}
	}
	for r := range 32 {
		f := fpFormats[r%2]
		v := s.float(f.mant, f.bias, f.bias<<f.mant)
		if f.mant == 23 {
			v |= boxed
		}
		a.data(v)
	}
	a.bind(table)
	for _, w := range list {
		a.i(w)
	}

	code := make([]byte, 5*pageSize)
	for i := 0; i < len(code); i += 2 {
		binary.LittleEndian.PutUint16(code[i:], 0x9002) // c.ebreak
	}
	memory := make([]byte, 2*pageSize)
	for i := 0; i < len(memory); i += 8 {
		binary.LittleEndian.PutUint64(memory[i:], s.Uint64())
	}
	return finishPayload(name, a, size, Segment{tables.base, tables.mem}, Segment{soupCodePA, code}, Segment{soupMemoryPA, memory})
}

// compressedWords are all compressed instructions but those that jump to
// themselves.
func compressedWords() []uint32 {
	var list []uint32
	for w := range uint32(1 << 16) {
		if w&3 == 3 {
			continue
		}
		if w&3 == 1 && (w>>13 == 5 && w&0x1ffc == 0 || w>>14 == 3 && w&0x1c7c == 0) {
			continue // c.j, c.beqz and c.bnez
		}
		list = append(list, w)
	}
	return list
}

// randomWords are 32-bit instructions: legal ones, ones with a few bits
// changed, and noise.
func randomWords(s source, n int) []uint32 {
	list := make([]uint32, 0, n)
	for len(list) < n {
		var w uint32
		switch s.IntN(4) {
		case 0:
			w = s.Uint32() | 3
		case 1:
			w = s.instruction()
		default:
			w = s.instruction()
			for range 1 + s.IntN(2) {
				w ^= 1 << (2 + s.IntN(30))
			}
		}
		if w&0x1f == 0x1f {
			continue // longer than 32 bits
		}
		if w&0x7f == 0x2f && w>>27 == amoSC {
			continue // QEMU does not translate the address without a reservation
		}
		if w&0xfff0707f == 0x6010101b {
			continue // ctzw: see ctzwTuples
		}
		if op := w & 0x7f; (op == 0x6f && w>>20 == 0 || op == 0x63 && w>>25&0x3f == 0 && w>>8&0xe == 0) || op == 0x63 && w&0xfe000f00 == 0 {
			continue // may loop for ever
		}
		list = append(list, w)
	}
	return list
}

// instruction draws a legal 32-bit instruction.
func (s source) instruction() uint32 {
	reg := func() int { return s.IntN(32) }
	rm := []uint32{0, 1, 2, 3, 4, 7}[s.IntN(6)]
	f := fpFormats[s.IntN(2)]
	imm := int32(s.Uint32()) >> 20
	if s.IntN(2) == 0 {
		imm >>= 5
	}
	switch s.IntN(16) {
	case 0, 1, 2:
		return rrOps[s.IntN(len(rrOps))].word(reg(), reg(), reg())
	case 3, 4:
		return riOps[s.IntN(len(riOps))].word(reg(), reg(), imm)
	case 5:
		return iType(0x03, loadOps[s.IntN(len(loadOps))].f3, reg(), reg(), imm)
	case 6:
		return sType(0x23, storeOps[s.IntN(len(storeOps))].f3, reg(), reg(), imm)
	case 7:
		if s.IntN(2) == 0 {
			return iType(0x07, uint32(2+s.IntN(2)), reg(), reg(), imm)
		}
		return sType(0x27, uint32(2+s.IntN(2)), reg(), reg(), imm)
	case 8:
		return bType(branchOps[s.IntN(len(branchOps))].f3, reg(), reg(), imm*2)
	case 9:
		switch s.IntN(4) {
		case 0:
			return jType(reg(), imm*2)
		case 1:
			return iType(0x67, 0, reg(), reg(), imm)
		}
		return s.Uint32()&^0x7f | []uint32{0x37, 0x17}[s.IntN(2)]
	case 10:
		f3 := uint32(2 + s.IntN(2))
		if s.IntN(4) == 0 {
			return amo(amoLR, f3, uint32(s.IntN(4)), reg(), reg(), 0)
		}
		return amo(amoOps[s.IntN(len(amoOps))].f5, f3, uint32(s.IntN(4)), reg(), reg(), reg())
	case 11:
		return opFP(fpArith[s.IntN(4)].f5, f, rm, reg(), reg(), reg())
	case 12:
		return fused(fpFused[s.IntN(4)].opcode, f, rm, reg(), reg(), reg(), reg())
	case 13:
		op := fpPairs[s.IntN(len(fpPairs))]
		return opFP(op.f5, f, op.f3, reg(), reg(), reg())
	case 14:
		switch s.IntN(5) {
		case 0:
			return opFP(11, f, rm, reg(), reg(), 0)
		case 1:
			return opFP(8, f, rm, reg(), reg(), int(1-f.fmt))
		case 2:
			return opFP(28, f, uint32(s.IntN(2)), reg(), reg(), 0)
		}
		return opFP(uint32(24+2*s.IntN(2)), f, rm, reg(), reg(), s.IntN(4))
	}
	switch s.IntN(4) {
	case 0:
		return s.Uint32()&0x0fffffff&^0x7f | 0x0f // fences and what is near
	case 1:
		return iType(0x73, uint32(1+s.IntN(7)), reg(), reg(), int32(1+s.IntN(3))) // fflags, frm, fcsr
	}
	return iType(0x73, uint32(s.IntN(8)), reg(), reg(), imm)
}

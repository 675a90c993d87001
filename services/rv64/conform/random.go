package conform

import "fmt"

// A generator mixes everything that user mode may do: arithmetic, memory,
// atomics, floating point with frm changing, branches, calls, loops, the
// compressed forms, and sequences that an engine may fuse.
//
// Memory is addressed by sp and s0, which point to the middle of the scratch
// memory, a page boundary. Loops are counted in s2 and s3. All other registers
// are free.
type generator struct {
	source
	*assembler
	depth int // of nested loops
	pool  label
	units int // that may still be generated
	last  int // where the last one begins in buf
}

const (
	scratchSize = 4096
	poolSize    = 64 // constants that are read relative to pc
)

// RandomProgram generates a program of about size instructions. Its results
// are all registers, fcsr and the scratch memory.
func RandomProgram(seed uint64, size int) (*Program, error) {
	p, _, err := randomProgram(seed, size, size)
	return p, err
}

// randomProgram is RandomProgram cut off after so many units, which are single
// instructions or a few that belong together. It returns the code of the last.
func randomProgram(seed uint64, size, units int) (*Program, []byte, error) {
	p := &Program{Name: fmt.Sprintf("random %d", seed), ResultSize: 2*32*8 + 8 + scratchSize}
	p.parts = []part{
		{name: "x", offset: 0, size: 256, stride: 8},
		{name: "f", offset: 256, size: 256, stride: 8},
		{name: "fcsr", offset: 512, size: 8, stride: 8},
		{name: "memory", offset: 520, size: scratchSize, stride: 8},
	}
	g := &generator{source: newSource(seed, "random program"), assembler: newAssembler(ProgramBase), units: units}
	init, scratch, results := g.newLabel(), g.newLabel(), g.newLabel()
	g.pool = g.newLabel()

	g.la(t6, init)
	for r := range 32 {
		g.i(fld(r, t6, int32(8*r)))
	}
	for r := 1; r < 32; r++ {
		g.i(ld(r, t6, int32(256+8*r)))
	}
	g.block(size)
	last := append([]byte(nil), g.buf[g.last:]...)
	g.la(sp, results)
	for r := range 32 {
		g.i(sd(r, sp, int32(8*r)), fsd(r, sp, int32(256+8*r)))
	}
	g.i(csrr(a0, csrFcsr), sd(a0, sp, 512))
	g.la(a1, scratch)
	g.li(a2, scratchSize/8)
	loop := g.here()
	g.i(ld(a0, a1, 0), sd(a0, sp, 520), addi(a1, a1, 8), addi(sp, sp, 8), addi(a2, a2, -1))
	g.bnez(a2, loop)
	p.exit(g.assembler, results)

	g.align(8)
	g.bind(init)
	for r := range 32 {
		f := fpFormats[r%2]
		v := g.float(f.mant, f.bias, f.bias<<f.mant)
		if f.mant == 23 {
			v |= boxed
		}
		g.data(v)
	}
	for r := range 32 {
		switch r {
		case sp, s0:
			g.quad(scratch, scratchSize/2)
		default:
			g.data(g.word())
		}
	}
	g.bind(g.pool)
	for range poolSize {
		g.data(g.word())
	}
	g.align(4096)
	g.buf = append(g.buf, make([]byte, 4096-scratchSize/2)...)
	g.bind(scratch)
	for range scratchSize / 8 {
		g.data(g.word())
	}
	return p, last, p.link(g.assembler, results)
}

// reg draws a source register, rd a destination.
func (g *generator) reg() int { return g.IntN(32) }

func (g *generator) rd() int {
	for {
		switch r := g.IntN(32); r {
		case sp, s0, s2, s3:
		default:
			return r
		}
	}
}

// primed draws a source, primedRd a destination of the compressed 3-bit fields.
func (g *generator) primed() int   { return 8 + g.IntN(8) }
func (g *generator) primedRd() int { return 9 + g.IntN(7) }

// nonzero draws a destination that is not x0.
func (g *generator) nonzero() int {
	for {
		if r := g.rd(); r != zero {
			return r
		}
	}
}

// base draws a register that points to the middle of the scratch memory.
func (g *generator) base() int { return []int{sp, s0}[g.IntN(2)] }

// offset draws an offset for an access of size bytes, mostly aligned.
func (g *generator) offset(size int) int32 {
	o := int32(g.IntN(scratchSize-8) - scratchSize/2)
	if g.IntN(4) != 0 {
		o &^= int32(size - 1)
	}
	if g.IntN(8) == 0 {
		o = int32(-g.IntN(8)) // across the page boundary
	}
	return o
}

// block emits about n instructions.
func (g *generator) block(n int) {
	for ; n > 0 && g.units > 0; n-- {
		g.units--
		g.last = len(g.buf)
		switch k := g.IntN(100); {
		case k < 24:
			g.arith()
		case k < 40:
			g.compressed()
		case k < 54:
			g.memory()
		case k < 74:
			g.float1()
		case k < 82:
			g.idiom()
		case k < 90:
			skip := g.IntN(6)
			g.forward(skip)
			n -= skip
		case k < 93:
			size := 1 + g.IntN(6)
			g.call(size)
			n -= size
		case k < 95 && g.depth < 2 && n > 8:
			size := 3 + g.IntN(n/2)
			g.loop(size)
			n -= size
		case k < 98:
			g.csr()
		default:
			g.i([]uint32{0x0ff0000f, 0x8330000f, fenceI}[g.IntN(3)])
		}
	}
}

func (g *generator) arith() {
	if g.IntN(2) == 0 {
		g.i(rrOps[g.IntN(len(rrOps))].word(g.rd(), g.reg(), g.reg()))
		return
	}
	switch g.IntN(12) {
	case 0:
		g.i(g.Uint32()&0xfffff000 | uint32(g.rd())<<7 | 0x37)
	case 1:
		g.i(g.Uint32()&0xfffff000 | uint32(g.rd())<<7 | 0x17)
	default:
		op, rs := riOps[g.IntN(len(riOps))], g.reg()
		if op.name == "ctzw" {
			g.i(addUw(t3, rs, zero)) // see ctzwTuples
			rs = t3
		}
		g.i(op.word(g.rd(), rs, int32(g.Uint32())>>20))
	}
}

func (g *generator) compressed() {
	imm := g.IntN(64) - 32
	if imm == 0 {
		imm = 1
	}
	switch g.IntN(20) {
	case 0:
		g.c(cAddi4spn(g.primedRd(), 4*(1+g.IntN(255))))
	case 1:
		g.c(cLoadStore(1, true, g.primed(), s0, 8*g.IntN(32))) // fld
	case 2:
		g.c(cLoadStore(2, false, g.primedRd(), s0, 4*g.IntN(32)))
	case 3:
		g.c(cLoadStore(3, true, g.primedRd(), s0, 8*g.IntN(32)))
	case 4:
		g.c(cLoadStore(5, true, g.primed(), s0, 8*g.IntN(32))) // fsd
	case 5:
		g.c(cLoadStore(6, false, g.primed(), s0, 4*g.IntN(32)))
	case 6:
		g.c(cLoadStore(7, true, g.primed(), s0, 8*g.IntN(32)))
	case 7:
		g.c(cI(0, 1, g.nonzero(), imm)) // addi
	case 8:
		g.c(cI(1, 1, g.nonzero(), g.IntN(64)-32)) // addiw
	case 9:
		g.c(cI(2, 1, g.nonzero(), imm)) // li
	case 10:
		g.c(cI(3, 1, g.nonzero(), imm)) // lui
	case 11:
		off := 16 * (1 + g.IntN(31))
		g.c(cAddi16sp(off), cLoadSP(3, true, g.nonzero(), 8*g.IntN(64)), cAddi16sp(-off))
	case 12:
		g.c(cShift(uint16(g.IntN(2)), g.primedRd(), 1+g.IntN(63)))
	case 13:
		g.c(cShift(2, g.primedRd(), imm))
	case 14:
		g.c(cALU([]uint16{0, 1, 2, 3, 4, 5}[g.IntN(6)], g.primedRd(), g.primed()))
	case 15:
		g.c(cI(0, 2, g.nonzero(), 1+g.IntN(63))) // slli
	case 16:
		if g.IntN(2) == 0 {
			g.c(cLoadSP(1, true, g.reg(), 8*g.IntN(64)), cStoreSP(5, true, g.reg(), 8*g.IntN(64)))
		} else {
			g.c(cLoadSP(2, false, g.nonzero(), 4*g.IntN(64)), cStoreSP(6, false, g.reg(), 4*g.IntN(64)))
		}
	case 17:
		g.c(cLoadSP(3, true, g.nonzero(), 8*g.IntN(64)), cStoreSP(7, true, g.reg(), 8*g.IntN(64)))
	case 18:
		g.c(cR(8, g.nonzero(), 1+g.IntN(31))) // mv
	case 19:
		g.c(cR(9, g.nonzero(), 1+g.IntN(31))) // add
	}
}

func (g *generator) memory() {
	switch g.IntN(5) {
	case 0, 1:
		op := loadOps[g.IntN(len(loadOps))]
		g.i(iType(0x03, op.f3, g.rd(), g.base(), g.offset(op.size)))
	case 2:
		op := storeOps[g.IntN(len(storeOps))]
		g.i(sType(0x23, op.f3, g.base(), g.reg(), g.offset(op.size)))
	case 3:
		f3 := uint32(2 + g.IntN(2))
		if g.IntN(2) == 0 {
			g.i(iType(0x07, f3, g.reg(), g.base(), g.offset(4<<(f3-2))))
		} else {
			g.i(sType(0x27, f3, g.base(), g.reg(), g.offset(4<<(f3-2))))
		}
	case 4:
		f3 := uint32(2 + g.IntN(2))
		addr := g.nonzero()
		g.i(addi(addr, g.base(), g.offset(8)&^7))
		if g.IntN(4) == 0 {
			g.i(amo(amoLR, f3, uint32(g.IntN(4)), g.rd2(addr), addr, 0), amo(amoSC, f3, uint32(g.IntN(4)), g.rd(), addr, g.reg()))
		} else {
			op := amoOps[g.IntN(len(amoOps))]
			g.i(amo(op.f5, f3, uint32(g.IntN(4)), g.rd(), addr, g.reg()))
		}
	}
}

// rd2 draws a destination other than r.
func (g *generator) rd2(r int) int {
	for {
		if d := g.rd(); d != r {
			return d
		}
	}
}

// float1 emits one floating-point instruction.
func (g *generator) float1() {
	f := fpFormats[g.IntN(2)]
	rm := uint32(g.IntN(6))
	if rm == 5 {
		rm = rmDynamic
	}
	switch g.IntN(10) {
	case 0, 1, 2:
		g.i(opFP(fpArith[g.IntN(4)].f5, f, rm, g.reg(), g.reg(), g.reg()))
	case 3, 4:
		g.i(fused(fpFused[g.IntN(4)].opcode, f, rm, g.reg(), g.reg(), g.reg(), g.reg()))
	case 5:
		g.i(opFP(11, f, rm, g.reg(), g.reg(), 0))
	case 6:
		op := fpPairs[g.IntN(len(fpPairs))]
		rd := g.reg()
		if op.toInt {
			rd = g.rd()
		}
		g.i(opFP(op.f5, f, op.f3, rd, g.reg(), g.reg()))
	case 7:
		if g.IntN(2) == 0 {
			g.i(opFP(24, f, rm, g.rd(), g.reg(), g.IntN(4)))
		} else {
			g.i(opFP(26, f, rm, g.reg(), g.reg(), g.IntN(4)))
		}
	case 8:
		g.i(opFP(8, f, rm, g.reg(), g.reg(), int(1-f.fmt)))
	case 9:
		switch g.IntN(3) {
		case 0:
			g.i(opFP(28, f, uint32(g.IntN(2)), g.rd(), g.reg(), 0))
		default:
			g.i(opFP(30, f, 0, g.reg(), g.reg(), 0))
		}
	}
}

// idiom emits what compilers emit in one go.
func (g *generator) idiom() {
	switch g.IntN(5) {
	case 0: // zero or sign extension
		rd := g.nonzero()
		g.i(slli(rd, g.reg(), int32(g.IntN(64))), iType(0x13, 5, g.pick(rd), rd, int32(g.IntN(64)|g.IntN(2)<<10)))
	case 1: // a constant by lui and addi
		rd := g.nonzero()
		g.i(g.Uint32()&0xfffff000|uint32(rd)<<7|0x37, iType([]uint32{0x13, 0x1b}[g.IntN(2)], 0, g.pick(rd), rd, int32(g.Uint32())>>20))
	case 2, 3: // a load relative to pc
		rd := g.nonzero()
		op := loadOps[g.IntN(len(loadOps))]
		g.pcRel(rd, iType(0x03, op.f3, g.pick(rd), rd, 0), g.pool, 8*g.IntN(poolSize))
	case 4:
		rd := g.nonzero()
		g.pcRel(rd, addi(g.pick(rd), rd, 0), g.pool, g.IntN(512))
	}
}

// pick is mostly r.
func (g *generator) pick(r int) int {
	if g.IntN(4) != 0 {
		return r
	}
	return g.rd()
}

// forward emits a branch or jump over n instructions, with the comparison that
// often goes before it.
func (g *generator) forward(n int) {
	over := g.newLabel()
	rd := g.nonzero()
	cond := branchOps[g.IntN(len(branchOps))]
	switch g.IntN(8) {
	case 0:
		g.i(rType(0x33, uint32(2+g.IntN(2)), 0, rd, g.reg(), g.reg()))
		g.branch(uint32(g.IntN(2)), rd, zero, over)
	case 1:
		g.i(andi(rd, g.reg(), int32(1<<g.IntN(11))))
		g.branch(uint32(g.IntN(2)), rd, zero, over)
	case 2:
		g.i(addi(rd, g.reg(), int32(g.IntN(64)-32)))
		g.branch(uint32(g.IntN(2)), rd, []int{zero, g.reg()}[g.IntN(2)], over)
	case 3:
		g.i(addi(rd, zero, int32(g.IntN(64)-32)))
		g.branch(cond.f3, g.reg(), rd, over)
	case 4:
		g.j(over)
	case 5, 6:
		// Compressed branches are not in the fixups: their block is built
		// apart, to learn its size.
		at := len(g.buf)
		g.c(0)
		g.block(n)
		off := len(g.buf) - at
		word := cJ(off)
		if off < 256 && g.IntN(3) != 0 {
			word = cBranch(uint16(6+g.IntN(2)), g.primed(), off)
		} else if off >= 2048 {
			word = cI(0, 1, zero, 0) // c.nop
		}
		g.buf[at], g.buf[at+1] = byte(word), byte(word>>8)
		return
	default:
		g.branch(cond.f3, g.reg(), g.reg(), over)
	}
	g.block(n)
	g.bind(over)
}

// call emits a subroutine of n instructions and a call or two of it.
func (g *generator) call(n int) {
	f, after := g.newLabel(), g.newLabel()
	link := []int{ra, t0, a5, zero}[g.IntN(4)]
	back := link
	if link == zero {
		back = t0 // a tail call: where to return to is given
		g.la(back, after)
	}
	switch g.IntN(3) {
	case 0:
		g.jal(link, f)
	case 1:
		tmp := g.rd2(back)
		if tmp == zero {
			tmp = t1
		}
		g.pcRel(tmp, jalr(link, tmp, 0), f, 0)
	case 2:
		g.la(t1, f)
		if link == ra && g.IntN(2) == 0 {
			g.c(cR(9, t1, 0)) // c.jalr
		} else {
			g.i(addi(t1, t1, 1), jalr(link, t1, 0)) // bit 0 does not count
		}
	}
	g.j(after)
	g.bind(f)
	for range n {
		// Nothing that could overwrite the return address.
		g.i(opFP(fpArith[g.IntN(4)].f5, fpFormats[g.IntN(2)], rmDynamic, g.reg(), g.reg(), g.reg()))
		g.i(rrOps[g.IntN(len(rrOps))].word(g.rd2(back), g.reg(), g.reg()))
	}
	if g.IntN(2) == 0 {
		g.c(cR(8, back, 0)) // c.jr
	} else {
		g.i(jalr(zero, back, 0))
	}
	g.bind(after)
}

// loop repeats n instructions a few times.
func (g *generator) loop(n int) {
	counter := s2 + g.depth
	g.depth++
	g.i(addi(counter, zero, int32(2+g.IntN(6))))
	top := g.here()
	g.block(n)
	g.i(addi(counter, counter, -1))
	done := g.newLabel()
	g.beqz(counter, done)
	g.j(top)
	g.bind(done)
	g.depth--
}

func (g *generator) csr() {
	switch g.IntN(4) {
	case 0:
		g.i(csrwi(csrFrm, g.IntN(5)))
	case 1:
		g.i(iType(0x73, 3, g.rd(), zero, csrFcsr)) // csrrc without a write
	case 2:
		g.i(iType(0x73, 1, g.rd(), g.reg(), csrFflags))
	case 3:
		g.i(csrwi(csrFrm, g.IntN(5)), iType(0x73, 2, g.rd(), g.reg(), csrFflags))
	}
}

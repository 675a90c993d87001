package conform

// straddleGroup runs instructions whose two halves lie on different pages.
func straddleGroup() group {
	d := fpFormats[1]
	insns := []uint32{
		opFP(0, d, 0, 10, 11, 12), // fadd.d
		opFP(24, d, 1, a2, 11, 2), // fcvt.l.d
		fused(0x43, d, 0, 10, 11, 12, 10),
		fsd(11, s1, 8), fld(10, s0, 8), // the floating-point unit and memory
		iType(0x07, 2, 10, s0, 0), sType(0x27, 2, s1, 11, 16),
		ld(a2, s0, 0), sd(a1, s1, 8),
		amo(0, 3, 0, a2, s1, a1),
		rType(0x33, 4, 1, a2, a0, a1), // div
		csrr(a2, csrFcsr),
		12345<<12 | a2<<7 | 0x37, 12345<<12 | a2<<7 | 0x17, // lui, auipc
		bType(0, a0, a1, 6), bType(1, a0, a1, 6), jType(a2, 6), // over 2 bytes
	}
	return group{"instructions across pages", 2, 3 * len(insns), []uint64{
		0x3ff0000000000000, 0xc008000000000000, 7, 7, 1, ^uint64(0),
	}, func(a *assembler) {
		for i, insn := range insns {
			a.i(addi(s1, s1, 24))
			if i == 0 {
				a.i(addi(s1, s1, -24))
			}
			loadPair(a)
			a.i(fld(11, s0, 0), fld(12, s0, 8), fld(10, s0, 0), mv(a2, zero), csrwi(csrFcsr, 0))
			a.i(sd(a0, s1, 0), sd(zero, s1, 8), sd(zero, s1, 16))
			at := a.newLabel()
			a.j(at)
			for len(a.buf)%pageSize != pageSize-4 {
				a.buf = append(a.buf, 0)
			}
			a.bind(at)
			a.c(cI(0, 1, 0, 0)) // c.nop
			a.i(insn)
			a.c(cI(0, 1, a2, 1)) // skipped by taken branches
			a.i(opFP(28, d, 0, a3, 10, 0), add(a2, a2, a3), ld(a3, s1, 16), add(a2, a2, a3), sd(a2, s1, 16))
		}
		a.li(t0, uint64(24*(len(insns)-1)))
		a.i(sub(s1, s1, t0))
	}}
}

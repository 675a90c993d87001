package conform

import "fmt"

// loadPair reads the tuple's first two words into a0 and a1.
func loadPair(a *assembler) { a.i(ld(a0, s0, 0), ld(a1, s0, 8)) }

// integerGroups cover RV64I, M, Zba, Zbb and Zbs: registers, immediates and
// conditional branches.
func integerGroups(seed uint64, random int) []group {
	pairs := intTuples(newSource(seed, "integer pairs"), 2, random)
	single := intTuples(newSource(seed, "integers"), 1, random)
	var list []group
	for _, op := range rrOps {
		list = append(list, group{op.name, 2, 1, pairs, func(a *assembler) {
			loadPair(a)
			a.i(op.word(a2, a0, a1), sd(a2, s1, 0))
		}})
	}
	for _, op := range riOps {
		imms, tuples := op.imms(), single
		if op.name == "ctzw" {
			tuples = ctzwTuples(single)
		}
		list = append(list, group{op.name, 1, len(imms), tuples, func(a *assembler) {
			a.i(ld(a0, s0, 0))
			for i, imm := range imms {
				a.i(op.word(a2, a0, imm), sd(a2, s1, int32(8*i)))
			}
		}})
	}
	for _, op := range branchOps {
		list = append(list, group{op.name, 2, 1, pairs, func(a *assembler) {
			taken := a.newLabel()
			loadPair(a)
			a.i(addi(a2, zero, 1))
			a.branch(op.f3, a0, a1, taken)
			a.i(addi(a2, a2, 1))
			a.bind(taken)
			a.i(sd(a2, s1, 0))
		}})
	}
	for _, imm := range []uint32{0, 1, 0x7ffff, 0x80000, 0xfffff} {
		list = append(list, group{fmt.Sprintf("lui/auipc %#x", imm), 1, 2, single[:1], func(a *assembler) {
			a.i(imm<<12|a2<<7|0x37, sd(a2, s1, 0), imm<<12|a2<<7|0x17, sd(a2, s1, 8))
		}})
	}
	return list
}

// ctzwTuples are the operands for ctzw whose upper half is not the only one
// with ones: of those QEMU 7.2 counts the zeros of all 64 bits (0x3f instead of
// 0x20 for 1<<63), against the ISA manual.
func ctzwTuples(words []uint64) []uint64 {
	var list []uint64
	for _, w := range words {
		if w == 0 || uint32(w) != 0 {
			list = append(list, w)
		}
	}
	return list
}

// memoryGroups cover loads and stores at every alignment, across cache lines
// and pages, and the atomics.
func memoryGroups(seed uint64, random int) []group {
	s := newSource(seed, "memory")
	var offsets []uint64
	for _, at := range []uint64{0, 56, 4096 - 16} {
		for o := range uint64(17) {
			offsets = append(offsets, at+o, s.Uint64())
		}
	}
	// area is a table of random words over more than one page, and puts its
	// address in a5 for the loop's first time. It is written to, too.
	area := func(a *assembler) {
		skip := a.newLabel()
		table := a.newLabel()
		a.j(skip)
		a.align(4096)
		a.bind(table)
		for range 4096/8 + 8 {
			a.data(s.Uint64())
		}
		a.bind(skip)
		a.la(a5, table)
	}
	var list []group
	list = append(list, group{"loads", 2, 2 * len(loadOps), offsets, func(a *assembler) {
		area(a)
		loadPair(a)
		a.i(add(a5, a5, a0), addi(a4, a5, -512))
		for i, op := range loadOps {
			a.i(iType(0x03, op.f3, a2, a5, 0), sd(a2, s1, int32(16*i)))
			a.i(iType(0x03, op.f3, a2, a4, 519), sd(a2, s1, int32(16*i+8)))
		}
	}})
	list = append(list, group{"float loads and stores", 2, 4, offsets, func(a *assembler) {
		area(a)
		loadPair(a)
		a.i(add(a5, a5, a0), iType(0x07, 2, 1, a5, 0), fsd(1, s1, 0), fld(2, a5, 3), fsd(2, s1, 8))
		a.i(sType(0x27, 2, a5, 2, 1), ld(a2, a5, 0), sd(a2, s1, 16)) // fsw
		a.i(fsd(1, a5, 2), ld(a2, a5, 2), sd(a2, s1, 24))
	}})
	for _, op := range storeOps {
		list = append(list, group{op.name, 2, 2, offsets, func(a *assembler) {
			area(a)
			loadPair(a)
			a.i(add(a5, a5, a0), sType(0x23, op.f3, a5, a1, 0), sType(0x23, op.f3, a5, a1, 9))
			a.i(ld(a2, a5, 0), sd(a2, s1, 0), ld(a2, a5, 8), sd(a2, s1, 8))
		}})
	}
	pairs := intTuples(s, 2, random)
	for _, width := range []struct {
		suffix string
		f3     uint32
	}{{".w", 2}, {".d", 3}} {
		for i, op := range amoOps {
			list = append(list, group{op.name + width.suffix, 2, 2, pairs, func(a *assembler) {
				loadPair(a)
				a.i(sd(a0, s1, 8), addi(a3, s1, 8))
				a.i(amo(op.f5, width.f3, uint32(i&3), a2, a3, a1), sd(a2, s1, 0))
			}})
		}
		list = append(list, group{"lr/sc" + width.suffix, 2, 5, pairs, func(a *assembler) {
			loadPair(a)
			a.i(sd(a0, s1, 8), addi(a3, s1, 8))
			a.i(amo(amoLR, width.f3, 2, a2, a3, 0), sd(a2, s1, 0))
			a.i(amo(amoSC, width.f3, 1, a4, a3, a1), sd(a4, s1, 16))
			// The reservation is gone now.
			a.i(amo(amoSC, width.f3, 0, a4, a3, a0), sd(a4, s1, 24))
			// A reservation holds for its address only.
			a.i(sd(zero, s1, 32), addi(a4, s1, 32))
			a.i(amo(amoLR, width.f3, 0, a2, a3, 0), amo(amoSC, width.f3, 3, a2, a4, a1), add(a2, a2, a2))
			a.i(ld(a4, s1, 32), add(a2, a2, a4), sd(a2, s1, 32))
		}})
	}
	return list
}

// roundings are the ways to say a rounding mode: static in the instruction, or
// dynamic by frm.
type rounding struct {
	name    string
	rm, frm uint32
}

var roundings = []rounding{
	{"rne", 0, 1}, {"rtz", 1, 2}, {"rdn", 2, 3}, {"rup", 3, 4}, {"rmm", 4, 0},
	{"dyn rne", 7, 0}, {"dyn rtz", 7, 1}, {"dyn rdn", 7, 2}, {"dyn rup", 7, 3}, {"dyn rmm", 7, 4},
}

// floatBody loads up to three operands into fa0, fa1 and fa2, runs word and
// stores its result, which is in a2 if toInt and in fa3 otherwise, and fflags.
func floatBody(frm uint32, operands int, toInt bool, word uint32) func(a *assembler) {
	return func(a *assembler) {
		for i := range operands {
			a.i(fld(10+i, s0, int32(8*i)))
		}
		a.i(csrwi(csrFcsr, 0), csrwi(csrFrm, int(frm)), word)
		if toInt {
			a.i(sd(a2, s1, 0))
		} else {
			a.i(fsd(13, s1, 0))
		}
		a.i(csrr(a3, csrFflags), sd(a3, s1, 8))
	}
}

// floatGroups cover F and D.
func floatGroups(seed uint64, random int) []group {
	var list []group
	ints := intTuples(newSource(seed, "integers to convert"), 1, random)
	for i := range uint(64) { // ties of conversions
		ints = append(ints, 1<<i|1<<i>>24|1, 1<<i|1<<i>>53, 3<<i|1<<i>>23, -(1<<i | 1<<i>>24))
	}
	for _, f := range fpFormats {
		s := newSource(seed, "operands of "+f.suffix)
		one := floatTuples(s, f.mant, f.bias, 1, random)
		two := floatTuples(s, f.mant, f.bias, 2, random)
		three := floatTuples(s, f.mant, f.bias, 3, 2*random)
		wide := append([]uint64(nil), one...) // operands of fcvt.s.d, with binary32's ties
		for _, v := range one {
			wide = append(wide, v&^(1<<63-1<<52)|(896+v%256)<<52, v&^(1<<29-1)|1<<28)
		}
		for _, r := range roundings {
			name := func(op string) string { return fmt.Sprintf("%s.%s %s", op, f.suffix, r.name) }
			for _, op := range fpArith {
				list = append(list, group{name(op.name), 2, 2, two, floatBody(r.frm, 2, false, opFP(op.f5, f, r.rm, 13, 10, 11))})
			}
			list = append(list, group{name("fsqrt"), 1, 2, one, floatBody(r.frm, 1, false, opFP(11, f, r.rm, 13, 10, 0))})
			for _, op := range fpFused {
				list = append(list, group{name(op.name), 3, 2, three, floatBody(r.frm, 3, false, fused(op.opcode, f, r.rm, 13, 10, 11, 12))})
			}
			for _, op := range fpInts {
				list = append(list,
					group{name("fcvt." + op.name), 1, 2, one, floatBody(r.frm, 1, true, opFP(24, f, r.rm, a2, 10, op.field))},
					group{fmt.Sprintf("fcvt.%s.%s %s", f.suffix, op.name, r.name), 1, 2, ints, func(a *assembler) {
						a.i(ld(a0, s0, 0))
						floatBody(r.frm, 0, false, opFP(26, f, r.rm, 13, a0, op.field))(a)
					}})
			}
			if f.suffix == "d" {
				list = append(list, group{name("fcvt.s"), 1, 2, wide, floatBody(r.frm, 1, false, opFP(8, fpFormats[0], r.rm, 13, 10, 1))})
			} else {
				list = append(list, group{name("fcvt.d"), 1, 2, one, floatBody(r.frm, 1, false, opFP(8, fpFormats[1], r.rm, 13, 10, 0))})
			}
		}
		for _, op := range fpPairs {
			rd := 13
			if op.toInt {
				rd = a2
			}
			list = append(list, group{op.name + "." + f.suffix, 2, 2, two, floatBody(0, 2, op.toInt, opFP(op.f5, f, op.f3, rd, 10, 11))})
		}
		list = append(list,
			group{"fclass." + f.suffix, 1, 2, one, floatBody(0, 1, true, opFP(28, f, 1, a2, 10, 0))},
			group{"fmv.x." + f.suffix, 1, 2, one, floatBody(0, 1, true, opFP(28, f, 0, a2, 10, 0))},
			group{"fmv." + f.suffix + ".x", 1, 2, ints, func(a *assembler) {
				a.i(ld(a0, s0, 0))
				floatBody(0, 0, false, opFP(30, f, 0, 13, a0, 0))(a)
			}})
	}
	// Access to fcsr and its parts, and that flags accumulate.
	list = append(list, group{"fcsr", 1, 6, ints, func(a *assembler) {
		a.i(ld(a0, s0, 0), csrw(csrFcsr, a0), csrr(a2, csrFcsr), sd(a2, s1, 0))
		a.i(csrw(csrFflags, a0), csrr(a2, csrFcsr), sd(a2, s1, 8))
		a.i(csrw(csrFrm, a0), csrr(a2, csrFrm), sd(a2, s1, 16))
		a.i(iType(0x73, 1, a3, a0, csrFflags), sd(a3, s1, 24)) // csrrw
		a.i(csrwi(csrFrm, 1), csrs(csrFflags, a0), csrr(a2, csrFcsr), sd(a2, s1, 32))
		a.i(opFP(26, fpFormats[1], 1, 1, zero, 0), opFP(3, fpFormats[1], 0, 2, 1, 1)) // 0/0
		a.i(csrr(a2, csrFcsr), sd(a2, s1, 40))
	}})
	return list
}

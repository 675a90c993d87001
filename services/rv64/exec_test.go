package rv64

import (
	"testing"

	"pgregory.net/rapid"
)

// TestLoadImmediate pins the helper that other tests rely on.
func TestLoadImmediate(t *testing.T) {
	m := newMachine(t, noBus{})
	rapid.Check(t, func(t *rapid.T) {
		v := rapid.Uint64().Draw(t, "v")
		if got := m.run(li(s5, v)).x[s5]; got != v {
			t.Fatalf("%#x", got)
		}
	})
}

func TestTraps(t *testing.T) {
	const outside = 0x7000_0000
	for _, c := range []struct {
		name        string
		prog        []uint32
		cause, tval uint64
	}{
		{"illegal instruction", asm(uint32(0xffffffff)), causeIllegal, 0xffffffff},
		{"a CSR that does not exist", asm(csrrs(a0, 0x5c0, 0)), causeIllegal, uint64(csrrs(a0, 0x5c0, 0))},
		{"machine-mode CSR", asm(csrrs(a0, 0x300, 0)), causeIllegal, uint64(csrrs(a0, 0x300, 0))},
		{"write to a read-only CSR", asm(csrrw(0, csrTime, a0)), causeIllegal, uint64(csrrw(0, csrTime, a0))},
		{"floating point while off", asm(encI(0x07, 3, 1, sp, 0)), causeIllegal, uint64(encI(0x07, 3, 1, sp, 0))},
		{"reserved rounding mode", asm(li(t0, fsInitial), csrrs(0, csrSstatus, t0), encR(0x53, 5, 1, 1, 1, 1)),
			causeIllegal, uint64(encR(0x53, 5, 1, 1, 1, 1))},
		{"dynamic rounding mode that is reserved", asm(li(t0, fsInitial), csrrs(0, csrSstatus, t0), csrrsi(0, csrFrm, 6),
			encR(0x53, 7, 1, 1, 1, 1)), causeIllegal, uint64(encR(0x53, 7, 1, 1, 1, 1))},
		{"breakpoint", asm(uint32(ebreak)), causeBreakpoint, codeAt + 20},
		{"load from nowhere", asm(li(a0, outside), ld(a1, a0, 8)), 5, outside + 8},
		{"store to nowhere", asm(li(a0, outside), sd(a1, a0, 8)), 7, outside + 8},
		{"atomic on nowhere", asm(li(a0, outside), amoaddw(a1, a0, a2)), 7, outside},
		{"LR of nowhere", asm(li(a0, outside), lrd(a1, a0)), 5, outside},
		{"misaligned atomic", asm(li(a0, dataAt+2), amoaddw(a1, a0, a2)), 6, dataAt + 2},
		{"misaligned LR", asm(li(a0, dataAt+4), lrd(a1, a0)), 4, dataAt + 4},
		{"load across the end of memory", asm(li(a0, RAMBase+testMemory-4), ld(a1, a0, 0)), 5, RAMBase + testMemory},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t, noBus{})
			h := m.run(m.skipTraps(), c.prog)
			if h.x[s4] != 1 || h.x[s2] != c.cause || h.x[s3] != c.tval {
				t.Errorf("%d traps, cause %d, value %#x; want cause %d, value %#x", h.x[s4], h.x[s2], h.x[s3], c.cause, c.tval)
			}
		})
	}
}

func TestMisalignedAccess(t *testing.T) {
	const v = 0x1122334455667788
	for off := range uint64(9) {
		at := uint64(dataAt + 4096 - 8 + off) // crosses a page from 1 on
		m := newMachine(t, noBus{})
		h := m.run(li(a0, at), li(a1, v), sd(a1, a0, 0), ld(a2, a0, 0), lw(a3, a0, 2), sw(a1, a0, 3), ld(a4, a0, 0))
		if h.x[a2] != v || h.x[a3] != 0x33445566 || h.x[a4] != 0x1155667788667788 {
			t.Errorf("offset %d: %#x %#x %#x", off, h.x[a2], h.x[a3], h.x[a4])
		}
	}
}

func TestReservation(t *testing.T) {
	m := newMachine(t, noBus{})
	h := m.run(li(a0, dataAt), li(a1, 7), sd(a1, a0, 0),
		scd(s2, a0, a1),                               // no reservation
		lrd(a2, a0), addi(a3, a2, 1), scd(s3, a0, a3), // succeeds
		scd(s4, a0, a1),                                              // used up
		lrd(a2, a0), addi(a4, a0, 8), scd(s5, a4, a3), ld(a5, a0, 0)) // another address
	if h.x[s2] != 1 || h.x[s3] != 0 || h.x[s4] != 1 || h.x[s5] != 1 || h.x[a5] != 8 || m.word(dataAt) != 8 {
		t.Errorf("%v, memory %d", h.x[s2:s5+1], m.word(dataAt))
	}
}

func TestAtomics(t *testing.T) {
	const old, src = 0xfffffffe_80000000, 0x00000003_7fffffff
	for _, c := range []struct {
		name     string
		f5       uint32
		mem64    uint64
		mem32low uint64 // after the word form
	}{
		{"swap", amoSwap, src, 0x7fffffff},
		{"add", amoAdd, 0x1_ffffffff, 0xffffffff},
		{"xor", amoXor, old ^ src, 0xffffffff},
		{"and", amoAnd, old & src, 0},
		{"or", amoOr, old | src, 0xffffffff},
		{"min", amoMin, old, 0x80000000},
		{"max", amoMax, src, 0x7fffffff},
		{"minu", amoMinu, src, 0x7fffffff},
		{"maxu", amoMaxu, old, 0x80000000},
	} {
		m := newMachine(t, noBus{})
		h := m.run(li(a0, dataAt), li(a1, old), li(a2, src), sd(a1, a0, 0), sd(a1, a0, 8), addi(a3, a0, 8),
			amo(c.f5, 3, s2, a0, a2), amo(c.f5, 2, s3, a3, a2))
		if h.x[s2] != old || h.x[s3] != 0xffffffff_80000000 {
			t.Errorf("%s returns %#x, %#x", c.name, h.x[s2], h.x[s3])
		}
		if m.word(dataAt) != c.mem64 || m.word(dataAt+8) != old&^0xffffffff|c.mem32low {
			t.Errorf("%s leaves %#x, %#x", c.name, m.word(dataAt), m.word(dataAt+8))
		}
	}
}

// TestSelfModifyingCode overwrites an instruction of a loop's body that has
// run before, and fences.
func TestSelfModifyingCode(t *testing.T) {
	m := newMachine(t, noBus{})
	body := asm(
		addi(s5, s5, 1), // becomes addi s5, s5, 100
		addi(s2, s2, 1),
		sw(a1, a0, 0),
		uint32(fencei),
		bltu(s2, a2, -16),
	)
	setup := asm(li(a1, uint64(addi(s5, s5, 100))), li(a2, 3), auipc(a0, 0), addi(a0, a0, 8))
	h := m.run(setup, body)
	if h.x[s5] != 201 {
		t.Errorf("s5 = %d, want 1+100+100", h.x[s5])
	}
}

// TestCodeByDMA lets a device rewrite a function that has run before.
func TestCodeByDMA(t *testing.T) {
	const function = codeAt + 4096
	var m *machine
	m = newMachine(t, writeBus(func(_, v uint64) {
		m.put(function, asm(uint32(v)))
	}))
	m.put(function, asm(addi(s5, s5, 1), jalr(0, ra, 0)))
	h := m.run(li(s0, function), li(s1, 0x1000_0000), jalr(ra, s0, 0), jalr(ra, s0, 0),
		li(a0, uint64(addi(s5, s5, 100))), sw(a0, s1, 0), uint32(fencei), jalr(ra, s0, 0))
	if h.x[s5] != 102 {
		t.Errorf("s5 = %d, want 1+1+100", h.x[s5])
	}
}

// TestStraddle runs an instruction that lies across two pages, unchanged and
// with its second half changed.
func TestStraddle(t *testing.T) {
	m := newMachine(t, noBus{})
	const function = codeAt + 2*4096 - 2
	m.put(function, asm(addi(s5, s5, 1), jalr(0, ra, 0)))
	patched := addi(s5, s5, 17)
	h := m.run(li(s0, function), jalr(ra, s0, 0), jalr(ra, s0, 0),
		li(a0, uint64(patched>>16)), encS(0x23, 1, s0, a0, 2), uint32(fencei), jalr(ra, s0, 0))
	if h.x[s5] != 19 {
		t.Errorf("s5 = %d, want 1+1+17", h.x[s5])
	}
}

// writeBus is a bus that hands every write to a function.
type writeBus func(addr, v uint64)

func (writeBus) Read(uint64, int) (uint64, bool) { return 0, true }
func (b writeBus) Write(addr uint64, _ int, v uint64) bool {
	b(addr, v)
	return true
}

// TestInstret counts every instruction once, whatever was fused or faulted.
func TestInstret(t *testing.T) {
	m := newMachine(t, noBus{})
	h := m.run(m.skipTraps(),
		csrrs(s0, csrInstret, 0),
		lui(a2, 5), addi(a2, a2, 7), slli(a3, a2, 32), srli(a3, a3, 32), // pairs that may be fused
		auipc(a4, 0), lw(a4, a4, 0),
		uint32(0xffffffff), // does not retire; its handler has 7 instructions
		addi(a5, zero, 4), addi(a5, a5, -1), bne(a5, zero, -4),
		csrrs(a1, csrInstret, 0))
	if got := h.x[a1] - h.x[s0]; got != 6+7+1+8+1 {
		t.Errorf("%d instructions, want %d", got, 6+7+1+8+1)
	}
	if h.x[a3] != 5<<12+7 || uint32(h.x[a4]) != auipc(a4, 0) {
		t.Errorf("a3 %#x, a4 %#x", h.x[a3], h.x[a4])
	}
}

// TestLowestAddresses accesses the first bytes of the address space, whose
// tags are nearly those of empty TLB entries.
func TestLowestAddresses(t *testing.T) {
	for _, insn := range []func(rd, rs1 uint32, imm int32) uint32{lw, ld, lbu, sb, sw, sd} {
		for at := range int32(32) {
			m := newMachine(t, noBus{})
			h := m.run(m.skipTraps(), insn(a0, zero, at))
			if h.x[s4] != 1 || h.x[s3] != uint64(at) {
				t.Errorf("%#08x: %d traps at %#x", insn(a0, zero, at), h.x[s4], h.x[s3])
			}
		}
	}
}

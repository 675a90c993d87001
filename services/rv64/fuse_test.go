package rv64

import (
	"testing"

	"pgregory.net/rapid"
)

// TestFusion runs random sequences of what is fused, and of what looks like
// it, in blocks and one by one.
func TestFusion(t *testing.T) {
	blocks, steps := newMachine(t, noBus{}), newMachine(t, noBus{})
	reg := rapid.SampledFrom([]uint32{zero, a0, a0, a1, a1, a2})
	imm := rapid.SampledFrom([]int32{0, 1, -1, 4, 8, 2047, -2048, 100})
	upper := rapid.SampledFrom([]uint32{0, 1, 0x80000, 0x7ffff, 0xfffff})
	shift := rapid.SampledFrom([]int32{0, 1, 31, 32, 48, 63})
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "n")
		prog := asm(li(a0, rapid.Uint64Range(0, 300).Draw(t, "a0")), li(a1, rapid.Uint64().Draw(t, "a1")), li(a2, 5))
		for range n {
			rd, r1, r2 := reg.Draw(t, "rd"), reg.Draw(t, "rs1"), reg.Draw(t, "rs2")
			i, u := imm.Draw(t, "imm"), upper.Draw(t, "upper")
			const skip = 8 // over the next instruction
			prog = append(prog, rapid.SampledFrom([][]uint32{
				{lui(rd, u)}, {auipc(rd, u)}, {addi(rd, r1, i)}, {addiw(rd, r1, i)}, {addi(rd, zero, i)},
				{slli(rd, r1, shift.Draw(t, "left"))}, {srli(rd, r1, shift.Draw(t, "right"))},
				{slt(rd, r1, r2)}, {sltu(rd, r1, r2)}, {andi(rd, r1, i)},
				{beq(r1, r2, skip)}, {bne(r1, r2, skip)}, {blt(r1, r2, skip)}, {bltu(r1, r2, skip)}, {bgeu(r1, r2, skip)},
				// Pairs with the code itself as data, and far jumps to the next
				// instruction, which no branch skips into.
				{auipc(rd, 0), ld(rd, rd, 8)}, {auipc(rd, 0), lw(rd, rd, 4)}, {auipc(rd, 0), ld(rd, r1, 0)},
				{nop, auipc(ra, 0), jalr(ra, ra, 9)}, {nop, auipc(ra, 0), jalr(zero, ra, 8)},
			}).Draw(t, "instruction")...)
		}
		prog = append(prog, nop, nop)
		whole := append(blocks.skipTraps(), prog...)
		h := blocks.run(whole)
		steps.skipTraps()
		steps.boot(whole, halt())
		s := steps.harts[0]
		s.single = 1 << 30
		steps.Resume()
		steps.wait()
		h.x[sink], s.x[sink] = 0, 0
		if h.x != s.x || h.instret != s.instret {
			t.Fatalf("in blocks:  %x, %d instructions\none by one: %x, %d instructions", h.x[:32], h.instret, s.x[:32], s.instret)
		}
	})
}

package rv64

import (
	"math/bits"
	"unsafe"

	"github.com/understudy-ft/understudy/services/mem"
)

// exec runs from block b at h.pc until something needs attention, instret
// reaches end, an exception is taken, or control goes where no translation is
// at hand. It leaves the next instruction in h.pc.
//
// This is the hot loop: its shape follows measurements. It keeps to one dense
// switch without bounds checks. All calls are outside of the inner loop, and
// nothing but h lives across them in a register's stead, so that the compiler
// has no reason to store variables at every instruction.
func (h *hart) exec(b *block, end uint64) {
	x := &h.x
	ram := h.ram
	sp := h.sp
	pc := h.pc
	n := h.instret
run:
	for {
		if n >= end || h.attn.Load() != 0 {
			h.pc, h.instret = pc, n
			return
		}
		n += uint64(b.n)
		var target uint64
		ops := b.ops
		i := uint(0)
	again:
		for ; i < uint(len(ops)); i++ {
			w := ops[i]
			switch w.kind() {
			case opNop:
			case opLI:
				x[w.rd()] = w.imm()
			case opLA:
				x[w.rd()] = pc + w.imm()
			case opMv:
				x[w.rd()] = x[w.rs1()]
			case opAddi:
				x[w.rd()] = x[w.rs1()] + w.imm()
			case opSlti:
				x[w.rd()] = b2u(int64(x[w.rs1()]) < int64(w.imm()))
			case opSltiu:
				x[w.rd()] = b2u(x[w.rs1()] < w.imm())
			case opXori:
				x[w.rd()] = x[w.rs1()] ^ w.imm()
			case opOri:
				x[w.rd()] = x[w.rs1()] | w.imm()
			case opAndi:
				x[w.rd()] = x[w.rs1()] & w.imm()
			case opSlli:
				x[w.rd()] = x[w.rs1()] << (w.imm() & 63)
			case opSrli:
				x[w.rd()] = x[w.rs1()] >> (w.imm() & 63)
			case opSrai:
				x[w.rd()] = uint64(int64(x[w.rs1()]) >> (w.imm() & 63))
			case opAddiw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) + int32(w.imm()))))
			case opSlliw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) << (w.imm() & 31))))
			case opSrliw:
				x[w.rd()] = uint64(int64(int32(uint32(x[w.rs1()]) >> (w.imm() & 31))))
			case opSraiw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) >> (w.imm() & 31))))
			case opAdd:
				x[w.rd()] = x[w.rs1()] + x[w.rs2()]
			case opSub:
				x[w.rd()] = x[w.rs1()] - x[w.rs2()]
			case opSll:
				x[w.rd()] = x[w.rs1()] << (x[w.rs2()] & 63)
			case opSlt:
				x[w.rd()] = b2u(int64(x[w.rs1()]) < int64(x[w.rs2()]))
			case opSltu:
				x[w.rd()] = b2u(x[w.rs1()] < x[w.rs2()])
			case opXor:
				x[w.rd()] = x[w.rs1()] ^ x[w.rs2()]
			case opSrl:
				x[w.rd()] = x[w.rs1()] >> (x[w.rs2()] & 63)
			case opSra:
				x[w.rd()] = uint64(int64(x[w.rs1()]) >> (x[w.rs2()] & 63))
			case opOr:
				x[w.rd()] = x[w.rs1()] | x[w.rs2()]
			case opAnd:
				x[w.rd()] = x[w.rs1()] & x[w.rs2()]
			case opAddw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) + int32(x[w.rs2()]))))
			case opSubw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) - int32(x[w.rs2()]))))
			case opSllw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) << (x[w.rs2()] & 31))))
			case opSrlw:
				x[w.rd()] = uint64(int64(int32(uint32(x[w.rs1()]) >> (x[w.rs2()] & 31))))
			case opSraw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) >> (x[w.rs2()] & 31))))
			case opMul:
				x[w.rd()] = x[w.rs1()] * x[w.rs2()]
			case opMulh:
				x[w.rd()] = mulh(x[w.rs1()], x[w.rs2()])
			case opMulhsu:
				x[w.rd()] = mulhsu(x[w.rs1()], x[w.rs2()])
			case opMulhu:
				x[w.rd()], _ = bits.Mul64(x[w.rs1()], x[w.rs2()])
			case opDiv:
				x[w.rd()] = div64(x[w.rs1()], x[w.rs2()])
			case opDivu:
				x[w.rd()] = divu64(x[w.rs1()], x[w.rs2()])
			case opRem:
				x[w.rd()] = rem64(x[w.rs1()], x[w.rs2()])
			case opRemu:
				x[w.rd()] = remu64(x[w.rs1()], x[w.rs2()])
			case opMulw:
				x[w.rd()] = uint64(int64(int32(int32(x[w.rs1()]) * int32(x[w.rs2()]))))
			case opDivw:
				x[w.rd()] = div32(x[w.rs1()], x[w.rs2()])
			case opDivuw:
				x[w.rd()] = divu32(x[w.rs1()], x[w.rs2()])
			case opRemw:
				x[w.rd()] = rem32(x[w.rs1()], x[w.rs2()])
			case opRemuw:
				x[w.rd()] = remu32(x[w.rs1()], x[w.rs2()])
			case opAddUw:
				x[w.rd()] = uint64(uint32(x[w.rs1()])) + x[w.rs2()]
			case opSh1add:
				x[w.rd()] = x[w.rs1()]<<1 + x[w.rs2()]
			case opSh2add:
				x[w.rd()] = x[w.rs1()]<<2 + x[w.rs2()]
			case opSh3add:
				x[w.rd()] = x[w.rs1()]<<3 + x[w.rs2()]
			case opSh1addUw:
				x[w.rd()] = uint64(uint32(x[w.rs1()]))<<1 + x[w.rs2()]
			case opSh2addUw:
				x[w.rd()] = uint64(uint32(x[w.rs1()]))<<2 + x[w.rs2()]
			case opSh3addUw:
				x[w.rd()] = uint64(uint32(x[w.rs1()]))<<3 + x[w.rs2()]
			case opSlliUw:
				x[w.rd()] = uint64(uint32(x[w.rs1()])) << (w.imm() & 63)
			case opAndn:
				x[w.rd()] = x[w.rs1()] &^ x[w.rs2()]
			case opOrn:
				x[w.rd()] = x[w.rs1()] | ^x[w.rs2()]
			case opXnor:
				x[w.rd()] = ^(x[w.rs1()] ^ x[w.rs2()])
			case opClz:
				x[w.rd()] = uint64(bits.LeadingZeros64(x[w.rs1()]))
			case opCtz:
				x[w.rd()] = uint64(bits.TrailingZeros64(x[w.rs1()]))
			case opCpop:
				x[w.rd()] = popcount(x[w.rs1()])
			case opClzw:
				x[w.rd()] = uint64(bits.LeadingZeros32(uint32(x[w.rs1()])))
			case opCtzw:
				x[w.rd()] = uint64(bits.TrailingZeros32(uint32(x[w.rs1()])))
			case opCpopw:
				x[w.rd()] = popcount(uint64(uint32(x[w.rs1()])))
			case opMax:
				x[w.rd()] = uint64(max(int64(x[w.rs1()]), int64(x[w.rs2()])))
			case opMaxu:
				x[w.rd()] = max(x[w.rs1()], x[w.rs2()])
			case opMin:
				x[w.rd()] = uint64(min(int64(x[w.rs1()]), int64(x[w.rs2()])))
			case opMinu:
				x[w.rd()] = min(x[w.rs1()], x[w.rs2()])
			case opSextB:
				x[w.rd()] = uint64(int64(int8(x[w.rs1()])))
			case opSextH:
				x[w.rd()] = uint64(int64(int16(x[w.rs1()])))
			case opZextH:
				x[w.rd()] = uint64(uint16(x[w.rs1()]))
			case opRol:
				x[w.rd()] = bits.RotateLeft64(x[w.rs1()], int(x[w.rs2()]&63))
			case opRor:
				x[w.rd()] = bits.RotateLeft64(x[w.rs1()], -int(x[w.rs2()]&63))
			case opRori:
				x[w.rd()] = bits.RotateLeft64(x[w.rs1()], -int(w.imm()))
			case opRolw:
				x[w.rd()] = uint64(int64(int32(bits.RotateLeft32(uint32(x[w.rs1()]), int(x[w.rs2()]&31)))))
			case opRorw:
				x[w.rd()] = uint64(int64(int32(bits.RotateLeft32(uint32(x[w.rs1()]), -int(x[w.rs2()]&31)))))
			case opRoriw:
				x[w.rd()] = uint64(int64(int32(bits.RotateLeft32(uint32(x[w.rs1()]), -int(w.imm())))))
			case opOrcB:
				x[w.rd()] = orcB(x[w.rs1()])
			case opRev8:
				x[w.rd()] = bits.ReverseBytes64(x[w.rs1()])
			case opBclr:
				x[w.rd()] = x[w.rs1()] &^ (1 << (x[w.rs2()] & 63))
			case opBext:
				x[w.rd()] = x[w.rs1()] >> (x[w.rs2()] & 63) & 1
			case opBinv:
				x[w.rd()] = x[w.rs1()] ^ 1<<(x[w.rs2()]&63)
			case opBset:
				x[w.rd()] = x[w.rs1()] | 1<<(x[w.rs2()]&63)
			case opBclri:
				x[w.rd()] = x[w.rs1()] &^ (1 << (w.imm() & 63))
			case opBexti:
				x[w.rd()] = x[w.rs1()] >> (w.imm() & 63) & 1
			case opBinvi:
				x[w.rd()] = x[w.rs1()] ^ 1<<(w.imm()&63)
			case opBseti:
				x[w.rd()] = x[w.rs1()] | 1<<(w.imm()&63)
			case opShlShr:
				x[w.rd()] = x[w.rs1()] << (w.imm() & 63) >> (w.imm() >> 8 & 63)
			case opLb:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xfff) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = uint64(int64(*(*int8)(p)))
					continue
				}
				goto slow
			case opLh:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffe) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = uint64(int64(*(*int16)(p)))
					continue
				}
				goto slow
			case opLw:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = uint64(int64(*(*int32)(p)))
					continue
				}
				goto slow
			case opLd:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xff8) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = *(*uint64)(p)
					continue
				}
				goto slow
			case opLbu:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xfff) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = uint64(*(*uint8)(p))
					continue
				}
				goto slow
			case opLhu:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffe) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = uint64(*(*uint16)(p))
					continue
				}
				goto slow
			case opLwu:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[w.rd()] = uint64(*(*uint32)(p))
					continue
				}
				goto slow
			case opSb:
				va := x[w.rs1()] + w.imm()
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xfff) == e.tag {
					*(*uint8)(unsafe.Add(ram, va+e.delta)) = uint8(x[w.rs2()])
					continue
				}
				goto slow
			case opSh:
				va := x[w.rs1()] + w.imm()
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xffe) == e.tag {
					*(*uint16)(unsafe.Add(ram, va+e.delta)) = uint16(x[w.rs2()])
					continue
				}
				goto slow
			case opSw:
				va := x[w.rs1()] + w.imm()
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					*(*uint32)(unsafe.Add(ram, va+e.delta)) = uint32(x[w.rs2()])
					continue
				}
				goto slow
			case opSd:
				va := x[w.rs1()] + w.imm()
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xff8) == e.tag {
					*(*uint64)(unsafe.Add(ram, va+e.delta)) = x[w.rs2()]
					continue
				}
				goto slow
			case opFlw:
				va := x[w.rs1()] + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					x[w.rd()] = uint64(*(*uint32)(unsafe.Add(ram, va+e.delta))) | nanBox
					continue
				}
				goto slow
			case opLdPC:
				va := pc + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xff8) == e.tag {
					x[w.rd()] = *(*uint64)(unsafe.Add(ram, va+e.delta))
					continue
				}
				goto slow
			case opLwPC:
				va := pc + w.imm()
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					x[w.rd()] = uint64(int64(*(*int32)(unsafe.Add(ram, va+e.delta))))
					continue
				}
				goto slow
			case opFsgnjD:
				x[w.rd()] = x[w.rs1()]&^signD | x[w.rs2()]&signD

			case opBeq:
				if x[w.rs1()] == x[w.rs2()] {
					target = w.imm()
					goto taken
				}
			case opBne:
				if x[w.rs1()] != x[w.rs2()] {
					target = w.imm()
					goto taken
				}
			case opBlt:
				if int64(x[w.rs1()]) < int64(x[w.rs2()]) {
					target = w.imm()
					goto taken
				}
			case opBge:
				if int64(x[w.rs1()]) >= int64(x[w.rs2()]) {
					target = w.imm()
					goto taken
				}
			case opBltu:
				if x[w.rs1()] < x[w.rs2()] {
					target = w.imm()
					goto taken
				}
			case opBgeu:
				if x[w.rs1()] >= x[w.rs2()] {
					target = w.imm()
					goto taken
				}
			case opSltBnez:
				v := b2u(int64(x[w.rs1()]) < int64(x[w.rs2()]))
				x[w.rd()] = v
				if v != 0 {
					target = w.imm()
					goto taken
				}
			case opSltBeqz:
				v := b2u(int64(x[w.rs1()]) < int64(x[w.rs2()]))
				x[w.rd()] = v
				if v == 0 {
					target = w.imm()
					goto taken
				}
			case opSltuBnez:
				v := b2u(x[w.rs1()] < x[w.rs2()])
				x[w.rd()] = v
				if v != 0 {
					target = w.imm()
					goto taken
				}
			case opSltuBeqz:
				v := b2u(x[w.rs1()] < x[w.rs2()])
				x[w.rd()] = v
				if v == 0 {
					target = w.imm()
					goto taken
				}
			case opAndiBnez:
				v := x[w.rs1()] & w.imm12()
				x[w.rd()] = v
				if v != 0 {
					target = w.target()
					goto taken
				}
			case opAndiBeqz:
				v := x[w.rs1()] & w.imm12()
				x[w.rd()] = v
				if v == 0 {
					target = w.target()
					goto taken
				}
			case opAddiBne:
				v := x[w.rs1()] + w.imm12()
				x[w.rd()] = v
				if v != x[w.rs2()] {
					target = w.target()
					goto taken
				}
			case opAddiBeq:
				v := x[w.rs1()] + w.imm12()
				x[w.rd()] = v
				if v == x[w.rs2()] {
					target = w.target()
					goto taken
				}
			case opAddiBltu:
				v := x[w.rs1()] + w.imm12()
				x[w.rd()] = v
				if v < x[w.rs2()] {
					target = w.target()
					goto taken
				}
			case opLIBeq:
				v := w.imm12()
				x[w.rd()] = v
				if x[w.rs1()] == v {
					target = w.target()
					goto taken
				}
			case opLIBne:
				v := w.imm12()
				x[w.rd()] = v
				if x[w.rs1()] != v {
					target = w.target()
					goto taken
				}
			case opLIBltu:
				v := w.imm12()
				x[w.rd()] = v
				if v < x[w.rs1()] {
					target = w.target()
					goto taken
				}
			case opLIBgeu:
				v := w.imm12()
				x[w.rd()] = v
				if v >= x[w.rs1()] {
					target = w.target()
					goto taken
				}
			case opJ:
				target = w.imm()
				goto taken
			case opJal:
				x[w.rd()] = pc + uint64(b.size)
				target = w.imm()
				goto taken
			case opCallPC:
				x[w.rd()] = pc + uint64(b.size)
				target = w.imm()
				goto taken
			case opJalr:
				to := (x[w.rs1()] + w.imm()) &^ 1
				x[w.rd()] = pc + uint64(b.size)
				if e := &sp.jc[to>>1%jcSize]; e.pc == to {
					b, pc = e.b, to
					continue run
				}
				h.pc, h.instret = to, n
				return
			default:
				goto slow
			}
		}

		// Control leaves the block at its end.
		pc += uint64(b.size)
		if next := b.fall; next != nil {
			b = next
			continue
		}
		h.frame.b, h.frame.pc, h.frame.n, h.frame.taken = b, pc-uint64(b.size), n, false
		goto chain

	taken:
		if next := b.taken; next != nil {
			b, pc = next, pc+target
			continue
		}
		if to := pc + target; (pc^to)>>mem.PageShift != 0 {
			if e := &sp.jc[to>>1%jcSize]; e.pc == to {
				b, pc = e.b, to
				continue
			}
		}
		h.frame.b, h.frame.pc, h.frame.n, h.frame.taken = b, pc, n, true
		pc += target

	chain:
		if !h.chain(pc) {
			return
		}
		b, pc, n, sp = h.frame.b, h.frame.pc, h.frame.n, h.sp
		continue

	slow:
		h.frame.b, h.frame.pc, h.frame.n, h.frame.i = b, pc, n, i
		if w := ops[i]; w.kind() == opFP && h.floatOp(uint32(w.imm())) {
		} else if !h.slow(w) {
			return
		}
		b, pc, n, i, sp = h.frame.b, h.frame.pc, h.frame.n, h.frame.i+1, h.sp
		ops = b.ops
		goto again
	}
}

package rv64

import (
	"math/bits"
	"unsafe"

	"github.com/understudy-ft/understudy/services/mem"
)

// exec runs from block b at h.pc until something needs attention, about
// budget instructions are done, an exception is taken, or control goes where
// no translation is at hand. It leaves the next instruction in h.pc.
//
// This is the hot loop: its shape follows measurements. It keeps to one dense
// switch, no bounds checks, and calls only on slow paths.
func (h *hart) exec(b *block, budget uint64) {
	x := &h.x
	ram := h.ram
	sp := h.sp
	pc := h.pc
	n := uint64(0) // instructions done
run:
	for {
		if n >= budget || h.attn.Load() != 0 {
			h.pc = pc
			h.instret += n
			return
		}
		n += uint64(b.n)
		var target int64
		ops := b.ops
		for i := range ops {
			o := &ops[i]
			switch o.kind {
			case opNop:
			case opLI:
				x[o.rd] = uint64(int64(o.imm))
			case opLA:
				x[o.rd] = pc + uint64(int64(o.imm))
			case opMv:
				x[o.rd] = x[o.rs1]
			case opAddi:
				x[o.rd] = x[o.rs1] + uint64(int64(o.imm))
			case opSlti:
				x[o.rd] = b2u(int64(x[o.rs1]) < int64(o.imm))
			case opSltiu:
				x[o.rd] = b2u(x[o.rs1] < uint64(int64(o.imm)))
			case opXori:
				x[o.rd] = x[o.rs1] ^ uint64(int64(o.imm))
			case opOri:
				x[o.rd] = x[o.rs1] | uint64(int64(o.imm))
			case opAndi:
				x[o.rd] = x[o.rs1] & uint64(int64(o.imm))
			case opSlli:
				x[o.rd] = x[o.rs1] << (o.imm & 63)
			case opSrli:
				x[o.rd] = x[o.rs1] >> (o.imm & 63)
			case opSrai:
				x[o.rd] = uint64(int64(x[o.rs1]) >> (o.imm & 63))
			case opAddiw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) + o.imm)))
			case opSlliw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) << (o.imm & 31))))
			case opSrliw:
				x[o.rd] = uint64(int64(int32(uint32(x[o.rs1]) >> (o.imm & 31))))
			case opSraiw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) >> (o.imm & 31))))
			case opAdd:
				x[o.rd] = x[o.rs1] + x[o.rs2]
			case opSub:
				x[o.rd] = x[o.rs1] - x[o.rs2]
			case opSll:
				x[o.rd] = x[o.rs1] << (x[o.rs2] & 63)
			case opSlt:
				x[o.rd] = b2u(int64(x[o.rs1]) < int64(x[o.rs2]))
			case opSltu:
				x[o.rd] = b2u(x[o.rs1] < x[o.rs2])
			case opXor:
				x[o.rd] = x[o.rs1] ^ x[o.rs2]
			case opSrl:
				x[o.rd] = x[o.rs1] >> (x[o.rs2] & 63)
			case opSra:
				x[o.rd] = uint64(int64(x[o.rs1]) >> (x[o.rs2] & 63))
			case opOr:
				x[o.rd] = x[o.rs1] | x[o.rs2]
			case opAnd:
				x[o.rd] = x[o.rs1] & x[o.rs2]
			case opAddw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) + int32(x[o.rs2]))))
			case opSubw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) - int32(x[o.rs2]))))
			case opSllw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) << (x[o.rs2] & 31))))
			case opSrlw:
				x[o.rd] = uint64(int64(int32(uint32(x[o.rs1]) >> (x[o.rs2] & 31))))
			case opSraw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) >> (x[o.rs2] & 31))))
			case opMul:
				x[o.rd] = x[o.rs1] * x[o.rs2]
			case opMulh:
				x[o.rd] = mulh(x[o.rs1], x[o.rs2])
			case opMulhsu:
				x[o.rd] = mulhsu(x[o.rs1], x[o.rs2])
			case opMulhu:
				x[o.rd], _ = bits.Mul64(x[o.rs1], x[o.rs2])
			case opDiv:
				x[o.rd] = div64(x[o.rs1], x[o.rs2])
			case opDivu:
				x[o.rd] = divu64(x[o.rs1], x[o.rs2])
			case opRem:
				x[o.rd] = rem64(x[o.rs1], x[o.rs2])
			case opRemu:
				x[o.rd] = remu64(x[o.rs1], x[o.rs2])
			case opMulw:
				x[o.rd] = uint64(int64(int32(int32(x[o.rs1]) * int32(x[o.rs2]))))
			case opDivw:
				x[o.rd] = div32(x[o.rs1], x[o.rs2])
			case opDivuw:
				x[o.rd] = divu32(x[o.rs1], x[o.rs2])
			case opRemw:
				x[o.rd] = rem32(x[o.rs1], x[o.rs2])
			case opRemuw:
				x[o.rd] = remu32(x[o.rs1], x[o.rs2])
			case opAddUw:
				x[o.rd] = uint64(uint32(x[o.rs1])) + x[o.rs2]
			case opSh1add:
				x[o.rd] = x[o.rs1]<<1 + x[o.rs2]
			case opSh2add:
				x[o.rd] = x[o.rs1]<<2 + x[o.rs2]
			case opSh3add:
				x[o.rd] = x[o.rs1]<<3 + x[o.rs2]
			case opSh1addUw:
				x[o.rd] = uint64(uint32(x[o.rs1]))<<1 + x[o.rs2]
			case opSh2addUw:
				x[o.rd] = uint64(uint32(x[o.rs1]))<<2 + x[o.rs2]
			case opSh3addUw:
				x[o.rd] = uint64(uint32(x[o.rs1]))<<3 + x[o.rs2]
			case opSlliUw:
				x[o.rd] = uint64(uint32(x[o.rs1])) << (o.imm & 63)
			case opAndn:
				x[o.rd] = x[o.rs1] &^ x[o.rs2]
			case opOrn:
				x[o.rd] = x[o.rs1] | ^x[o.rs2]
			case opXnor:
				x[o.rd] = ^(x[o.rs1] ^ x[o.rs2])
			case opClz:
				x[o.rd] = uint64(bits.LeadingZeros64(x[o.rs1]))
			case opCtz:
				x[o.rd] = uint64(bits.TrailingZeros64(x[o.rs1]))
			case opCpop:
				x[o.rd] = uint64(bits.OnesCount64(x[o.rs1]))
			case opClzw:
				x[o.rd] = uint64(bits.LeadingZeros32(uint32(x[o.rs1])))
			case opCtzw:
				x[o.rd] = uint64(bits.TrailingZeros32(uint32(x[o.rs1])))
			case opCpopw:
				x[o.rd] = uint64(bits.OnesCount32(uint32(x[o.rs1])))
			case opMax:
				x[o.rd] = uint64(max(int64(x[o.rs1]), int64(x[o.rs2])))
			case opMaxu:
				x[o.rd] = max(x[o.rs1], x[o.rs2])
			case opMin:
				x[o.rd] = uint64(min(int64(x[o.rs1]), int64(x[o.rs2])))
			case opMinu:
				x[o.rd] = min(x[o.rs1], x[o.rs2])
			case opSextB:
				x[o.rd] = uint64(int64(int8(x[o.rs1])))
			case opSextH:
				x[o.rd] = uint64(int64(int16(x[o.rs1])))
			case opZextH:
				x[o.rd] = uint64(uint16(x[o.rs1]))
			case opRol:
				x[o.rd] = bits.RotateLeft64(x[o.rs1], int(x[o.rs2]&63))
			case opRor:
				x[o.rd] = bits.RotateLeft64(x[o.rs1], -int(x[o.rs2]&63))
			case opRori:
				x[o.rd] = bits.RotateLeft64(x[o.rs1], -int(o.imm))
			case opRolw:
				x[o.rd] = uint64(int64(int32(bits.RotateLeft32(uint32(x[o.rs1]), int(x[o.rs2]&31)))))
			case opRorw:
				x[o.rd] = uint64(int64(int32(bits.RotateLeft32(uint32(x[o.rs1]), -int(x[o.rs2]&31)))))
			case opRoriw:
				x[o.rd] = uint64(int64(int32(bits.RotateLeft32(uint32(x[o.rs1]), -int(o.imm)))))
			case opOrcB:
				x[o.rd] = orcB(x[o.rs1])
			case opRev8:
				x[o.rd] = bits.ReverseBytes64(x[o.rs1])
			case opBclr:
				x[o.rd] = x[o.rs1] &^ (1 << (x[o.rs2] & 63))
			case opBext:
				x[o.rd] = x[o.rs1] >> (x[o.rs2] & 63) & 1
			case opBinv:
				x[o.rd] = x[o.rs1] ^ 1<<(x[o.rs2]&63)
			case opBset:
				x[o.rd] = x[o.rs1] | 1<<(x[o.rs2]&63)
			case opBclri:
				x[o.rd] = x[o.rs1] &^ (1 << (o.imm & 63))
			case opBexti:
				x[o.rd] = x[o.rs1] >> (o.imm & 63) & 1
			case opBinvi:
				x[o.rd] = x[o.rs1] ^ 1<<(o.imm&63)
			case opBseti:
				x[o.rd] = x[o.rs1] | 1<<(o.imm&63)
			case opShlShr:
				x[o.rd] = x[o.rs1] << (o.imm & 63) >> (o.imm >> 8 & 63)
			case opLb:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xfff) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = uint64(int64(*(*int8)(p)))
					continue
				}
				v, ok := h.load(va, 1)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = uint64(int64(int8(v)))
			case opLh:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffe) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = uint64(int64(*(*int16)(p)))
					continue
				}
				v, ok := h.load(va, 2)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = uint64(int64(int16(v)))
			case opLw:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = uint64(int64(*(*int32)(p)))
					continue
				}
				v, ok := h.load(va, 4)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = uint64(int64(int32(v)))
			case opLd:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xff8) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = *(*uint64)(p)
					continue
				}
				v, ok := h.load(va, 8)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = v
			case opLbu:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xfff) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = uint64(*(*uint8)(p))
					continue
				}
				v, ok := h.load(va, 1)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = v
			case opLhu:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffe) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = uint64(*(*uint16)(p))
					continue
				}
				v, ok := h.load(va, 2)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = v
			case opLwu:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					p := unsafe.Add(ram, va+e.delta)
					x[o.rd] = uint64(*(*uint32)(p))
					continue
				}
				v, ok := h.load(va, 4)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = v
			case opSb:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xfff) == e.tag {
					*(*uint8)(unsafe.Add(ram, va+e.delta)) = uint8(x[o.rs2])
					continue
				}
				if !h.store(va, 1, x[o.rs2]) {
					h.fault(b, pc, i, n)
					return
				}
			case opSh:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xffe) == e.tag {
					*(*uint16)(unsafe.Add(ram, va+e.delta)) = uint16(x[o.rs2])
					continue
				}
				if !h.store(va, 2, x[o.rs2]) {
					h.fault(b, pc, i, n)
					return
				}
			case opSw:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					*(*uint32)(unsafe.Add(ram, va+e.delta)) = uint32(x[o.rs2])
					continue
				}
				if !h.store(va, 4, x[o.rs2]) {
					h.fault(b, pc, i, n)
					return
				}
			case opSd:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.w[va>>mem.PageShift%tlbSize]; va&^uint64(0xff8) == e.tag {
					*(*uint64)(unsafe.Add(ram, va+e.delta)) = x[o.rs2]
					continue
				}
				if !h.store(va, 8, x[o.rs2]) {
					h.fault(b, pc, i, n)
					return
				}
			case opFlw:
				va := x[o.rs1] + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					x[o.rd] = uint64(*(*uint32)(unsafe.Add(ram, va+e.delta))) | nanBox
					continue
				}
				v, ok := h.load(va, 4)
				if !ok {
					h.fault(b, pc, i, n)
					return
				}
				x[o.rd] = v | nanBox
			case opLdPC:
				va := pc + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xff8) == e.tag {
					x[o.rd] = *(*uint64)(unsafe.Add(ram, va+e.delta))
					continue
				}
				if _, inRAM, ok := h.readOffset(va); !ok || !inRAM || va&7 != 0 {
					h.replay(b, pc, i, n, 2)
					return
				}
				x[o.rd], _ = h.load(va, 8)
			case opLwPC:
				va := pc + uint64(int64(o.imm))
				if e := &sp.r[va>>mem.PageShift%tlbSize]; va&^uint64(0xffc) == e.tag {
					x[o.rd] = uint64(int64(*(*int32)(unsafe.Add(ram, va+e.delta))))
					continue
				}
				if _, inRAM, ok := h.readOffset(va); !ok || !inRAM || va&3 != 0 {
					h.replay(b, pc, i, n, 2)
					return
				}
				v, _ := h.load(va, 4)
				x[o.rd] = uint64(int64(int32(v)))
			case opAMO:
				if !h.amo(o) {
					h.fault(b, pc, i, n)
					return
				}
			case opFence:
				h.barrier.Add(1)
			case opFPOn:
				if h.sstatus&sstatusFS == 0 {
					h.raise(causeIllegal, uint64(uint32(o.imm)))
					h.fault(b, pc, i, n)
					return
				}
				h.sstatus |= fsDirty
			case opFP:
				if !h.floatOp(uint32(o.imm)) {
					h.raise(causeIllegal, uint64(uint32(o.imm)))
					h.fault(b, pc, i, n)
					return
				}
			case opFsgnjD:
				x[o.rd] = x[o.rs1]&^signD | x[o.rs2]&signD

			case opBeq:
				if x[o.rs1] == x[o.rs2] {
					target = int64(o.imm)
					goto taken
				}
			case opBne:
				if x[o.rs1] != x[o.rs2] {
					target = int64(o.imm)
					goto taken
				}
			case opBlt:
				if int64(x[o.rs1]) < int64(x[o.rs2]) {
					target = int64(o.imm)
					goto taken
				}
			case opBge:
				if int64(x[o.rs1]) >= int64(x[o.rs2]) {
					target = int64(o.imm)
					goto taken
				}
			case opBltu:
				if x[o.rs1] < x[o.rs2] {
					target = int64(o.imm)
					goto taken
				}
			case opBgeu:
				if x[o.rs1] >= x[o.rs2] {
					target = int64(o.imm)
					goto taken
				}
			case opSltBnez:
				v := b2u(int64(x[o.rs1]) < int64(x[o.rs2]))
				x[o.rd] = v
				if v != 0 {
					target = int64(o.imm)
					goto taken
				}
			case opSltBeqz:
				v := b2u(int64(x[o.rs1]) < int64(x[o.rs2]))
				x[o.rd] = v
				if v == 0 {
					target = int64(o.imm)
					goto taken
				}
			case opSltuBnez:
				v := b2u(x[o.rs1] < x[o.rs2])
				x[o.rd] = v
				if v != 0 {
					target = int64(o.imm)
					goto taken
				}
			case opSltuBeqz:
				v := b2u(x[o.rs1] < x[o.rs2])
				x[o.rd] = v
				if v == 0 {
					target = int64(o.imm)
					goto taken
				}
			case opAndiBnez:
				v := x[o.rs1] & uint64(int64(o.imm<<20>>20))
				x[o.rd] = v
				if v != 0 {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opAndiBeqz:
				v := x[o.rs1] & uint64(int64(o.imm<<20>>20))
				x[o.rd] = v
				if v == 0 {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opAddiBne:
				v := x[o.rs1] + uint64(int64(o.imm<<20>>20))
				x[o.rd] = v
				if v != x[o.rs2] {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opAddiBeq:
				v := x[o.rs1] + uint64(int64(o.imm<<20>>20))
				x[o.rd] = v
				if v == x[o.rs2] {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opAddiBltu:
				v := x[o.rs1] + uint64(int64(o.imm<<20>>20))
				x[o.rd] = v
				if v < x[o.rs2] {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opLIBeq:
				v := uint64(int64(o.imm << 20 >> 20))
				x[o.rd] = v
				if x[o.rs1] == v {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opLIBne:
				v := uint64(int64(o.imm << 20 >> 20))
				x[o.rd] = v
				if x[o.rs1] != v {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opLIBltu:
				v := uint64(int64(o.imm << 20 >> 20))
				x[o.rd] = v
				if v < x[o.rs1] {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opLIBgeu:
				v := uint64(int64(o.imm << 20 >> 20))
				x[o.rd] = v
				if v >= x[o.rs1] {
					target = int64(o.imm >> 12)
					goto taken
				}
			case opJ:
				target = int64(o.imm)
				goto taken
			case opJal:
				x[o.rd] = pc + uint64(b.size)
				target = int64(o.imm)
				goto taken
			case opCallPC:
				x[o.rd] = pc + uint64(b.size)
				target = int64(o.imm)
				goto taken
			case opJalr:
				to := (x[o.rs1] + uint64(int64(o.imm))) &^ 1
				x[o.rd] = pc + uint64(b.size)
				if e := &sp.jc[to>>1%jcSize]; e.pc == to {
					b, pc = e.b, to
					continue run
				}
				h.pc = to
				h.instret += n
				return
			case opSystem:
				epc := pc + 2*uint64(b.where[i]&255)
				h.pc = pc + uint64(b.size)
				h.instret += n
				budget -= min(n, budget)
				n = 0
				switch h.system(uint32(o.imm), epc) {
				case goOn:
					sp = h.sp
				case leave:
					return
				case trap:
					h.trap(epc, h.exc, h.excVal)
					return
				}
			case opFenceI:
				h.pc = pc + uint64(b.size)
				h.instret += n
				h.fenceI()
				return
			default: // opIllegal
				h.raise(causeIllegal, uint64(uint32(o.imm)))
				h.fault(b, pc, i, n)
				return
			}
		}

		// Control leaves the block at its end.
		pc += uint64(b.size)
		if next := b.fall; next != nil {
			b = next
			continue
		}
		b = h.chain(b, pc-uint64(b.size), pc, false)
		if b == nil {
			h.instret += n
			h.trap(pc, h.exc, h.excVal)
			return
		}
		continue

	taken:
		if next := b.taken; next != nil {
			b, pc = next, pc+uint64(target)
			continue
		}
		if to := pc + uint64(target); (pc^to)>>mem.PageShift != 0 {
			if e := &sp.jc[to>>1%jcSize]; e.pc == to {
				b, pc = e.b, to
				continue
			}
		}
		b = h.chain(b, pc, pc+uint64(target), true)
		pc += uint64(target)
		if b == nil {
			h.instret += n
			h.trap(pc, h.exc, h.excVal)
			return
		}
	}
}

// fault takes the exception that op i of b raised. n instructions were
// counted, all of b among them.
func (h *hart) fault(b *block, pc uint64, i int, n uint64) {
	w := b.where[i]
	h.instret += n - uint64(b.n) + uint64(w>>8)
	h.trap(pc+2*uint64(w&255), h.exc, h.excVal)
}

// replay runs the count instructions that were fused into op i one by one.
func (h *hart) replay(b *block, pc uint64, i int, n uint64, count int) {
	w := b.where[i]
	h.instret += n - uint64(b.n) + uint64(w>>8)
	h.pc = pc + 2*uint64(w&255)
	h.single = count
}

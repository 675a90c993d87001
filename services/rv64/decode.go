package rv64

import "runtime"

// Fields of a 32-bit instruction (unprivileged ISA, chapter "RV32I", 2.2).
func insRd(i uint32) uint8  { return uint8(i>>7) & 31 }
func insRs1(i uint32) uint8 { return uint8(i>>15) & 31 }
func insRs2(i uint32) uint8 { return uint8(i>>20) & 31 }
func insRs3(i uint32) uint8 { return uint8(i >> 27) }
func insF3(i uint32) uint32 { return i >> 12 & 7 }
func insF7(i uint32) uint32 { return i >> 25 }

func immI(i uint32) int32 { return int32(i) >> 20 }
func immS(i uint32) int32 { return int32(i)>>25<<5 | int32(i>>7&31) }
func immU(i uint32) int32 { return int32(i &^ 0xfff) }

func immB(i uint32) int32 {
	return int32(i)>>31<<12 | int32(i>>7&1)<<11 | int32(i>>25&63)<<5 | int32(i>>8&15)<<1
}

func immJ(i uint32) int32 {
	return int32(i)>>31<<20 | int32(i>>12&255)<<12 | int32(i>>20&1)<<11 | int32(i>>21&1023)<<1
}

// dest maps x0 as a destination to the sink.
func dest(rd uint8) uint8 {
	if rd == 0 {
		return sink
	}
	return rd
}

// tsoHost tells whether the host keeps all orders but store-load by itself.
const tsoHost = runtime.GOARCH == "amd64"

var (
	loadKinds  = [8]uint8{opLb, opLh, opLw, opLd, opLbu, opLhu, opLwu, opIllegal}
	storeKinds = [8]uint8{opSb, opSh, opSw, opSd, opIllegal, opIllegal, opIllegal, opIllegal}
	brKinds    = [8]uint8{opBeq, opBne, opIllegal, opIllegal, opBlt, opBge, opBltu, opBgeu}
)

// decode translates one 32-bit instruction. Immediates of pc-relative ops
// still count from the instruction itself.
func decode(i uint32) op {
	rd, rs1, rs2 := dest(insRd(i)), insRs1(i), insRs2(i)
	f3 := insF3(i)
	ill := op{kind: opIllegal, imm: int32(i)}
	switch i & 127 {
	case 0x37: // LUI
		return op{kind: opLI, rd: rd, imm: immU(i)}
	case 0x17: // AUIPC
		return op{kind: opLA, rd: rd, imm: immU(i)}
	case 0x6f: // JAL
		if rd == sink {
			return op{kind: opJ, imm: immJ(i)}
		}
		return op{kind: opJal, rd: rd, imm: immJ(i)}
	case 0x67: // JALR
		if f3 != 0 {
			return ill
		}
		return op{kind: opJalr, rd: rd, rs1: rs1, imm: immI(i)}
	case 0x63: // BRANCH
		if brKinds[f3] == opIllegal {
			return ill
		}
		return op{kind: brKinds[f3], rs1: rs1, rs2: rs2, imm: immB(i)}
	case 0x03: // LOAD
		if loadKinds[f3] == opIllegal {
			return ill
		}
		return op{kind: loadKinds[f3], rd: rd, rs1: rs1, imm: immI(i)}
	case 0x23: // STORE
		if storeKinds[f3] == opIllegal {
			return ill
		}
		return op{kind: storeKinds[f3], rs1: rs1, rs2: rs2, imm: immS(i)}
	case 0x13:
		return decodeOpImm(i, ill)
	case 0x1b:
		return decodeOpImm32(i, ill)
	case 0x33:
		if k := regKind(insF7(i), f3, insRs2(i)); k != opIllegal {
			return op{kind: k, rd: rd, rs1: rs1, rs2: rs2}
		}
		return ill
	case 0x3b:
		if k := regKind32(insF7(i), f3, insRs2(i)); k != opIllegal {
			return op{kind: k, rd: rd, rs1: rs1, rs2: rs2}
		}
		return ill
	case 0x0f: // MISC-MEM
		switch f3 {
		case 0:
			// Store-load order is the one that a TSO host does not keep. It
			// matters for queues that are shared with a device's goroutine.
			if pred, succ := i>>24&15, i>>20&15; !tsoHost || pred&5 != 0 && succ&10 != 0 {
				return op{kind: opFence}
			}
			return op{kind: opNop}
		case 1:
			return op{kind: opFenceI}
		}
		return ill
	case 0x2f: // AMO
		if (f3 == 2 || f3 == 3) && validAMO(i) {
			return op{kind: opAMO, rd: rd, rs1: rs1, rs2: rs2, imm: int32(i)}
		}
		return ill
	case 0x73:
		return op{kind: opSystem, rd: rd, rs1: rs1, imm: int32(i)}
	case 0x07, 0x27, 0x43, 0x47, 0x4b, 0x4f, 0x53:
		return decodeFP(i, ill)
	}
	return ill
}

func validAMO(i uint32) bool {
	switch i >> 27 {
	case amoLR:
		return insRs2(i) == 0
	case amoSC, amoSwap, amoAdd, amoXor, amoAnd, amoOr, amoMin, amoMax, amoMinu, amoMaxu:
		return true
	}
	return false
}

func decodeOpImm(i uint32, ill op) op {
	o := op{rd: dest(insRd(i)), rs1: insRs1(i), imm: immI(i)}
	sh := int32(i >> 20 & 63)
	switch insF3(i) {
	case 0:
		o.kind = opAddi
		switch {
		case o.rs1 == 0:
			o.kind = opLI
		case o.imm == 0:
			o.kind = opMv
		}
	case 2:
		o.kind = opSlti
	case 3:
		o.kind = opSltiu
	case 4:
		o.kind = opXori
	case 6:
		o.kind = opOri
	case 7:
		o.kind = opAndi
	case 1:
		o.imm = sh
		if i>>26 != 0 {
			return immShiftLeft(i, o, ill)
		}
		o.kind = opSlli
	case 5:
		o.imm = sh
		switch i >> 26 {
		case 0x00:
			o.kind = opSrli
		case 0x10:
			o.kind = opSrai
		case 0x12:
			o.kind = opBexti
		case 0x18:
			o.kind = opRori
		default:
			switch i >> 20 {
			case 0x287:
				o.kind = opOrcB
			case 0x6b8:
				o.kind = opRev8
			default:
				return ill
			}
		}
	}
	if o.rd == sink {
		o.kind = opNop
	}
	return o
}

// immShiftLeft decodes the Zbb and Zbs instructions that share SLLI's funct3.
func immShiftLeft(i uint32, o, ill op) op {
	switch i >> 26 {
	case 0x0a:
		o.kind = opBseti
	case 0x12:
		o.kind = opBclri
	case 0x1a:
		o.kind = opBinvi
	default:
		switch i >> 20 {
		case 0x600:
			o.kind = opClz
		case 0x601:
			o.kind = opCtz
		case 0x602:
			o.kind = opCpop
		case 0x604:
			o.kind = opSextB
		case 0x605:
			o.kind = opSextH
		default:
			return ill
		}
	}
	if o.rd == sink {
		o.kind = opNop
	}
	return o
}

func decodeOpImm32(i uint32, ill op) op {
	o := op{rd: dest(insRd(i)), rs1: insRs1(i), imm: immI(i)}
	sh := int32(i >> 20 & 31)
	f7 := insF7(i)
	switch insF3(i) {
	case 0:
		o.kind = opAddiw
		if o.rs1 == 0 {
			o.kind = opLI
		}
	case 1:
		o.imm = sh
		switch {
		case f7 == 0:
			o.kind = opSlliw
		case i>>26 == 2:
			o.kind, o.imm = opSlliUw, int32(i>>20&63)
		case i>>20 == 0x600:
			o.kind = opClzw
		case i>>20 == 0x601:
			o.kind = opCtzw
		case i>>20 == 0x602:
			o.kind = opCpopw
		default:
			return ill
		}
	case 5:
		o.imm = sh
		switch f7 {
		case 0x00:
			o.kind = opSrliw
		case 0x20:
			o.kind = opSraiw
		case 0x30:
			o.kind = opRoriw
		default:
			return ill
		}
	default:
		return ill
	}
	return o
}

// regKind is the kind of a register-register instruction (opcode OP).
func regKind(f7, f3 uint32, rs2 uint8) uint8 {
	switch f7 {
	case 0x00:
		return [8]uint8{opAdd, opSll, opSlt, opSltu, opXor, opSrl, opOr, opAnd}[f3]
	case 0x01:
		return [8]uint8{opMul, opMulh, opMulhsu, opMulhu, opDiv, opDivu, opRem, opRemu}[f3]
	case 0x20:
		return [8]uint8{opSub, opIllegal, opIllegal, opIllegal, opXnor, opSra, opOrn, opAndn}[f3]
	case 0x10:
		return [8]uint8{opIllegal, opIllegal, opSh1add, opIllegal, opSh2add, opIllegal, opSh3add, opIllegal}[f3]
	case 0x05:
		return [8]uint8{opIllegal, opIllegal, opIllegal, opIllegal, opMin, opMinu, opMax, opMaxu}[f3]
	case 0x30:
		return [8]uint8{opIllegal, opRol, opIllegal, opIllegal, opIllegal, opRor, opIllegal, opIllegal}[f3]
	case 0x24:
		return [8]uint8{opIllegal, opBclr, opIllegal, opIllegal, opIllegal, opBext, opIllegal, opIllegal}[f3]
	case 0x34:
		return [8]uint8{opIllegal, opBinv, opIllegal, opIllegal, opIllegal, opIllegal, opIllegal, opIllegal}[f3]
	case 0x14:
		return [8]uint8{opIllegal, opBset, opIllegal, opIllegal, opIllegal, opIllegal, opIllegal, opIllegal}[f3]
	}
	return opIllegal
}

// regKind32 is the kind of a register-register instruction of opcode OP-32.
func regKind32(f7, f3 uint32, rs2 uint8) uint8 {
	switch f7 {
	case 0x00:
		return [8]uint8{opAddw, opSllw, opIllegal, opIllegal, opIllegal, opSrlw, opIllegal, opIllegal}[f3]
	case 0x01:
		return [8]uint8{opMulw, opIllegal, opIllegal, opIllegal, opDivw, opDivuw, opRemw, opRemuw}[f3]
	case 0x20:
		return [8]uint8{opSubw, opIllegal, opIllegal, opIllegal, opIllegal, opSraw, opIllegal, opIllegal}[f3]
	case 0x04:
		if f3 == 4 && rs2 == 0 {
			return opZextH
		}
		if f3 == 0 {
			return opAddUw
		}
	case 0x10:
		return [8]uint8{opIllegal, opIllegal, opSh1addUw, opIllegal, opSh2addUw, opIllegal, opSh3addUw, opIllegal}[f3]
	case 0x30:
		return [8]uint8{opIllegal, opRolw, opIllegal, opIllegal, opIllegal, opRorw, opIllegal, opIllegal}[f3]
	}
	return opIllegal
}

// decodeFP decodes the F and D instructions. Loads, stores and sign injection
// of doubles become plain ops on the floating-point half of the register file.
func decodeFP(i uint32, ill op) op {
	f3 := insF3(i)
	fmt := i >> 25 & 3
	rd, rs1, rs2 := insRd(i), insRs1(i), insRs2(i)
	switch i & 127 {
	case 0x07:
		switch f3 {
		case 2:
			return op{kind: opFlw, rd: rd + fpBase, rs1: rs1, imm: immI(i)}
		case 3:
			return op{kind: opLd, rd: rd + fpBase, rs1: rs1, imm: immI(i)}
		}
		return ill
	case 0x27:
		switch f3 {
		case 2:
			return op{kind: opSw, rs1: rs1, rs2: rs2 + fpBase, imm: immS(i)}
		case 3:
			return op{kind: opSd, rs1: rs1, rs2: rs2 + fpBase, imm: immS(i)}
		}
		return ill
	}
	if !validFP(i) {
		return ill
	}
	if i&127 == 0x53 && fmt == 1 && i>>27 == 4 && f3 == 0 {
		return op{kind: opFsgnjD, rd: rd + fpBase, rs1: rs1 + fpBase, rs2: rs2 + fpBase}
	}
	return op{kind: opFP, imm: int32(i)}
}

// isFP tells whether an instruction needs the floating-point unit.
func isFP(i uint32) bool {
	switch i & 127 {
	case 0x07, 0x27, 0x43, 0x47, 0x4b, 0x4f, 0x53:
		return true
	}
	return false
}

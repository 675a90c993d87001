package rv64

// An op is one pre-decoded instruction, or a fused pair of them. Registers
// are indices into hart.x: integer registers 0-31, floating-point registers
// from fpBase, and sink for results that are thrown away (writes to x0).
//
// imm is the sign-extended immediate. For pc-relative ops (opLA, branches,
// jumps) it counts from the start of the block.
type op struct {
	kind uint8
	rd   uint8
	rs1  uint8
	rs2  uint8
	imm  int32
}

const (
	fpBase = 64
	sink   = 255
)

// A word is an op in 8 bytes: imm, rs2, rs1, rd, kind from the top. The hot
// loop loads it at once.
type word uint64

func (o op) pack() word {
	return word(o.kind) | word(o.rd)<<8 | word(o.rs1)<<16 | word(o.rs2)<<24 | word(uint32(o.imm))<<32
}

func (w word) unpack() op {
	return op{kind: w.kind(), rd: w.rd(), rs1: w.rs1(), rs2: w.rs2(), imm: int32(w >> 32)}
}

func (w word) kind() uint8 { return uint8(w) }
func (w word) rd() uint8   { return uint8(w >> 8) }
func (w word) rs1() uint8  { return uint8(w >> 16) }
func (w word) rs2() uint8  { return uint8(w >> 24) }

// imm is the sign-extended immediate. Where a fused op has two, target is
// its branch target and imm12 the other one.
func (w word) imm() uint64    { return uint64(int64(w) >> 32) }
func (w word) imm12() uint64  { return uint64(int64(w<<20) >> 52) }
func (w word) target() uint64 { return uint64(int64(w) >> 44) }

// Kinds of ops. The hot loop is one dense switch over them.
const (
	opNop uint8 = iota

	opLI // rd = imm
	opLA // rd = pc + imm
	opMv
	opAddi
	opSlti
	opSltiu
	opXori
	opOri
	opAndi
	opSlli
	opSrli
	opSrai
	opAddiw
	opSlliw
	opSrliw
	opSraiw

	opAdd
	opSub
	opSll
	opSlt
	opSltu
	opXor
	opSrl
	opSra
	opOr
	opAnd
	opAddw
	opSubw
	opSllw
	opSrlw
	opSraw

	opMul
	opMulh
	opMulhsu
	opMulhu
	opDiv
	opDivu
	opRem
	opRemu
	opMulw
	opDivw
	opDivuw
	opRemw
	opRemuw

	opAddUw
	opSh1add
	opSh2add
	opSh3add
	opSh1addUw
	opSh2addUw
	opSh3addUw
	opSlliUw

	opAndn
	opOrn
	opXnor
	opClz
	opCtz
	opCpop
	opClzw
	opCtzw
	opCpopw
	opMax
	opMaxu
	opMin
	opMinu
	opSextB
	opSextH
	opZextH
	opRol
	opRor
	opRori
	opRolw
	opRorw
	opRoriw
	opOrcB
	opRev8

	opBclr
	opBext
	opBinv
	opBset
	opBclri
	opBexti
	opBinvi
	opBseti

	opLb
	opLh
	opLw
	opLd
	opLbu
	opLhu
	opLwu
	opFlw // NaN-boxed
	opSb
	opSh
	opSw
	opSd

	opAMO   // imm is the instruction
	opFence // a full barrier
	opFPOn  // traps if the floating-point unit is off, else marks it dirty
	opFP    // imm is the instruction
	opFsgnjD

	// Fused pairs that do not end a block.
	opShlShr // rd = rs1 << (imm&63) >> (imm>>8)
	opLdPC   // rd = 64 bits at pc + imm; rs1 is the auipc's register
	opLwPC   // rd = sign-extended 32 bits at pc + imm

	// From here on: ops that end a block.
	opBeq
	opBne
	opBlt
	opBge
	opBltu
	opBgeu
	opJ
	opJal
	opJalr
	opCallPC // auipc rs1 + jalr rd: rs1 = pc + hi part, jump to pc + imm

	// Fused pairs; imm is target<<12 | imm12 where the first has an immediate.
	opSltBnez
	opSltBeqz
	opSltuBnez
	opSltuBeqz
	opAndiBnez
	opAndiBeqz
	opAddiBne
	opAddiBeq
	opAddiBltu
	opLIBeq
	opLIBne
	opLIBltu
	opLIBgeu

	opSystem  // imm is the instruction
	opFenceI  // instruction fence
	opIllegal // imm is the instruction
)

// endsBlock tells whether nothing may follow an op of this kind in a block.
func endsBlock(kind uint8) bool { return kind >= opBeq }

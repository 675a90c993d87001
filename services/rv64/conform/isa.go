package conform

// An rrOp is a register-register instruction of the integer instruction set.
type rrOp struct {
	name           string
	opcode, f3, f7 uint32
}

func (o rrOp) word(rd, rs1, rs2 int) uint32 { return rType(o.opcode, o.f3, o.f7, rd, rs1, rs2) }

var rrOps = []rrOp{
	{"add", 0x33, 0, 0x00}, {"sub", 0x33, 0, 0x20}, {"sll", 0x33, 1, 0}, {"slt", 0x33, 2, 0},
	{"sltu", 0x33, 3, 0}, {"xor", 0x33, 4, 0}, {"srl", 0x33, 5, 0}, {"sra", 0x33, 5, 0x20},
	{"or", 0x33, 6, 0}, {"and", 0x33, 7, 0},
	{"addw", 0x3b, 0, 0}, {"subw", 0x3b, 0, 0x20}, {"sllw", 0x3b, 1, 0}, {"srlw", 0x3b, 5, 0}, {"sraw", 0x3b, 5, 0x20},

	{"mul", 0x33, 0, 1}, {"mulh", 0x33, 1, 1}, {"mulhsu", 0x33, 2, 1}, {"mulhu", 0x33, 3, 1},
	{"div", 0x33, 4, 1}, {"divu", 0x33, 5, 1}, {"rem", 0x33, 6, 1}, {"remu", 0x33, 7, 1},
	{"mulw", 0x3b, 0, 1}, {"divw", 0x3b, 4, 1}, {"divuw", 0x3b, 5, 1}, {"remw", 0x3b, 6, 1}, {"remuw", 0x3b, 7, 1},

	{"add.uw", 0x3b, 0, 4}, {"sh1add", 0x33, 2, 0x10}, {"sh2add", 0x33, 4, 0x10}, {"sh3add", 0x33, 6, 0x10},
	{"sh1add.uw", 0x3b, 2, 0x10}, {"sh2add.uw", 0x3b, 4, 0x10}, {"sh3add.uw", 0x3b, 6, 0x10},

	{"andn", 0x33, 7, 0x20}, {"orn", 0x33, 6, 0x20}, {"xnor", 0x33, 4, 0x20},
	{"min", 0x33, 4, 5}, {"minu", 0x33, 5, 5}, {"max", 0x33, 6, 5}, {"maxu", 0x33, 7, 5},
	{"rol", 0x33, 1, 0x30}, {"ror", 0x33, 5, 0x30}, {"rolw", 0x3b, 1, 0x30}, {"rorw", 0x3b, 5, 0x30},

	{"bclr", 0x33, 1, 0x24}, {"bext", 0x33, 5, 0x24}, {"binv", 0x33, 1, 0x34}, {"bset", 0x33, 1, 0x14},
}

// A riOp is a register-immediate instruction. bits is the width of a shift
// amount below the fixed high bits fixed of the immediate field; 12 means an
// immediate with sign; 0 means none.
type riOp struct {
	name       string
	opcode, f3 uint32
	fixed      int32
	bits       uint
}

func (o riOp) word(rd, rs1 int, imm int32) uint32 {
	switch o.bits {
	case 12:
		return iType(o.opcode, o.f3, rd, rs1, imm)
	}
	return iType(o.opcode, o.f3, rd, rs1, o.fixed|imm&(1<<o.bits-1))
}

// imms are the immediates to try.
func (o riOp) imms() []int32 {
	switch o.bits {
	case 0:
		return []int32{0}
	case 5:
		return []int32{0, 1, 15, 31}
	case 6:
		return []int32{0, 1, 31, 32, 33, 48, 63}
	}
	return []int32{0, 1, -1, 7, 255, 2047, -2048, 0x555}
}

var riOps = []riOp{
	{"addi", 0x13, 0, 0, 12}, {"slti", 0x13, 2, 0, 12}, {"sltiu", 0x13, 3, 0, 12},
	{"xori", 0x13, 4, 0, 12}, {"ori", 0x13, 6, 0, 12}, {"andi", 0x13, 7, 0, 12}, {"addiw", 0x1b, 0, 0, 12},
	{"slli", 0x13, 1, 0, 6}, {"srli", 0x13, 5, 0, 6}, {"srai", 0x13, 5, 0x400, 6},
	{"slliw", 0x1b, 1, 0, 5}, {"srliw", 0x1b, 5, 0, 5}, {"sraiw", 0x1b, 5, 0x400, 5},
	{"slli.uw", 0x1b, 1, 0x080, 6},
	{"rori", 0x13, 5, 0x600, 6}, {"roriw", 0x1b, 5, 0x600, 5},
	{"clz", 0x13, 1, 0x600, 0}, {"ctz", 0x13, 1, 0x601, 0}, {"cpop", 0x13, 1, 0x602, 0},
	{"clzw", 0x1b, 1, 0x600, 0}, {"ctzw", 0x1b, 1, 0x601, 0}, {"cpopw", 0x1b, 1, 0x602, 0},
	{"sext.b", 0x13, 1, 0x604, 0}, {"sext.h", 0x13, 1, 0x605, 0},
	{"orc.b", 0x13, 5, 0x287, 0}, {"rev8", 0x13, 5, 0x6b8, 0},
	{"zext.h", 0x3b, 4, 0x080, 0},
	{"bclri", 0x13, 1, 0x480, 6}, {"bexti", 0x13, 5, 0x480, 6}, {"binvi", 0x13, 1, 0x680, 6}, {"bseti", 0x13, 1, 0x280, 6},
}

// Conditions of branches: funct3.
var branchOps = []struct {
	name string
	f3   uint32
}{{"beq", 0}, {"bne", 1}, {"blt", 4}, {"bge", 5}, {"bltu", 6}, {"bgeu", 7}}

// Loads: funct3 of LOAD, with the size in bytes.
var loadOps = []struct {
	name string
	f3   uint32
	size int
}{{"lb", 0, 1}, {"lh", 1, 2}, {"lw", 2, 4}, {"ld", 3, 8}, {"lbu", 4, 1}, {"lhu", 5, 2}, {"lwu", 6, 4}}

// Stores: funct3 of STORE, with the size in bytes.
var storeOps = []struct {
	name string
	f3   uint32
	size int
}{{"sb", 0, 1}, {"sh", 1, 2}, {"sw", 2, 4}, {"sd", 3, 8}}

// AMOs: funct5 without LR and SC.
var amoOps = []struct {
	name string
	f5   uint32
}{{"amoswap", 1}, {"amoadd", 0}, {"amoxor", 4}, {"amoand", 12}, {"amoor", 8},
	{"amomin", 16}, {"amomax", 20}, {"amominu", 24}, {"amomaxu", 28}}

const (
	amoLR = 2
	amoSC = 3
)

// amo encodes an atomic of 4 (f3 = 2) or 8 (f3 = 3) bytes; aqrl are its two
// ordering bits.
func amo(f5, f3, aqrl uint32, rd, rs1, rs2 int) uint32 {
	return rType(0x2f, f3, f5<<2|aqrl, rd, rs1, rs2)
}

// An fpFormat is what differs between binary32 and binary64.
type fpFormat struct {
	suffix string
	fmt    uint32 // fmt field
	mant   uint
	bias   uint64
}

var fpFormats = []fpFormat{{"s", 0, 23, 127}, {"d", 1, 52, 1023}}

// fpOps with a rounding mode, two floating-point operands and such a result.
var fpArith = []struct {
	name string
	f5   uint32
}{{"fadd", 0}, {"fsub", 1}, {"fmul", 2}, {"fdiv", 3}}

// Fused multiply-adds by opcode.
var fpFused = []struct {
	name   string
	opcode uint32
}{{"fmadd", 0x43}, {"fmsub", 0x47}, {"fnmsub", 0x4b}, {"fnmadd", 0x4f}}

// Operations on two floating-point operands without a rounding mode; toInt
// tells that the result is an integer.
var fpPairs = []struct {
	name   string
	f5, f3 uint32
	toInt  bool
}{
	{"fsgnj", 4, 0, false}, {"fsgnjn", 4, 1, false}, {"fsgnjx", 4, 2, false},
	{"fmin", 5, 0, false}, {"fmax", 5, 1, false},
	{"feq", 20, 2, true}, {"flt", 20, 1, true}, {"fle", 20, 0, true},
}

// Integer types of conversions: the rs2 field.
var fpInts = []struct {
	name  string
	field int
}{{"w", 0}, {"wu", 1}, {"l", 2}, {"lu", 3}}

// opFP encodes an instruction of major opcode OP-FP. f3 is the rounding mode
// where there is one.
func opFP(f5 uint32, f fpFormat, f3 uint32, rd, rs1, rs2 int) uint32 {
	return rType(0x53, f3, f5<<2|f.fmt, rd, rs1, rs2)
}

// fused encodes a fused multiply-add.
func fused(opcode uint32, f fpFormat, rm uint32, rd, rs1, rs2, rs3 int) uint32 {
	return rType(opcode, rm, uint32(rs3)<<2|f.fmt, rd, rs1, rs2)
}

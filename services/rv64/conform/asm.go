package conform

import (
	"encoding/binary"
	"fmt"
)

// Integer registers by their ABI names.
const (
	zero = iota
	ra
	sp
	gp
	tp
	t0
	t1
	t2
	s0
	s1
	a0
	a1
	a2
	a3
	a4
	a5
	a6
	a7
	s2
	s3
	s4
	s5
	s6
	s7
	s8
	s9
	s10
	s11
	t3
	t4
	t5
	t6
)

// Control and status registers.
const (
	csrFflags     = 0x001
	csrFrm        = 0x002
	csrFcsr       = 0x003
	csrSstatus    = 0x100
	csrSie        = 0x104
	csrStvec      = 0x105
	csrScounteren = 0x106
	csrSscratch   = 0x140
	csrSepc       = 0x141
	csrScause     = 0x142
	csrStval      = 0x143
	csrSip        = 0x144
	csrSatp       = 0x180
	csrMstatus    = 0x300
	csrMedeleg    = 0x302
	csrMideleg    = 0x303
	csrMtvec      = 0x305
	csrMcounteren = 0x306
	csrMepc       = 0x341
	csrMcause     = 0x342
	csrPmpcfg0    = 0x3a0
	csrPmpaddr0   = 0x3b0
)

// rm field values beyond fp's modes.
const rmDynamic = 7

func rType(opcode, f3, f7 uint32, rd, rs1, rs2 int) uint32 {
	return f7<<25 | uint32(rs2)<<20 | uint32(rs1)<<15 | f3<<12 | uint32(rd)<<7 | opcode
}

func iType(opcode, f3 uint32, rd, rs1 int, imm int32) uint32 {
	return uint32(imm)<<20 | uint32(rs1)<<15 | f3<<12 | uint32(rd)<<7 | opcode
}

func sType(opcode, f3 uint32, rs1, rs2 int, imm int32) uint32 {
	u := uint32(imm)
	return u>>5&0x7f<<25 | uint32(rs2)<<20 | uint32(rs1)<<15 | f3<<12 | u&0x1f<<7 | opcode
}

func bType(f3 uint32, rs1, rs2 int, off int32) uint32 {
	u := uint32(off)
	return u>>12&1<<31 | u>>5&0x3f<<25 | uint32(rs2)<<20 | uint32(rs1)<<15 | f3<<12 | u>>1&0xf<<8 | u>>11&1<<7 | 0x63
}

func jType(rd int, off int32) uint32 {
	u := uint32(off)
	return u>>20&1<<31 | u>>1&0x3ff<<21 | u>>11&1<<20 | u>>12&0xff<<12 | uint32(rd)<<7 | 0x6f
}

// assembler collects instructions and data of one image. Labels are numbers
// from newLabel; references to them are resolved by finish.
type assembler struct {
	base   uint64
	buf    []byte
	labels []int // offset in buf, or -1
	fixups []fixup
}

type fixupKind int

const (
	fixBranch fixupKind = iota
	fixJAL
	fixPC // auipc with the 12-bit immediate of the next instruction, I format
	fixAbs
)

type fixup struct {
	kind  fixupKind
	at    int
	label label
	add   int
}

type label int

func newAssembler(base uint64) *assembler { return &assembler{base: base} }

func (a *assembler) newLabel() label {
	a.labels = append(a.labels, -1)
	return label(len(a.labels) - 1)
}

// bind puts the label here.
func (a *assembler) bind(l label) { a.labels[l] = len(a.buf) }

func (a *assembler) here() label {
	l := a.newLabel()
	a.bind(l)
	return l
}

// address of a bound label.
func (a *assembler) address(l label) uint64 { return a.base + uint64(a.labels[l]) }

func (a *assembler) i(words ...uint32) {
	for _, w := range words {
		a.buf = binary.LittleEndian.AppendUint32(a.buf, w)
	}
}

// c emits compressed instructions.
func (a *assembler) c(halves ...uint16) {
	for _, h := range halves {
		a.buf = binary.LittleEndian.AppendUint16(a.buf, h)
	}
}

func (a *assembler) data(words ...uint64) {
	for _, w := range words {
		a.buf = binary.LittleEndian.AppendUint64(a.buf, w)
	}
}

// quad emits the address of l, plus add, as data.
func (a *assembler) quad(l label, add int) {
	a.fixups = append(a.fixups, fixup{fixAbs, len(a.buf), l, add})
	a.data(0)
}

func (a *assembler) align(n int) {
	for len(a.buf)%n != 0 {
		a.buf = append(a.buf, 0)
	}
}

func (a *assembler) branch(f3 uint32, rs1, rs2 int, l label) {
	a.fixups = append(a.fixups, fixup{fixBranch, len(a.buf), l, 0})
	a.i(bType(f3, rs1, rs2, 0))
}

func (a *assembler) jal(rd int, l label) {
	a.fixups = append(a.fixups, fixup{fixJAL, len(a.buf), l, 0})
	a.i(jType(rd, 0))
}

// pcRel emits auipc rd and then second, an I-format instruction whose
// immediate becomes the low part of the distance to l + add.
func (a *assembler) pcRel(rd int, second uint32, l label, add int) {
	a.fixups = append(a.fixups, fixup{fixPC, len(a.buf), l, add})
	a.i(uint32(rd)<<7|0x17, second)
}

func (a *assembler) la(rd int, l label) { a.pcRel(rd, addi(rd, rd, 0), l, 0) }

// li loads any constant.
func (a *assembler) li(rd int, v uint64) {
	lo := int32(v<<52>>52) << 20 >> 20
	if int64(v) == int64(lo) {
		a.i(addi(rd, zero, lo))
		return
	}
	if int64(v) == int64(int32(v)) {
		a.i(uint32(v-uint64(int64(lo)))&0xfffff000 | uint32(rd)<<7 | 0x37) // lui
		if lo != 0 {
			a.i(iType(0x1b, 0, rd, rd, lo)) // addiw
		}
		return
	}
	a.li(rd, uint64(int64(v-uint64(int64(lo)))>>12))
	a.i(slli(rd, rd, 12))
	if lo != 0 {
		a.i(addi(rd, rd, lo))
	}
}

// finish resolves references and returns the image.
func (a *assembler) finish() ([]byte, error) {
	for _, f := range a.fixups {
		if a.labels[f.label] < 0 {
			return nil, fmt.Errorf("label %d referred to at %#x is not bound", f.label, f.at)
		}
		off := int64(a.labels[f.label] + f.add - f.at)
		word := a.buf[f.at:]
		old := binary.LittleEndian.Uint32(word)
		switch f.kind {
		case fixBranch:
			if off < -4096 || off > 4094 {
				return nil, fmt.Errorf("branch over %d bytes at %#x", off, f.at)
			}
			binary.LittleEndian.PutUint32(word, old|bType(0, 0, 0, int32(off))&^0x7f)
		case fixJAL:
			if off < -1<<20 || off >= 1<<20 {
				return nil, fmt.Errorf("jump over %d bytes at %#x", off, f.at)
			}
			binary.LittleEndian.PutUint32(word, old|jType(0, int32(off))&^0x7f)
		case fixPC:
			lo := int32(off) << 20 >> 20
			hi := int32(off) - lo
			binary.LittleEndian.PutUint32(word, old|uint32(hi))
			next := word[4:]
			binary.LittleEndian.PutUint32(next, binary.LittleEndian.Uint32(next)|uint32(lo)<<20)
		case fixAbs:
			binary.LittleEndian.PutUint64(word, a.address(f.label)+uint64(f.add))
		}
	}
	return a.buf, nil
}

// The few instructions that programs are built from by name.

func addi(rd, rs1 int, imm int32) uint32 { return iType(0x13, 0, rd, rs1, imm) }
func mv(rd, rs1 int) uint32              { return addi(rd, rs1, 0) }
func slli(rd, rs1 int, n int32) uint32   { return iType(0x13, 1, rd, rs1, n) }
func srli(rd, rs1 int, n int32) uint32   { return iType(0x13, 5, rd, rs1, n) }
func andi(rd, rs1 int, imm int32) uint32 { return iType(0x13, 7, rd, rs1, imm) }
func add(rd, rs1, rs2 int) uint32        { return rType(0x33, 0, 0, rd, rs1, rs2) }
func sub(rd, rs1, rs2 int) uint32        { return rType(0x33, 0, 0x20, rd, rs1, rs2) }
func addUw(rd, rs1, rs2 int) uint32      { return rType(0x3b, 0, 4, rd, rs1, rs2) }
func ld(rd, rs1 int, off int32) uint32   { return iType(0x03, 3, rd, rs1, off) }
func lbu(rd, rs1 int, off int32) uint32  { return iType(0x03, 4, rd, rs1, off) }
func sd(rs2, rs1 int, off int32) uint32  { return sType(0x23, 3, rs1, rs2, off) }
func sb(rs2, rs1 int, off int32) uint32  { return sType(0x23, 0, rs1, rs2, off) }
func fld(rd, rs1 int, off int32) uint32  { return iType(0x07, 3, rd, rs1, off) }
func fsd(rs2, rs1 int, off int32) uint32 { return sType(0x27, 3, rs1, rs2, off) }
func jalr(rd, rs1 int, off int32) uint32 { return iType(0x67, 0, rd, rs1, off) }
func csrw(csr, rs1 int) uint32           { return iType(0x73, 1, zero, rs1, int32(csr)) }
func csrwi(csr, imm int) uint32          { return iType(0x73, 5, zero, imm, int32(csr)) }
func csrr(rd, csr int) uint32            { return iType(0x73, 2, rd, zero, int32(csr)) }
func csrs(csr, rs1 int) uint32           { return iType(0x73, 2, zero, rs1, int32(csr)) }
func csrc(csr, rs1 int) uint32           { return iType(0x73, 3, zero, rs1, int32(csr)) }

const (
	ecall     uint32 = 0x00000073
	ebreak    uint32 = 0x00100073
	sret      uint32 = 0x10200073
	mret      uint32 = 0x30200073
	wfi       uint32 = 0x10500073
	sfenceVMA uint32 = 0x12000073
	fenceI    uint32 = 0x0000100f
)

func (a *assembler) beqz(rs int, l label) { a.branch(0, rs, zero, l) }
func (a *assembler) bnez(rs int, l label) { a.branch(1, rs, zero, l) }
func (a *assembler) j(l label)            { a.jal(zero, l) }

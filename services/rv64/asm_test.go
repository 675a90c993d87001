package rv64

// A few instructions for test programs; registers by their ABI names.
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
)

func addi(rd, rs1 uint32, imm int32) uint32  { return encI(0x13, 0, rd, rs1, imm) }
func andi(rd, rs1 uint32, imm int32) uint32  { return encI(0x13, 7, rd, rs1, imm) }
func slli(rd, rs1 uint32, sh int32) uint32   { return encI(0x13, 1, rd, rs1, sh) }
func srli(rd, rs1 uint32, sh int32) uint32   { return encI(0x13, 5, rd, rs1, sh) }
func addiw(rd, rs1 uint32, imm int32) uint32 { return encI(0x1b, 0, rd, rs1, imm) }
func lui(rd uint32, imm uint32) uint32       { return 0x37 | rd<<7 | imm<<12 }
func auipc(rd uint32, imm uint32) uint32     { return 0x17 | rd<<7 | imm<<12 }
func add(rd, rs1, rs2 uint32) uint32         { return encR(0x33, 0, 0, rd, rs1, rs2) }
func xor(rd, rs1, rs2 uint32) uint32         { return encR(0x33, 4, 0, rd, rs1, rs2) }
func slt(rd, rs1, rs2 uint32) uint32         { return encR(0x33, 2, 0, rd, rs1, rs2) }
func sltu(rd, rs1, rs2 uint32) uint32        { return encR(0x33, 3, 0, rd, rs1, rs2) }
func mul(rd, rs1, rs2 uint32) uint32         { return encR(0x33, 0, 1, rd, rs1, rs2) }
func lw(rd, rs1 uint32, imm int32) uint32    { return encI(0x03, 2, rd, rs1, imm) }
func ld(rd, rs1 uint32, imm int32) uint32    { return encI(0x03, 3, rd, rs1, imm) }
func lbu(rd, rs1 uint32, imm int32) uint32   { return encI(0x03, 4, rd, rs1, imm) }
func sb(rs2, rs1 uint32, imm int32) uint32   { return encS(0x23, 0, rs1, rs2, imm) }
func sw(rs2, rs1 uint32, imm int32) uint32   { return encS(0x23, 2, rs1, rs2, imm) }
func sd(rs2, rs1 uint32, imm int32) uint32   { return encS(0x23, 3, rs1, rs2, imm) }
func beq(rs1, rs2 uint32, off int32) uint32  { return encB(0, rs1, rs2, off) }
func bne(rs1, rs2 uint32, off int32) uint32  { return encB(1, rs1, rs2, off) }
func blt(rs1, rs2 uint32, off int32) uint32  { return encB(4, rs1, rs2, off) }
func bltu(rs1, rs2 uint32, off int32) uint32 { return encB(6, rs1, rs2, off) }
func bgeu(rs1, rs2 uint32, off int32) uint32 { return encB(7, rs1, rs2, off) }
func jal(rd uint32, off int32) uint32        { return encJ(rd, off) }
func jalr(rd, rs1 uint32, imm int32) uint32  { return encI(0x67, 0, rd, rs1, imm) }
func csrrw(rd, csr, rs1 uint32) uint32       { return encI(0x73, 1, rd, rs1, int32(csr)) }
func csrrs(rd, csr, rs1 uint32) uint32       { return encI(0x73, 2, rd, rs1, int32(csr)) }
func csrrsi(rd, csr, imm uint32) uint32      { return encI(0x73, 6, rd, imm, int32(csr)) }
func csrrci(rd, csr, imm uint32) uint32      { return encI(0x73, 7, rd, imm, int32(csr)) }
func amo(f5, f3, rd, rs1, rs2 uint32) uint32 { return encR(0x2f, f3, f5<<2, rd, rs1, rs2) }
func amoaddw(rd, rs1, rs2 uint32) uint32     { return amo(amoAdd, 2, rd, rs1, rs2) }
func lrd(rd, rs1 uint32) uint32              { return amo(amoLR, 3, rd, rs1, 0) }
func scd(rd, rs1, rs2 uint32) uint32         { return amo(amoSC, 3, rd, rs1, rs2) }
func sfence(rs1 uint32) uint32               { return encR(0x73, 0, 9, 0, rs1, 0) }

const (
	ecall  = 0x00000073
	ebreak = 0x00100073
	sret   = 0x10200073
	wfi    = 0x10500073
	fencei = 0x0000100f
	nop    = 0x00000013
)

// li loads any 64-bit constant in at most 8 instructions.
func li(rd uint32, v uint64) []uint32 {
	if s := int64(v); s >= -2048 && s < 2048 {
		return []uint32{addi(rd, 0, int32(s))}
	}
	if s := int64(v); s == int64(int32(s)) && s < 0x7ffff800 {
		return []uint32{lui(rd, uint32(v+0x800)>>12&0xfffff), addiw(rd, rd, int32(v<<52>>52&0xfff)<<20>>20)}
	}
	lo := int64(v) << 52 >> 52
	return append(li(rd, uint64(int64(v)-lo)>>12|uint64(int64(v)-lo)>>63*0xfff<<52), slli(rd, rd, 12), addi(rd, rd, int32(lo)))
}

// asm joins instructions and sequences of them.
func asm(parts ...any) []uint32 {
	var out []uint32
	for _, p := range parts {
		switch p := p.(type) {
		case uint32:
			out = append(out, p)
		case int:
			out = append(out, uint32(p))
		case []uint32:
			out = append(out, p...)
		default:
			panic("asm: not an instruction")
		}
	}
	return out
}

// halt powers off through legacy SBI.
func halt() []uint32 { return asm(li(a7, sbiLegacyShutdown), uint32(ecall)) }

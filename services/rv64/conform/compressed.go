package conform

// Fields of compressed instructions. Primed registers (3 bits) are x8 to x15.

func cImm6(imm int) uint16 { return uint16(imm>>5&1)<<12 | uint16(imm&31)<<2 }

func cI(f3, quadrant uint16, rd int, imm int) uint16 {
	return f3<<13 | uint16(rd)<<7 | cImm6(imm) | quadrant
}

func cR(f4 uint16, rd, rs2 int) uint16 { return f4<<12 | uint16(rd)<<7 | uint16(rs2)<<2 | 2 }

// cLoadStore encodes loads and stores over a primed base; wide ones scale by 8.
func cLoadStore(f3 uint16, wide bool, reg, base, off int) uint16 {
	v := f3<<13 | uint16(base&7)<<7 | uint16(reg&7)<<2 | uint16(off>>3&7)<<10
	if wide {
		return v | uint16(off>>6&3)<<5
	}
	return v | uint16(off>>2&1)<<6 | uint16(off>>6&1)<<5
}

// cLoadSP encodes a load relative to sp.
func cLoadSP(f3 uint16, wide bool, rd, off int) uint16 {
	v := f3<<13 | uint16(rd)<<7 | uint16(off>>5&1)<<12 | 2
	if wide {
		return v | uint16(off>>3&3)<<5 | uint16(off>>6&7)<<2
	}
	return v | uint16(off>>2&7)<<4 | uint16(off>>6&3)<<2
}

// cStoreSP encodes a store relative to sp.
func cStoreSP(f3 uint16, wide bool, rs2, off int) uint16 {
	v := f3<<13 | uint16(rs2)<<2 | 2
	if wide {
		return v | uint16(off>>3&7)<<10 | uint16(off>>6&7)<<7
	}
	return v | uint16(off>>2&15)<<9 | uint16(off>>6&3)<<7
}

func cAddi4spn(rd, imm int) uint16 {
	return uint16(imm>>4&3)<<11 | uint16(imm>>6&15)<<7 | uint16(imm>>2&1)<<6 | uint16(imm>>3&1)<<5 | uint16(rd&7)<<2
}

func cAddi16sp(imm int) uint16 {
	return 3<<13 | uint16(imm>>9&1)<<12 | 2<<7 | uint16(imm>>4&1)<<6 | uint16(imm>>6&1)<<5 |
		uint16(imm>>7&3)<<3 | uint16(imm>>5&1)<<2 | 1
}

// cALU encodes the arithmetic on primed registers: op is bits 12, 6 and 5.
func cALU(op uint16, rd, rs2 int) uint16 {
	return 4<<13 | op>>2<<12 | 3<<10 | uint16(rd&7)<<7 | op&3<<5 | uint16(rs2&7)<<2 | 1
}

// cShift encodes c.srli (0), c.srai (1) and c.andi (2).
func cShift(op uint16, rd, imm int) uint16 {
	return 4<<13 | op<<10 | uint16(rd&7)<<7 | cImm6(imm) | 1
}

func cJ(off int) uint16 {
	return 5<<13 | uint16(off>>11&1)<<12 | uint16(off>>4&1)<<11 | uint16(off>>8&3)<<9 | uint16(off>>10&1)<<8 |
		uint16(off>>6&1)<<7 | uint16(off>>7&1)<<6 | uint16(off>>1&7)<<3 | uint16(off>>5&1)<<2 | 1
}

// cBranch encodes c.beqz (6) and c.bnez (7).
func cBranch(f3 uint16, rs1, off int) uint16 {
	return f3<<13 | uint16(off>>8&1)<<12 | uint16(off>>3&3)<<10 | uint16(rs1&7)<<7 |
		uint16(off>>6&3)<<5 | uint16(off>>1&3)<<3 | uint16(off>>5&1)<<2 | 1
}

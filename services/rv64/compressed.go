package rv64

// Encoders of the 32-bit forms that compressed instructions stand for.
func encR(op, f3, f7 uint32, rd, rs1, rs2 uint32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | rs2<<20 | f7<<25
}
func encI(op, f3, rd, rs1 uint32, imm int32) uint32 {
	return op | rd<<7 | f3<<12 | rs1<<15 | uint32(imm)<<20
}
func encS(op, f3, rs1, rs2 uint32, imm int32) uint32 {
	u := uint32(imm)
	return op | u&31<<7 | f3<<12 | rs1<<15 | rs2<<20 | u>>5&127<<25
}
func encB(f3, rs1, rs2 uint32, imm int32) uint32 {
	u := uint32(imm)
	return 0x63 | u>>11&1<<7 | u>>1&15<<8 | f3<<12 | rs1<<15 | rs2<<20 | u>>5&63<<25 | u>>12&1<<31
}
func encJ(rd uint32, imm int32) uint32 {
	u := uint32(imm)
	return 0x6f | rd<<7 | u>>12&255<<12 | u>>11&1<<20 | u>>1&1023<<21 | u>>20&1<<31
}

// expand returns the 32-bit instruction that the compressed instruction c
// stands for, or 0 (which is illegal) if it stands for none.
// Source: unprivileged ISA, chapter "C", RVC instruction listings.
func expand(c16 uint16) uint32 {
	c := uint32(c16)
	f3 := c >> 13
	rd := c >> 7 & 31
	rs2 := c >> 2 & 31
	rdp, rs1p := 8+(c>>2&7), 8+(c>>7&7)
	// The 6-bit immediate that most forms share, sign-extended.
	imm6 := int32(c<<19)>>31<<5 | int32(c>>2&31)
	switch c & 3 {
	case 0:
		uimmW := int32(c>>10&7<<3 | c>>6&1<<2 | c>>5&1<<6)
		uimmD := int32(c>>10&7<<3 | c>>5&3<<6)
		switch f3 {
		case 0: // C.ADDI4SPN
			imm := int32(c>>11&3<<4 | c>>7&15<<6 | c>>6&1<<2 | c>>5&1<<3)
			if imm == 0 {
				return 0
			}
			return encI(0x13, 0, rdp, 2, imm)
		case 1:
			return encI(0x07, 3, rdp, rs1p, uimmD)
		case 2:
			return encI(0x03, 2, rdp, rs1p, uimmW)
		case 3:
			return encI(0x03, 3, rdp, rs1p, uimmD)
		case 5:
			return encS(0x27, 3, rs1p, rdp, uimmD)
		case 6:
			return encS(0x23, 2, rs1p, rdp, uimmW)
		case 7:
			return encS(0x23, 3, rs1p, rdp, uimmD)
		}
	case 1:
		switch f3 {
		case 0: // C.ADDI, C.NOP
			return encI(0x13, 0, rd, rd, imm6)
		case 1: // C.ADDIW
			if rd == 0 {
				return 0
			}
			return encI(0x1b, 0, rd, rd, imm6)
		case 2: // C.LI
			return encI(0x13, 0, rd, 0, imm6)
		case 3:
			if rd == 2 { // C.ADDI16SP
				imm := int32(c<<19)>>31<<9 | int32(c>>6&1<<4|c>>5&1<<6|c>>3&3<<7|c>>2&1<<5)
				if imm == 0 {
					return 0
				}
				return encI(0x13, 0, 2, 2, imm)
			}
			if imm6 == 0 {
				return 0
			}
			return 0x37 | rd<<7 | uint32(imm6)<<12 // C.LUI
		case 4:
			return expandArith(c, rs1p, rdp, imm6)
		case 5: // C.J
			imm := int32(c<<19)>>31<<11 | int32(c>>11&1<<4|c>>9&3<<8|c>>8&1<<10|c>>7&1<<6|
				c>>6&1<<7|c>>3&7<<1|c>>2&1<<5)
			return encJ(0, imm)
		case 6, 7: // C.BEQZ, C.BNEZ
			imm := int32(c<<19)>>31<<8 | int32(c>>10&3<<3|c>>5&3<<6|c>>3&3<<1|c>>2&1<<5)
			return encB(f3-6, rs1p, 0, imm)
		}
	case 2:
		switch f3 {
		case 0: // C.SLLI
			return encI(0x13, 1, rd, rd, imm6&63)
		case 1: // C.FLDSP
			return encI(0x07, 3, rd, 2, int32(c>>12&1<<5|c>>5&3<<3|c>>2&7<<6))
		case 2: // C.LWSP
			if rd == 0 {
				return 0
			}
			return encI(0x03, 2, rd, 2, int32(c>>12&1<<5|c>>4&7<<2|c>>2&3<<6))
		case 3: // C.LDSP
			if rd == 0 {
				return 0
			}
			return encI(0x03, 3, rd, 2, int32(c>>12&1<<5|c>>5&3<<3|c>>2&7<<6))
		case 4:
			switch {
			case c>>12&1 == 0 && rs2 == 0: // C.JR
				if rd == 0 {
					return 0
				}
				return encI(0x67, 0, 0, rd, 0)
			case c>>12&1 == 0: // C.MV
				return encI(0x13, 0, rd, rs2, 0)
			case rs2 != 0: // C.ADD
				return encR(0x33, 0, 0, rd, rd, rs2)
			case rd == 0:
				return 0x00100073 // C.EBREAK
			}
			return encI(0x67, 0, 1, rd, 0) // C.JALR
		case 5: // C.FSDSP
			return encS(0x27, 3, 2, rs2, int32(c>>10&7<<3|c>>7&7<<6))
		case 6: // C.SWSP
			return encS(0x23, 2, 2, rs2, int32(c>>9&15<<2|c>>7&3<<6))
		case 7: // C.SDSP
			return encS(0x23, 3, 2, rs2, int32(c>>10&7<<3|c>>7&7<<6))
		}
	}
	return 0
}

// expandArith expands quadrant 1, funct3 100.
func expandArith(c, rd, rs2 uint32, imm6 int32) uint32 {
	switch c >> 10 & 3 {
	case 0:
		return encI(0x13, 5, rd, rd, imm6&63)
	case 1:
		return encI(0x13, 5, rd, rd, imm6&63|0x400)
	case 2:
		return encI(0x13, 7, rd, rd, imm6)
	}
	switch c>>12&1<<2 | c>>5&3 {
	case 0:
		return encR(0x33, 0, 0x20, rd, rd, rs2)
	case 1:
		return encR(0x33, 4, 0, rd, rd, rs2)
	case 2:
		return encR(0x33, 6, 0, rd, rd, rs2)
	case 3:
		return encR(0x33, 7, 0, rd, rd, rs2)
	case 4:
		return encR(0x3b, 0, 0x20, rd, rd, rs2)
	case 5:
		return encR(0x3b, 0, 0, rd, rd, rs2)
	}
	return 0
}

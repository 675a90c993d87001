package rv64

// fuse merges op next into the last op of t, if the pair is worth one op of
// its own. The result does exactly what both do, the first one's register
// included. A pair that may trap in its second half is replayed unfused then
// (see hart.replay).
func (t *translator) fuse(next op) bool {
	if len(t.ops) == 0 || t.n == 0 {
		return false
	}
	last := t.ops[len(t.ops)-1].unpack()
	if !last.fuse(next) {
		return false
	}
	t.ops[len(t.ops)-1] = last.pack()
	return true
}

// fuse makes last do what next does after it, if there is an op for that.
func (last *op) fuse(next op) bool {
	// The second op reads what the first wrote, and writes it, too.
	through := next.rs1 == last.rd && last.rd != sink && next.rd == last.rd
	switch {
	case through && last.kind == opLI && (next.kind == opAddi || next.kind == opAddiw):
		v := int64(last.imm) + int64(next.imm)
		if next.kind == opAddiw {
			v = int64(int32(v))
		}
		if v != int64(int32(v)) {
			return false
		}
		last.imm = int32(v)
	case through && last.kind == opLA && next.kind == opAddi:
		v := int64(last.imm) + int64(next.imm)
		if v != int64(int32(v)) {
			return false
		}
		last.imm = int32(v)
	case through && last.kind == opLA && (next.kind == opLd || next.kind == opLw || next.kind == opJalr):
		v := int64(last.imm) + int64(next.imm)
		if v != int64(int32(v)) {
			return false
		}
		last.imm = int32(v)
		switch next.kind {
		case opLd:
			last.kind = opLdPC
		case opLw:
			last.kind = opLwPC
		default:
			last.kind = opCallPC
			last.imm &^= 1
		}
	case through && last.kind == opSlli && next.kind == opSrli:
		last.kind = opShlShr
		last.imm |= next.imm << 8
	case next.kind == opBeq || next.kind == opBne || next.kind == opBltu || next.kind == opBgeu:
		return last.fuseBranch(next)
	default:
		return false
	}
	return true
}

// fuseBranch merges a branch on the result of o into o.
func (o *op) fuseBranch(br op) bool {
	if o.rd == sink || o.rd >= fpBase || br.imm != br.imm<<12>>12 {
		return false
	}
	onZero := br.rs1 == o.rd && br.rs2 == 0
	eq := br.kind == opBeq
	pick := func(ifEq, ifNe uint8) uint8 {
		if eq {
			return ifEq
		}
		return ifNe
	}
	switch br.kind {
	case opBeq, opBne:
		switch o.kind {
		case opSlt:
			if onZero {
				o.kind, o.imm = pick(opSltBeqz, opSltBnez), br.imm
				return true
			}
		case opSltu:
			if onZero {
				o.kind, o.imm = pick(opSltuBeqz, opSltuBnez), br.imm
				return true
			}
		case opAndi:
			if onZero {
				o.kind, o.imm = pick(opAndiBeqz, opAndiBnez), pack(br.imm, o.imm)
				return true
			}
		case opAddi:
			if br.rs1 == o.rd && br.rs2 != o.rd {
				o.kind, o.rs2, o.imm = pick(opAddiBeq, opAddiBne), br.rs2, pack(br.imm, o.imm)
				return true
			}
			if br.rs2 == o.rd && br.rs1 != o.rd {
				o.kind, o.rs2, o.imm = pick(opAddiBeq, opAddiBne), br.rs1, pack(br.imm, o.imm)
				return true
			}
		case opLI:
			if br.rs2 == o.rd && br.rs1 != o.rd && o.imm == o.imm<<20>>20 {
				o.kind, o.rs1, o.imm = pick(opLIBeq, opLIBne), br.rs1, pack(br.imm, o.imm)
				return true
			}
		}
	case opBltu, opBgeu:
		// li rd; bltu rd, rs branches if the constant is below rs.
		if o.kind == opLI && br.rs1 == o.rd && br.rs2 != o.rd && o.imm == o.imm<<20>>20 {
			o.rs1, o.imm = br.rs2, pack(br.imm, o.imm)
			o.kind = opLIBltu
			if br.kind == opBgeu {
				o.kind = opLIBgeu
			}
			return true
		}
		if br.kind == opBltu && o.kind == opAddi && br.rs1 == o.rd && br.rs2 != o.rd {
			o.kind, o.rs2, o.imm = opAddiBltu, br.rs2, pack(br.imm, o.imm)
			return true
		}
	}
	return false
}

// pack holds a branch target of 20 bits and an immediate of 12.
func pack(target, imm int32) int32 { return target<<12 | imm&0xfff }

package rv64

// frame is where the hot loop stands while it is outside of its registers.
type frame struct {
	b     *block
	pc    uint64 // of the block
	n     uint64 // instret with all of b done
	i     uint   // the op
	taken bool   // how control leaves b
}

// slow executes the op at h.frame in all generality. It returns false if the
// hot loop must end: h.pc and h.instret are then up to date.
func (h *hart) slow(w word) bool {
	o := w.unpack()
	x := &h.x
	va := x[o.rs1] + uint64(int64(o.imm))
	ok := true
	var v uint64
	switch o.kind {
	case opLb:
		if v, ok = h.load(va, 1); ok {
			x[o.rd] = uint64(int64(int8(v)))
		}
	case opLh:
		if v, ok = h.load(va, 2); ok {
			x[o.rd] = uint64(int64(int16(v)))
		}
	case opLw:
		if v, ok = h.load(va, 4); ok {
			x[o.rd] = sext32(int32(v))
		}
	case opLd:
		if v, ok = h.load(va, 8); ok {
			x[o.rd] = v
		}
	case opLbu:
		if v, ok = h.load(va, 1); ok {
			x[o.rd] = v
		}
	case opLhu:
		if v, ok = h.load(va, 2); ok {
			x[o.rd] = v
		}
	case opLwu:
		if v, ok = h.load(va, 4); ok {
			x[o.rd] = v
		}
	case opFlw:
		if v, ok = h.load(va, 4); ok {
			x[o.rd] = v | nanBox
		}
	case opSb:
		ok = h.store(va, 1, x[o.rs2])
	case opSh:
		ok = h.store(va, 2, x[o.rs2])
	case opSw:
		ok = h.store(va, 4, x[o.rs2])
	case opSd:
		ok = h.store(va, 8, x[o.rs2])
	case opLdPC, opLwPC:
		return h.loadPC(o)
	case opAMO:
		ok = h.amo(o)
	case opFence:
		h.barrier.Add(1)
	case opFPOn:
		if h.sstatus&sstatusFS == 0 {
			ok = h.raise(causeIllegal, uint64(uint32(o.imm)))
			break
		}
		h.sstatus |= fsDirty
	case opSystem:
		return h.slowSystem(uint32(o.imm))
	case opFenceI:
		h.leaveAfter()
		h.fenceI()
		return false
	default: // opIllegal, or opFP with an invalid rounding mode
		ok = h.raise(causeIllegal, uint64(uint32(o.imm)))
	}
	if !ok {
		h.leaveAt()
		h.trap(h.pc, h.exc, h.excVal)
	}
	return ok
}

// leaveAt leaves the hot loop with the instruction of the present op to come.
func (h *hart) leaveAt() {
	f := &h.frame
	w := f.b.where[f.i]
	h.instret = f.n - uint64(f.b.n) + uint64(w>>8)
	h.pc = f.pc + 2*uint64(w&255)
}

// leaveAfter leaves it with the block done.
func (h *hart) leaveAfter() {
	h.instret = h.frame.n
	h.pc = h.frame.pc + uint64(h.frame.b.size)
}

// loadPC executes a load fused with the AUIPC before it. What may trap or
// reach a device is replayed as the two instructions that it is.
func (h *hart) loadPC(o op) bool {
	va, size := h.frame.pc+uint64(int64(o.imm)), 8
	if o.kind == opLwPC {
		size = 4
	}
	if _, inRAM, ok := h.readOffset(va); !ok || !inRAM || va&uint64(size-1) != 0 {
		h.leaveAt()
		h.single = 2
		return false
	}
	v, _ := h.load(va, size)
	if size == 4 {
		v = sext32(int32(v))
	}
	h.x[o.rd] = v
	return true
}

// slowSystem executes a SYSTEM instruction, which ends its block.
func (h *hart) slowSystem(insn uint32) bool {
	f := &h.frame
	epc := f.pc + 2*uint64(f.b.where[f.i]&255)
	h.leaveAfter()
	switch h.system(insn, epc) {
	case leave:
		return false
	case trap:
		h.trap(epc, h.exc, h.excVal)
		return false
	}
	return true
}

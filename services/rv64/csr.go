package rv64

// After a SYSTEM instruction.
type outcome uint8

const (
	goOn  outcome = iota // with the next instruction, code and its mapping unchanged
	leave                // look up h.pc afresh
	trap                 // take h.exc
)

// system executes an instruction of opcode SYSTEM. h.pc is already the next
// instruction.
func (h *hart) system(insn uint32, epc uint64) outcome {
	if insF3(insn) != 0 {
		if insF3(insn) == 4 || !h.csr(insn) {
			h.raise(causeIllegal, uint64(insn))
			return trap
		}
		if insn>>20 == csrSatp {
			return leave
		}
		return goOn
	}
	switch insn {
	case 0x00000073: // ECALL
		if h.priv == privU {
			h.raise(causeEcallU, 0)
			return trap
		}
		h.sbi()
		return leave
	case 0x00100073, 0x9002: // EBREAK
		h.raise(causeBreakpoint, epc)
		return trap
	}
	switch {
	case h.priv == privU:
	case insn == 0x10200073:
		h.sret()
		return leave
	case insn == 0x10500073: // WFI
		h.waiting = true
		return leave
	case insn>>25 == 9 && insRd(insn) == 0: // SFENCE.VMA
		// Fences of one address space fence all of them.
		if rs1 := insRs1(insn); rs1 != 0 {
			h.flushVA(h.x[rs1])
		} else {
			h.flushAll()
		}
		return leave
	}
	h.raise(causeIllegal, uint64(insn))
	return trap
}

// csr executes a CSR instruction; false means that it is illegal.
func (h *hart) csr(insn uint32) bool {
	n, f3 := insn>>20, insF3(insn)
	rs1 := insRs1(insn)
	src := h.x[rs1]
	if f3&4 != 0 {
		src = uint64(rs1)
	}
	f3 &= 3
	write := f3 == 1 || rs1 != 0
	if n>>8&3 > uint32(h.priv) || write && n>>10 == 3 {
		return false
	}
	old, ok := h.readCSR(n)
	if !ok {
		return false
	}
	if write {
		v := src
		switch f3 {
		case 2:
			v = old | src
		case 3:
			v = old &^ src
		}
		h.writeCSR(n, v)
	}
	h.x[dest(insRd(insn))] = old
	return true
}

func (h *hart) readCSR(n uint32) (uint64, bool) {
	switch n {
	case csrFflags, csrFrm, csrFcsr:
		if h.sstatus&sstatusFS == 0 {
			return 0, false
		}
		switch n {
		case csrFflags:
			return h.fcsr & 31, true
		case csrFrm:
			return h.fcsr >> 5, true
		}
		return h.fcsr, true
	case csrCycle, csrTime, csrInstret:
		if h.priv == privU && h.scounteren>>(n&31)&1 == 0 {
			return 0, false
		}
		if n == csrTime {
			return h.now(), true
		}
		return h.instret, true
	case csrSstatus:
		s := h.sstatus | sstatusUXL
		if s&sstatusFS == fsDirty {
			s |= sstatusSD
		}
		return s, true
	case csrSie:
		return h.sie, true
	case csrStvec:
		return h.stvec, true
	case csrScounteren:
		return h.scounteren, true
	case csrSenvcfg:
		return h.senvcfg, true
	case csrSscratch:
		return h.sscratch, true
	case csrSepc:
		return h.sepc, true
	case csrScause:
		return h.scause, true
	case csrStval:
		return h.stval, true
	case csrSip:
		return h.pending(), true
	case csrStimecmp:
		return h.stimecmp, true
	case csrSatp:
		return h.satp, true
	}
	return 0, false
}

// writeCSR writes a CSR that readCSR knows; illegal values are made legal
// (WARL) by masks.
func (h *hart) writeCSR(n uint32, v uint64) {
	switch n {
	case csrFflags:
		h.setFCSR(h.fcsr&^31 | v&31)
	case csrFrm:
		h.setFCSR(h.fcsr&31 | v&7<<5)
	case csrFcsr:
		h.setFCSR(v & 255)
	case csrSstatus:
		h.sstatus = v & sstatusWritable
		h.enterSpace()
		h.recheck()
	case csrSie:
		h.sie = v & irqAll
		h.recheck()
	case csrStvec:
		h.stvec = v &^ 2
	case csrScounteren:
		h.scounteren = v & 7
	case csrSenvcfg:
		h.senvcfg = v & 1
	case csrSscratch:
		h.sscratch = v
	case csrSepc:
		h.sepc = v &^ 1
	case csrScause:
		h.scause = v
	case csrStval:
		h.stval = v
	case csrSip:
		if v&irqSoft != 0 {
			h.ip.Or(irqSoft)
		} else {
			h.ip.And(^uint32(irqSoft))
		}
		h.recheck()
	case csrStimecmp:
		h.setTimer(v)
	case csrSatp:
		if m := v >> 60; m == satpBare || m == satpSv39 || m == satpSv48 {
			if m == satpBare {
				v = 0
			}
			h.satp = v
			h.enterSpace()
		}
	}
}

func (h *hart) setFCSR(v uint64) {
	h.fcsr = v
	h.sstatus |= fsDirty
}

// fenceI makes changed code visible, whoever changed it.
func (h *hart) fenceI() {
	h.code.fence++
	h.flushJumps()
}

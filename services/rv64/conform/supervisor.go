package conform

import "fmt"

// Where the parts of a machine image lie in guest-physical memory.
const (
	SupervisorBase = 0x80200000
	statusBase     = 0x80201000 // four words: done, scause, sepc, stval
	tablesBase     = 0x80210000 // page tables
	memoryBase     = 0x80000000
	memorySize     = 16 << 20
)

const srst = 0x53525354 // SBI system reset

// supervisor is code for S mode at SupervisorBase that runs a user program and
// then shuts down, leaving its status at statusBase. Its first argument, a0,
// is discarded; satp is the translation that it switches on. The system call
// write succeeds and does nothing; exit is the end; any other trap is, too.
func supervisor(satp uint64) ([]byte, error) {
	a := newAssembler(SupervisorBase)
	trap, bad, finish, loop := a.newLabel(), a.newLabel(), a.newLabel(), a.newLabel()
	a.la(t0, trap)
	a.i(csrw(csrStvec, t0))
	a.li(t0, 0x100) // SPP
	a.i(csrc(csrSstatus, t0))
	a.li(t0, 0x2000) // FS = initial
	a.i(csrs(csrSstatus, t0))
	a.li(t0, satp)
	a.i(csrw(csrSatp, t0), sfenceVMA)
	a.li(t0, ProgramBase)
	a.i(csrw(csrSepc, t0), sret)

	a.align(4)
	a.bind(trap)
	a.i(csrw(csrSscratch, t0), csrr(t0, csrScause), addi(t0, t0, -8)) // call from U
	a.bnez(t0, bad)
	a.i(addi(t0, a7, -93))
	a.beqz(t0, finish)
	a.i(addi(t0, a7, -64))
	a.bnez(t0, bad)
	a.i(mv(a0, a2), csrr(t0, csrSepc), addi(t0, t0, 4), csrw(csrSepc, t0), csrr(t0, csrSscratch), sret)

	a.bind(finish)
	a.li(t0, statusBase)
	a.i(addi(t1, zero, 1), sd(t1, t0, 0))
	a.bind(bad)
	a.li(t0, statusBase)
	a.i(csrr(t1, csrScause), sd(t1, t0, 8), csrr(t1, csrSepc), sd(t1, t0, 16), csrr(t1, csrStval), sd(t1, t0, 24))
	a.i(mv(a0, zero), mv(a1, zero), mv(a6, zero))
	a.li(a7, srst)
	a.i(ecall)
	a.bind(loop)
	a.i(wfi)
	a.j(loop)
	image, err := a.finish()
	if err != nil {
		return nil, fmt.Errorf("link the supervisor: %w", err)
	}
	return image, nil
}

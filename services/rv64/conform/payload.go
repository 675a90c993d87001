package conform

import "fmt"

// Guest-physical memory of a payload's machine.
const (
	shimBase      = memoryBase // machine mode's code, on QEMU only
	payloadTables = 0x80400000 // page tables
	payloadPages  = 0x80600000 // pages that are accessed
	payloadResult = 0x80800000
	payloadEnd    = 0x80a00000
)

// A Payload runs in S mode from SupervisorBase and ends with an SBI system
// reset, after it left ResultSize bytes at payloadResult.
type Payload struct {
	Name       string
	ResultSize uint64
	Segments   []Segment
}

// A Segment is what memory holds at a guest-physical address.
type Segment struct {
	Address uint64
	Bytes   []byte
}

// newPayload begins a payload.
func newPayload() *assembler { return newAssembler(SupervisorBase) }

// shutDown ends a payload.
func shutDown(a *assembler) {
	a.i(csrw(csrSatp, zero), sfenceVMA, mv(a0, zero), mv(a1, zero), mv(a6, zero))
	a.li(a7, srst)
	a.i(ecall)
	a.j(a.here())
}

// finishPayload links a payload with further segments.
func finishPayload(name string, a *assembler, resultSize uint64, more ...Segment) (*Payload, error) {
	code, err := a.finish()
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", name, err)
	}
	if SupervisorBase+len(code) > payloadTables || resultSize > payloadEnd-payloadResult {
		return nil, fmt.Errorf("link %s: %d bytes of code and %d of results are too many", name, len(code), resultSize)
	}
	return &Payload{name, resultSize, append([]Segment{{SupervisorBase, code}}, more...)}, nil
}

// image is the payload behind machine mode's shim, as firmware for QEMU's virt
// machine.
func (p *Payload) image() ([]byte, error) {
	shim, err := shim()
	if err != nil {
		return nil, err
	}
	image := make([]byte, payloadEnd-shimBase)
	copy(image, shim)
	for _, s := range p.Segments {
		copy(image[s.Address-shimBase:], s.Bytes)
	}
	return image, nil
}

// QEMU's virt machine, with its memory in a file that holds the results.
const (
	virtFinish     = 0x100000 // SiFive test finisher
	virtMemorySize = 64 << 20
)

// shim is code for M mode: it delegates everything to S mode, starts the
// payload, and at its call of the SBI ends QEMU.
func shim() ([]byte, error) {
	a := newAssembler(shimBase)
	trap, failed := a.newLabel(), a.newLabel()
	a.la(t0, trap)
	a.i(csrw(csrMtvec, t0))
	set := func(csr int, v uint64) {
		a.li(t0, v)
		a.i(csrw(csr, t0))
	}
	set(csrMedeleg, 0xb1ff) // all but calls from S and M
	set(csrMideleg, 0x222)
	set(csrPmpaddr0, ^uint64(0)>>10)
	set(csrPmpcfg0, 0x1f) // all memory: NAPOT, RWX
	set(csrMcounteren, 7)
	set(csrMstatus, 1<<11|1<<13) // MPP = S, FS = initial
	set(csrMepc, SupervisorBase)
	a.i(mret)

	a.align(4)
	a.bind(trap)
	a.i(csrr(t0, csrMcause), addi(t0, t0, -9))
	a.bnez(t0, failed)
	a.li(t0, virtFinish)
	a.li(t1, 0x5555)
	a.i(sType(0x23, 2, t0, t1, 0))
	a.j(a.here())
	a.bind(failed) // the exit status is mcause
	a.i(csrr(t1, csrMcause), slli(t1, t1, 48), srli(t1, t1, 32))
	a.li(t0, 0x3333)
	a.i(add(t1, t1, t0))
	a.li(t0, virtFinish)
	a.i(sType(0x23, 2, t0, t1, 0))
	a.j(a.here())
	code, err := a.finish()
	if err != nil {
		return nil, fmt.Errorf("link the machine-mode shim: %w", err)
	}
	return code, nil
}

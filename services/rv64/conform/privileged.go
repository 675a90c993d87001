package conform

import (
	"encoding/binary"
	"fmt"
)

// A recorder builds a payload that notes values as it goes, each under a name.
// It runs in S mode under tables that map the payload to itself.
//
// Its trap handler leaves the cause in s11, with interruptBit for an interrupt,
// stval in s9, the entry of the vector table in s8 and sstatus in s7, and
// counts traps in s10. After an exception the program goes on behind the
// instruction, of four bytes; at ra if it could not be fetched; and in S mode
// at s6 after a call from U. t6 is the handler's.
type recorder struct {
	*assembler
	tables *pageTables
	names  []string
	trap   label
}

const interruptBit = 0x100 // in s11, added to the cause of an interrupt

// Bits of sstatus and of sie and sip.
const (
	statusSIE  = 1 << 1
	statusSPIE = 1 << 5
	statusFSOn = 3 << 13
	softIRQ    = 1 << 1
)

// record notes the value of a register.
func (r *recorder) record(reg int, format string, args ...any) {
	r.names = append(r.names, fmt.Sprintf(format, args...))
	r.i(sd(reg, s1, 0), addi(s1, s1, 8))
}

// try notes what an instruction of four bytes does: its result in a2, and the
// exception.
func (r *recorder) try(insn uint32, format string, args ...any) {
	name := fmt.Sprintf(format, args...)
	r.i(addi(s11, zero, -1), mv(s9, zero), mv(a2, zero), insn)
	r.record(a2, "%s", name)
	r.record(s11, "%s: cause", name)
	r.record(s9, "%s: stval", name)
}

// set writes a constant to a control register.
func (r *recorder) set(csr int, v uint64) {
	r.li(t0, v)
	r.i(csrw(csr, t0))
}

// store64 writes a constant to a constant address.
func (r *recorder) store64(at, v uint64) {
	r.li(t0, at)
	r.li(t1, v)
	r.i(sd(t1, t0, 0))
}

// privilegedPayload is about control registers, traps, interrupts, address
// spaces, and fences of code and mappings. It returns the results' names.
func privilegedPayload() (*Payload, []string, error) {
	r := &recorder{assembler: newPayload(), tables: newPageTables(payloadTables)}
	other := newPageTables(payloadTables + 0x80000)
	kernelTables(r.tables)
	kernelTables(other)
	r.trap = r.newLabel()
	r.li(s1, payloadResult)
	r.i(mv(s10, zero))
	r.la(t0, r.trap)
	r.i(csrw(csrStvec, t0))
	r.set(csrSatp, r.tables.satp())
	r.i(sfenceVMA)

	r.controlRegisters()
	r.floatingPointState()
	r.interrupts()
	r.addressSpaces(other)
	r.changedCode()
	r.changedMapping()
	r.record(s10, "traps")
	shutDown(r.assembler)
	r.handler()

	pages := make([]byte, 16*pageSize)
	for i := range pages {
		pages[i] = byte(i>>12 + 1)
	}
	for i, w := range []uint32{ecall, ebreak} {
		binary.LittleEndian.PutUint32(pages[int(stubCall)*8+4*i:], w)
	}
	p, err := finishPayload("privileged", r.assembler, uint64(len(r.names)*8),
		Segment{r.tables.base, r.tables.mem}, Segment{other.base, other.mem}, Segment{payloadPages, pages})
	return p, r.names, err
}

func (r *recorder) handler() {
	common, exception, fetched, resume, leave := r.newLabel(), r.newLabel(), r.newLabel(), r.newLabel(), r.newLabel()
	var vectors [16]label
	r.align(256)
	r.bind(r.trap)
	for i := range vectors {
		vectors[i] = r.newLabel()
		r.j(vectors[i])
	}
	for i, v := range vectors {
		r.bind(v)
		r.i(addi(s8, zero, int32(i)))
		r.j(common)
	}
	r.bind(common)
	r.i(addi(s10, s10, 1), csrr(s11, csrScause), csrr(s9, csrStval), csrr(s7, csrSstatus))
	r.branch(5, s11, zero, exception) // bge
	r.i(andi(s11, s11, 0xff), addi(s11, s11, interruptBit), addi(t6, zero, softIRQ), csrc(csrSip, t6), sret)
	r.bind(exception)
	r.i(addi(t6, s11, -8))
	r.bnez(t6, fetched)
	r.i(addi(t6, zero, statusSPP), csrs(csrSstatus, t6), mv(t6, s6))
	r.j(leave)
	r.bind(fetched)
	r.i(addi(t6, s11, -causeFetchPage))
	r.bnez(t6, resume)
	r.i(mv(t6, ra))
	r.j(leave)
	r.bind(resume)
	r.i(csrr(t6, csrSepc), addi(t6, t6, 4))
	r.bind(leave)
	r.i(csrw(csrSepc, t6), sret)
}

func (r *recorder) controlRegisters() {
	patterns := []uint64{0, ^uint64(0), 0x5555555555555555, 0xaaaaaaaaaaaaaaaa, 0x80004001}
	for _, c := range []struct {
		name string
		csr  int
		mask uint64 // bits to compare: not QEMU 7.2's bit 0 of sepc, nor UXL, which may be fixed
	}{
		{"sscratch", csrSscratch, ^uint64(0)}, {"sepc", csrSepc, ^uint64(1)}, {"stval", csrStval, ^uint64(0)},
		{"scause", csrScause, 1<<63 | 15}, {"scounteren", csrScounteren, 7}, {"senvcfg", 0x10a, 1}, {"sie", csrSie, 0x222},
		{"sip", csrSip, softIRQ},
		{"sstatus", csrSstatus, statusSIE | statusSPIE | statusSPP | statusFSOn | statusSUM | statusMXR | 1<<63},
	} {
		for _, v := range patterns {
			r.set(c.csr, v)
			r.li(a1, c.mask)
			r.i(csrr(a2, c.csr), rType(0x33, 7, 0, a2, a2, a1)) // and
			r.record(a2, "%s after %#x", c.name, v)
		}
	}
	r.i(csrw(csrSie, zero), csrw(csrSip, zero), csrw(csrSstatus, zero))
	for _, mode := range []int32{0, 1} {
		r.la(t0, r.trap)
		r.i(addi(t0, t0, mode), csrw(csrStvec, t0), csrr(a2, csrStvec))
		r.record(a2, "stvec in mode %d", mode)
	}
	r.la(t0, r.trap)
	r.i(csrw(csrStvec, t0))
	for _, v := range []uint64{r.tables.satp() | 0xffff<<44, 5<<60 | 1, 15<<60 | 2, r.tables.satp() | 0x5555<<44, r.tables.satp()} {
		r.set(csrSatp, v)
		r.i(sfenceVMA, csrr(a2, csrSatp))
		r.record(a2, "satp after %#x", v)
	}
	for f3 := uint32(1); f3 < 8; f3++ {
		for _, rs1 := range []int{zero, 21} {
			r.set(csrSscratch, 0x123456789)
			r.li(21, 0xff00ff00ff)
			r.try(iType(0x73, f3, a2, rs1, csrSscratch), "CSR instruction %d with rs1 %d", f3, rs1)
			r.i(csrr(a2, csrSscratch))
			r.record(a2, "sscratch after CSR instruction %d with rs1 %d", f3, rs1)
		}
	}
	for _, csr := range []int{csrMstatus, csrMepc, 0xf14, 0x200, 0x5c0, 0x7a0, 0x8ff, 0xcff, 0xc80, 0xdbf, 0x7b0} {
		r.try(csrr(a2, csr), "read of CSR %#x", csr)
	}
	for _, csr := range []int{0xc00, 0xc01, 0xc02} {
		r.try(csrw(csr, a2), "write of CSR %#x", csr)
		r.try(iType(0x73, 3, zero, zero, int32(csr)), "clearing nothing of CSR %#x", csr)
	}
	r.try(mret, "mret")
	r.try(0, "word of zeros")
	r.try(^uint32(0), "word of ones")
}

func (r *recorder) floatingPointState() {
	d := fpFormats[1]
	insns := []struct {
		name    string
		word    uint32
		changes bool // a register of the unit
	}{
		{"fadd.d", opFP(0, d, 0, 1, 2, 3), true}, {"fld", fld(1, s1, 0), true}, {"fmv.d.x", opFP(30, d, 0, 1, zero, 0), true},
		{"fsgnj.d", opFP(4, d, 0, 1, 2, 2), true}, {"fmadd.s", fused(0x43, fpFormats[0], 7, 1, 2, 3, 4), true},
		{"c.fld", 0x0001<<16 | uint32(cLoadStore(1, true, 8, s1, 0)), true},
		{"fsd", fsd(1, s1, 0), false}, {"fmv.x.d", opFP(28, d, 0, a2, 1, 0), false}, {"feq.d", opFP(20, d, 2, a2, 1, 1), false},
		{"write of frm", csrwi(csrFrm, 1), true}, {"read of fcsr", csrr(a2, csrFcsr), false}, {"read of fflags", csrr(a2, csrFflags), false},
	}
	r.li(a3, statusFSOn)
	r.i(csrc(csrSstatus, a3))
	for _, c := range insns {
		r.try(c.word, "%s with the unit off", c.name)
	}
	for _, c := range insns {
		if !c.changes {
			continue
		}
		r.i(csrc(csrSstatus, a3))
		r.li(t0, statusFS)
		r.i(csrs(csrSstatus, t0))
		r.try(c.word, "%s with the unit clean", c.name)
		r.i(csrr(a2, csrSstatus), rType(0x33, 7, 0, a2, a2, a3))
		r.record(a2, "FS after %s", c.name)
	}
	for frm := range 8 {
		r.i(csrwi(csrFrm, frm))
		r.try(opFP(24, d, rmDynamic, a2, 1, 0), "fcvt.w.d with frm %d", frm)
	}
	r.i(csrwi(csrFrm, 0))
}

func (r *recorder) interrupts() {
	r.li(a5, statusSIE)
	r.li(a4, softIRQ)
	note := func(name string) {
		r.i(mv(zero, zero), mv(zero, zero))
		r.record(s10, "%s: traps", name)
		r.record(s11, "%s: cause", name)
		r.record(s8, "%s: vector", name)
		r.li(t0, statusSIE|statusSPIE|statusSPP)
		r.i(rType(0x33, 7, 0, t0, s7, t0))
		r.record(t0, "%s: sstatus", name)
	}
	for mode := range int32(2) {
		name := []string{"direct", "vectored"}[mode]
		r.la(t0, r.trap)
		r.i(addi(t0, t0, mode), csrw(csrStvec, t0), mv(s11, zero))
		r.i(csrc(csrSstatus, a5), csrs(csrSip, a4))
		note(name + ", pending but not enabled")
		r.i(csrs(csrSie, a4))
		note(name + ", enabled but SIE clear")
		r.i(wfi) // ends at once
		note(name + ", after wfi")
		r.i(csrs(csrSstatus, a5))
		note(name + ", SIE set")
		r.i(csrs(csrSip, a4))
		note(name + ", pending again")
		r.i(csrc(csrSie, a4), csrs(csrSip, a4))
		note(name + ", not enabled any more")
		r.i(csrs(csrSie, a4))
		note(name + ", enabled")
		// By SRET, which sets SIE.
		after := r.newLabel()
		r.i(csrc(csrSstatus, a5), csrs(csrSip, a4))
		r.li(t0, statusSPP|statusSPIE)
		r.i(csrs(csrSstatus, t0))
		r.la(t0, after)
		r.i(csrw(csrSepc, t0), sret)
		r.bind(after)
		note(name + ", after sret")
		r.i(csrc(csrSstatus, a5))
		r.i(ebreak)
		note(name + ", ebreak")
		// U mode is interrupted whatever SIE is.
		back := r.newLabel()
		r.la(s6, back)
		r.i(csrs(csrSip, a4))
		r.li(t0, statusSPP|statusSPIE)
		r.i(csrc(csrSstatus, t0))
		r.li(t0, userStubs+uint64(stubCall)*8)
		r.i(csrw(csrSepc, t0), mv(s3, s10), sret)
		r.bind(back)
		note(name + ", in U mode")
		r.i(csrw(csrSie, zero), csrw(csrSip, zero))
	}
	r.la(t0, r.trap)
	r.i(csrw(csrStvec, t0))
}

// page n of payloadPages holds bytes of n+1.
func page(n uint64) uint64 { return payloadPages + n*pageSize }

func (r *recorder) addressSpaces(other *pageTables) {
	const va = 0x5000_0000
	r.tables.mapPage(va, page(1), 0, supervisorRWX)
	other.mapPage(va, page(2), 0, supervisorRWX)
	spaces := []uint64{r.tables.satp() | 1<<44, other.satp() | 2<<44, other.satp() | 3<<44}
	r.li(a0, va)
	for i := range 8 {
		n := []int{0, 1, 0, 2, 1, 1, 0, 2}[i]
		r.set(csrSatp, spaces[n])
		r.i(ld(a2, a0, 8), addi(a3, a2, 1), sd(a3, a0, 8))
		r.record(a2, "load %d, in space %d", i, n)
	}
	r.set(csrSatp, r.tables.satp())
	r.i(sfenceVMA)
	// SUM and MXR take effect at once.
	r.tables.mapPage(va+pageSize, page(3), 0, userRWX)
	r.tables.mapPage(va+2*pageSize, page(4), 0, leafFlags|pteX)
	for i, bit := range []uint64{statusSUM, statusMXR} {
		r.li(a0, va+pageSize*uint64(1+i))
		r.li(a1, bit)
		for n := range 3 {
			r.i(csrs(csrSstatus, a1))
			r.try(ld(a2, a0, 0), "load with bit %#x set, time %d", bit, n)
			r.try(sd(a2, a0, 8), "store with bit %#x set, time %d", bit, n)
			r.i(csrc(csrSstatus, a1))
			r.try(ld(a2, a0, 0), "load with bit %#x clear, time %d", bit, n)
			r.try(sd(a2, a0, 8), "store with bit %#x clear, time %d", bit, n)
		}
	}
}

// call calls the address in a0 and notes a2.
func (r *recorder) call(format string, args ...any) {
	r.i(addi(s11, zero, -1), mv(a2, zero), jalr(ra, a0, 0))
	name := fmt.Sprintf(format, args...)
	r.record(a2, "%s", name)
	r.record(s11, "%s: cause", name)
}

// returns is a function that adds n to a2.
func returns(n int32) uint64 {
	return uint64(jalr(zero, ra, 0))<<32 | uint64(addi(a2, a2, n))
}

func (r *recorder) changedCode() {
	const alias = 0x5100_0000
	r.tables.mapPage(alias, page(5), 0, leafFlags|pteR|pteW|pteX)
	for i, at := range []uint64{page(5), alias, page(5), page(5), alias} {
		r.store64(at+64, returns(int32(i+1)))
		r.i(fenceI)
		for _, from := range []uint64{page(5), alias} {
			r.li(a0, from+64)
			for n := range 2 {
				r.call("function written %d at %#x, called at %#x, time %d", i, at, from, n)
			}
		}
	}
	// Behind code that has run already, one instruction alone.
	for i := range int32(3) {
		r.li(t0, page(5)+64)
		r.li(t1, uint64(addi(a2, a2, 100+i)))
		r.i(sType(0x23, 2, t0, t1, 0), fenceI)
		r.call("first instruction changed, time %d", i)
	}
	// The instruction right behind the fence.
	for i := range 3 {
		next := r.newLabel()
		r.la(t0, next)
		r.li(t1, uint64(addi(a2, zero, int32(i+50))))
		r.i(sType(0x23, 2, t0, t1, 0), fenceI)
		r.bind(next)
		r.i(addi(a2, zero, 1))
		r.record(a2, "instruction behind the fence, %d", i)
	}
	// A loop that changes its own body: 1 + 2 + ... + 10.
	body := r.newLabel()
	r.la(t0, body)
	r.i(iType(0x03, 2, t1, t0, 0), mv(a2, zero), addi(a3, zero, 10))
	r.li(a1, 1<<20)
	loop := r.here()
	r.bind(body)
	r.i(addi(a2, a2, 1), add(t1, t1, a1), sType(0x23, 2, t0, t1, 0), fenceI, addi(a3, a3, -1))
	r.bnez(a3, loop)
	r.record(a2, "loop that changes itself")
}

func (r *recorder) changedMapping() {
	const va, second, mega = 0x5200_0000, 0x5200_1000, 0x5240_0000
	for n := uint64(6); n < 10; n++ {
		r.store64(page(n)+128, returns(int32(n)))
		// From here over to the second page.
		r.store64(page(n)+256, uint64(addi(a2, a2, int32(10*n)))|uint64(jType(zero, second+128-va-256-4))<<32)
	}
	r.i(fenceI)
	leaf := func(n, flags uint64) uint64 { return page(n)>>12<<10 | flags }
	at, at2 := r.tables.entry(va, 0), r.tables.entry(second, 0)
	fences := []struct {
		name string
		word uint32
	}{
		{"all", sfenceVMA}, {"address", sfenceVMA | a0<<15}, {"ASID", sfenceVMA | a1<<20}, {"address and ASID", sfenceVMA | a0<<15 | a1<<20},
	}
	r.li(a1, 0) // the ASID in use
	r.store64(at2, leaf(9, supervisorRWX))
	for i, f := range fences {
		for n := uint64(6); n < 9; n++ {
			r.store64(at, leaf(n, supervisorRWX))
			r.li(a0, va+128)
			r.i(f.word)
			r.call("page %d mapped, fence of %s", n, f.name)
			r.try(ld(a2, a0, 256), "load from page %d, fence of %s", n, f.name)
			r.li(a0, va+256)
			r.call("through two pages, page %d, fence of %s", n, f.name)
		}
		// The page that the first one jumps to.
		r.store64(at2, leaf(6+uint64(i), supervisorRWX))
		r.li(a0, second)
		r.i(f.word)
		r.li(a0, va+256)
		r.call("through two pages, the second changed to %d, fence of %s", 6+i, f.name)
	}
	// Permissions taken and given.
	for i, flags := range []uint64{leafFlags | pteR, leafFlags | pteR | pteW, leafFlags | pteX, leafFlags | pteR | pteX, 0, supervisorRWX} {
		r.store64(at, leaf(6, flags))
		r.li(a0, va+128)
		r.i(sfenceVMA | a0<<15)
		name := fmt.Sprintf("with flags %#x, %d", flags, i)
		r.try(ld(a2, a0, 0), "load %s", name)
		r.try(sd(a2, a0, 512), "store %s", name)
		r.call("call %s", name)
	}
	// Dirty and accessed bits that are taken back are set again.
	for i := range 3 {
		r.store64(at, leaf(6, supervisorRWX&^pteD&^pteA))
		r.li(a0, va+512)
		r.i(sfenceVMA | a0<<15)
		r.i(ld(a2, a0, 0))
		r.li(t0, at)
		r.i(ld(a2, t0, 0))
		r.record(a2, "entry after a load, %d", i)
		r.i(sd(a2, a0, 0), ld(a2, t0, 0))
		r.record(a2, "entry after a store, %d", i)
	}
	// A superpage is fenced by each of its addresses.
	entry := r.tables.entry(mega, 1)
	for i, pa := range []uint64{payloadPages, memoryBase, payloadPages, memoryBase} {
		r.store64(entry, pa>>12<<10|supervisorRWX)
		r.li(a0, mega+[]uint64{0x1fffff, 0, 0x123456, 0x7000}[i])
		r.i(sfenceVMA | a0<<15)
		r.li(a0, mega+0x6000)
		r.try(ld(a2, a0, 512), "load %d from a superpage", i)
	}
}

package conform

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/vmm"
)

// FuzzInstructions runs any instruction words, in S mode without translation
// and in U mode under Sv39 with traps that come back for more. Whatever they
// do, nothing may panic or reach outside of the machine's memory, and Pause
// must return.
func FuzzInstructions(f *testing.F) {
	s := newSource(1, "fuzz")
	for i := range 24 {
		var words []byte
		for _, w := range randomWords(s, 40) {
			words = binary.LittleEndian.AppendUint32(words, w)
		}
		f.Add(i%2 == 0, words)
	}
	for _, w := range [][]uint32{
		{0x0000006f},                     // j .
		{wfi, 0xffdff06f},                // wfi; j -4
		{fenceI, 0xffdff06f},             // fence.i; j -4
		{sfenceVMA, 0xffdff06f},          // sfence.vma; j -4
		{csrw(csrSatp, a0), 0x12000073},  // translation on, with tables of noise
		{csrw(csrStvec, a0), 0},          // traps without end
		{csrw(csrSepc, zero), sret},      // to nothing
		{ecall, ecall, ecall, ecall},     // SBI calls with any arguments
		{addi(a7, zero, 0x10), ecall, 0}, // the base extension
	} {
		var words []byte
		for _, i := range w {
			words = binary.LittleEndian.AppendUint32(words, i)
		}
		f.Add(true, words)
		f.Add(false, words)
	}
	f.Fuzz(func(t *testing.T, supervisorMode bool, code []byte) {
		if len(code) > pageSize {
			code = code[:pageSize]
		}
		m := newMachine(t, memorySize)
		kernel, tables, err := fuzzKernel(newSource(uint64(len(code)), "fuzz registers"), supervisorMode)
		if err != nil {
			t.Fatal(err)
		}
		for at, b := range map[uint64][]byte{SupervisorBase: kernel, payloadTables: tables, soupCodePA: code} {
			if err := m.mem.WriteAt(b, at); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.engine.Reset(vmm.Entry{PC: SupervisorBase}); err != nil {
			t.Fatal(err)
		}
		m.engine.Resume()
		select {
		case <-m.stops:
		case <-time.After(2 * time.Millisecond): // as much as a run is worth
		}
		paused := make(chan struct{})
		go func() {
			m.engine.Pause()
			close(paused)
		}()
		select {
		case <-paused:
		case <-time.After(20 * time.Second):
			t.Fatal("the engine does not pause")
		}
		if _, err := m.engine.Save(); err != nil {
			t.Fatal(err)
		}
	})
}

// fuzzKernel loads all registers and jumps to the code; in U mode its trap
// handler goes on 4 bytes behind the code that trapped, or from its start.
func fuzzKernel(s source, supervisorMode bool) (kernel, tables []byte, err error) {
	t := newPageTables(payloadTables)
	kernelTables(t)
	t.mapPage(soupCodeVA, soupCodePA, 0, userRWX)
	for i := range uint64(2) {
		t.mapPage(soupMemoryVA+i*pageSize, soupMemoryPA+i*pageSize, 0, leafFlags|pteR|pteW|pteU)
	}
	a := newAssembler(SupervisorBase)
	trap, registers := a.newLabel(), a.newLabel()
	a.la(t0, trap)
	a.i(csrw(csrStvec, t0))
	a.li(t0, statusFS)
	a.i(csrs(csrSstatus, t0))
	if supervisorMode {
		a.li(t0, statusSPP)
		a.i(csrs(csrSstatus, t0))
		a.li(t0, soupCodePA)
	} else {
		a.li(t0, t.satp())
		a.i(csrw(csrSatp, t0), sfenceVMA)
		a.li(t0, soupCodeVA)
	}
	a.i(csrw(csrSepc, t0))
	a.la(t6, registers)
	for r := 1; r < 32; r++ {
		a.i(ld(r, t6, int32(8*r)))
	}
	a.i(sret)
	a.align(4)
	a.bind(trap)
	start := a.newLabel()
	a.i(csrw(csrSscratch, t6), csrr(t6, csrSepc), addi(t6, t6, 4), csrw(csrSepc, t6), csrr(t6, csrScause), addi(t6, t6, -causeFetchPage))
	a.beqz(t6, start)
	a.i(csrr(t6, csrSscratch), sret)
	a.bind(start)
	a.li(t6, soupCodeVA)
	a.i(csrw(csrSepc, t6), csrr(t6, csrSscratch), sret)
	a.align(8)
	a.bind(registers)
	for r := range 32 {
		switch {
		case r%2 == 0 && supervisorMode:
			a.data(soupMemoryPA + uint64(s.IntN(4096)))
		case r%2 == 0:
			a.data(soupMemoryVA + uint64(s.IntN(8192)))
		default:
			a.data(s.word())
		}
	}
	kernel, err = a.finish()
	return kernel, t.mem, err
}

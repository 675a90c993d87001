package rv64

import (
	"encoding/binary"
	"sync/atomic"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

const (
	testMemory = 4 << 20
	codeAt     = RAMBase
	dataAt     = RAMBase + 1<<20
)

// noBus is a bus without devices.
type noBus struct{}

func (noBus) Read(uint64, int) (uint64, bool) { return 0, false }
func (noBus) Write(uint64, int, uint64) bool  { return false }

// machine is an engine with a little memory for test programs.
type machine struct {
	*Engine
	t       testing.TB
	mem     *mem.Memory
	clock   *vmm.Clock
	stopped chan vmm.Stop
	rests   atomic.Int32
	printed []byte
}

func newMachine(t testing.TB, bus vmm.Bus) *machine {
	t.Helper()
	ram, err := mem.New(RAMBase, testMemory)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, mem: ram, clock: vmm.NewClock(), stopped: make(chan vmm.Stop, 1)}
	m.Engine, err = New(Config{
		Memory: ram, Bus: bus, Clock: m.clock,
		OnStop:  func(s vmm.Stop) { m.stopped <- s },
		OnIdle:  func() { m.rests.Add(1) },
		Console: func(p []byte) { m.printed = append(m.printed, p...) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := ram.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// put writes a program to memory.
func (m *machine) put(at uint64, prog []uint32) {
	m.t.Helper()
	b := make([]byte, 0, 4*len(prog))
	for _, i := range prog {
		b = binary.LittleEndian.AppendUint32(b, i)
	}
	if err := m.mem.WriteAt(b, at); err != nil {
		m.t.Fatal(err)
	}
}

// boot resets the machine to begin with prog at codeAt.
func (m *machine) boot(prog ...any) {
	m.t.Helper()
	m.put(codeAt, asm(prog...))
	if err := m.Reset(vmm.Entry{PC: codeAt}); err != nil {
		m.t.Fatal(err)
	}
}

// wait returns the guest's own stop, with the engine paused.
func (m *machine) wait() vmm.Stop {
	m.t.Helper()
	select {
	case s := <-m.stopped:
		m.Pause()
		return s
	case <-time.After(20 * time.Second):
		m.Pause()
		h := m.harts[0]
		m.t.Fatalf("guest does not stop: pc %#x scause %#x sepc %#x stval %#x", h.pc, h.scause, h.sepc, h.stval)
		panic("unreachable")
	}
}

// run boots prog followed by a power-off, and returns the hart at its end. The
// power-off itself changes a0 and a7.
func (m *machine) run(prog ...any) *hart {
	m.t.Helper()
	m.boot(append(prog, halt())...)
	m.Resume()
	if s := m.wait(); s.Cause != vmm.PowerOff {
		m.t.Fatalf("guest stopped by %v: %s", s.Cause, s.Detail)
	}
	return m.harts[0]
}

// skipTraps installs a trap handler that keeps cause and value in s2 and s3,
// counts traps in s4, and returns after the faulting 32-bit instruction. It is
// two pages above the code.
func (m *machine) skipTraps() []uint32 {
	const handler = codeAt + 2*mem.PageSize
	m.put(handler, asm(
		csrrs(s2, csrScause, 0), csrrs(s3, csrStval, 0), addi(s4, s4, 1),
		csrrs(t0, csrSepc, 0), addi(t0, t0, 4), csrrw(0, csrSepc, t0),
		uint32(sret)))
	return asm(li(t0, handler), csrrw(0, csrStvec, t0))
}

func (m *machine) word(addr uint64) uint64 {
	m.t.Helper()
	v, err := m.mem.Uint64(addr)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

package vmmtest

import (
	"errors"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Target is an engine under test.
type Target struct {
	// New returns a paused engine with at least 4 MiB of memory from Code or 0 on. It
	// closes both when the test ends.
	New func(t testing.TB, c Config) (vmm.Engine, *mem.Memory)
	// Program returns the machine code of a program in testdata.
	Program func(name string) []byte
	// Code is where programs are loaded, Result where they leave a number.
	Code, Result uint64
	// Data is where they write, DataSize how much.
	Data, DataSize uint64
	// Device is where programs find the device.
	Device uint64
	// Line is the interrupt line that they listen to.
	Line uint32
	// RepeatsInterrupts: the host of the engine has the defect that it delivers
	// an interrupt again whose line was lowered in time.
	RepeatsInterrupts bool
	// TickHz is the frequency of what the program "ticker" logs.
	TickHz func(vmm.Engine) uint64
}

// Config is what New needs.
type Config struct {
	Bus    vmm.Bus
	Clock  *vmm.Clock
	OnStop func(vmm.Stop)
}

// machine is an engine with a program in it.
type machine struct {
	vmm.Engine
	t       testing.TB
	target  *Target
	mem     *mem.Memory
	clock   *vmm.Clock
	device  *Device
	stopped chan vmm.Stop
	onStop  func(vmm.Stop)
}

func (x *Target) machine(t testing.TB, d *Device) *machine {
	t.Helper()
	m := &machine{t: t, target: x, clock: vmm.NewClock(), device: d, stopped: make(chan vmm.Stop, 1)}
	m.onStop = func(s vmm.Stop) { m.stopped <- s }
	m.Engine, m.mem = x.New(t, Config{Bus: d, Clock: m.clock, OnStop: func(s vmm.Stop) { m.onStop(s) }})
	return m
}

// boot returns a machine that begins with a program.
func (x *Target) boot(t testing.TB, program string, args ...uint64) *machine {
	t.Helper()
	m := x.machine(t, NewDevice(x.Device))
	m.begin(x.Program(program), args...)
	return m
}

func (m *machine) begin(code []byte, args ...uint64) {
	m.t.Helper()
	if err := m.mem.WriteAt(code, m.target.Code); err != nil {
		m.t.Fatal(err)
	}
	e := vmm.Entry{PC: m.target.Code}
	copy(e.Args[:], args)
	if err := m.Reset(e); err != nil {
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
	case <-time.After(patience):
		m.Pause()
		m.t.Fatal("the guest does not stop")
		panic("unreachable")
	}
}

func (m *machine) word(addr uint64) uint64 {
	m.t.Helper()
	v, err := m.mem.Uint64(addr)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

// move pauses the machine and returns another, paused one that is where it was,
// with the same guest time. The first is of no use any more.
func (m *machine) move() *machine {
	m.t.Helper()
	m.Pause()
	state, err := m.Save()
	if err != nil {
		m.t.Fatal(err)
	}
	o := m.target.machine(m.t, m.device)
	copy(o.mem.Bytes(), m.mem.Bytes())
	o.clock.Set(m.clock.Now())
	if err := o.Load(state); err != nil {
		m.t.Fatal(err)
	}
	// The active's time went on meanwhile, and the standby is told so.
	o.clock.Set(m.clock.Now())
	if err := errors.Join(m.Close(), m.mem.Close()); err != nil {
		m.t.Error(err)
	}
	return o
}

package conform

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rv64"
	"github.com/understudy-ft/understudy/services/vmm"
)

// noBus has no devices.
type noBus struct{}

func (noBus) Read(uint64, int) (uint64, bool) { return 0, false }
func (noBus) Write(uint64, int, uint64) bool  { return false }

// A machine is the engine with memory and nothing else.
type machine struct {
	mem    *mem.Memory
	engine *rv64.Engine
	stops  chan vmm.Stop
}

func newMachine(t testing.TB, size uint64) *machine {
	t.Helper()
	memory, err := mem.New(memoryBase, size)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{mem: memory, stops: make(chan vmm.Stop, 1)}
	m.engine, err = rv64.New(rv64.Config{
		Memory: memory, Bus: noBus{}, Clock: vmm.NewClock(),
		OnStop: func(s vmm.Stop) { m.stops <- s },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.engine.Close(); err != nil {
			t.Error(err)
		}
		if err := memory.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// run starts at pc and returns when the guest has switched itself off.
func (m *machine) run(pc uint64) error {
	if err := m.engine.Reset(vmm.Entry{PC: pc}); err != nil {
		return err
	}
	m.engine.Resume()
	select {
	case s := <-m.stops:
		m.engine.Pause()
		if s.Cause != vmm.PowerOff {
			return fmt.Errorf("the guest stopped: %v %s", s.Cause, s.Detail)
		}
		return nil
	case <-time.After(time.Minute):
		m.engine.Pause()
		return fmt.Errorf("the guest did not stop")
	}
}

// machineSize is the memory that a program needs.
func machineSize(p *Program) uint64 {
	return max(memorySize, (p.Result+p.BSS-memoryBase+pageSize)&^(pageSize-1))
}

// machineFor is a machine with a program and its supervisor, with translation
// or without, to be started at SupervisorBase.
func machineFor(t testing.TB, p *Program, translated bool) *machine {
	t.Helper()
	m := newMachine(t, machineSize(p))
	put := func(b []byte, at uint64) {
		if err := m.mem.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
	}
	var satp uint64
	if translated {
		tables := newPageTables(tablesBase)
		tables.mapRange(SupervisorBase, SupervisorBase+2*pageSize, leafFlags|pteR|pteW|pteX)
		tables.mapRange(ProgramBase, memoryBase+machineSize(p), leafFlags|pteR|pteW|pteX|pteU)
		put(tables.mem, tablesBase)
		satp = tables.satp()
	}
	code, err := supervisor(satp)
	if err != nil {
		t.Fatal(err)
	}
	put(code, SupervisorBase)
	put(p.Image, ProgramBase)
	return m
}

// runEngine runs a program in user mode, with translation or without, and
// returns its results.
func runEngine(t testing.TB, p *Program, translated bool) ([]byte, error) {
	m := machineFor(t, p, translated)
	if err := m.run(SupervisorBase); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	var status [4]uint64
	raw, err := m.mem.Slice(statusBase, 32)
	if err != nil {
		return nil, err
	}
	for i := range status {
		status[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	if status[0] != 1 {
		return nil, fmt.Errorf("%s: trapped with scause %#x, sepc %#x, stval %#x", p.Name, status[1], status[2], status[3])
	}
	out := make([]byte, p.ResultSize)
	return out, m.mem.ReadAt(out, p.Result)
}

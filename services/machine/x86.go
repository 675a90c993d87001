package machine

import (
	"fmt"
	"time"

	"github.com/understudy-ft/understudy/services/kvm"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rtc"
	"github.com/understudy-ft/understudy/services/uart"
	"github.com/understudy-ft/understudy/services/virtio"
	"github.com/understudy-ft/understudy/services/vmm"
)

// x86Platform is the x86-64 machine: a PC without firmware, PCI and legacy
// devices but for the serial port and the clock, described by ACPI tables.
type x86Platform struct{}

// Lines are inputs of the I/O APIC. Those from 16 up have never been ISA's.
var x86Layout = map[string]window{
	nameUART:    {base: 0x3f8, size: uart.Size, ports: true, line: 4},
	nameRTC:     {base: 0x70, size: rtc.CMOSSize, ports: true},
	nameNet:     {base: 0xd000_0000, size: virtio.WindowSize, line: 16},
	nameBlock:   {base: 0xd000_1000, size: virtio.WindowSize, line: 17},
	nameConsole: {base: 0xd000_2000, size: virtio.WindowSize, line: 18},
	nameRNG:     {base: 0xd000_3000, size: virtio.WindowSize, line: 19},
}

// maxAppend is COMMAND_LINE_SIZE without the final NUL.
func (x86Platform) maxAppend() int { return 2047 }

func (x86Platform) layout() map[string]window { return x86Layout }

func (x86Platform) newMemory(bytes uint64) (*mem.Memory, error) {
	return mem.NewSplit(bytes, kvm.HoleStart, kvm.HoleEnd)
}

// newRTC makes a clock without interrupt: alarms have no use in a guest that
// never sleeps.
func (x86Platform) newRTC(clock *vmm.Clock, now time.Time, _ func(bool)) (device, uint32) {
	return rtc.NewCMOS(clock, now), rtc.CMOSStateVersion
}

func (x86Platform) newEngine(m *Machine, host Host) (vmm.Engine, error) {
	var engine *kvm.Engine
	for _, r := range powerRegisters(func(s vmm.Stop) { engine.Stop(s) }) {
		m.attach(r.window, r.registers)
	}
	var err error
	engine, err = kvm.New(kvm.Config{
		Memory:   m.memory,
		Bus:      &m.bus,
		Ports:    &m.ports,
		Clock:    m.clock,
		CPUs:     m.cfg.CPUs,
		Baseline: m.cfg.CPUBaseline,
		OnStop:   host.OnStop,
		Log:      host.Log.Named("engine"),
	})
	if err != nil {
		return nil, fmt.Errorf("engine %q: %w", EngineKVM, err)
	}
	return engine, nil
}

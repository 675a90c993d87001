package machine

import (
	"fmt"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rtc"
	"github.com/understudy-ft/understudy/services/rv64"
	"github.com/understudy-ft/understudy/services/virtio"
	"github.com/understudy-ft/understudy/services/vmm"
)

// rv64Platform is the RISC-V machine.
type rv64Platform struct{}

var rv64Layout = map[string]window{
	nameRTC:     {base: 0x0010_1000, size: 0x1000, line: 11},
	nameUART:    {base: 0x1000_0000, size: 0x100, line: 10},
	nameNet:     {base: 0x1000_1000, size: virtio.WindowSize, line: 1},
	nameBlock:   {base: 0x1000_2000, size: virtio.WindowSize, line: 2},
	nameConsole: {base: 0x1000_3000, size: virtio.WindowSize, line: 3},
	nameRNG:     {base: 0x1000_4000, size: virtio.WindowSize, line: 4},
}

// maxAppend is COMMAND_LINE_SIZE without the final NUL.
func (rv64Platform) maxAppend() int { return 1023 }

func (rv64Platform) layout() map[string]window { return rv64Layout }

func (rv64Platform) newMemory(bytes uint64) (*mem.Memory, error) { return mem.New(rv64.RAMBase, bytes) }

func (rv64Platform) newRTC(clock *vmm.Clock, now time.Time, irq func(bool)) (device, uint32) {
	return rtc.New(clock, now, irq), rtc.StateVersion
}

func (rv64Platform) newEngine(m *Machine, host Host) (vmm.Engine, error) {
	return rv64.New(rv64.Config{
		Memory:  m.memory,
		Bus:     &m.bus,
		Clock:   m.clock,
		Harts:   m.cfg.CPUs,
		OnStop:  host.OnStop,
		OnIdle:  host.OnIdle,
		Console: func(p []byte) { host.Console.Write(p) },
		Log:     host.Log.Named("engine"),
	})
}

// rv64Images are what the RISC-V machine boots from.
type rv64Images struct {
	*bootImages
	cfg Config
}

func (rv64Platform) newImages(kernel, initrd []byte, cfg Config) (images, error) {
	b, err := newBootImages(kernel, initrd, cfg.MemoryBytes)
	if err != nil {
		return nil, err
	}
	return rv64Images{b, cfg}, nil
}

func (b rv64Images) load(memory *mem.Memory, seed []byte, devices []slot) (vmm.Entry, error) {
	blob, err := tree{
		memoryBytes: b.cfg.MemoryBytes,
		harts:       b.cfg.CPUs,
		append:      b.cfg.Append,
		initrdStart: b.placement.initrd,
		initrdEnd:   b.placement.initrd + uint64(len(b.bootImages.initrd)),
		seed:        seed,
		slots:       devices,
	}.encode()
	if err != nil {
		return vmm.Entry{}, fmt.Errorf("device tree: %w", err)
	}
	if err := b.bootImages.load(memory, blob); err != nil {
		return vmm.Entry{}, err
	}
	return vmm.Entry{PC: b.placement.kernel, Args: [2]uint64{0, b.fdt}}, nil
}

package machine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/understudy-ft/understudy/services/kvm"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// platform is what differs between the machines of two instruction sets.
type platform interface {
	// maxAppend is what its kernels keep of their command line, in bytes.
	maxAppend() int
	layout() map[string]window
	newMemory(bytes uint64) (*mem.Memory, error)
	// newRTC makes the real-time clock and returns the version of its state.
	newRTC(clock *vmm.Clock, now time.Time, irq func(bool)) (device, uint32)
	// newImages checks a kernel and finds room for it and its initrd. What it
	// returns is for machines of cfg.
	newImages(kernel, initrd []byte, cfg Config) (images, error)
	// newEngine completes the buses with what is not a device, and makes the
	// engine that runs on them.
	newEngine(m *Machine, host Host) (vmm.Engine, error)
}

// images are a kernel and its initrd, checked and with their places.
type images interface {
	// load writes them and a description of the machine into zeroed memory, and
	// says where the first CPU starts. seed is entropy for the kernel.
	load(memory *mem.Memory, seed []byte, devices []slot) (vmm.Entry, error)
}

// platforms are the machines by the name of their engine.
var platforms = map[string]platform{
	EngineRV64: rv64Platform{},
	EngineKVM:  x86Platform{},
}

// probeTimeout bounds the proof that guest code runs on hardware.
const probeTimeout = 5 * time.Second

// errEmulated is wrapped by hardware's error where KVM works but is useless.
var errEmulated = errors.New("this host's KVM does not run guests on hardware but emulates them")

// hardware returns nil if guest code runs on hardware here, and says otherwise
// why not. The answer does not change while the process runs.
var hardware = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	speed, err := kvm.Probe(ctx)
	switch {
	case err != nil:
		return err
	case !speed.Hardware():
		return fmt.Errorf("%w (at %v)", errEmulated, speed)
	}
	return nil
})

// chooseEngine is what EngineAuto stands for: the engine of the kernel's
// instruction set, KVM only if hardware agrees. Without a kernel it is rv64.
func chooseEngine(kernel []byte, hardware func() error) (string, error) {
	if len(kernel) == 0 {
		return EngineRV64, nil
	}
	isa, err := Sniff(kernel)
	if err != nil {
		return "", err
	}
	if isa == RISCV64 {
		return EngineRV64, nil
	}
	switch err := hardware(); {
	case errors.Is(err, errEmulated):
		return "", fmt.Errorf("the kernel is for %s, and %w; engine %q takes it nevertheless: %w", isa, err, EngineKVM, ErrConfig)
	case err != nil:
		return "", fmt.Errorf("the kernel is for %s, which runs on KVM only: %w: %w", isa, err, ErrConfig)
	}
	return EngineKVM, nil
}

package kvm

import (
	"errors"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// MaxCPUs is the number of vCPUs that New accepts.
const MaxCPUs = 8

// The hole in guest memory below 4 GiB, where devices, I/O APIC and local APICs
// are. Memory comes from mem.NewSplit(size, HoleStart, HoleEnd).
const (
	HoleStart = 3 << 30
	HoleEnd   = 4 << 30
)

// The low memory that Reset fills with the page tables and the descriptor table
// of the 64-bit Linux boot protocol. The guest may reuse it once it has its own.
const (
	BootStart = 0x8000
	BootEnd   = 0xf000
)

// GSIs is the number of interrupt lines that SetIRQ drives: the pins of the
// I/O APIC. Lines below 16 reach the PICs, too; line 0 and line 2 are the PIT's
// and the cascade's.
const GSIs = 24

// Physical addresses that the in-kernel devices take.
const (
	IOAPICBase = 0xfec0_0000
	LAPICBase  = 0xfee0_0000
)

// DefaultDevice is what New and Probe open.
const DefaultDevice = "/dev/kvm"

// Errors that callers decide on.
var (
	// ErrUnavailable: this host offers no KVM that the engine can use.
	ErrUnavailable = errors.New("KVM is not available")
	// ErrState: Load's state cannot be this machine's.
	ErrState = errors.New("invalid kvm state")
	// ErrHost: this host cannot go on with what the state's guest was shown.
	ErrHost = errors.New("this host lacks what the guest was started with")
)

// Config is what an engine needs of its machine.
type Config struct {
	// Memory begins at 0 and has the hole [HoleStart, HoleEnd). At least 1 MiB.
	Memory *mem.Memory
	// Bus takes the accesses to physical addresses without memory.
	Bus vmm.Bus
	// Ports takes port I/O; the address is the port's. The ports of PICs and
	// PIT never get there.
	Ports vmm.Bus
	Clock *vmm.Clock
	// CPUs is the number of vCPUs, 1 to MaxCPUs; 0 stands for 1. Local APIC ids
	// are 0 to CPUs-1.
	CPUs int
	// Baseline names CPU features to hide from the guest, as Linux spells them
	// in /proc/cpuinfo, or as leaf:register:bit ("0x7:ebx:16", "0x7.1:eax:5").
	Baseline []string
	// OnStop is called from a vCPU's goroutine when the guest stops by itself.
	// That vCPU counts as parked: OnStop may call Pause and Save, not Close.
	OnStop func(vmm.Stop)
	// Log is optional.
	Log hclog.Logger
	// Device is the path of the KVM device; empty: DefaultDevice.
	Device string
}

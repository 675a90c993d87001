package kvm

import (
	"fmt"
	"time"
)

// hardwareMIPS is the speed from which on guest code counts as running on
// hardware. A CPU runs the probe's loop at thousands of millions of instructions
// a second, also where the host is a VM; a device that only emulates at a few. A
// KVM host that is itself emulated by a good translator may pass: some 300 were
// measured. There this engine still is the fastest choice.
const hardwareMIPS = 100

// Speed is what Probe measured.
type Speed struct {
	// Instructions that the guest executed, in Elapsed.
	Instructions uint64
	Elapsed      time.Duration
}

// MIPS is the speed in millions of instructions a second.
func (s Speed) MIPS() float64 {
	if s.Elapsed <= 0 {
		return 0
	}
	return float64(s.Instructions) / (float64(s.Elapsed) / 1e3)
}

// Hardware tells whether guest code runs on hardware, or as if it did.
func (s Speed) Hardware() bool { return s.MIPS() >= hardwareMIPS }

func (s Speed) String() string { return fmt.Sprintf("%.1f million instructions/s", s.MIPS()) }

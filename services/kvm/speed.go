package kvm

import (
	"fmt"
	"time"
)

// hardwareMIPS is the least speed that only hardware reaches. The slowest
// virtualization on hardware runs the probe's loop at hundreds of millions of
// instructions a second; devices that only emulate reach a few, a KVM host
// that is itself emulated reaches some tens.
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

// Hardware tells whether guest code runs on hardware.
func (s Speed) Hardware() bool { return s.MIPS() >= hardwareMIPS }

func (s Speed) String() string { return fmt.Sprintf("%.1f million instructions/s", s.MIPS()) }

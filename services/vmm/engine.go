// Package vmm is the machine model: memory, an engine that runs guest code and
// the devices around it, assembled so that two hosts build the same machine.
package vmm

import (
	"errors"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
)

// ErrNotPaused is returned by operations that need a paused machine.
var ErrNotPaused = errors.New("machine is not paused")

// Bus is what an engine reaches outside of memory and of its own interrupt
// controller. Calls come from vCPU goroutines, for aligned or unaligned
// accesses of 1, 2, 4 or 8 bytes. ok is false where no device listens.
type Bus interface {
	Read(addr uint64, size int) (v uint64, ok bool)
	Write(addr uint64, size int, v uint64) (ok bool)
}

// StopCause says why a guest stopped by itself.
type StopCause int

// Causes of a guest's own stop.
const (
	PowerOff StopCause = iota + 1
	Reboot
	Fault
)

func (c StopCause) String() string {
	switch c {
	case PowerOff:
		return "power-off"
	case Reboot:
		return "reboot"
	case Fault:
		return "fault"
	}
	return "unknown"
}

// Stop is a guest's own stop. Detail says what a Fault was.
type Stop struct {
	Cause  StopCause
	Detail string
}

// Engine runs the guest's harts (vCPUs) in goroutines of its own. It begins
// paused. Resume, Pause, Save, Load, Reset and Close are called by one
// goroutine at a time; the other methods by any.
type Engine interface {
	// Name is "rv64" or "kvm".
	Name() string
	// Resume lets the harts run. After a Stop it has no effect until Reset or Load.
	Resume()
	// Pause returns when no hart runs or touches memory or devices any more.
	Pause()
	// Reset puts all harts to their power-on state, the first at the entry point.
	Reset(entry Entry) error
	// Save returns the state of harts, interrupt controller and timers of a
	// paused engine. Load puts such a state into a paused engine and checks it.
	Save() ([]byte, error)
	Load(state []byte) error
	// SetIRQ drives a level-triggered interrupt line.
	SetIRQ(line uint32, level bool)
	// DrainDirty moves the numbers of the pages written by harts, and those
	// marked in the memory's own bitmap, into dst. It may be called while the
	// guest runs: a page written afterwards is reported next time.
	DrainDirty(dst mem.Bitmap) error
	// Idle returns how long all harts have been waiting for an interrupt with
	// none pending, or 0.
	Idle() time.Duration
	// Close ends the goroutines and frees what the engine holds.
	Close() error
}

// Entry is where and with what arguments the first hart starts.
type Entry struct {
	// PC is the guest-physical address of the first instruction.
	PC uint64
	// Args are handed over in the registers that the boot protocol names
	// (rv64: a0, a1; kvm: rsi, rdi).
	Args [2]uint64
}

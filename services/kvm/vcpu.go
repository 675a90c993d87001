//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/sched"
	"github.com/understudy-ft/understudy/services/vmm"
)

// kickSignal interrupts KVM_RUN. The Go runtime catches it and does nothing,
// unless the program asks to be notified, which does no harm.
const kickSignal = unix.SIGUSR1

// vcpu is a goroutine that runs a vCPU on a thread of its own.
type vcpu struct {
	engine *Engine
	id     int
	// fd is replaced only while the vCPU is parked.
	fd *vcpuFD
	// hold asks the vCPU to park.
	hold atomic.Bool
	tid  atomic.Int64
	// pending: the kernel has not completed the last exit's I/O. It does so at
	// the next KVM_RUN, before which registers must not be read.
	pending bool
}

// kick makes a running vCPU look at hold. The order makes it impossible to
// lose: whoever stores 0 to immediate_exit looks at hold afterwards; if it is
// too late for that, KVM_RUN finds immediate_exit set, or the signal finds
// KVM_RUN.
func (c *vcpu) kick() {
	c.hold.Store(true)
	c.fd.setImmediateExit(true)
	if tid := c.tid.Load(); tid != 0 {
		_ = unix.Tgkill(os.Getpid(), int(tid), kickSignal) // the thread lives as long as the vCPU
	}
}

// loop runs the vCPU until the engine is closed.
func (c *vcpu) loop() {
	// KVM keeps state of the CPU in the thread. The thread ends with the
	// goroutine.
	runtime.LockOSThread()
	c.tid.Store(int64(unix.Gettid()))
	if err := sched.Steady(); err != nil {
		c.engine.log.Debug("the vCPU's thread keeps short time slices", "error", err)
	}
	for {
		stop := c.run()
		if late := c.settle(); stop == nil {
			stop = late
		}
		if !c.engine.park(c, stop) {
			return
		}
	}
}

// run runs the guest until the vCPU must park.
func (c *vcpu) run() *vmm.Stop {
	for {
		c.fd.setImmediateExit(false)
		if c.hold.Load() { // only after immediate_exit is 0, see kick
			return nil
		}
		if stop := c.enter(); stop != nil {
			return stop
		}
	}
}

// settle completes the last exit's I/O without running the guest. String
// instructions may come with more of it.
func (c *vcpu) settle() *vmm.Stop {
	for c.pending {
		c.fd.setImmediateExit(true)
		if stop := c.enter(); stop != nil {
			c.pending = false
			return stop
		}
	}
	return nil
}

// enter is one KVM_RUN with what it exits for. The guest's own stop is
// returned.
func (c *vcpu) enter() *vmm.Stop {
	err := c.fd.run()
	c.pending = false
	switch {
	case err == nil:
		return c.exit()
	case errors.Is(err, unix.EINTR): // kicked: the caller looks why
		return nil
	case errors.Is(err, unix.EAGAIN): // an AP got its start-up interrupt
		return nil
	}
	return c.fault("KVM_RUN: %v", err)
}

func (c *vcpu) fault(format string, args ...any) *vmm.Stop {
	detail := fmt.Sprintf("vCPU %d: ", c.id) + fmt.Sprintf(format, args...)
	if r, err := regRegs.read(c.fd); err == nil {
		detail += fmt.Sprintf(" (rip %#x rsp %#x rflags %#x)", r.rip, r.rsp, r.rflags)
	}
	return &vmm.Stop{Cause: vmm.Fault, Detail: detail}
}

//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"math/bits"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	ioSetClock     = ioW[clockData](0x7b)
	ioGetClock     = ioR[clockData](0x7c)
	ioSetTSCKHz    = ioN(0xa2)
	ioGetTSCKHz    = ioN(0xa3)
	ioKVMClockCtrl = ioN(0xad)
	ioSetAttr      = ioW[deviceAttr](0xe1)
	ioGetAttr      = ioW[deviceAttr](0xe2)
	ioHasAttr      = ioW[deviceAttr](0xe3)
)

// clockData is struct kvm_clock_data.
type clockData struct {
	clock uint64
	_     [5]uint64 // flags, real time and host TSC, which Clock stands in for
}

// deviceAttr is struct kvm_device_attr. The zero group and attribute are
// KVM_VCPU_TSC_CTRL and KVM_VCPU_TSC_OFFSET.
type deviceAttr struct {
	_    [2]uint64 // flags, group, attribute
	addr unsafe.Pointer
}

const (
	_ = -(unsafe.Sizeof(clockData{}) ^ 48)
	_ = -(unsafe.Sizeof(deviceAttr{}) ^ 24)
)

// tscTolerancePPM is how far KVM lets a guest's TSC frequency be from the
// host's before it scales (kvm.tsc_tolerance_ppm's default).
const tscTolerancePPM = 250

// timebase is what the guest's clocks read at one instant.
type timebase struct {
	guestNS  uint64 // vmm.Clock
	tsc      uint64 // of the first vCPU
	kvmclock uint64
	khz      uint32
	skew     []int64 // how far each vCPU's TSC is ahead of the first one's
}

// ticks converts nanoseconds to ticks of the TSC.
func (t *timebase) ticks(ns uint64) uint64 {
	hi, lo := bits.Mul64(ns, uint64(t.khz))
	q, _ := bits.Div64(hi%1e6, lo, 1e6) // wraps as the TSC does
	return q
}

// since is how much time has passed from the base until guest time ns. It is
// never negative: the guest's clocks never run backwards.
func (t *timebase) since(ns uint64) uint64 {
	if ns < t.guestNS {
		return 0
	}
	return ns - t.guestNS
}

// timebase reads the clocks of a paused engine as if at one instant.
func (e *Engine) timebase() (*timebase, error) {
	first := e.vm.vcpus[0]
	t := &timebase{}
	khz, err := ioctlArg(first.fd, ioGetTSCKHz, 0)
	if err != nil {
		return nil, fmt.Errorf("KVM_GET_TSC_KHZ: %w", err)
	}
	t.khz = uint32(khz)
	// What is between two readings of the clock is as of the middle. The
	// narrowest of a few tries counts.
	narrowest := ^uint64(0)
	for range 4 {
		a := e.clock.Now()
		tsc, err := first.msr(msrTSC)
		if err != nil {
			return nil, err
		}
		b := e.clock.Now()
		kc, err := get[clockData](e.vm.fd, ioGetClock)
		if err != nil {
			return nil, fmt.Errorf("KVM_GET_CLOCK: %w", err)
		}
		c := e.clock.Now()
		if c-a < narrowest {
			narrowest = c - a
			t.guestNS, t.tsc = a+(b-a)/2, tsc
			t.kvmclock = kc.clock - min(kc.clock, (c-a)/2)
		}
	}
	t.skew = make([]int64, len(e.vm.vcpus))
	base, ok, err := first.tscOffset()
	if err != nil || !ok {
		return t, err
	}
	for i, c := range e.vm.vcpus {
		o, _, err := c.tscOffset()
		if err != nil {
			return nil, err
		}
		t.skew[i] = int64(o - base)
	}
	return t, nil
}

// startTime gives the guest its time before it runs. The hardware's counters
// never stop: without a Load in between, a pause is time that passed. After a
// Load, TSC and kvmclock continue from the state's by as much as Clock did,
// which both copies share. The engine is paused.
func (e *Engine) startTime() error {
	t := e.resumeAt
	if t == nil {
		return nil
	}
	if err := e.setTime(t); err != nil {
		return err
	}
	e.resumeAt = nil
	for _, c := range e.vm.vcpus {
		// Timers that count in TSC were armed before the TSC jumped.
		if v, err := c.msr(msrTSCDeadline); err == nil && v != 0 {
			if err := c.setMSRs([]msr{{index: msrTSCDeadline, value: v}}); err != nil {
				return err
			}
		}
		// The guest's watchdogs must not take the gap for a lock-up. Guests
		// that did not set up kvmclock cannot be told.
		if _, err := ioctlArg(c.fd, ioKVMClockCtrl, 0); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("KVM_KVMCLOCK_CTRL: %w", err)
		}
	}
	return nil
}

// setTime sets TSC and kvmclock as of now. The TSC comes first: kvmclock is
// derived from it.
func (e *Engine) setTime(t *timebase) error {
	first := e.vm.vcpus[0]
	before := e.clock.Now()
	tsc, err := first.msr(msrTSC)
	if err != nil {
		return err
	}
	at := before + (e.clock.Now()-before)/2
	want := t.tsc + t.ticks(t.since(at))
	base, ok, err := first.tscOffset()
	if err != nil {
		return err
	}
	for i, c := range e.vm.vcpus {
		if ok {
			// All are set against the same reading, so that they agree exactly.
			err = c.setTSCOffset(base + want - tsc + uint64(t.skew[i]))
		} else {
			// KVM takes values written within a second for the same instant's.
			err = c.setMSRs([]msr{{index: msrTSC, value: t.tsc + t.ticks(t.since(e.clock.Now()))}})
		}
		if err != nil {
			return fmt.Errorf("vCPU %d: set the TSC: %w", i, err)
		}
	}
	if err := set(e.vm.fd, ioSetClock, &clockData{clock: t.kvmclock + t.since(e.clock.Now())}); err != nil {
		return fmt.Errorf("KVM_SET_CLOCK: %w", err)
	}
	return nil
}

// setTSCKHz gives all vCPUs the frequency that the guest was started with.
func (e *Engine) setTSCKHz(khz uint32) error {
	for _, c := range e.vm.vcpus {
		has, err := ioctlArg(c.fd, ioGetTSCKHz, 0)
		if err != nil {
			return fmt.Errorf("KVM_GET_TSC_KHZ: %w", err)
		}
		if uint32(has) == khz {
			continue
		}
		if _, err := ioctlArg(c.fd, ioSetTSCKHz, uintptr(khz)); err != nil {
			return fmt.Errorf("KVM_SET_TSC_KHZ %d: %w", khz, err)
		}
	}
	return nil
}

func (c *vcpuFD) hasTSCOffset() bool {
	return set(c.fd, ioHasAttr, &deviceAttr{}) == nil
}

// tscOffset is what KVM adds to the host's TSC, in ticks of the guest's. ok is
// false on kernels before 5.16, which do not tell.
func (c *vcpuFD) tscOffset() (offset uint64, ok bool, err error) {
	if !c.offsets {
		return 0, false, nil
	}
	if err := set(c.fd, ioGetAttr, &deviceAttr{addr: unsafe.Pointer(&offset)}); err != nil {
		return 0, false, fmt.Errorf("read KVM_VCPU_TSC_OFFSET: %w", err)
	}
	return offset, true, nil
}

func (c *vcpuFD) setTSCOffset(offset uint64) error {
	if err := set(c.fd, ioSetAttr, &deviceAttr{addr: unsafe.Pointer(&offset)}); err != nil {
		return fmt.Errorf("write KVM_VCPU_TSC_OFFSET: %w", err)
	}
	return nil
}

// TSCHz is the frequency of the guest's time stamp counters, in Hz to a
// thousand.
func (e *Engine) TSCHz() uint64 {
	e.vmMu.RLock()
	defer e.vmMu.RUnlock()
	if e.closing.Load() {
		return 0
	}
	khz, err := ioctlArg(e.vm.vcpus[0].fd, ioGetTSCKHz, 0)
	if err != nil {
		return 0
	}
	return uint64(khz) * 1000
}

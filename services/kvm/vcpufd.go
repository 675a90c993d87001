//go:build linux && amd64

package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

var ioRun = ioN(0x80)

// Fields of struct kvm_run, shared with the kernel, by their offsets.
const (
	// runSize is the part of struct kvm_run that this package reads.
	runSize = 304

	runFlags      = 0 // request_interrupt_window, immediate_exit, padding
	runExitReason = 8
	runExit       = 32 // the exit's details

	immediateExit = 1 << 8 // in the little-endian word at runFlags
)

// vcpuFD is a vCPU as the kernel knows it.
type vcpuFD struct {
	fd      int
	shared  []byte // struct kvm_run and what it points into
	stats   *vcpuStats
	offsets bool // the TSC's offset can be read and set
}

func (v *vm) newVCPU(id, cpus int, template []cpuidEntry) (_ *vcpuFD, err error) {
	fd, err := ioctlArg(v.fd, ioCreateVCPU, uintptr(id))
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	c := &vcpuFD{fd: fd}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.close())
		}
	}()
	if c.shared, err = unix.Mmap(fd, 0, v.sys.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("map struct kvm_run: %w", err)
	}
	if err := c.setCPUID(forCPU(template, id, cpus)); err != nil {
		return nil, err
	}
	// A guest must not use a paravirtual feature that CPUID does not show:
	// their state is not saved.
	for _, enforce := range []uint32{capEnforcePVFeatures, capEnforceHyperV} {
		if v.sys.has(uintptr(enforce)) != 0 {
			if err := v.enableCap(fd, enforce, 1); err != nil {
				return nil, fmt.Errorf("enable capability %d, that CPUID is enforced: %w", enforce, err)
			}
		}
	}
	c.offsets = c.hasTSCOffset()
	if v.sys.has(capBinaryStats) != 0 {
		if c.stats, err = openStats(fd); err != nil {
			return nil, err
		}
	}
	return c, nil
}

func (c *vcpuFD) close() error {
	var errs []error
	if c.stats != nil {
		errs = append(errs, c.stats.close())
	}
	if c.shared != nil {
		errs = append(errs, unix.Munmap(c.shared))
	}
	return errors.Join(append(errs, unix.Close(c.fd))...)
}

// run is KVM_RUN.
func (c *vcpuFD) run() error {
	_, err := ioctlArg(c.fd, ioRun, 0)
	return err
}

// setImmediateExit makes the next KVM_RUN return as soon as pending I/O is
// complete. The word's other fields are never used with an in-kernel irqchip.
func (c *vcpuFD) setImmediateExit(on bool) {
	v := uint32(0)
	if on {
		v = immediateExit
	}
	atomic.StoreUint32((*uint32)(unsafe.Pointer(&c.shared[runFlags])), v)
}

func (c *vcpuFD) u32(off int) uint32 { return binary.LittleEndian.Uint32(c.shared[off:]) }
func (c *vcpuFD) u64(off int) uint64 { return binary.LittleEndian.Uint64(c.shared[off:]) }

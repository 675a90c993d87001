//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/mem"
)

var (
	ioCreateVCPU     = ioN(0x41)
	ioSetTSSAddr     = ioN(0x47)
	ioSetIdentityMap = ioW[uint64](0x48)
	ioSetRegion      = ioW[memoryRegion](0x46)
	ioEnableCap      = ioW[enableCap](0xa3)
)

// The pages that KVM wants on Intel CPUs that cannot run real mode unaided.
const (
	tssAddr     = 0xfffb_d000
	identityMap = 0xfffb_c000
)

const regionLogDirty = 1

// memoryRegion is struct kvm_userspace_memory_region.
type memoryRegion struct {
	slot, flags      uint32
	phys, size, user uint64
}

// enableCap is struct kvm_enable_cap.
type enableCap struct {
	cap, _ uint32
	args   [4]uint64
	_      [64]byte
}

const (
	_ = -(unsafe.Sizeof(memoryRegion{}) ^ 32)
	_ = -(unsafe.Sizeof(enableCap{}) ^ 104)
)

// vm is a KVM virtual machine: its memory, interrupt controllers, timer and
// vCPUs, at power-on.
type vm struct {
	fd    int
	sys   *system
	vcpus []*vcpuFD
	log   []*dirtyLog
}

// newVM builds a VM whose vCPUs see template's CPUID leaves.
func newVM(sys *system, memory *mem.Memory, cpus int, template []cpuidEntry) (_ *vm, err error) {
	fd, err := sys.createVM()
	if err != nil {
		return nil, fmt.Errorf("KVM_CREATE_VM: %w", err)
	}
	v := &vm{fd: fd, sys: sys}
	defer func() {
		if err != nil {
			err = errors.Join(err, v.close())
		}
	}()
	if _, err := ioctlArg(fd, ioSetTSSAddr, tssAddr); err != nil {
		return nil, fmt.Errorf("KVM_SET_TSS_ADDR: %w", err)
	}
	addr := uint64(identityMap)
	if err := set(fd, ioSetIdentityMap, &addr); err != nil {
		return nil, fmt.Errorf("KVM_SET_IDENTITY_MAP_ADDR: %w", err)
	}
	if err := v.createIRQChip(); err != nil {
		return nil, err
	}
	if err := v.addMemory(memory); err != nil {
		return nil, err
	}
	for id := range cpus {
		c, err := v.newVCPU(id, cpus, template)
		if err != nil {
			return nil, fmt.Errorf("vCPU %d: %w", id, err)
		}
		v.vcpus = append(v.vcpus, c)
	}
	return v, nil
}

// createVM makes an empty VM. The kernel starts threads for it, which any signal
// interrupts: the runtime's, too.
func (s *system) createVM() (int, error) {
	for {
		fd, err := ioctlArg(s.fd, ioCreateVM, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func (v *vm) enableCap(fd int, capability uint32, arg uint64) error {
	return set(fd, ioEnableCap, &enableCap{cap: capability, args: [4]uint64{arg}})
}

// addMemory gives the VM its memory, with a log of written pages from the
// beginning: the log is always needed, and switching it on later would split
// every large mapping at once.
func (v *vm) addMemory(memory *mem.Memory) error {
	// Without this, reading the log would protect every page anew at once;
	// with it, clearing does, and only the pages that it is told.
	if err := v.enableCap(v.fd, capManualDirtyLog, manualProtect); err != nil {
		return fmt.Errorf("enable KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2: %w", err)
	}
	b := memory.Bytes()
	for i, r := range memory.Regions() {
		if err := set(v.fd, ioSetRegion, &memoryRegion{
			slot: uint32(i), flags: regionLogDirty, phys: r.Phys, size: r.Size,
			user: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b[r.Offset:])))),
		}); err != nil {
			return fmt.Errorf("KVM_SET_USER_MEMORY_REGION of %d bytes at %#x: %w", r.Size, r.Phys, err)
		}
		v.log = append(v.log, newDirtyLog(v.fd, uint32(i), r))
	}
	return nil
}

func (v *vm) close() error {
	var errs []error
	for _, c := range v.vcpus {
		errs = append(errs, c.close())
	}
	return errors.Join(append(errs, unix.Close(v.fd))...)
}

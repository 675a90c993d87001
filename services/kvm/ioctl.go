//go:build linux && amd64

package kvm

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// The ioctl numbers of <linux/kvm.h>, built as <asm-generic/ioctl.h> does.
const (
	kvmType = 0xae

	dirNone  = 0
	dirWrite = 1
	dirRead  = 2
)

func io(dir, nr, size uintptr) uintptr { return dir<<30 | size<<16 | kvmType<<8 | nr }

// ioN, ioR, ioW and ioRW are _IO, _IOR, _IOW and _IOWR.
func ioN(nr uintptr) uintptr         { return io(dirNone, nr, 0) }
func ioR[T any](nr uintptr) uintptr  { return io(dirRead, nr, unsafe.Sizeof(*new(T))) }
func ioW[T any](nr uintptr) uintptr  { return io(dirWrite, nr, unsafe.Sizeof(*new(T))) }
func ioRW[T any](nr uintptr) uintptr { return io(dirRead|dirWrite, nr, unsafe.Sizeof(*new(T))) }
func get[T any](fd int, req uintptr) (v T, err error) {
	_, err = ioctl(fd, req, unsafe.Pointer(&v))
	return v, err
}

func set[T any](fd int, req uintptr, v *T) error {
	_, err := ioctl(fd, req, unsafe.Pointer(v))
	return err
}

// ioctl does not repeat what a signal interrupts: KVM_RUN returns EINTR when
// its vCPU is kicked, and that must be seen. It is a Syscall, not a RawSyscall:
// the scheduler has to know that the thread may stay away for long, and its
// preemption signals would end KVM_RUN.
func ioctl(fd int, req uintptr, arg unsafe.Pointer) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, uintptr(arg))
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}

// ioctlArg is an ioctl whose argument is a number.
func ioctlArg(fd int, req, arg uintptr) (int, error) {
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), req, arg)
	if errno != 0 {
		return int(r), errno
	}
	return int(r), nil
}

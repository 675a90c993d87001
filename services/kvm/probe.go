//go:build linux && amd64

package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/mem"
)

// Probe lets its guest count for probeTime each of probeTimes times. The best
// counts: others may want the CPU.
const (
	probeTime  = 10 * time.Millisecond
	probeTimes = 4
)

const exitHLT = 5

// probeCode counts ecx down, two instructions a round, in real mode.
var probeCode = []byte{
	0x66, 0x49, // dec ecx
	0x75, 0xfc, // jnz to the dec
	0xf4, // hlt
}

// Available tells whether KVM can be used at all: the device opens and has what
// the engine needs. It does not tell how fast it is. Errors wrap ErrUnavailable
// and say what is missing.
func Available() error {
	s, err := openSystem(DefaultDevice)
	if err != nil {
		return err
	}
	return s.close()
}

// Probe measures how fast guest code runs, by a guest that counts for some
// 40 ms. A device may exist that only emulates: see Speed.Hardware. Errors wrap
// ErrUnavailable, or are ctx's.
func Probe(ctx context.Context) (Speed, error) {
	type result struct {
		speed Speed
		err   error
	}
	done := make(chan result, 1)
	go func() {
		// KVM_RUN is kicked by its thread, which ends with the goroutine.
		runtime.LockOSThread()
		s, err := probe()
		done <- result{s, err}
	}()
	select {
	case r := <-done:
		return r.speed, r.err
	case <-ctx.Done(): // the guest ends soon by itself
		return Speed{}, ctx.Err()
	}
}

func probe() (_ Speed, err error) {
	sys, err := openSystem(DefaultDevice)
	if err != nil {
		return Speed{}, err
	}
	defer func() { err = errors.Join(err, sys.close()) }()
	s, err := sys.count()
	if err != nil {
		err = fmt.Errorf("%w: measure its speed: %w", ErrUnavailable, err)
	}
	return s, err
}

// count runs the guest, without interrupt controllers, so that HLT ends it.
func (s *system) count() (_ Speed, err error) {
	code, err := mem.New(0, mem.PageSize)
	if err != nil {
		return Speed{}, err
	}
	copy(code.Bytes(), probeCode)
	fd, err := s.createVM()
	if err != nil {
		return Speed{}, errors.Join(fmt.Errorf("KVM_CREATE_VM: %w", err), code.Close())
	}
	// The VM goes before its memory.
	defer func() { err = errors.Join(err, unix.Close(fd), code.Close()) }()
	if _, err := ioctlArg(fd, ioSetTSSAddr, tssAddr); err != nil {
		return Speed{}, fmt.Errorf("KVM_SET_TSS_ADDR: %w", err)
	}
	if err := set(fd, ioSetRegion, &memoryRegion{
		size: code.Size(), user: uint64(uintptr(unsafe.Pointer(unsafe.SliceData(code.Bytes())))),
	}); err != nil {
		return Speed{}, fmt.Errorf("KVM_SET_USER_MEMORY_REGION: %w", err)
	}
	vcpu, err := ioctlArg(fd, ioCreateVCPU, 0)
	if err != nil {
		return Speed{}, fmt.Errorf("KVM_CREATE_VCPU: %w", err)
	}
	c := &vcpuFD{fd: vcpu}
	defer func() { err = errors.Join(c.close(), err) }()
	if c.shared, err = unix.Mmap(vcpu, 0, s.mmapSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return Speed{}, fmt.Errorf("map struct kvm_run: %w", err)
	}
	sr, err := regSRegs.read(c)
	if err != nil {
		return Speed{}, err
	}
	sr.cs.base, sr.cs.selector = 0, 0
	if err := regSRegs.write(c, &sr); err != nil {
		return Speed{}, err
	}
	return c.countFor(probeTime, probeTimes)
}

// countFor lets the guest count for d several times.
func (c *vcpuFD) countFor(d time.Duration, times int) (Speed, error) {
	var best Speed
	for range times {
		const rounds = 1<<32 - 1
		if err := regRegs.write(c, &regs{rcx: rounds, rflags: 2}); err != nil {
			return Speed{}, err
		}
		c.setImmediateExit(false)
		tid := unix.Gettid()
		start := time.Now()
		kicked := make(chan struct{})
		kick := time.AfterFunc(d, func() {
			defer close(kicked)
			c.setImmediateExit(true)
			_ = unix.Tgkill(os.Getpid(), tid, kickSignal) // the thread waits for kicked
		})
		err := c.run()
		elapsed := time.Since(start)
		if !kick.Stop() {
			<-kicked
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return Speed{}, fmt.Errorf("KVM_RUN: %w", err)
		}
		if reason := c.u32(runExitReason); err == nil && reason != exitHLT {
			return Speed{}, fmt.Errorf("KVM_RUN: unexpected exit %d", reason)
		}
		r, err := regRegs.read(c)
		if err != nil {
			return Speed{}, err
		}
		if s := (Speed{Instructions: 2 * (rounds - r.rcx), Elapsed: elapsed}); s.MIPS() > best.MIPS() {
			best = s
		}
	}
	return best, nil
}

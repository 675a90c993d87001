//go:build linux && amd64

package kvm

import (
	"encoding/binary"
	"math/bits"

	"github.com/understudy-ft/understudy/services/vmm"
)

// Reasons for KVM_RUN to return (KVM_EXIT_*).
const (
	exitIO            = 2
	exitMMIO          = 6
	exitShutdown      = 8
	exitFailEntry     = 9
	exitIntr          = 10
	exitInternalError = 17
	exitSystemEvent   = 24
)

// Fields of an exit's details in struct kvm_run.
const (
	ioDirection = runExit // 1 is out
	ioSize      = runExit + 1
	ioPort      = runExit + 2
	ioCount     = runExit + 4
	ioData      = runExit + 8 // offset of the data in the shared memory

	mmioAddr    = runExit
	mmioData    = runExit + 8
	mmioLen     = runExit + 16
	mmioIsWrite = runExit + 20

	detailA = runExit     // suberror, hardware reason or event type
	detailB = runExit + 8 // first further datum
)

// exit serves what KVM_RUN returned for.
func (c *vcpu) exit() *vmm.Stop {
	f := c.fd
	switch reason := f.u32(runExitReason); reason {
	case exitIO:
		c.pending = true
		c.portIO()
	case exitMMIO:
		c.pending = true
		c.mmio()
	case exitIntr:
	case exitShutdown:
		// A triple fault resets a PC; it is how kernels reboot as the last resort.
		return &vmm.Stop{Cause: vmm.Reboot, Detail: "triple fault"}
	case exitFailEntry:
		return c.fault("the CPU refuses to enter the guest: hardware reason %#x", f.u64(detailA))
	case exitInternalError:
		return c.fault("KVM internal error %d, data %#x %#x", f.u32(detailA), f.u64(detailB), f.u64(detailB+8))
	case exitSystemEvent:
		return c.fault("KVM system event %d", f.u32(detailA))
	default:
		return c.fault("unexpected exit %d", reason)
	}
	return nil
}

// portIO serves IN and OUT, and INS and OUTS of several items.
func (c *vcpu) portIO() {
	f := c.fd
	size, count := int(f.shared[ioSize]), int(f.u32(ioCount))
	port := uint64(binary.LittleEndian.Uint16(f.shared[ioPort:]))
	off := f.u64(ioData)
	if size == 0 || off > uint64(len(f.shared)) || uint64(size)*uint64(count) > uint64(len(f.shared))-off {
		return // the kernel never does
	}
	data := f.shared[off:][:size*count]
	for ; len(data) > 0; data = data[size:] {
		access(c.engine.ports, port, data[:size], f.shared[ioDirection] != 0)
	}
}

// mmio serves an access outside of memory. KVM cuts those that cross a page
// into pieces that may have any length up to 8.
func (c *vcpu) mmio() {
	f := c.fd
	addr, write := f.u64(mmioAddr), f.shared[mmioIsWrite] != 0
	data := f.shared[mmioData:][:min(f.u32(mmioLen), 8)]
	for len(data) > 0 {
		n := 1 << (bits.Len(uint(len(data))) - 1)
		access(c.engine.bus, addr, data[:n], write)
		addr, data = addr+uint64(n), data[n:]
	}
}

// access is one access of 1, 2, 4 or 8 bytes. Where no device listens, reads
// find all bits set, as on a PC.
func access(bus vmm.Bus, addr uint64, data []byte, write bool) {
	var b [8]byte
	if write {
		copy(b[:], data)
		bus.Write(addr, len(data), binary.LittleEndian.Uint64(b[:]))
		return
	}
	v, ok := bus.Read(addr, len(data))
	if !ok {
		v = ^uint64(0)
	}
	binary.LittleEndian.PutUint64(b[:], v)
	copy(data, b[:])
}

//go:build linux && amd64

package kvm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"
)

var ioGetStatsFD = ioN(0xce)

// vcpuStats reads KVM's binary statistics of a vCPU (KVM_CAP_BINARY_STATS_FD,
// Linux 5.14). Unlike the vCPU's ioctls, reading them does not wait for
// KVM_RUN.
type vcpuStats struct {
	fd int
	// from and n bound the part of the file that holds what is read; the
	// others are offsets into that part.
	from           int64
	n              int
	blocking, runs int
}

// Parts of struct kvm_stats_header and kvm_stats_desc.
const (
	statsHeader   = 24
	statsDesc     = 16
	maxStatsNames = 256
)

// openStats returns nil without an error if the kernel lacks what is needed.
func openStats(vcpu int) (_ *vcpuStats, err error) {
	fd, err := ioctlArg(vcpu, ioGetStatsFD, 0)
	if err != nil {
		return nil, fmt.Errorf("KVM_GET_STATS_FD: %w", err)
	}
	s := &vcpuStats{fd: fd, blocking: -1, runs: -1}
	if err := s.find(); err != nil || s.blocking < 0 || s.runs < 0 {
		_ = unix.Close(fd) // unused
		return nil, err
	}
	return s, nil
}

// find looks up the offsets of "blocking" (1 while the vCPU sleeps in the
// kernel until an interrupt) and "exits" (how often the CPU left the guest).
func (s *vcpuStats) find() error {
	var h [statsHeader]byte
	if n, err := unix.Pread(s.fd, h[:], 0); err != nil || n != len(h) {
		return fmt.Errorf("read the header of vCPU statistics: %d bytes, %w", n, err)
	}
	u32 := func(i int) uint32 { return binary.LittleEndian.Uint32(h[4*i:]) }
	nameSize, count, descs, data := u32(1), u32(2), u32(4), u32(5)
	if nameSize > maxStatsNames || count > 1024 {
		return fmt.Errorf("vCPU statistics of %d names of %d bytes", count, nameSize)
	}
	d := make([]byte, statsDesc+nameSize)
	for i := range count {
		if n, err := unix.Pread(s.fd, d, int64(descs)+int64(i)*int64(len(d))); err != nil || n != len(d) {
			return fmt.Errorf("read vCPU statistics: %d bytes, %w", n, err)
		}
		name, _, _ := bytes.Cut(d[statsDesc:], []byte{0})
		offset := int(binary.LittleEndian.Uint32(d[8:]))
		switch string(name) {
		case "blocking":
			s.blocking = offset
		case "exits":
			s.runs = offset
		}
	}
	first := min(s.blocking, s.runs)
	s.from = int64(data) + int64(first)
	s.n = max(s.blocking, s.runs) - first + 8
	s.blocking, s.runs = s.blocking-first, s.runs-first
	if s.n > 4096 {
		s.runs = -1
	}
	return nil
}

// read tells whether the vCPU sleeps, and a count that changes whenever it did
// anything else.
func (s *vcpuStats) read() (sleeps bool, count uint64) {
	var buf [4096]byte
	if n, err := unix.Pread(s.fd, buf[:s.n], s.from); err != nil || n != s.n {
		return false, 0
	}
	return binary.LittleEndian.Uint64(buf[s.blocking:]) != 0, binary.LittleEndian.Uint64(buf[s.runs:])
}

func (s *vcpuStats) close() error { return unix.Close(s.fd) }

//go:build linux && amd64

package kvm

import (
	"fmt"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	ioMSRIndexList = ioRW[uint32](0x02)
	ioGetMSRs      = ioRW[[8]byte](0x88)
	ioSetMSRs      = ioW[[8]byte](0x89)
)

// MSRs that the engine treats by themselves.
const (
	msrTSC          = 0x10
	msrDebugCtl     = 0x1d9
	msrMTRRDefType  = 0x2ff
	msrMachineCheck = 0x400
	msrTSCDeadline  = 0x6e0
	msrWallClockOld = 0x11
	msrWallClock    = 0x4b56_4d00
	msrHyperV       = 0x4000_0000
	msrHyperVEnd    = 0x4000_0200
)

// unlisted are ranges of MSRs that hold state but that KVM_GET_MSR_INDEX_LIST
// leaves out: memory types (MTRRs), the banks of machine checks, of which KVM has
// 32, and the debug control register. msrs skips what a CPU does not have.
var unlisted = []struct{ first, n uint32 }{
	{0x200, 16}, {0x250, 1}, {0x258, 2}, {0x268, 8}, {msrMTRRDefType, 1},
	{msrMachineCheck, 4 * 32},
	{msrDebugCtl, 1},
}

// maxMSRs bounds the lists; kernels know about 120, and unlisted adds 157.
const maxMSRs = 512

// msr is struct kvm_msr_entry.
type msr struct {
	index, _ uint32
	value    uint64
}

// msrList is struct kvm_msrs with room for maxMSRs.
type msrList struct {
	n, _    uint32
	entries [maxMSRs]msr
}

const (
	_ = -(unsafe.Sizeof(msr{}) ^ 16)
	_ = -(unsafe.Offsetof(msrList{}.entries) ^ 8)
)

// msrIndexes returns the numbers of the MSRs that hold a vCPU's state, also of
// some that this CPU may lack.
func (s *system) msrIndexes() ([]uint32, error) {
	var list struct {
		n       uint32
		indexes [maxMSRs]uint32
	}
	list.n = maxMSRs
	if _, err := ioctl(s.fd, ioMSRIndexList, unsafe.Pointer(&list)); err != nil {
		return nil, fmt.Errorf("KVM_GET_MSR_INDEX_LIST: %w", err)
	}
	indexes := slices.Clone(list.indexes[:min(list.n, maxMSRs)])
	for _, r := range unlisted {
		for index := r.first; index < r.first+r.n; index++ {
			if !slices.Contains(indexes, index) {
				indexes = append(indexes, index)
			}
		}
	}
	return indexes, nil
}

// msrs reads those of the MSRs that can be read. KVM stops at the first that
// cannot: a list names some that only other CPUs have.
func (c *vcpuFD) msrs(indexes []uint32) ([]msr, error) {
	var found []msr
	for len(indexes) > 0 {
		var list msrList
		n := copyIndexes(&list, indexes)
		got, err := ioctl(c.fd, ioGetMSRs, unsafe.Pointer(&list))
		if err != nil && err != unix.EPERM {
			return nil, fmt.Errorf("KVM_GET_MSRS: %w", err)
		}
		got = max(0, got)
		found = append(found, list.entries[:got]...)
		if got < n {
			got++ // the one that cannot be read
		}
		indexes = indexes[got:]
	}
	return found, nil
}

func copyIndexes(list *msrList, indexes []uint32) int {
	n := min(len(indexes), maxMSRs)
	for i, index := range indexes[:n] {
		list.entries[i] = msr{index: index}
	}
	list.n = uint32(n)
	return n
}

// msr reads one MSR.
func (c *vcpuFD) msr(index uint32) (uint64, error) {
	v, err := c.msrs([]uint32{index})
	if err != nil {
		return 0, err
	}
	if len(v) != 1 {
		return 0, fmt.Errorf("MSR %#x cannot be read", index)
	}
	return v[0].value, nil
}

// setMSRs writes MSRs in order. One that refuses its value is no error if it
// has that value already, or has none and the value is 0: MSRs that only report
// something, or that belong to features that neither side shows.
func (c *vcpuFD) setMSRs(values []msr) error {
	for len(values) > 0 {
		var list msrList
		n := copy(list.entries[:], values)
		list.n = uint32(n)
		done, err := ioctl(c.fd, ioSetMSRs, unsafe.Pointer(&list))
		if err != nil && err != unix.EPERM {
			return fmt.Errorf("KVM_SET_MSRS: %w", err)
		}
		done = max(0, done)
		if done < n {
			if err := c.excuse(values[done]); err != nil {
				return err
			}
			done++
		}
		values = values[done:]
	}
	return nil
}

func (c *vcpuFD) excuse(want msr) error {
	has, err := c.msrs([]uint32{want.index})
	if err != nil {
		return err
	}
	if len(has) == 0 && want.value == 0 || len(has) == 1 && has[0].value == want.value {
		return nil
	}
	return fmt.Errorf("%w: MSR %#x does not take %#x", ErrHost, want.index, want.value)
}

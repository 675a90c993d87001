//go:build linux && amd64

package kvm

import (
	"fmt"
	"unsafe"

	"github.com/understudy-ft/understudy/services/mem"
)

var (
	ioGetDirtyLog   = ioW[dirtyLogRequest](0x42)
	ioClearDirtyLog = ioRW[clearDirtyLog](0xc0)
)

// manualProtect is KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE. KVM_DIRTY_LOG_INITIALLY_SET
// is left out: it would report every page once.
const manualProtect = 1

// dirtyLogRequest is struct kvm_dirty_log.
type dirtyLogRequest struct {
	slot   uint32
	_      uint32
	bitmap unsafe.Pointer
}

// clearDirtyLog is struct kvm_clear_dirty_log.
type clearDirtyLog struct {
	slot, pages uint32
	first       uint64
	bitmap      unsafe.Pointer
}

const (
	_ = -(unsafe.Sizeof(dirtyLogRequest{}) ^ 16)
	_ = -(unsafe.Sizeof(clearDirtyLog{}) ^ 24)
)

// dirtyLog is KVM's log of the pages written in one region.
type dirtyLog struct {
	fd    int
	slot  uint32
	pages uint64
	// first is the number of the region's first page, a multiple of 64.
	first  uint64
	bitmap []uint64
}

func newDirtyLog(fd int, slot uint32, r mem.Region) *dirtyLog {
	pages := r.Size >> mem.PageShift
	return &dirtyLog{fd: fd, slot: slot, pages: pages, first: r.Offset >> mem.PageShift, bitmap: make([]uint64, (pages+63)/64)}
}

// drain moves the log into dst. A page written between reading and clearing the
// log is reported now, and its content is read later: nothing is missed.
func (d *dirtyLog) drain(dst mem.Bitmap) error {
	p := unsafe.Pointer(unsafe.SliceData(d.bitmap))
	if err := set(d.fd, ioGetDirtyLog, &dirtyLogRequest{slot: d.slot, bitmap: p}); err != nil {
		return fmt.Errorf("KVM_GET_DIRTY_LOG: %w", err)
	}
	first, last := -1, 0
	for i, w := range d.bitmap {
		if w != 0 {
			if first < 0 {
				first = i
			}
			last = i
			dst[d.first>>6+uint64(i)].Or(w)
		}
	}
	if first < 0 {
		return nil
	}
	// KVM skips words without bits, so that one call for all is cheapest. The
	// range must be whole words but for the end of the region.
	from := uint64(first) * 64
	n := min(uint64(last+1)*64, d.pages) - from
	if err := set(d.fd, ioClearDirtyLog, &clearDirtyLog{
		slot: d.slot, first: from, pages: uint32(n), bitmap: unsafe.Pointer(&d.bitmap[first]),
	}); err != nil {
		return fmt.Errorf("KVM_CLEAR_DIRTY_LOG: %w", err)
	}
	return nil
}

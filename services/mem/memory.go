// Package mem holds a guest's physical memory and knows which pages were
// written.
//
// Memory is one anonymous mapping. Every write that does not come from a CPU
// (devices, loaders, checkpoints) goes through Memory's methods, which check
// bounds and mark pages dirty; a CPU engine that writes through Bytes marks
// pages itself. All methods may be called from several goroutines. As on real
// hardware, unsynchronized access to the same bytes yields either value.
package mem

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PageSize is the size in bytes of the pages that are tracked and transferred.
const (
	PageShift = 12
	PageSize  = 1 << PageShift
)

// MaxSize bounds guest memory, in bytes.
const MaxSize = 1 << 40

// ErrBounds is returned for an access that is not wholly inside guest memory.
var ErrBounds = errors.New("address outside guest memory")

// Memory is guest RAM that begins at guest-physical address Base. It may have
// a hole: see NewSplit. Pages are numbered without the hole.
type Memory struct {
	base   uint64
	mapped []byte // bytes and what was needed to align them
	bytes  []byte
	dirty  Bitmap
	// The bytes from split on are at guest-physical addresses that are higher
	// by gap. Without a hole split is the size.
	split, gap uint64
}

// Region is a piece of memory without holes: Size bytes from Offset on appear
// at the guest-physical address Phys.
type Region struct {
	Phys, Offset, Size uint64
}

// hugeSize is the size in bytes of the host's huge pages.
const hugeSize = 2 << 20

// New maps size bytes of zeroed guest memory at guest-physical address base.
// Both must be multiples of PageSize. Close unmaps it.
//
// The host is asked for huge pages: a guest's first touch, and a copy that
// fills memory, cost one fault for 2 MiB instead of 512, and the engines miss
// the TLB less. Memory that nothing was written to still takes none; what is
// written to takes up to 2 MiB around it.
func New(base, size uint64) (*Memory, error) {
	if size == 0 || size%PageSize != 0 || base%PageSize != 0 || size > MaxSize {
		return nil, fmt.Errorf("guest memory of %d bytes at %#x: size and base must be multiples of %d, size from %d to %d",
			size, base, PageSize, PageSize, uint64(MaxSize))
	}
	b, err := unix.Mmap(-1, 0, int(size+hugeSize), unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_NORESERVE)
	if err != nil {
		return nil, fmt.Errorf("map %d bytes of guest memory: %w", size, err)
	}
	skip := -uint64(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) % hugeSize
	m := &Memory{base: base, mapped: b, bytes: b[skip : skip+size : skip+size], dirty: NewBitmap(size / PageSize), split: size}
	// A kernel without huge pages refuses, and memory is as good without.
	_ = unix.Madvise(m.bytes, unix.MADV_HUGEPAGE)
	return m, nil
}

// NewSplit is New at base 0, where what does not fit below holeStart continues
// at holeEnd: a PC's memory around the addresses of its devices. Both must be
// multiples of PageSize.
func NewSplit(size, holeStart, holeEnd uint64) (*Memory, error) {
	if holeStart == 0 || holeStart > holeEnd || holeStart%PageSize != 0 || holeEnd%PageSize != 0 || holeEnd > MaxSize {
		return nil, fmt.Errorf("hole [%#x, %#x) in guest memory: must begin above 0 and end at most at %#x, at multiples of %d",
			holeStart, holeEnd, uint64(MaxSize), PageSize)
	}
	m, err := New(0, size)
	if err != nil {
		return nil, err
	}
	m.split, m.gap = min(size, holeStart), holeEnd-holeStart
	return m, nil
}

// Close unmaps the memory. Nothing may use it afterwards.
func (m *Memory) Close() error {
	b := m.mapped
	m.mapped, m.bytes = nil, nil
	if b == nil {
		return nil
	}
	return unix.Munmap(b)
}

// Base returns the guest-physical address of the first byte.
func (m *Memory) Base() uint64 { return m.base }

// Regions returns the pieces of memory in ascending order: one, or two around
// a hole.
func (m *Memory) Regions() []Region {
	r := []Region{{Phys: m.base, Size: m.split}}
	if m.split < m.Size() {
		r = append(r, Region{Phys: m.base + m.split + m.gap, Offset: m.split, Size: m.Size() - m.split})
	}
	return r
}

// Address returns the guest-physical address of page n, which must be < Pages.
func (m *Memory) Address(n uint64) uint64 {
	off := n << PageShift
	if off >= m.split {
		off += m.gap
	}
	return m.base + off
}

// offset translates the range [addr, addr+n) to the offset of its first byte.
// ok is false unless all of it is memory. A range that begins at the end of a
// piece of memory is inside it only if it is empty.
func (m *Memory) offset(addr, n uint64) (off uint64, ok bool) {
	off = addr - m.base
	if addr < m.base {
		return 0, false
	}
	if off <= m.split && n <= m.split-off {
		return off, true
	}
	if off < m.split+m.gap {
		return 0, false
	}
	off -= m.gap
	return off, off <= m.Size() && n <= m.Size()-off
}

// Size returns the number of bytes.
func (m *Memory) Size() uint64 { return uint64(len(m.bytes)) }

// Pages returns the number of pages.
func (m *Memory) Pages() uint64 { return uint64(len(m.bytes)) >> PageShift }

// Bytes is the whole memory. Who writes through it must call MarkDirty.
func (m *Memory) Bytes() []byte { return m.bytes }

// Dirty is the bitmap of pages written since it was last drained.
func (m *Memory) Dirty() Bitmap { return m.dirty }

// Page returns the bytes of page n (counted from Base), which must be < Pages.
func (m *Memory) Page(n uint64) []byte {
	return m.bytes[n<<PageShift : (n+1)<<PageShift : (n+1)<<PageShift]
}

// Contains tells whether [addr, addr+n) is guest memory.
func (m *Memory) Contains(addr, n uint64) bool {
	_, ok := m.offset(addr, n)
	return ok
}

// Slice returns the n bytes at guest-physical addr for reading only.
func (m *Memory) Slice(addr, n uint64) ([]byte, error) {
	off, ok := m.offset(addr, n)
	if !ok {
		return nil, fmt.Errorf("%d bytes at %#x: %w", n, addr, ErrBounds)
	}
	return m.bytes[off : off+n : off+n], nil
}

// ReadAt copies len(p) bytes at guest-physical addr into p.
func (m *Memory) ReadAt(p []byte, addr uint64) error {
	s, err := m.Slice(addr, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(p, s)
	return nil
}

// WriteAt copies p to guest-physical addr and marks the pages dirty.
func (m *Memory) WriteAt(p []byte, addr uint64) error {
	s, err := m.Slice(addr, uint64(len(p)))
	if err != nil {
		return err
	}
	copy(s, p)
	m.MarkDirty(addr, uint64(len(p)))
	return nil
}

// Uint16, Uint32 and Uint64 read a little-endian integer at addr.
func (m *Memory) Uint16(addr uint64) (uint16, error) {
	s, err := m.Slice(addr, 2)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint16(s), nil
}

// Uint32 reads a little-endian integer at addr.
func (m *Memory) Uint32(addr uint64) (uint32, error) {
	s, err := m.Slice(addr, 4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(s), nil
}

// Uint64 reads a little-endian integer at addr.
func (m *Memory) Uint64(addr uint64) (uint64, error) {
	s, err := m.Slice(addr, 8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(s), nil
}

// PutUint16 writes a little-endian integer at addr and marks the page dirty.
func (m *Memory) PutUint16(addr uint64, v uint16) error {
	var b [2]byte
	binary.LittleEndian.PutUint16(b[:], v)
	return m.WriteAt(b[:], addr)
}

// PutUint32 writes a little-endian integer at addr and marks the page dirty.
func (m *Memory) PutUint32(addr uint64, v uint32) error {
	var b [4]byte
	binary.LittleEndian.PutUint32(b[:], v)
	return m.WriteAt(b[:], addr)
}

// PutUint64 writes a little-endian integer at addr and marks the page dirty.
func (m *Memory) PutUint64(addr uint64, v uint64) error {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return m.WriteAt(b[:], addr)
}

// MarkDirty marks the pages of [addr, addr+n), which must be guest memory.
func (m *Memory) MarkDirty(addr, n uint64) {
	if n == 0 {
		return
	}
	off, _ := m.offset(addr, n)
	first, last := off>>PageShift, (off+n-1)>>PageShift
	for p := first; p <= last; p++ {
		m.dirty.Set(p)
	}
}

// Bitmap is a set of page or block numbers that goroutines may change at once.
type Bitmap []atomic.Uint64

// NewBitmap returns an empty set of numbers below n.
func NewBitmap(n uint64) Bitmap { return make(Bitmap, (n+63)/64) }

// Set adds i.
func (b Bitmap) Set(i uint64) {
	w, bit := &b[i>>6], uint64(1)<<(i&63)
	if w.Load()&bit == 0 {
		w.Or(bit)
	}
}

// Has tells whether i is in the set.
func (b Bitmap) Has(i uint64) bool { return b[i>>6].Load()&(1<<(i&63)) != 0 }

// DrainInto moves every number of b into dst, a bitmap of the same length.
func (b Bitmap) DrainInto(dst Bitmap) {
	for i := range b {
		if b[i].Load() != 0 {
			dst[i].Or(b[i].Swap(0))
		}
	}
}

// Clear empties the set.
func (b Bitmap) Clear() {
	for i := range b {
		b[i].Store(0)
	}
}

// Count returns the size of the set.
func (b Bitmap) Count() int {
	n := 0
	for i := range b {
		n += bits.OnesCount64(b[i].Load())
	}
	return n
}

// All calls yield for each number in ascending order until it returns false.
func (b Bitmap) All(yield func(uint64) bool) {
	for i := range b {
		for w := b[i].Load(); w != 0; w &= w - 1 {
			if !yield(uint64(i)<<6 + uint64(bits.TrailingZeros64(w))) {
				return
			}
		}
	}
}

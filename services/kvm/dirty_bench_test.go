//go:build linux && amd64

package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"slices"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// BenchmarkDirtyPages compares KVM's two ways to tell which pages a guest wrote:
// the bitmap with manual clearing, which the engine takes, and the dirty ring.
// One operation is an epoch: the guest writes to so many pages of so much
// memory, in runs of pagesTogether, so many times, and they are collected. Of an
// epoch it reports
//   - collect-us, what collecting takes in the pause of a checkpoint, and
//     pass-us, one pass over a bitmap of the memory, of which a checkpoint makes
//     several whatever KVM's way: medians,
//   - write-us, what the guest takes, with its faults: median,
//   - exits, how often the guest is left, and full, how often because the ring
//     was full.
func BenchmarkDirtyPages(b *testing.B) {
	compare := func(size uint64, pages, times int) {
		for _, ring := range []bool{false, true} {
			b.Run(fmt.Sprintf("memory=%dMiB/pages=%d/times=%d/ring=%t", size>>20, pages, times, ring), func(b *testing.B) {
				benchmarkEpochs(b, newWritingGuest(b, size, pages, ring), times)
			})
		}
	}
	for _, size := range []uint64{256 << 20, 1 << 30, 4 << 30, 16 << 30} {
		for _, pages := range []int{0, 16, 256, 4096, 32768} {
			compare(size, pages, 1)
		}
	}
	compare(1<<30, 98304, 4) // more than a ring holds, again and again
}

func benchmarkEpochs(b *testing.B, g *writingGuest, times int) {
	other := mem.NewBitmap(g.mem.Pages())
	epoch := func() {
		for range times {
			if err := g.write(); err != nil {
				b.Fatal(err)
			}
		}
		if err := g.collect(); err != nil {
			b.Fatal(err)
		}
	}
	epoch() // the guest touches its pages for the first time
	g.found.Clear()
	g.full = 0
	before := g.exits()
	var collects, writes, passes []time.Duration
	for b.Loop() {
		g.collecting, g.writing = 0, 0
		epoch()
		collects, writes = append(collects, g.collecting), append(writes, g.writing)
		start := time.Now()
		other.DrainInto(g.found)
		passes = append(passes, time.Since(start))
		if len(collects) == 1 {
			g.check(b)
		}
	}
	n := float64(len(collects))
	b.ReportMetric(median(collects), "collect-us")
	b.ReportMetric(median(writes), "write-us")
	b.ReportMetric(median(passes), "pass-us")
	b.ReportMetric(float64(g.exits()-before)/n, "exits")
	b.ReportMetric(float64(g.full)/n, "full")
}

// exits is how often the guest was left; 0 on kernels that do not tell.
func (g *writingGuest) exits() uint64 {
	s := g.vm.vcpus[0].stats
	if s == nil {
		return 0
	}
	_, n := s.read()
	return n
}

// median returns microseconds.
func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Nanoseconds()) / 1e3
}

const (
	pagesTogether = 8
	pageTablesAt  = 0x20_0000
	mappedGiB     = 32 // by pages of 2 MiB
	pageTables    = mappedGiB + 2
	listAt        = 0x40_0000 // addresses that the guest writes to
	firstWritten  = 0x80_0000
	writtenPort   = 0xf4
)

// writeList is a guest that increments the words whose addresses are in the
// list of rcx entries at rsi.
var writeList = []byte{
	0x48, 0x85, 0xc9, // test %rcx, %rcx
	0x74, 0x0f, // jz to the out
	0x48, 0x8b, 0x06, // mov (%rsi), %rax
	0x48, 0xff, 0x00, // incq (%rax)
	0x48, 0x83, 0xc6, 0x08, // add $8, %rsi
	0x48, 0xff, 0xc9, // dec %rcx
	0x75, 0xf1, // jnz to the mov
	0xe6, writtenPort, // out %al, $0xf4
}

// writingGuest is a VM as the engine makes it, with the bitmap or the ring.
type writingGuest struct {
	mem   *mem.Memory
	vm    *vm
	pages []uint64 // that it writes to
	ring  *dirtyRing
	found mem.Bitmap

	writing, collecting time.Duration
	full                int // exits because the ring was full
}

func newWritingGuest(b *testing.B, size uint64, pages int, ring bool) *writingGuest {
	b.Helper()
	if err := Available(); err != nil {
		b.Skipf("NOT MEASURED: %v", err)
	}
	check := func(what string, err error) {
		if err != nil {
			b.Fatalf("%s: %v", what, err)
		}
	}
	sys, err := openSystem("")
	check("open", err)
	b.Cleanup(func() { _ = sys.close() })
	ringSize := sys.has(capDirtyRing)
	if ring && ringSize == 0 {
		b.Skip("NOT MEASURED: this KVM has no dirty ring")
	}
	m, err := mem.NewSplit(size, HoleStart, HoleEnd)
	check("memory", err)
	b.Cleanup(func() { _ = m.Close() })
	// Pages are far apart here, and each must not take 2 MiB.
	check("madvise", unix.Madvise(m.Bytes(), unix.MADV_NOHUGEPAGE))
	template, err := sys.template(nil)
	check("CPUID", err)
	g := &writingGuest{mem: m, vm: &vm{sys: sys}, found: mem.NewBitmap(m.Pages())}
	g.vm.fd, err = sys.createVM()
	check("create VM", err)
	b.Cleanup(func() { _ = g.vm.close() })
	_, err = ioctlArg(g.vm.fd, ioSetTSSAddr, tssAddr)
	check("TSS", err)
	check("interrupt controllers", g.vm.createIRQChip())
	if ring {
		check("dirty ring", g.vm.enableCap(g.vm.fd, capDirtyRing, uint64(ringSize)))
	}
	check("memory", g.vm.addMemory(m))
	c, err := g.vm.newVCPU(0, 1, template)
	check("vCPU", err)
	g.vm.vcpus = []*vcpuFD{c}
	if ring {
		g.ring, err = newDirtyRing(g.vm, m)
		check("dirty ring", err)
		b.Cleanup(func() { _ = g.ring.close() })
	}
	check("guest", g.prepare(pages))
	return g
}

// prepare writes the guest's code, page tables and list into its memory.
func (g *writingGuest) prepare(pages int) error {
	first := uint64(firstWritten >> mem.PageShift)
	runs := uint64(max(1, (pages+pagesTogether-1)/pagesTogether))
	stride := (g.mem.Pages() - first) / runs
	var list []byte
	for i := range uint64(pages) {
		page := first + i/pagesTogether*stride + i%pagesTogether
		g.pages = append(g.pages, page)
		list = binary.LittleEndian.AppendUint64(list, g.mem.Address(page))
	}
	var tables []byte
	for i := range uint64(mappedGiB * 512) {
		tables = binary.LittleEndian.AppendUint64(tables, i<<21|pteLarge)
	}
	var pdpt []byte
	for i := range uint64(mappedGiB) {
		pdpt = binary.LittleEndian.AppendUint64(pdpt, pageTablesAt+i*mem.PageSize|pteTable)
	}
	return errors.Join(writeBootTables(g.mem), g.mem.WriteAt(pdpt, bootPDPT), g.mem.WriteAt(tables, pageTablesAt),
		g.mem.WriteAt(list, listAt), g.mem.WriteAt(writeList, codeAt), g.vm.vcpus[0].enter64(vmm.Entry{PC: codeAt}))
}

// check finds every page that was written among those that were collected, and
// no others but page tables, which the CPU writes to.
func (g *writingGuest) check(b *testing.B) {
	b.Helper()
	for _, page := range g.pages {
		if !g.found.Has(page) {
			b.Fatalf("page %#x was written and is not reported", page)
		}
	}
	if n := g.found.Count(); n > len(g.pages)+pageTables {
		b.Fatalf("%d pages are reported, %d were written", n, len(g.pages))
	}
}

// write lets the guest write to its pages.
func (g *writingGuest) write() error {
	c := g.vm.vcpus[0]
	if err := regRegs.write(c, &regs{rip: codeAt, rsi: listAt, rcx: uint64(len(g.pages)), rflags: 2}); err != nil {
		return err
	}
	start, before := time.Now(), g.collecting
	defer func() { g.writing += time.Since(start) - (g.collecting - before) }()
	for {
		if err := c.run(); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("KVM_RUN: %w", err)
		}
		switch reason := c.u32(runExitReason); reason {
		case exitIO:
			c.setImmediateExit(true)
			defer c.setImmediateExit(false)
			if err := c.run(); !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("complete the port's access: %v", err)
			}
			return nil
		case exitDirtyRingFull:
			g.full++
			if err := g.collect(); err != nil {
				return err
			}
		default:
			return fmt.Errorf("unexpected exit %d", reason)
		}
	}
}

// collect moves what was written into found.
func (g *writingGuest) collect() error {
	start := time.Now()
	defer func() { g.collecting += time.Since(start) }()
	if g.ring != nil {
		return g.ring.drain(g.found)
	}
	for _, l := range g.vm.log {
		if err := l.drain(g.found); err != nil {
			return err
		}
	}
	return nil
}

const (
	capDirtyRing      = 192
	exitDirtyRingFull = 31
	ringPage          = 64 // where a vCPU's mapping has its ring (KVM_DIRTY_LOG_PAGE_OFFSET)
	ringDirty         = 1
	ringReset         = 2
)

var ioResetDirtyRings = ioN(0xc7)

// ringEntry is struct kvm_dirty_gfn.
type ringEntry struct {
	flags, slot uint32
	page        uint64
}

// dirtyRing is the ring of the pages that the first vCPU wrote.
type dirtyRing struct {
	fd      int
	mapped  []byte
	entries []ringEntry
	next    uint32
	first   []uint64 // the number of each slot's first page
}

func newDirtyRing(v *vm, m *mem.Memory) (*dirtyRing, error) {
	n := v.sys.has(capDirtyRing)
	mapped, err := unix.Mmap(v.vcpus[0].fd, ringPage*mem.PageSize, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map the dirty ring: %w", err)
	}
	r := &dirtyRing{fd: v.fd, mapped: mapped,
		entries: unsafe.Slice((*ringEntry)(unsafe.Pointer(&mapped[0])), n/int(unsafe.Sizeof(ringEntry{})))}
	if bits.OnesCount(uint(len(r.entries))) != 1 {
		return nil, fmt.Errorf("a dirty ring of %d entries", len(r.entries))
	}
	for _, region := range m.Regions() {
		r.first = append(r.first, region.Offset>>mem.PageShift)
	}
	return r, nil
}

func (r *dirtyRing) drain(dst mem.Bitmap) error {
	n := 0
	for ; ; n++ {
		e := &r.entries[r.next&uint32(len(r.entries)-1)]
		if atomic.LoadUint32(&e.flags)&ringDirty == 0 {
			break
		}
		page := r.first[e.slot] + e.page
		dst[page>>6].Or(1 << (page & 63))
		atomic.StoreUint32(&e.flags, ringReset)
		r.next++
	}
	if n == 0 {
		return nil
	}
	if got, err := ioctlArg(r.fd, ioResetDirtyRings, 0); err != nil || got != n {
		return fmt.Errorf("KVM_RESET_DIRTY_RINGS: %d instead of %d entries (%w)", got, n, err)
	}
	return nil
}

func (r *dirtyRing) close() error { return unix.Munmap(r.mapped) }

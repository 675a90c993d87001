package lastwill

import (
	"fmt"
	"os"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// page is memory that both processes have, with one robust futex in it.
type page struct {
	// word is the thread that holds the futex, with the kernel's bits (futex(2)).
	word atomic.Uint32
	_    uint32
	// entry is the one of the thread's list of robust futexes, head is the list
	// (struct robust_list_head of the kernel). Addresses are those of the process
	// that holds the futex; the other has no use for them.
	entry struct{ next uintptr }
	head  struct {
		next    uintptr
		offset  int // from an entry to its word
		pending uintptr
	}
}

// An operation, and bits of a futex's word (linux/futex.h).
const (
	futexWait      = 0 // in memory that processes share
	futexWaiters   = 0x80000000
	futexOwnerDied = 0x40000000
)

// newPage returns memory that can be shared, as a file and mapped here.
func newPage() (*os.File, *page, error) {
	fd, err := unix.MemfdCreate("last will", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, nil, fmt.Errorf("make shared memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "last will")
	if err := f.Truncate(int64(os.Getpagesize())); err != nil {
		_ = f.Close() // nothing is in it
		return nil, nil, fmt.Errorf("make shared memory: %w", err)
	}
	p, err := mapPage(fd)
	if err != nil {
		_ = f.Close() // nothing is in it
		return nil, nil, err
	}
	return f, p, nil
}

// mapPage maps the memory, for as long as the process lives.
func mapPage(fd int) (*page, error) {
	b, err := unix.Mmap(fd, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map shared memory: %w", err)
	}
	return (*page)(unsafe.Pointer(unsafe.SliceData(b))), nil
}

// hold makes the calling thread the futex's holder until it dies. Its goroutine must
// be locked to it.
func (p *page) hold() error {
	p.entry.next = uintptr(unsafe.Pointer(&p.head))
	p.head.next = uintptr(unsafe.Pointer(&p.entry))
	p.head.offset = int(unsafe.Offsetof(p.word)) - int(unsafe.Offsetof(p.entry))
	p.word.Store(uint32(unix.Gettid()) | futexWaiters)
	_, _, errno := unix.RawSyscall(unix.SYS_SET_ROBUST_LIST, uintptr(unsafe.Pointer(&p.head)), unsafe.Sizeof(p.head), 0)
	if errno != 0 {
		return fmt.Errorf("hold a robust futex: %w", errno)
	}
	return nil
}

// await returns when the thread that holds the futex has died.
func (p *page) await() {
	for {
		v := p.word.Load()
		if v&futexOwnerDied != 0 {
			return
		}
		// Whatever ends it (the word changed meanwhile, a signal), the word tells.
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&p.word)), futexWait, uintptr(v), 0, 0, 0)
	}
}

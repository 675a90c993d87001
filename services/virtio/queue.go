package virtio

import (
	"encoding/binary"
	"fmt"
	"sync/atomic"

	"github.com/understudy-ft/understudy/services/mem"
)

// MaxQueueSize bounds the number of descriptors in any queue.
const MaxQueueSize = 1024

// Queue is the device side of a split virtqueue (section 2.7). It is used with
// its device's lock held.
//
// At rest nextAvailable == nextUsed: what is taken is given back before the
// lock is released.
type Queue struct {
	memory *mem.Memory
	max    uint16

	// As the driver configured it.
	size                         uint16
	ready                        bool
	descriptors, available, used uint64

	// As negotiated.
	indirect, eventIdx bool

	// Free-running indices: next available entry to take, next used entry to
	// fill.
	nextAvailable, nextUsed uint16
	// completed counts the used entries that wantsInterrupt has not judged yet.
	// It is 0 whenever the lock is free.
	completed int
	// again is set while a goroutine is on its way to go on with the queue.
	again bool

	chain Chain
	fence atomic.Uint32
}

// usedElement is an entry of the used ring.
type usedElement struct {
	head    uint16
	written uint32
}

// reset forgets all but the queue's limits.
func (q *Queue) reset() {
	q.size, q.ready = q.max, false
	q.descriptors, q.available, q.used = 0, 0, 0
	q.indirect, q.eventIdx = false, false
	q.nextAvailable, q.nextUsed, q.completed = 0, 0, 0
}

// validate checks what the driver configured: size, alignment and place of the
// three areas (section 2.7).
func (q *Queue) validate() error {
	if q.size == 0 || q.size > q.max || q.size&(q.size-1) != 0 {
		return fmt.Errorf("queue size %d is not a power of two up to %d: %w", q.size, q.max, ErrOffence)
	}
	n := uint64(q.size)
	for _, a := range [...]struct {
		name              string
		addr, size, align uint64
	}{
		{"descriptor table", q.descriptors, descSize * n, 16},
		{"available ring", q.available, 4 + 2*n + 2, 2},
		{"used ring", q.used, 4 + 8*n + 2, 4},
	} {
		if a.addr%a.align != 0 || !q.memory.Contains(a.addr, a.size) {
			return fmt.Errorf("%s at %#x is misaligned or outside memory: %w", a.name, a.addr, ErrOffence)
		}
	}
	return nil
}

// barrier orders all accesses to guest memory before it with all after it, as
// the ring protocol needs between processors (a sequentially consistent store
// and load do so on amd64 and arm64).
func (q *Queue) barrier() {
	q.fence.Store(0)
	q.fence.Load()
}

// waiting returns how many chains the driver made available beyond those taken.
func (q *Queue) waiting() (uint16, error) {
	idx, err := q.memory.Uint16(q.available + 2)
	if err != nil {
		return 0, err
	}
	n := idx - q.nextAvailable
	if n > q.size {
		return 0, fmt.Errorf("available index %d is %d ahead in a queue of %d: %w", idx, n, q.size, ErrOffence)
	}
	return n, nil
}

// Pop takes the next available chain; nil when there is none.
func (q *Queue) Pop() (*Chain, error) {
	n, err := q.waiting()
	if err != nil || n == 0 {
		return nil, err
	}
	q.barrier()
	head, err := q.memory.Uint16(q.available + 4 + 2*uint64(q.nextAvailable&(q.size-1)))
	if err != nil {
		return nil, err
	}
	if err := q.walk(head); err != nil {
		return nil, err
	}
	q.nextAvailable++
	return &q.chain, nil
}

// walk reads the chain that begins at descriptor head. The chain has at most
// size descriptors, in the table and behind its indirect descriptor together,
// so that a loop ends.
func (q *Queue) walk(head uint16) error {
	c := &q.chain
	*c = Chain{memory: q.memory, head: head, readable: c.readable[:0], writable: c.writable[:0]}
	table, length, indirect := q.descriptors, uint32(q.size), false
	next := uint32(head)
	for count := 1; ; count++ {
		if count > int(q.size) {
			return fmt.Errorf("descriptor chain is longer than the queue of %d: %w", q.size, ErrOffence)
		}
		if next >= length {
			return fmt.Errorf("descriptor %d of a table of %d: %w", next, length, ErrOffence)
		}
		d, err := q.memory.Slice(table+descSize*uint64(next), descSize)
		if err != nil {
			return err
		}
		addr, size := binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint32(d[8:])
		flags := binary.LittleEndian.Uint16(d[12:])
		next = uint32(binary.LittleEndian.Uint16(d[14:]))

		if flags&descIndirect != 0 {
			if !q.indirect || indirect || flags&descNext != 0 {
				return fmt.Errorf("indirect descriptor that is not allowed here: %w", ErrOffence)
			}
			if size == 0 || size%descSize != 0 || !q.memory.Contains(addr, uint64(size)) {
				return fmt.Errorf("indirect table of %d bytes at %#x: %w", size, addr, ErrOffence)
			}
			table, length, next, indirect = addr, size/descSize, 0, true
			count-- // the indirect descriptor is no part of the chain
			continue
		}
		if err := c.add(addr, size, flags); err != nil {
			return err
		}
		if flags&descNext == 0 {
			return nil
		}
	}
}

// Push gives chains back, with the number of bytes written to each, all at once.
func (q *Queue) Push(done ...usedElement) error {
	for _, e := range done {
		var b [8]byte
		binary.LittleEndian.PutUint32(b[:], uint32(e.head))
		binary.LittleEndian.PutUint32(b[4:], e.written)
		if err := q.memory.WriteAt(b[:], q.used+4+8*uint64(q.nextUsed&(q.size-1))); err != nil {
			return err
		}
		q.nextUsed++
	}
	q.completed += len(done)
	q.barrier()
	return q.memory.PutUint16(q.used+2, q.nextUsed)
}

// wanted asks the driver to notify of the next chain after those, have in
// number, that the device saw and left; it tells whether there are more already
// (section 2.7.10). Without event indices the driver always notifies.
func (q *Queue) wanted(have uint16) (more bool, err error) {
	if q.eventIdx {
		if err := q.memory.PutUint16(q.used+4+8*uint64(q.size), q.nextAvailable+have); err != nil {
			return false, err
		}
	}
	q.barrier()
	n, err := q.waiting()
	return n > have, err
}

// wantsInterrupt tells whether the driver wishes to be interrupted for what was
// given back since the last call (section 2.7.7).
func (q *Queue) wantsInterrupt() (bool, error) {
	n := q.completed
	if q.completed = 0; n == 0 {
		return false, nil
	}
	q.barrier()
	if !q.eventIdx {
		flags, err := q.memory.Uint16(q.available)
		return flags&1 == 0, err
	}
	event, err := q.memory.Uint16(q.available + 4 + 2*uint64(q.size))
	return n > int(q.nextUsed-event-1), err
}

// drain calls f for each available chain and gives the chain back with the
// number of bytes that f wrote, until no chain is left or stop says so. Another
// vCPU may add chains as fast as they are done: after a queue's worth or two it
// returns more = true, so that nobody waits for the lock for ever.
func (q *Queue) drain(stop *atomic.Bool, f func(*Chain) (written uint32, err error)) (more bool, err error) {
	for range 2 * int(q.size) {
		if stop.Load() {
			return false, nil
		}
		c, err := q.Pop()
		if err != nil {
			return false, err
		}
		if c == nil {
			if more, err := q.wanted(0); err != nil || !more {
				return false, err
			}
			continue
		}
		written, err := f(c)
		if err != nil {
			return false, err
		}
		if err := q.Push(usedElement{c.head, written}); err != nil {
			return false, err
		}
	}
	return true, nil
}

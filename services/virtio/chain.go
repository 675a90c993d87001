package virtio

import (
	"fmt"

	"github.com/understudy-ft/understudy/services/mem"
)

// Descriptor flags (section 2.7.5).
const (
	descNext     = 1
	descWrite    = 2
	descIndirect = 4

	descSize = 16
)

// segment is one buffer of a chain, wholly inside guest memory.
type segment struct {
	addr uint64
	size uint64
}

// Chain is a descriptor chain that the driver made available: a stream of bytes
// for the device to read, then one for it to write. Its segments were checked
// to be guest memory. It is valid until the next Pop of its queue.
type Chain struct {
	memory   *mem.Memory
	head     uint16
	readable []segment
	writable []segment
	// ReadLen and WriteLen are the lengths of both streams in bytes.
	ReadLen, WriteLen uint64
}

// add takes a descriptor into the chain.
func (c *Chain) add(addr uint64, size uint32, flags uint16) error {
	if !c.memory.Contains(addr, uint64(size)) {
		return fmt.Errorf("descriptor of %d bytes at %#x lies outside memory: %w", size, addr, ErrOffence)
	}
	s := segment{addr, uint64(size)}
	if flags&descWrite != 0 {
		c.writable = append(c.writable, s)
		c.WriteLen += s.size
		return nil
	}
	if len(c.writable) > 0 {
		return fmt.Errorf("descriptor to read after one to write: %w", ErrOffence)
	}
	c.readable = append(c.readable, s)
	c.ReadLen += s.size
	return nil
}

// Read copies from offset off of the readable stream and returns how many
// bytes there were, at most len(p).
func (c *Chain) Read(p []byte, off uint64) (int, error) {
	n := 0
	err := each(c.readable, off, uint64(len(p)), func(addr, size uint64) error {
		err := c.memory.ReadAt(p[n:n+int(size)], addr)
		n += int(size)
		return err
	})
	return n, err
}

// Write copies p to offset off of the writable stream, as far as that goes, and
// returns how many bytes that was.
func (c *Chain) Write(p []byte, off uint64) (int, error) {
	n := 0
	err := each(c.writable, off, uint64(len(p)), func(addr, size uint64) error {
		err := c.memory.WriteAt(p[n:n+int(size)], addr)
		n += int(size)
		return err
	})
	return n, err
}

// each calls f for the pieces of n bytes of the stream at off, in order.
func each(segments []segment, off, n uint64, f func(addr, size uint64) error) error {
	for _, s := range segments {
		if off >= s.size {
			off -= s.size
			continue
		}
		size := min(s.size-off, n)
		if size == 0 {
			return nil
		}
		if err := f(s.addr+off, size); err != nil {
			return err
		}
		off, n = 0, n-size
	}
	return nil
}

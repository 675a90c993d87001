package virtio

import (
	"fmt"
	"io"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Console device with one port (section 5.3).
const (
	consoleType          = 3
	consoleQueueReceive  = 0
	consoleQueueTransmit = 1
	consoleQueueSize     = 64

	// consoleMaxWrite bounds one write of the guest, in bytes. Linux writes at
	// most a pipe's worth at once.
	consoleMaxWrite = 1 << 20
	// consoleMaxPending bounds the input that waits for the guest, in bytes.
	consoleMaxPending = 4096
)

// Console is the console device.
type Console struct {
	out       io.Writer
	transport *Transport
	pending   []byte
	buffer    [4096]byte
}

// NewConsole returns a console whose output goes to out. Errors of out are
// ignored: a guest does not depend on who watches it.
func NewConsole(out io.Writer) *Console { return &Console{out: out} }

// Info implements Device.
func (c *Console) Info() Info {
	return Info{Type: consoleType, QueueSizes: []uint16{consoleQueueSize, consoleQueueSize}}
}

// Attach implements Device.
func (c *Console) Attach(t *Transport) { c.transport = t }

// Config implements Device: its fields belong to features that are not offered.
func (c *Console) Config() []byte { return make([]byte, 12) }

// PowerOn implements Device.
func (c *Console) PowerOn() { c.pending = nil }

// Changed implements Device.
func (c *Console) Changed() {}

// Process implements Device.
func (c *Console) Process(queue int) (more bool, err error) {
	if queue == consoleQueueTransmit {
		return c.transport.queues[queue].drain(&c.transport.paused, c.write)
	}
	return false, c.flush()
}

func (c *Console) write(chain *Chain) (uint32, error) {
	if chain.ReadLen > consoleMaxWrite {
		return 0, fmt.Errorf("console write of %d bytes: %w", chain.ReadLen, ErrOffence)
	}
	for off := uint64(0); off < chain.ReadLen; {
		n, err := chain.Read(c.buffer[:], off)
		if err != nil {
			return 0, err
		}
		c.out.Write(c.buffer[:n])
		off += uint64(n)
	}
	return 0, nil
}

// Input gives the guest bytes to read and returns how many were taken: fewer
// when the guest does not read them, none while the machine is paused or no
// driver runs the device.
func (c *Console) Input(p []byte) int {
	t := c.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.paused.Load() || !t.usable(consoleQueueReceive) {
		return 0
	}
	n := min(len(p), consoleMaxPending-len(c.pending))
	c.pending = append(c.pending, p[:n]...)
	t.settle(c.flush())
	return n
}

// flush moves pending input into the receive queue as far as its buffers go.
func (c *Console) flush() error {
	q := &c.transport.queues[consoleQueueReceive]
	for len(c.pending) > 0 {
		chain, err := q.Pop()
		if err != nil {
			return err
		}
		if chain == nil {
			if more, err := q.wanted(0); err != nil || !more {
				return err
			}
			continue
		}
		if chain.WriteLen == 0 {
			return fmt.Errorf("console receive buffer of no bytes: %w", ErrOffence)
		}
		n, err := chain.Write(c.pending, 0)
		if err != nil {
			return err
		}
		c.pending = c.pending[n:]
		if err := q.Push(usedElement{chain.head, uint32(n)}); err != nil {
			return err
		}
	}
	c.pending = nil
	return nil
}

// Save implements Device.
func (c *Console) Save(s *understudyv1.VirtioState) error {
	s.Device = &understudyv1.VirtioState_Console{Console: &understudyv1.VirtioConsoleState{Pending: c.pending}}
	return nil
}

// Prepare implements Device.
func (c *Console) Prepare(s *understudyv1.VirtioState) (commit func(), err error) {
	state := s.GetConsole()
	if state == nil || len(state.Pending) > consoleMaxPending {
		return nil, fmt.Errorf("no console, or more than %d pending bytes", consoleMaxPending)
	}
	return func() { c.pending = state.Pending }, nil
}

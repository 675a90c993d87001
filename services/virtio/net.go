package virtio

import (
	"encoding/binary"
	"fmt"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// MaxFrame bounds a frame, in bytes: 64 KiB of IP packet, an Ethernet header
// and VLAN tags, which leaves room for segmentation offload.
const MaxFrame = 1<<16 + 64

// MaxPendingFrames bounds the frames that wait for the guest's buffers.
const MaxPendingFrames = 256

// Network device (section 5.1).
const (
	netType = 1

	netFeatureMAC      = 1 << 5
	netFeatureMergeRX  = 1 << 15
	netFeatureStatus   = 1 << 16
	netQueueReceive    = 0
	netQueueTransmit   = 1
	netQueueSize       = 256
	netHeaderSize      = 12
	netNumBuffersField = 10
	netStatusLinkUp    = 1
)

// Net is the network device. Its frames are Ethernet frames without FCS.
//
// Transmit gets each frame that the guest sends; the frame is valid only during
// the call. Ready is called when Deliver, after it returned false, can take a
// frame again. Both are called with the device's lock held: they must be quick
// and must not call into the device (Ready signals another goroutine).
type Net struct {
	transmit func(frame []byte)
	ready    func()
	mac      [6]byte

	transport *Transport
	// pending are accepted frames for which the guest had no buffers. They
	// stay over a driver's reset, since they wait for the next driver as well.
	pending [][]byte
	// refused is set while someone waits for ready.
	refused bool
	dropped uint64
	frame   []byte
	used    []usedElement
}

// NewNet returns a network device of the given address.
func NewNet(mac [6]byte, transmit func(frame []byte), ready func()) *Net {
	return &Net{mac: mac, transmit: transmit, ready: ready, frame: make([]byte, netHeaderSize+MaxFrame)}
}

// Info implements Device.
func (n *Net) Info() Info {
	return Info{
		Type:       netType,
		Features:   netFeatureMAC | netFeatureMergeRX | netFeatureStatus,
		QueueSizes: []uint16{netQueueSize, netQueueSize},
	}
}

// Attach implements Device.
func (n *Net) Attach(t *Transport) { n.transport = t }

// Config implements Device: address and link status.
func (n *Net) Config() []byte {
	return binary.LittleEndian.AppendUint16(n.mac[:6:6], netStatusLinkUp)
}

// PowerOn implements Device.
func (n *Net) PowerOn() {
	n.pending = nil
	n.signalReady()
}

// Changed implements Device.
func (n *Net) Changed() { n.signalReady() }

// Process implements Device.
func (n *Net) Process(queue int) (more bool, err error) {
	if queue == netQueueTransmit {
		return n.transport.queues[queue].drain(&n.transport.paused, n.send)
	}
	return false, n.flush()
}

// send hands one transmitted frame to the host. No offload is offered, so that
// a header that asks for one is an offence.
func (n *Net) send(c *Chain) (uint32, error) {
	if c.ReadLen < netHeaderSize || c.ReadLen > netHeaderSize+MaxFrame {
		return 0, fmt.Errorf("transmitted frame of %d bytes with its header: %w", c.ReadLen, ErrOffence)
	}
	var header [netHeaderSize]byte
	if _, err := c.Read(header[:], 0); err != nil {
		return 0, err
	}
	if header[0] != 0 || header[1] != 0 {
		return 0, fmt.Errorf("transmitted frame asks for offloads (flags %#x, type %#x): %w", header[0], header[1], ErrOffence)
	}
	size, err := c.Read(n.frame[:MaxFrame], netHeaderSize)
	if err != nil {
		return 0, err
	}
	if size > 0 {
		n.transmit(n.frame[:size])
	}
	return 0, nil
}

// Deliver puts frames into the guest's receive queue, or among at most
// MaxPendingFrames that wait for the guest's buffers, and then interrupts the
// guest, once for all. It returns how many it took, in their order: fewer where
// there is no room, or the machine is paused; Ready is called afterwards.
//
// While no driver runs the device, frames wait for one, and those for which
// there is no room are dropped, as a card does that nobody listens to: they
// count as taken, and so do frames that are empty or above MaxFrame. The frames
// are copied.
func (n *Net) Deliver(frames ...[]byte) (taken int) {
	t := n.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	var err error
	for err == nil && taken < len(frames) {
		if n.room() == 0 {
			n.refused = true
			break
		}
		err = n.take(frames[taken])
		taken++
	}
	if taken > 0 {
		t.settle(err)
	}
	return taken
}

// take takes a frame, or drops it.
func (n *Net) take(frame []byte) error {
	if len(frame) == 0 || len(frame) > MaxFrame || len(n.pending) >= MaxPendingFrames {
		n.dropped++
		return nil
	}
	return n.accept(frame)
}

// Room is how many frames Deliver would take now. Where it is 0, Ready is called
// later.
func (n *Net) Room() int {
	t := n.transport
	t.mu.Lock()
	defer t.mu.Unlock()
	room := n.room()
	n.refused = n.refused || room == 0
	return room
}

func (n *Net) room() int {
	switch {
	case n.transport.paused.Load():
		return 0
	case !n.transport.live():
		return MaxPendingFrames // what finds no room is dropped
	}
	return MaxPendingFrames - len(n.pending)
}

// accept takes a frame for which there is room.
func (n *Net) accept(frame []byte) error {
	if !n.transport.usable(netQueueReceive) {
		n.wait(frame)
		return nil
	}
	if len(n.pending) == 0 {
		if done, _, err := n.receive(frame); done || err != nil {
			return err
		}
	}
	n.wait(frame)
	return n.flush()
}

func (n *Net) wait(frame []byte) { n.pending = append(n.pending, append([]byte(nil), frame...)) }

// flush moves pending frames into the receive queue as far as its buffers go,
// and asks for a notification when they do not.
func (n *Net) flush() error {
	q := &n.transport.queues[netQueueReceive]
	defer n.signalReady()
	for len(n.pending) > 0 {
		done, seen, err := n.receive(n.pending[0])
		if err != nil {
			return err
		}
		if done {
			n.pending = n.pending[1:]
			continue
		}
		if more, err := q.wanted(seen); err != nil || !more {
			return err
		}
	}
	n.pending = nil
	return nil
}

// signalReady calls ready once after a refusal, when there is room.
func (n *Net) signalReady() {
	if n.refused && (len(n.pending) < MaxPendingFrames || !n.transport.live()) {
		n.refused = false
		n.ready()
	}
}

// receive writes a frame into the guest's buffers. When there are too few it
// takes none, and returns false and how many it saw. A frame that could never
// fit is dropped.
func (n *Net) receive(frame []byte) (done bool, seen uint16, err error) {
	q := &n.transport.queues[netQueueReceive]
	start := q.nextAvailable
	need := uint64(netHeaderSize + len(frame))
	merge := n.transport.negotiated(netFeatureMergeRX)

	// Most frames fit into one buffer. The others need to know how many there
	// are before the first is written, because its header says so.
	buffers, room := uint16(0), uint64(0)
	c, err := q.Pop()
	for ; err == nil && c != nil; c, err = q.Pop() {
		if c.WriteLen == 0 {
			return false, 0, fmt.Errorf("receive buffer of no bytes: %w", ErrOffence)
		}
		buffers, room = buffers+1, room+c.WriteLen
		if room >= need || !merge {
			break
		}
	}
	if err != nil {
		return false, 0, err
	}
	if room < need {
		q.nextAvailable = start
		if buffers == q.size || buffers == 1 && !merge {
			n.dropped++
			return true, 0, nil
		}
		return false, buffers, nil
	}
	if buffers > 1 {
		q.nextAvailable = start
		if c, err = q.Pop(); err != nil {
			return false, 0, err
		}
	}
	return true, 0, n.fill(q, c, buffers, frame)
}

// fill writes a frame with its header over a number of buffers, the first of
// which is c.
func (n *Net) fill(q *Queue, c *Chain, buffers uint16, frame []byte) error {
	var header [netHeaderSize]byte
	binary.LittleEndian.PutUint16(header[netNumBuffersField:], buffers)
	data := append(append(n.frame[:0], header[:]...), frame...)
	n.used = n.used[:0]
	for i := range buffers {
		if i > 0 {
			var err error
			if c, err = q.Pop(); err != nil {
				return err
			}
		}
		if c == nil {
			return fmt.Errorf("receive buffers were taken back: %w", ErrOffence)
		}
		written, err := c.Write(data, 0)
		if err != nil {
			return err
		}
		data = data[written:]
		n.used = append(n.used, usedElement{c.head, uint32(written)})
	}
	if len(data) > 0 {
		return fmt.Errorf("receive buffers shrank: %w", ErrOffence)
	}
	return q.Push(n.used...)
}

// Save implements Device.
func (n *Net) Save(s *understudyv1.VirtioState) error {
	s.Device = &understudyv1.VirtioState_Net{Net: &understudyv1.VirtioNetState{Pending: n.pending}}
	return nil
}

// Prepare implements Device.
func (n *Net) Prepare(s *understudyv1.VirtioState) (commit func(), err error) {
	state := s.GetNet()
	if state == nil || len(state.Pending) > MaxPendingFrames {
		return nil, fmt.Errorf("no network device, or more than %d pending frames", MaxPendingFrames)
	}
	for _, frame := range state.Pending {
		if len(frame) == 0 || len(frame) > MaxFrame {
			return nil, fmt.Errorf("pending frame of %d bytes", len(frame))
		}
	}
	return func() { n.pending = state.Pending }, nil
}

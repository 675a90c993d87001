package main

import (
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Bounds of delayed acknowledgements.
const (
	// ackDelay is how long an acknowledgement waits for data to travel with. Linux
	// lets it wait for 40 ms.
	ackDelay = 10 * time.Millisecond
	// maxAckFlows bounds the connections that are remembered.
	maxAckFlows = 4096
)

// delayedAcks holds back what the stack sends only to acknowledge. The stack does
// so for each segment that it takes; a client's own would let the acknowledgement
// travel with the next request, or acknowledge every second segment (RFC 9293,
// section 3.8.6.3), and a guest be spared half of its inputs.
//
// An acknowledgement waits only where new bytes have come is all that it says. What
// opens or ends a connection does not, nor a repeated acknowledgement, which tells
// of a loss or of another window.
type delayedAcks struct {
	send  func(frame []byte) // must not block
	after func(time.Duration, func(now time.Time))

	mu    sync.Mutex
	flows map[ackFlow]*ackState
	// waiting are the acknowledgements that were held, oldest first, also those
	// whose turn is over.
	waiting []heldAck
	// due: after was asked to call expire.
	due bool
}

// ackFlow are the addresses and ports of a connection as a frame has them.
type ackFlow [12]byte

type ackState struct {
	sent uint32 // the last acknowledgement that was sent
	held []byte // the frame that waits, or nil
	ack  uint32 // its acknowledgement
	turn uint64 // the number of frames that were held
}

type heldAck struct {
	flow  ackFlow
	turn  uint64
	until time.Time
}

func newDelayedAcks(send func(frame []byte)) *delayedAcks {
	return &delayedAcks{
		send: send, flows: map[ackFlow]*ackState{},
		after: func(d time.Duration, f func(time.Time)) { time.AfterFunc(d, func() { f(time.Now()) }) },
	}
}

// pass sends a frame of the stack, or holds it for ackDelay at most. Frames of one
// connection are sent in the order in which they came. It may be called by several
// goroutines.
func (d *delayedAcks) pass(now time.Time, frame []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := parseSegment(frame)
	if !ok {
		d.send(frame)
		return
	}
	f := d.flows[s.flow]
	switch {
	case f == nil:
		if len(d.flows) == maxAckFlows {
			d.forget()
		}
		if !s.ends {
			d.flows[s.flow] = &ackState{sent: s.ack}
		}
	case f.held != nil && (s.ends || s.pure && s.ack == f.ack || before(s.ack, f.ack)):
		// The frame does not say what the held one does.
		d.release(f)
	case f.held == nil && s.pure && before(f.sent, s.ack):
		f.held, f.ack, f.turn = frame, s.ack, f.turn+1
		d.hold(heldAck{s.flow, f.turn, now.Add(ackDelay)})
		return
	}
	if f != nil {
		f.held = nil
		if before(f.sent, s.ack) {
			f.sent = s.ack
		}
		if s.ends {
			delete(d.flows, s.flow)
		}
	}
	d.send(frame)
}

// before compares sequence numbers.
func before(a, b uint32) bool { return int32(a-b) < 0 }

func (d *delayedAcks) hold(h heldAck) {
	d.waiting = append(d.waiting, h)
	if !d.due {
		d.due = true
		d.after(ackDelay, d.expire)
	}
}

// expire sends what has waited long enough.
func (d *delayedAcks) expire(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for ; n < len(d.waiting) && !d.waiting[n].until.After(now); n++ {
		h := d.waiting[n]
		if f := d.flows[h.flow]; f != nil && f.turn == h.turn {
			d.release(f)
		}
	}
	d.waiting = append(d.waiting[:0], d.waiting[n:]...)
	if d.due = len(d.waiting) > 0; d.due {
		d.after(d.waiting[0].until.Sub(now), d.expire)
	}
}

// release sends what a connection holds, if anything.
func (d *delayedAcks) release(f *ackState) {
	if f.held != nil {
		d.send(f.held)
		f.sent, f.held = f.ack, nil
	}
}

// forget makes room: connections that are still in use are known again after
// their next frame.
func (d *delayedAcks) forget() {
	for _, f := range d.flows {
		d.release(f)
	}
	clear(d.flows)
}

// segment is what matters here of a TCP segment.
type segment struct {
	flow ackFlow
	ack  uint32
	// pure: it has neither data nor flags, nor options but time stamps.
	pure bool
	// ends: FIN or RST.
	ends bool
}

// parseSegment reads a frame. It returns false for what is no whole TCP segment
// with an acknowledgement, or opens a connection.
func parseSegment(frame []byte) (s segment, ok bool) {
	if len(frame) < header.EthernetMinimumSize || header.Ethernet(frame).Type() != header.IPv4ProtocolNumber {
		return s, false
	}
	ip := header.IPv4(frame[header.EthernetMinimumSize:])
	if !ip.IsValid(len(ip)) || ip.TransportProtocol() != header.TCPProtocolNumber || ip.More() || ip.FragmentOffset() != 0 {
		return s, false
	}
	tcp := header.TCP(ip.Payload())
	if len(tcp) < header.TCPMinimumSize || int(tcp.DataOffset()) < header.TCPMinimumSize || int(tcp.DataOffset()) > len(tcp) {
		return s, false
	}
	flags := tcp.Flags()
	if flags.Contains(header.TCPFlagSyn) || !flags.Intersects(header.TCPFlagAck|header.TCPFlagRst) {
		return s, false
	}
	source, destination := ip.SourceAddress().As4(), ip.DestinationAddress().As4()
	copy(s.flow[0:], source[:])
	copy(s.flow[4:], destination[:])
	copy(s.flow[8:], tcp[:4])
	s.ack = tcp.AckNumber()
	s.pure = flags == header.TCPFlagAck && int(tcp.DataOffset()) == len(tcp) && len(tcp) <= header.TCPMinimumSize+timeStampsSize
	s.ends = flags.Intersects(header.TCPFlagFin | header.TCPFlagRst)
	return s, true
}

// timeStampsSize is the size in bytes of the time stamps option, padded.
const timeStampsSize = 12

package sim

import (
	"bytes"
	"encoding/binary"
	"slices"
	"time"

	"github.com/understudy-ft/understudy/services/packet"
)

// addr is one end of a connection.
type addr struct {
	ip   [4]byte
	port uint16
}

// endpoint is one side of a TCP connection (RFC 9293) with timestamps (RFC
// 7323) and SACK (RFC 2018), as plain data: guests and clients run the same
// code. Offsets count from the SYN of their direction, which has offset 0; a FIN
// follows the last byte. Segments have random lengths, acknowledgements come at
// once or late: two copies never cut a stream alike. There is no congestion
// control, and nothing is forgotten at the end: a closed endpoint answers what
// is repeated.
type endpoint struct {
	local, remote addr
	opener        bool // sent the first SYN
	iss, irs      uint32
	synced        bool // irs is known

	out           []byte // all that was ever written: byte i has offset i+1
	closing       bool   // a FIN follows out
	una, nxt, max uint64 // lowest not acknowledged, next to send, highest sent
	window        uint64 // the peer's right edge

	in      []byte // all that came in order
	read    int    // of in, by the application
	rcv     uint64 // next expected
	peerFIN uint64 // 0: none
	said    uint64 // the highest acknowledgement sent
	early   []piece

	ts, sack bool
	tsBase   uint32 // added to the clock in milliseconds
	recent   uint32 // the peer's timestamp to echo

	rto, due, ackDue time.Duration
	broken           bool // by RST
}

// piece is data that came out of order.
type piece struct {
	at   uint64
	data []byte
}

// stack is what an endpoint runs on for the time of one call.
type stack struct {
	w    *world
	now  time.Duration // the host's clock
	send func(frame []byte)
	disk *replica // nil: none
}

const (
	rtoMin   = 200 * time.Millisecond
	rtoMax   = 2 * time.Second
	ackLate  = 40 * time.Millisecond
	tcpSpace = 40000 // receive window
	tcpScale = 2
)

// newEndpoint makes an endpoint with a random initial sequence number, which
// offers timestamps and SACK.
func newEndpoint(w *world, local, remote addr) *endpoint {
	return &endpoint{local: local, remote: remote, iss: w.rng.Uint32(), tsBase: w.rng.Uint32(), ts: true, sack: true, rto: rtoMin}
}

// clone copies what may change; in and out are only ever appended to.
func (e *endpoint) clone() *endpoint {
	c := *e
	c.out, c.in = c.out[:len(c.out):len(c.out)], c.in[:len(c.in):len(c.in)]
	c.early = slices.Clone(c.early)
	return &c
}

// end is the offset after all that is to be sent.
func (e *endpoint) end() uint64 {
	n := 1 + uint64(len(e.out))
	if e.closing {
		n++
	}
	return n
}

// finished: both directions are closed and acknowledged.
func (e *endpoint) finished() bool {
	return e.broken || e.closing && e.una == e.end() && e.peerFIN != 0 && e.rcv > e.peerFIN
}

// eof: the peer has said all.
func (e *endpoint) eof() bool { return e.peerFIN != 0 && e.rcv > e.peerFIN }

// line takes a line of the application's, if there is a whole one.
func (e *endpoint) line() (string, bool) {
	n := bytes.IndexByte(e.in[e.read:], '\n')
	if n < 0 {
		return "", false
	}
	s := string(e.in[e.read : e.read+n])
	e.read += n + 1
	return s, true
}

func (e *endpoint) write(s string) { e.out = append(e.out, s...) }

// next is when the endpoint wants to be called by tick; 0: not.
func (e *endpoint) next() time.Duration {
	if e.due == 0 || e.ackDue != 0 && e.ackDue < e.due {
		return e.ackDue
	}
	return e.due
}

// tick lets time pass.
func (e *endpoint) tick(s *stack) {
	if e.broken {
		e.due, e.ackDue = 0, 0
		return
	}
	if e.due != 0 && s.now >= e.due {
		e.rto = min(2*e.rto, rtoMax)
		e.due = s.now + e.rto
		e.segment(s, e.una, e.max)
	}
	if e.ackDue != 0 && s.now >= e.ackDue {
		e.segment(s, e.nxt, e.nxt)
	}
}

// transmit sends what the peer's window lets.
func (e *endpoint) transmit(s *stack) {
	if e.nxt == 0 {
		e.nxt = e.segment(s, 0, 1)
	}
	for e.una > 0 && e.nxt < e.end() && e.nxt < e.window {
		e.nxt = e.segment(s, e.nxt, min(e.end(), max(e.window, e.nxt+1)))
	}
	if e.una < e.max && e.due == 0 {
		e.due = s.now + e.rto
	}
}

// segment sends one segment from an offset on, no further than to, and returns
// where it ends. Nothing to send makes an acknowledgement.
func (e *endpoint) segment(s *stack, from, to uint64) uint64 {
	flags, opts := uint8(0), []byte(nil)
	var data []byte
	at := from
	if e.synced {
		flags |= packet.ACK
	}
	if from == 0 && to > 0 {
		flags |= packet.SYN
		opts = append(opts, 2, 4, 0x05, 0xb4, 3, 3, tcpScale, 1)
		if e.sack {
			opts = append(opts, 4, 2, 1, 1)
		}
		at = 1
	} else if from < to {
		n := min(to, 1+uint64(len(e.out)))
		if n > from {
			most := uint64(1 + s.w.rng.IntN(1460))
			if s.w.chance(0.5) {
				most = 1460
			}
			n = min(n, from+most)
			data = e.out[from-1 : n-1]
			at = n
		}
		if at == 1+uint64(len(e.out)) && e.closing && at < to {
			flags |= packet.FIN
			at++
		}
		if len(data) > 0 {
			flags |= packet.PSH
		}
	}
	if e.ts {
		v := binary.BigEndian.AppendUint32([]byte{1, 1, 8, 10}, e.stamp(s))
		opts = append(opts, binary.BigEndian.AppendUint32(v, e.recent)...)
	}
	if e.sack && len(e.early) > 0 && flags&packet.SYN == 0 {
		p := e.early[0]
		v := binary.BigEndian.AppendUint32([]byte{1, 1, 5, 10}, e.irs+uint32(p.at))
		opts = append(opts, binary.BigEndian.AppendUint32(v, e.irs+uint32(p.at)+uint32(len(p.data)))...)
	}
	window := uint16(tcpSpace >> tcpScale)
	if flags&packet.SYN != 0 {
		window = tcpSpace
	}
	e.max = max(e.max, at)
	e.said = max(e.said, e.rcv)
	e.ackDue = 0
	s.send(segmentFrame(e.local, e.remote, e.iss+uint32(from), e.irs+uint32(e.rcv), flags, window, opts, data))
	return at
}

// stamp is the timestamp of now.
func (e *endpoint) stamp(s *stack) uint32 { return e.tsBase + uint32(s.now/time.Millisecond) }

// take lets a segment in and answers it. A problem is what a real stack would
// never meet on a connection that is served rightly.
func (e *endpoint) take(s *stack, p *packet.Packet) (problem string) {
	syn, fin := p.Flags&packet.SYN != 0, p.Flags&packet.FIN != 0
	if p.Flags&packet.RST != 0 {
		if e.finished() || !e.synced && p.Ack-e.iss != uint32(e.nxt) {
			return ""
		}
		e.broken = true
		return "was reset"
	}
	if syn {
		switch {
		case !e.synced:
			if p.Flags&packet.ACK != 0 && p.Ack != e.iss+1 {
				return "answers a SYN that was not sent"
			}
			e.synced, e.irs, e.rcv = true, p.Seq, 1
			e.ts, e.sack, e.recent = e.ts && p.HasTS(), e.sack && p.SACKPermitted, p.TSval
		case p.Seq != e.irs:
			e.ack(s)
			return "has another initial sequence number"
		default:
			e.again(s)
		}
	}
	if !e.synced {
		return ""
	}
	at := int64(e.rcv) + int64(int32(p.Seq-e.irs-uint32(e.rcv)))
	if !syn && (at > int64(e.rcv)+tcpSpace || at+int64(len(p.Payload))+1 < int64(e.rcv)-(1<<16)) {
		e.ack(s) // not of this connection
		return ""
	}
	if e.ts && p.HasTS() && !syn {
		if int32(p.TSval-e.recent) < 0 {
			e.ack(s) // too old (RFC 7323 section 5)
			return ""
		}
		if at <= int64(e.rcv) {
			e.recent = p.TSval
		}
		if int32(p.TSecr-e.stamp(s)) > 0 {
			return "echoes a timestamp of the future"
		}
	}
	if p.Flags&packet.ACK != 0 {
		a := int64(e.una) + int64(int32(p.Ack-e.iss-uint32(e.una)))
		if a > int64(e.max) {
			e.ack(s)
			return "acknowledges what was not sent"
		}
		for i := range p.SACKBlocks {
			right := binary.BigEndian.Uint32(p.Frame[p.SACKAt+8*i+4:])
			if r := int64(e.una) + int64(int32(right-e.iss-uint32(e.una))); r > int64(e.max) || r < 0 {
				return "acknowledges selectively what was not sent"
			}
		}
		if a > int64(e.una) {
			e.una, e.rto, e.due = uint64(a), rtoMin, 0
			e.nxt = max(e.nxt, e.una)
		}
		scale := uint64(tcpScale)
		if syn {
			scale = 0
		}
		if a >= 0 {
			e.window = max(e.window, uint64(a)+uint64(p.Window)<<scale)
		}
	}
	if !syn && (len(p.Payload) > 0 || fin) {
		problem = e.data(s, at, p.Payload, fin)
	} else if syn && e.opener || e.nxt > 0 && at < int64(e.rcv) && !syn {
		e.ackDue = s.now
	}
	e.transmit(s)
	if e.ackDue != 0 && s.now >= e.ackDue {
		e.ack(s)
	}
	return problem
}

// ack answers at once.
func (e *endpoint) ack(s *stack) {
	if e.nxt > 0 && e.synced {
		e.segment(s, e.nxt, e.nxt)
	}
}

// again answers a SYN that was said before.
func (e *endpoint) again(s *stack) {
	if e.una == 0 && e.nxt > 0 {
		e.segment(s, 0, 1)
	} else {
		e.ack(s)
	}
}

// data takes payload that begins at an offset, maybe with a FIN behind it.
func (e *endpoint) data(s *stack, at int64, data []byte, fin bool) (problem string) {
	if fin {
		end := uint64(at + int64(len(data)))
		if e.peerFIN != 0 && e.peerFIN != end {
			return "ends twice"
		}
		e.peerFIN = end
	}
	if at < 1 {
		return "begins before its begin"
	}
	// What came before must be the same again.
	have := e.in[min(int(at-1), len(e.in)):]
	if n := min(len(have), len(data)); !bytes.Equal(have[:n], data[:n]) {
		return "has other bytes than before"
	}
	if uint64(at) > e.rcv {
		if len(data) > 0 && len(e.early) < 8 {
			e.early = append(e.early, piece{uint64(at), bytes.Clone(data)})
		}
		e.ackDue = s.now
		return ""
	}
	if uint64(at)+uint64(len(data)) < e.rcv || len(data) > 0 && uint64(at)+uint64(len(data)) == e.rcv {
		e.ackDue = s.now // nothing new
	}
	e.accept(uint64(at), data)
	for i := 0; i < len(e.early); i++ {
		if p := e.early[i]; p.at <= e.rcv {
			e.early = slices.Delete(e.early, i, i+1)
			e.accept(p.at, p.data)
			i = -1
		}
	}
	if e.peerFIN != 0 && e.rcv == e.peerFIN {
		e.rcv++
	}
	switch {
	case fin || s.w.chance(0.5):
		e.ackDue = s.now
	case e.ackDue == 0:
		e.ackDue = s.now + ackLate
	}
	return ""
}

func (e *endpoint) accept(at uint64, data []byte) {
	if skip := e.rcv - at; skip < uint64(len(data)) {
		e.in = append(e.in, data[skip:]...)
		e.rcv += uint64(len(data)) - skip
	}
}

// segmentFrame is a TCP segment in IPv4 with right checksums.
func segmentFrame(from, to addr, seq, ack uint32, flags uint8, window uint16, opts, data []byte) []byte {
	const l3, l4 = 14, 34
	b := make([]byte, l4+20+len(opts), l4+20+len(opts)+len(data))
	ethernet(b, from.ip, to.ip)
	be := binary.BigEndian
	b[l3] = 0x45
	be.PutUint16(b[l3+2:], uint16(40+len(opts)+len(data)))
	b[l3+8], b[l3+9] = 64, packet.ProtoTCP
	copy(b[l3+12:], from.ip[:])
	copy(b[l3+16:], to.ip[:])
	be.PutUint16(b[l3+10:], packet.Checksum(b[l3:l4], 0))
	be.PutUint16(b[l4:], from.port)
	be.PutUint16(b[l4+2:], to.port)
	be.PutUint32(b[l4+4:], seq)
	be.PutUint32(b[l4+8:], ack)
	b[l4+12] = byte(5+len(opts)/4) << 4
	b[l4+13] = flags
	be.PutUint16(b[l4+14:], window)
	copy(b[l4+20:], opts)
	b = append(b, data...)
	pseudo := uint32(packet.ProtoTCP) + uint32(len(b)-l4)
	for i := l3 + 12; i < l3+20; i += 2 {
		pseudo += uint32(be.Uint16(b[i:]))
	}
	be.PutUint16(b[l4+16:], packet.Checksum(b[l4:], pseudo))
	return b
}

// datagram is a UDP frame, without the optional checksum.
func datagram(from, to addr, text string) []byte {
	b := make([]byte, 42, 42+len(text))
	ethernet(b, from.ip, to.ip)
	be := binary.BigEndian
	b[14] = 0x45
	be.PutUint16(b[16:], uint16(28+len(text)))
	b[22], b[23] = 64, packet.ProtoUDP
	copy(b[26:], from.ip[:])
	copy(b[30:], to.ip[:])
	be.PutUint16(b[24:], packet.Checksum(b[14:34], 0))
	be.PutUint16(b[34:], from.port)
	be.PutUint16(b[36:], to.port)
	be.PutUint16(b[38:], uint16(8+len(text)))
	return append(b, text...)
}

func ethernet(b []byte, from, to [4]byte) {
	copy(b, []byte{2, 0, to[0], to[1], to[2], to[3], 2, 0, from[0], from[1], from[2], from[3], 8, 0})
}

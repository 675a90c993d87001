package flow

import (
	"bytes"
	"fmt"
	"net/netip"

	"pgregory.net/rapid"
)

// endpoint is a small TCP for tests. It is strict where a real one is: it
// refuses what a stack would drop or reset for. Offsets count from the SYN.
type endpoint struct {
	t             *rapid.T
	name          string
	local, remote netip.AddrPort
	guest         bool

	isn, irs  uint32
	synced    bool // irs is known
	una, nxt  uint64
	top       uint64 // highest nxt ever, nxt goes back for repetitions
	app       []byte // to send, from offset 1
	finished  bool   // FIN follows app
	rcv       uint64
	in        []byte
	peerFIN   bool
	ahead     map[uint64][]byte // out of order
	scale     uint8
	peerScale uint8
	edge      uint64 // the peer's window
	window    uint16

	tsBase   uint32
	now      func() uint32
	synTS    uint32
	lastTS   uint32
	tsRecent uint32
	dropped  int // by PAWS

	// echo answers each byte received by another.
	echo  bool
	sends [][]byte
}

func (e *endpoint) clone() *endpoint {
	c := *e
	c.app, c.in = bytes.Clone(e.app), bytes.Clone(e.in)
	c.ahead = map[uint64][]byte{}
	c.sends = nil
	return &c
}

func (e *endpoint) failf(format string, args ...any) {
	e.t.Helper()
	e.t.Fatalf("%s: %s", e.name, fmt.Sprintf(format, args...))
}

func (e *endpoint) open() { e.emit(0, 1, 0) }

// emit sends the offsets [from, to), with flags added.
func (e *endpoint) emit(from, to uint64, flags uint8) {
	ts := e.tsBase + e.now()
	if int32(ts-e.lastTS) < 0 && e.top > 0 {
		e.failf("own clock runs backward")
	}
	e.lastTS = ts
	s := seg{from: e.local, to: e.remote, seq: e.isn + uint32(from), flags: flags, window: e.window, ts: &[2]uint32{ts, 0}}
	if e.synced {
		s.flags |= fACK
		s.ack = e.irs + uint32(e.rcv)
		s.ts[1] = e.tsRecent
		// One block: the first of what is ahead.
		for at, b := range e.ahead {
			if s.sack == nil || e.irs+uint32(at) == s.sack[0] {
				s.sack = []uint32{e.irs + uint32(at), e.irs + uint32(at) + uint32(len(b))}
			}
		}
	}
	if from == 0 {
		s.flags |= fSYN
		s.mss, s.scale, s.sackOK = 1460, int(e.scale), true
		if e.top == 0 {
			e.synTS = ts
		}
		from = 1
	}
	last := uint64(len(e.app)) + 1
	if from < min(to, last) {
		s.payload = e.app[from-1 : min(to, last)-1]
	}
	if e.finished && from <= last && to == last+1 {
		s.flags |= fFIN
	}
	e.nxt, e.top = max(e.nxt, to), max(e.top, to)
	e.sends = append(e.sends, s.frame())
}

// push sends what there is to send, in random segments.
func (e *endpoint) push() {
	end := uint64(len(e.app)) + 1
	if e.finished {
		end++
	}
	for e.nxt < end {
		e.emit(e.nxt, min(end, e.nxt+uint64(rapid.IntRange(1, 900).Draw(e.t, e.name+" size"))), 0)
	}
}

// timeout sends the first unacknowledged segment again.
func (e *endpoint) timeout() {
	switch {
	case e.nxt == 0: // no connection yet
	case e.una == 0:
		e.emit(0, 1, 0)
	case e.una < e.nxt:
		e.emit(e.una, min(e.nxt, e.una+500), 0)
	default:
		e.emit(e.nxt, e.nxt, 0)
	}
}

func (e *endpoint) receive(frame []byte) {
	p := parse(e.t, frame)
	if p.Flags&fRST != 0 {
		e.failf("got a reset")
	}
	syn := p.Flags&fSYN != 0
	if p.Flags&fACK != 0 {
		una := int64(e.una) + int64(int32(p.Ack-e.isn-uint32(e.una)))
		if una < 0 || uint64(una) > e.top {
			e.failf("acknowledged %d, sent %d", una, e.top)
		}
		if int32(p.TSecr-e.lastTS) > 0 || int32(p.TSecr-e.synTS) < 0 && syn {
			e.failf("echoes timestamp %d; sent %d to %d", p.TSecr, e.synTS, e.lastTS)
		}
		for i := range p.SACKBlocks * 2 {
			edge := int64(e.una) + int64(int32(be.Uint32(frame[p.SACKAt+4*i:])-e.isn-uint32(e.una)))
			if edge < una || uint64(edge) > e.top {
				e.failf("SACK edge %d, acknowledged %d, sent %d", edge, una, e.top)
			}
		}
		e.una = max(e.una, uint64(una))
		if !syn {
			edge := uint64(una) + uint64(p.Window)<<e.peerScale
			if edge+1<<e.peerScale <= e.edge && uint64(una) >= e.una {
				e.failf("window shrank from %d to %d", e.edge, edge)
			}
			e.edge = max(e.edge, edge)
		}
	}
	if e.synced && int32(p.TSval-e.tsRecent) < 0 {
		e.dropped++
		e.emit(e.nxt, e.nxt, 0)
		return
	}
	if syn {
		if e.synced && p.Seq != e.irs {
			e.failf("another SYN %d, had %d", p.Seq, e.irs)
		}
		fresh := !e.synced
		e.synced, e.irs, e.peerScale, e.tsRecent = true, p.Seq, p.WindowScale, p.TSval
		e.rcv = max(e.rcv, 1)
		switch {
		case e.nxt == 0 || e.una == 0:
			e.emit(0, 1, 0) // SYN-ACK
		case fresh:
			e.push()
			e.emit(e.nxt, e.nxt, 0)
		default:
			e.emit(e.nxt, e.nxt, 0)
		}
		return
	}
	if !e.synced {
		e.failf("segment before SYN")
	}
	at := int64(e.rcv) + int64(int32(p.Seq-e.irs-uint32(e.rcv)))
	end := uint64(at) + uint64(len(p.Payload))
	if at < 0 || at > int64(e.rcv)+1<<20 {
		e.failf("segment at %d, expected %d", at, e.rcv)
	}
	e.tsRecent = p.TSval
	before := e.rcv
	switch {
	case uint64(at) > e.rcv:
		if len(e.ahead) == 0 && len(p.Payload) > 0 {
			e.ahead[uint64(at)] = bytes.Clone(p.Payload)
		}
		e.emit(e.nxt, e.nxt, 0)
		return
	case end > e.rcv:
		e.accept(p.Payload[e.rcv-uint64(at):])
		for next, b := range e.ahead {
			if next <= e.rcv && next+uint64(len(b)) > e.rcv {
				e.accept(b[e.rcv-next:])
			}
		}
		clear(e.ahead)
	}
	if p.Flags&fFIN != 0 && end == e.rcv && !e.peerFIN {
		e.peerFIN = true
		e.rcv++
		if e.guest {
			e.finished = true
		}
	}
	e.push()
	if e.rcv != before || end > uint64(at) {
		e.emit(e.nxt, e.nxt, 0)
	}
}

func (e *endpoint) accept(b []byte) {
	e.in = append(e.in, b...)
	e.rcv += uint64(len(b))
	if e.echo {
		for _, c := range b {
			e.app = append(e.app, c^0x5a)
		}
	}
}

// take returns and forgets what was sent.
func (e *endpoint) take() [][]byte {
	s := e.sends
	e.sends = nil
	return s
}

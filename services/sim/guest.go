package sim

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/understudy-ft/understudy/services/packet"
)

// guest is a toy guest: a service that counts, asked by datagrams and over TCP.
// A question "client n op" is answered with "client n value": "inc" adds one to
// a counter, "coin" one or two as each copy throws it for itself, "get" nothing,
// and "call" adds one, too, but tells the value to the client over a connection
// that the guest opens, before it answers. A question that is repeated gets its
// answer repeated.
type guest struct {
	state guestState
	// paused guests do nothing; what they do next waits.
	paused bool
	// offset added to the host's clock gives the guest's.
	offset time.Duration
	busy   bool
	rested time.Duration // of the host's clock: when it had last served an input
	// flushes counts those asked for; only the last one's end counts.
	flushes int
	timer   time.Duration // of the host's clock: when the next one is set for
}

// guestState is what a checkpoint carries.
type guestState struct {
	counter int
	answers map[int]answer // the last one of each client
	inbox   [][]byte
	conns   map[connKey]*guestConn
	latest  map[tuple]connKey
	live    []connKey // not finished, in order of opening
	port    uint16    // of the last connection that the guest opened

	// seq numbers the records on the disk; owed are answers that wait for the
	// next, committing those that wait for one to be durable.
	seq              uint64
	owed, committing []question

	// For the checker: values said by datagram, by client and question, and
	// a hash of each input that the guest was given.
	made      map[int][]int
	delivered []uint64
	thrown    []string // to the asker
}

type answer struct {
	n, value int
	pending  bool // until a call has ended
}

// tuple names a connection while it lasts, connKey for good: isn is the peer's
// initial sequence number where the peer opened it, else 0, and the guest's
// port is never used again.
type tuple struct {
	peer addr
	port uint16
}

type connKey struct {
	tuple
	isn uint32
}

// question is what a client wants to know; by is the connection that it came
// over, or zero.
type question struct {
	client, n int
	op        string
	by        connKey
}

// parseQuestion reads "client n op" and maybe more.
func parseQuestion(s string) (q question, ok bool) {
	f := strings.SplitN(s, " ", 4)
	if len(f) < 3 {
		return q, false
	}
	var err1, err2 error
	q.client, err1 = strconv.Atoi(f[0])
	q.n, err2 = strconv.Atoi(f[1])
	q.op = f[2]
	return q, err1 == nil && err2 == nil
}

// parseAnswer reads "client n value" and maybe more.
func parseAnswer(s string) (client, n, value int, rest string, ok bool) {
	f := strings.SplitN(s, " ", 4)
	if len(f) < 3 {
		return 0, 0, 0, "", false
	}
	if len(f) == 4 {
		rest = f[3]
	}
	var errs [3]error
	client, errs[0] = strconv.Atoi(f[0])
	n, errs[1] = strconv.Atoi(f[1])
	value, errs[2] = strconv.Atoi(f[2])
	return client, n, value, rest, errs == [3]error{}
}

// guestConn is a connection of the guest.
type guestConn struct {
	*endpoint
	key connKey
	// call is the question that the guest opened the connection for.
	call question
	// waiting: a call has to end before the next line is read.
	waiting bool
}

const (
	guestInbox  = 16
	servicePort = 80
	callPort    = 7000
	udpPort     = 53
)

var guestIP = [4]byte{10, 0, 0, 1}

func clientIP(c int) [4]byte { return [4]byte{10, 0, 1, byte(c)} }

func newGuest() *guest {
	return &guest{state: guestState{answers: map[int]answer{}, conns: map[connKey]*guestConn{}, latest: map[tuple]connKey{},
		made: map[int][]int{}, port: 40000}}
}

func (s *guestState) clone() guestState {
	c := *s
	c.answers, c.latest, c.made = maps.Clone(s.answers), maps.Clone(s.latest), maps.Clone(s.made)
	for k, v := range c.made {
		c.made[k] = v[:len(v):len(v)]
	}
	c.inbox, c.owed, c.committing = slices.Clone(s.inbox), slices.Clone(s.owed), slices.Clone(s.committing)
	c.delivered = s.delivered[:len(s.delivered):len(s.delivered)]
	c.conns = make(map[connKey]*guestConn, len(s.conns))
	for k, v := range s.conns {
		if !v.finished() || v.next() != 0 { // others are not changed any more
			v = &guestConn{endpoint: v.endpoint.clone(), key: v.key, call: v.call, waiting: v.waiting}
		}
		c.conns[k] = v
	}
	c.live = slices.Clone(s.live)
	return c
}

// said tells whether the guest has answered a question by a datagram so.
func (s *guestState) said(client, n, value int) bool {
	m := s.made[client]
	return n >= 1 && n <= len(m) && m[n-1] == value
}

// input is an input without what is translated for one copy.
func inputHash(frame []byte) uint64 {
	var p packet.Packet
	p.Parse(frame)
	if p.Form != packet.TCP {
		return xxh3.Hash(frame)
	}
	var b [16]byte
	copy(b[:], p.Src[:4])
	binary.LittleEndian.PutUint16(b[4:], p.SrcPort)
	binary.LittleEndian.PutUint32(b[6:], p.Seq)
	b[10] = p.Flags
	return xxh3.HashSeed(p.Payload, xxh3.Hash(b[:]))
}

// deliver gives the guest an input, which is served later.
func (g *guest) deliver(frame []byte) {
	g.state.delivered = append(g.state.delivered, inputHash(frame))
	g.state.inbox = append(g.state.inbox, slices.Clone(frame))
}

// serve takes the oldest input. A problem is one that the guest must never meet.
func (g *guest) serve(s *stack) (problem string) {
	at := 0
	// Scheduling: once in a while another input is served first.
	if len(g.state.inbox) > 1 && s.w.chance(s.w.opt.reorder) {
		at = 1
	}
	frame := g.state.inbox[at]
	g.state.inbox = slices.Delete(g.state.inbox, at, at+1)
	var p packet.Packet
	p.Parse(frame)
	switch p.Form {
	case packet.UDP:
		if p.DstPort == dicePort {
			g.dice(s, &p)
		} else if q, ok := parseQuestion(string(p.Payload)); ok {
			g.ask(s, q)
		}
	case packet.TCP:
		if p.TransportChecksum() != 0 {
			return "has a wrong checksum"
		}
		return g.segment(s, &p)
	}
	return ""
}

// segment takes a TCP segment.
func (g *guest) segment(s *stack, p *packet.Packet) (problem string) {
	st := &g.state
	t := tuple{addr{[4]byte(p.Src[:4]), p.SrcPort}, p.DstPort}
	c := st.conns[st.latest[t]]
	if p.Flags&(packet.SYN|packet.ACK) == packet.SYN && t.port == servicePort && (c == nil || c.finished() && p.Seq != c.irs) {
		key := connKey{t, p.Seq}
		if st.conns[key] != nil {
			return "" // a late copy of an old SYN
		}
		c = &guestConn{endpoint: newEndpoint(s.w, addr{guestIP, t.port}, t.peer), key: key}
		g.add(c)
	}
	if c == nil {
		if p.Flags&packet.RST == 0 {
			s.send(segmentFrame(addr{guestIP, t.port}, t.peer, p.Ack, p.Seq+uint32(len(p.Payload)), packet.RST|packet.ACK, 0, nil, nil))
		}
		return ""
	}
	if c.finished() {
		c = &guestConn{endpoint: c.endpoint.clone(), key: c.key, call: c.call}
		st.conns[c.key] = c
	}
	switch problem = c.take(s, p); problem {
	case "has another initial sequence number", "was reset":
		problem = "" // a late SYN of an earlier connection; a client that has given up
	case "":
	default:
		problem = fmt.Sprintf("input on %v %s", c.key, problem)
	}
	g.app(s, c)
	return problem
}

func (g *guest) add(c *guestConn) {
	g.state.conns[c.key], g.state.latest[c.key.tuple] = c, c.key
	g.state.live = append(g.state.live, c.key)
}

// app does what the service does with what a connection has brought.
func (g *guest) app(s *stack, c *guestConn) {
	if c.opener {
		if line, ok := c.line(); ok && line == "ok" {
			c.closing = true
			g.called(s, c.call)
		}
		c.transmit(s)
		return
	}
	for !c.waiting && !c.closing {
		line, ok := c.line()
		if !ok {
			break
		}
		if line == "quit" {
			c.closing = true
		}
		if q, ok := parseQuestion(line); ok {
			q.by = c.key
			g.ask(s, q)
		}
	}
	if c.eof() && !c.waiting {
		c.closing = true
	}
	c.transmit(s)
}

// ask takes a question.
func (g *guest) ask(s *stack, q question) {
	st := &g.state
	last := st.answers[q.client]
	switch {
	case q.n < last.n || q.n == last.n && (last.pending || st.owes(q.client)):
		return
	case q.n > last.n:
		switch q.op {
		case "inc", "call":
			st.counter++
		case "coin":
			st.counter += 1 + s.w.rng.IntN(2)
		}
		last = answer{n: q.n, value: st.counter, pending: q.op == "call"}
		st.answers[q.client] = last
		if s.disk != nil {
			g.owe(s, q)
			return
		}
		if last.pending {
			g.call(s, q, last.value)
			return
		}
	}
	g.answer(s, q, last.value)
}

// call opens a connection to the client.
func (g *guest) call(s *stack, q question, value int) {
	st := &g.state
	st.port++
	e := newEndpoint(s.w, addr{guestIP, st.port}, addr{clientIP(q.client), callPort})
	e.opener = true
	e.write(fmt.Sprintf("%d %d %d\n", q.client, q.n, value))
	c := &guestConn{endpoint: e, key: connKey{tuple: tuple{e.remote, st.port}}, call: q}
	g.add(c)
	if by := st.conns[q.by]; by != nil {
		by.waiting = true
	}
	c.transmit(s)
}

// called ends a call.
func (g *guest) called(s *stack, q question) {
	last := g.state.answers[q.client]
	if last.n != q.n || !last.pending {
		return
	}
	last.pending = false
	g.state.answers[q.client] = last
	g.answer(s, q, last.value)
	if by := g.state.conns[q.by]; by != nil {
		by.waiting = false
		g.app(s, by)
	}
}

// answer says the answer, the way that the question came.
func (g *guest) answer(s *stack, q question, value int) {
	if c := g.state.conns[q.by]; c != nil {
		c.write(fmt.Sprintf("%d %d %d %s\n", q.client, q.n, value, filler(q.client, q.n)))
		return // app transmits it
	}
	m := g.state.made[q.client]
	for len(m) < q.n {
		m = append(m, 0)
	}
	m[q.n-1] = value
	g.state.made[q.client] = m
	s.send(datagram(addr{guestIP, udpPort}, addr{clientIP(q.client), udpPort}, fmt.Sprintf("%d %d %d", q.client, q.n, value)))
}

// filler makes some answers longer than a segment.
func filler(client, n int) string {
	h := xxh3.HashSeed(nil, uint64(client)<<32|uint64(n))
	size := int(h % 40)
	if h>>8%8 == 0 {
		size = int(h >> 16 % 6000)
	}
	return strings.Repeat(string(rune('a'+h%26)), size)
}

// next is when the guest's next timer is due, on its own clock; 0: none.
func (g *guest) next() (at time.Duration) {
	live := g.state.live[:0]
	for _, k := range g.state.live {
		c := g.state.conns[k]
		if t := c.next(); t != 0 && (at == 0 || t < at) {
			at = t
		}
		if !c.finished() || c.next() != 0 {
			live = append(live, k)
		}
	}
	g.state.live = live
	return at
}

// tick runs the timers that are due.
func (g *guest) tick(s *stack) {
	for _, k := range g.state.live {
		g.state.conns[k].tick(s)
	}
}

// thinking is how long the guest takes for an input.
func (w *world) thinking() time.Duration { return w.between(20*time.Microsecond, w.opt.think) }

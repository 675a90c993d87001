package sim

import (
	"fmt"
	"slices"
	"time"

	"github.com/understudy-ft/understudy/services/packet"
)

// client asks one question after the other, by datagrams that it repeats, or
// over TCP connections that it opens and closes.
type client struct {
	v       *vm
	number  int
	tcp     bool
	n       int
	asked   time.Duration
	op      string
	waiting bool
	told    int // the value that a call brought for this question; 0: none

	answered int
	longest  time.Duration

	conn  *endpoint // that the next question goes over, of a TCP client
	lines int       // questions left for it
	ends  map[ports]*clientEnd
	order []ports // of ends that may have a timer
	armed time.Duration
}

// ports names a connection of a client.
type ports struct{ local, guest uint16 }

type clientEnd struct {
	*endpoint
	// reuse is when the ports may be used again (TIME_WAIT); 0: never.
	reuse time.Duration
	quit  bool // the guest closes first
	// boots is how often the guest had been booted when it was opened.
	boots int
}

const (
	timeWait = 3 * time.Second
	// rebootNoticed is how long clients take at most to notice that the guest has
	// forgotten their connections.
	rebootNoticed = time.Second
)

func (v *vm) newClient(number int) {
	w := v.w
	c := &client{v: v, number: number, tcp: w.chance(w.opt.tcp), ends: map[ports]*clientEnd{}}
	v.clients = append(v.clients, c)
	w.schedule(w.now+w.between(0, 100*time.Millisecond), c.ask)
}

func (c *client) stack() *stack {
	return &stack{w: c.v.w, now: c.v.w.now, send: c.v.toGuest}
}

func (c *client) ask() {
	w := c.v.w
	c.n++
	c.waiting, c.asked, c.told = true, w.now, 0
	switch x := w.rng.Float64(); {
	case x < w.opt.coin:
		c.op = "coin"
	case x < w.opt.coin+w.opt.calls:
		c.op = "call"
	case x < w.opt.coin+w.opt.calls+0.1:
		c.op = "get"
	default:
		c.op = "inc"
	}
	c.put()
}

// put sends the question.
func (c *client) put() {
	if !c.tcp {
		c.repeat(c.n)
		return
	}
	if c.conn == nil || c.lines == 0 || c.conn.closing {
		c.connect()
	}
	c.lines--
	s := c.stack()
	c.conn.write(fmt.Sprintf("%d %d %s %s\n", c.number, c.n, c.op, filler(c.n, c.number)))
	c.conn.transmit(s)
	c.arm()
}

// connect opens another connection, from the first port that may be used.
func (c *client) connect() {
	w := c.v.w
	p := ports{20000, servicePort}
	for ; c.ends[p] != nil; p.local++ {
		if at := c.ends[p].reuse; at != 0 && w.now >= at {
			break
		}
	}
	c.conn = newEndpoint(w, addr{clientIP(c.number), p.local}, addr{guestIP, p.guest})
	c.conn.opener = true
	if old := c.ends[p]; old != nil {
		c.conn.iss = old.iss + 1<<26 + w.rng.Uint32()>>4 // RFC 6528: numbers of a port go up
	}
	c.lines = 1 + w.rng.IntN(8)
	c.add(p, c.conn)
}

// add keeps a new connection. Not all clients know all options.
func (c *client) add(p ports, e *endpoint) {
	e.ts, e.sack = c.v.w.chance(0.8), c.v.w.chance(0.8)
	c.ends[p] = &clientEnd{endpoint: e, boots: c.v.check.boots}
	if !slices.Contains(c.order, p) {
		c.order = append(c.order, p)
	}
}

func (c *client) repeat(n int) {
	if c.n != n || !c.waiting {
		return
	}
	w := c.v.w
	c.v.toGuest(datagram(addr{clientIP(c.number), udpPort}, addr{guestIP, udpPort}, fmt.Sprintf("%d %d %s", c.number, n, c.op)))
	w.schedule(w.now+100*time.Millisecond, func() { c.repeat(n) })
}

// hear takes a frame from the guest.
func (c *client) hear(frame []byte) {
	w := c.v.w
	var p packet.Packet
	p.Parse(frame)
	switch p.Form {
	case packet.UDP:
		client, n, value, _, ok := parseAnswer(string(p.Payload))
		if !ok || client != c.number {
			w.fail("the guest sent %q to client %d", p.Payload, c.number)
			return
		}
		if !c.tcp && n == c.n && c.waiting {
			c.answer(value)
		}
		return
	case packet.TCP:
		if p.TransportChecksum() != 0 {
			w.fail("translation: client %d gets a wrong checksum", c.number)
			return
		}
	default:
		return // announcements
	}
	s := c.stack()
	at := ports{p.DstPort, p.SrcPort}
	e := c.ends[at]
	switch {
	case e == nil && at.local == callPort && p.Flags&packet.SYN != 0:
		c.add(at, newEndpoint(w, addr{clientIP(c.number), callPort}, addr{guestIP, p.SrcPort}))
		e = c.ends[at]
	case e == nil:
		w.fail("stream: client %d hears of a connection, %v, that was never opened", c.number, at)
		return
	case e.opener && (!e.synced || p.Flags&packet.SYN != 0) && p.Flags&packet.ACK != 0 && p.Ack-e.iss > 1:
		return // late, of the port's last connection
	}
	if e.boots < c.v.check.boots {
		// The guest was booted anew meanwhile: it has forgotten the connection.
		c.rebooted()
		if p.Flags&packet.RST == 0 {
			s.send(segmentFrame(e.local, e.remote, p.Ack, p.Seq+uint32(len(p.Payload)), packet.RST|packet.ACK, 0, nil, nil))
		}
		return
	}
	if problem := e.take(s, &p); problem != "" {
		w.fail("stream: the connection of client %d, %v, %s", c.number, e.local, problem)
		return
	}
	c.read(s, e)
	c.arm()
}

// rebooted gives up what was open when the guest was booted anew, and asks again.
func (c *client) rebooted() {
	again := false
	for _, e := range c.ends {
		if e.boots == c.v.check.boots || e.broken {
			continue
		}
		e.broken = true
		if e.endpoint == c.conn {
			c.conn, again = nil, true
		}
	}
	if again && c.waiting {
		c.put()
	}
}

// read does what the client does with what a connection has brought.
func (c *client) read(s *stack, e *clientEnd) {
	w := c.v.w
	for {
		line, ok := e.line()
		if !ok {
			break
		}
		client, n, value, rest, ok := parseAnswer(line)
		switch {
		case !ok || client != c.number || n > c.n:
			w.fail("stream: client %d reads %.60q", c.number, line)
			return
		case e.endpoint != c.conn:
			if n == c.n && c.waiting {
				c.told = value
			}
			e.write("ok\n")
		case n != c.n || !c.waiting || rest != filler(client, n):
			w.fail("stream: client %d reads %.60q in answer to question %d", c.number, line, c.n)
			return
		default:
			c.answer(value)
			if c.lines == 0 {
				if e.quit = w.chance(0.5); e.quit {
					e.write("quit\n")
				} else {
					e.closing = true
				}
			}
		}
	}
	if e.eof() {
		if e.endpoint == c.conn && c.waiting && !e.closing {
			w.fail("stream: the guest ends the connection of client %d before it answered", c.number)
		}
		e.closing = true
	}
	e.transmit(s)
	if e.opener && e.finished() && e.reuse == 0 {
		if e.reuse = w.now; !e.quit {
			e.reuse += timeWait
		}
	}
}

// answer takes what the service says.
func (c *client) answer(value int) {
	w := c.v.w
	if c.told != 0 && c.told != value {
		w.fail("rule 2: client %d was told %d in a call and then %d", c.number, c.told, value)
	}
	c.waiting = false
	c.answered++
	c.longest = max(c.longest, w.now-c.asked)
	c.v.check.answered(c, value)
	if !w.calm || c.answered < w.opt.enough {
		w.schedule(w.now+w.between(0, w.opt.rest), c.ask)
	}
}

// arm sets the timer for whatever is due next.
func (c *client) arm() {
	var at time.Duration
	look := func(e *endpoint) {
		if t := e.next(); t != 0 && (at == 0 || t < at) {
			at = t
		}
	}
	order := c.order[:0]
	for _, k := range c.order {
		if e := c.ends[k]; !e.finished() || e.next() != 0 {
			look(e.endpoint)
			order = append(order, k)
		}
	}
	c.order = order
	w := c.v.w
	if at == 0 || c.armed > w.now && c.armed <= at {
		return
	}
	c.armed = at
	w.schedule(at, func() {
		if c.armed != at {
			return
		}
		c.armed = 0
		s := c.stack()
		for _, k := range c.order {
			c.ends[k].tick(s)
		}
		c.arm()
	})
}

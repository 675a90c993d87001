package sim

import (
	"fmt"
	"time"
)

// client asks one question after the other and repeats each until it is
// answered.
type client struct {
	w        *world
	number   int
	n        int
	asked    time.Duration
	op       string
	waiting  bool
	answered int // questions answered
	longest  time.Duration
}

func (w *world) newClient(number int) {
	c := &client{w: w, number: number}
	w.clients = append(w.clients, c)
	w.schedule(w.now+w.between(0, 100*time.Millisecond), c.ask)
}

func (c *client) ask() {
	c.n++
	c.waiting = true
	c.asked = c.w.now
	c.op = "inc"
	if c.w.chance(c.w.opt.coin) {
		c.op = "coin"
	}
	c.repeat(c.n)
}

func (c *client) repeat(n int) {
	if c.n != n || !c.waiting {
		return
	}
	c.w.toGuest(datagram(clientIP(c.number), guestIP, fmt.Sprintf("%d %d %s", c.number, n, c.op)))
	c.w.schedule(c.w.now+100*time.Millisecond, func() { c.repeat(n) })
}

// answer takes what the service says.
func (c *client) answer(n, value int) {
	if n != c.n || !c.waiting {
		return // an earlier answer, repeated
	}
	c.waiting = false
	c.answered++
	c.longest = max(c.longest, c.w.now-c.asked)
	c.w.check.answered(c.number, n, value, c.asked, c.w.now)
	if !c.w.calm || c.answered < c.w.opt.enough {
		c.w.schedule(c.w.now+c.w.between(0, 5*time.Millisecond), c.ask)
	}
}

// toGuest is the outside network towards the guest: every live uplink gets the
// frame, muted ones may hear it.
func (w *world) toGuest(frame []byte) {
	for _, r := range w.hosts {
		if w.chance(w.opt.loss) {
			continue
		}
		r.after(w.opt.delay(w), func() {
			own := append([]byte(nil), frame...)
			if !r.muted {
				r.do(func() { r.core.Input(r.clock(), own) })
			} else if w.opt.mirror {
				r.heardBy = append(r.heardBy, own)
				r.heardBy = r.heardBy[max(0, len(r.heardBy)-8):]
			}
		})
	}
}

// toClients is the way back.
func (w *world) toClients(frame []byte) {
	if w.chance(w.opt.loss) {
		return
	}
	var c, n, value int
	if _, err := fmt.Sscanf(payload(frame), "%d %d %d", &c, &n, &value); err != nil {
		w.fail("the guest sent %q", payload(frame))
		return
	}
	w.schedule(w.now+w.opt.delay(w), func() { w.clients[c].answer(n, value) })
}

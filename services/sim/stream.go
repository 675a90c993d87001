package sim

import "time"

// Of streams: what gRPC and its shells do.
const (
	pingEvery   = 50 * time.Millisecond
	silentAfter = 400 * time.Millisecond
)

// stream is a connection between two processes with messages in order both
// ways. While the network between them is cut, messages wait, as TCP repeats
// them; an end that hears nothing for silentAfter gives up, and the other
// learns of it when the network lets it. A crash is heard at once, unless the
// network is cut.
type stream struct {
	w    *world
	ends [2]*end
}

// end is one side of a stream.
type end struct {
	s      *stream
	side   int
	p      *process
	life   int
	recv   func(msg any)
	down   func(why string)
	closed bool
	heard  time.Duration // on the process's own clock
	out    []any         // waiting for the network
	last   time.Duration // arrival of the last message sent
	sent   bool
}

func (w *world) connect(a, b *process) *stream {
	s := &stream{w: w}
	for i, p := range []*process{a, b} {
		s.ends[i] = &end{s: s, side: i, p: p, life: p.life, heard: p.clock()}
	}
	return s
}

// start begins the keep-alives.
func (s *stream) start() {
	for _, e := range s.ends {
		e.beat()
	}
}

func (e *end) other() *end { return e.s.ends[1-e.side] }

func (e *end) gone() bool { return e.closed || e.p.dead || e.p.life != e.life }

func (e *end) beat() {
	if e.gone() {
		return
	}
	if e.p.clock()-e.heard > silentAfter {
		e.fail("silent peer")
		return
	}
	e.send(nil)
	e.p.after(pingEvery, e.beat)
}

// send queues a message; nil is a keep-alive.
func (e *end) send(msg any) {
	if e.gone() {
		return
	}
	e.out = append(e.out, msg)
	e.pump()
}

func (e *end) pump() {
	w, o := e.s.w, e.other()
	if w.cut(e.p, o.p) {
		if !e.sent {
			e.sent = true
			w.schedule(w.now+20*time.Millisecond, func() { e.sent = false; e.pump() })
		}
		return
	}
	for _, msg := range e.out {
		at := max(e.last, w.now+w.opt.delay(w)+w.slow[[2]*process{e.p, o.p}])
		e.last = at
		w.schedule(at, func() {
			if w.takesAlong && (e.p.dead || e.p.life != e.life) {
				return
			}
			o.arrive(msg)
		})
	}
	e.out = nil
}

func (e *end) arrive(msg any) {
	e.p.enter(e.life, func() {
		if e.gone() {
			return
		}
		e.heard = e.p.clock()
		if msg != nil {
			e.recv(msg)
		}
	})
}

// close ends the stream from this side; the other side hears of it behind what
// is still on its way.
func (e *end) close() {
	if e.closed {
		return
	}
	e.closed = true
	e.tell()
}

// fail ends the stream and tells this side.
func (e *end) fail(why string) {
	if e.gone() {
		return
	}
	e.close()
	e.down(why)
}

// tell lets the other side know that this one is gone.
func (e *end) tell() {
	w, o := e.s.w, e.other()
	if w.cut(e.p, o.p) {
		w.schedule(w.now+20*time.Millisecond, e.tell)
		return
	}
	at := max(e.last, w.now+w.opt.delay(w))
	w.schedule(at, func() { o.p.enter(o.life, func() { o.fail("stream broken") }) })
}

package uplink

import (
	"sync"
	"time"
)

// ring keeps the newest frames within a window of time and a number of bytes.
type ring struct {
	window time.Duration
	limit  int
	frames []Frame // oldest first
	bytes  int
}

func (r *ring) add(at time.Time, frame []byte) {
	r.frames = append(r.frames, Frame{At: at, Data: frame})
	r.bytes += cap(frame)
	r.expire(at)
}

// expire drops what is too old or too much.
func (r *ring) expire(now time.Time) {
	n := 0
	for n < len(r.frames) && (r.bytes > r.limit || now.Sub(r.frames[n].At) > r.window) {
		r.bytes -= cap(r.frames[n].Data)
		r.frames[n] = Frame{}
		n++
	}
	r.frames = r.frames[n:]
}

func (r *ring) recent(now time.Time) []Frame {
	r.expire(now)
	return append([]Frame(nil), r.frames...)
}

func (r *ring) reset() { r.frames, r.bytes = nil, 0 }

// ear decides what becomes of a heard frame: recv has it while the uplink is
// live, the ring while it is muted.
type ear struct {
	recv func([]byte)

	mu    sync.Mutex
	muted bool
	ring  ring
}

func newEar(recv func([]byte)) *ear {
	return &ear{recv: recv, muted: true, ring: ring{window: RecentWindow, limit: RecentBytes}}
}

func (e *ear) hear(frame []byte) {
	e.mu.Lock()
	if e.muted {
		e.ring.add(time.Now(), frame)
		e.mu.Unlock()
		return
	}
	e.mu.Unlock()
	e.recv(frame)
}

func (e *ear) mute(muted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if muted && !e.muted {
		e.ring.reset()
	}
	e.muted = muted
}

func (e *ear) recent() []Frame {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.ring.recent(time.Now())
}

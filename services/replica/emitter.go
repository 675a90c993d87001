package replica

import (
	"errors"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/uplink"
)

// emitterFrames bounds the frames that wait for an uplink; more are lost, as
// at the full queue of a network card.
const emitterFrames = 1 << 14

// emitter sends frames in order in a goroutine of its own, so that an uplink
// that hangs does not hold the loop up.
type emitter struct {
	up    uplink.Uplink
	valid func() bool // whether the replica may speak on its own now
	log   hclog.Logger

	mu     sync.Mutex
	queue  []emission
	wake   chan struct{}
	closed bool
	done   chan struct{}
	lost   uint64

	frames [][]byte // send's
}

type emission struct {
	frame  []byte
	leased bool
}

func newEmitter(up uplink.Uplink, valid func() bool, log hclog.Logger) *emitter {
	e := &emitter{up: up, valid: valid, log: log, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go e.run()
	return e
}

func (e *emitter) emit(frame []byte, leased bool) {
	e.mu.Lock()
	if len(e.queue) < emitterFrames && !e.closed {
		e.queue = append(e.queue, emission{frame, leased})
	} else {
		e.lost++
	}
	e.mu.Unlock()
	e.signal()
}

func (e *emitter) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

func (e *emitter) run() {
	defer close(e.done)
	var batch []emission
	for range e.wake {
		e.mu.Lock()
		batch, e.queue = e.queue, batch[:0]
		closed, lost := e.closed, e.lost
		e.lost = 0
		e.mu.Unlock()
		if lost > 0 {
			e.log.Warn("outputs lost: the uplink does not keep up", "frames", lost)
		}
		for rest := batch; len(rest) > 0; {
			rest = e.send(rest)
		}
		clear(batch)
		if closed {
			return
		}
	}
}

// emitTogether bounds the frames of one write, so that the lease is looked at
// again before the next.
const emitTogether = 64

// send lets the first frames of a queue go that the same permission covers, and
// returns the others.
func (e *emitter) send(queue []emission) (rest []emission) {
	leased := queue[0].leased
	n := 0
	e.frames = e.frames[:0]
	for n < len(queue) && n < emitTogether && queue[n].leased == leased {
		e.frames = append(e.frames, queue[n].frame)
		n++
	}
	// The lease is checked at the last moment: this process may have been
	// stopped since the frames were let go.
	if leased && !e.valid() {
		e.log.Warn("outputs dropped: the lease ran out just now, or the disk's stamp is still being written", "frames", n)
	} else if err := e.up.Send(e.frames...); err != nil && !errors.Is(err, uplink.ErrMuted) {
		e.log.Debug("outputs not sent", "frames", n, "error", err)
	}
	clear(e.frames)
	return queue[n:]
}

// close ends the goroutine when what waits has been sent.
func (e *emitter) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.signal()
	<-e.done
}

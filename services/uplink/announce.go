package uplink

import (
	"errors"
	"sync"
	"time"
)

// announceAt are the times after the first at which an announcement is
// repeated: soon, because a switch or a neighbour that missed it sends the
// guest's frames astray, and some seconds later, for what forwards nothing at
// first after a change of its own.
var announceAt = []time.Duration{
	50 * time.Millisecond, 150 * time.Millisecond, 400 * time.Millisecond,
	time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second,
}

// An Announcer tells the network where the guest is: it sends frames at once
// and repeats them for some seconds, as long as the uplink is not muted. Its
// methods may be called by several goroutines at a time.
type Announcer struct {
	send func(frame []byte) error

	mu     sync.Mutex
	frames [][]byte
	next   int // index in announceAt
	begun  time.Time
	timer  *time.Timer
	round  uint64 // makes late timers of earlier rounds void
}

// NewAnnouncer returns an Announcer that sends with send, usually Uplink.Send
// behind the replica's own check that it may speak. An error that wraps
// ErrMuted or ErrClosed ends the repetitions; others do not.
func NewAnnouncer(send func(frame []byte) error) *Announcer {
	return &Announcer{send: send}
}

// Announce sends the frames, which the Announcer keeps, and starts the
// repetitions anew. Those of an earlier call end.
func (a *Announcer) Announce(frames [][]byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stop()
	a.frames, a.next, a.begun = frames, 0, time.Now()
	a.emit()
}

// Stop ends the repetitions. Nothing is sent after it has returned.
func (a *Announcer) Stop() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stop()
}

func (a *Announcer) stop() {
	a.round++
	if a.timer != nil {
		a.timer.Stop()
		a.timer = nil
	}
}

// emit sends once and sets the timer for the next time.
func (a *Announcer) emit() {
	for _, f := range a.frames {
		if err := a.send(f); errors.Is(err, ErrMuted) || errors.Is(err, ErrClosed) {
			return
		}
	}
	if a.next == len(announceAt) || len(a.frames) == 0 {
		return
	}
	round := a.round
	a.timer = time.AfterFunc(time.Until(a.begun.Add(announceAt[a.next])), func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.round == round {
			a.emit()
		}
	})
	a.next++
}

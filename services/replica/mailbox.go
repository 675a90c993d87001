package replica

import (
	"sync"
)

// kind says what an event is; the frequent ones carry a frame and no closure.
type kind uint8

const (
	call      kind = iota // fn is to be called
	guestSent             // the guest transmitted frame
	heard                 // the uplink heard frame
)

type event struct {
	kind  kind
	frame []byte
	fn    func()
}

// mailboxFrames bounds the frames of each kind that wait for the loop; who
// brings more waits, which slows the guest or the uplink down.
const mailboxFrames = 1024

// mailbox is the loop's ordered queue. put never blocks; putFrame does where
// too many frames of that kind wait.
type mailbox struct {
	mu     sync.Mutex
	room   sync.Cond
	queue  []event
	frames [3]int
	closed bool
	wake   chan struct{}
}

func newMailbox() *mailbox {
	m := &mailbox{wake: make(chan struct{}, 1)}
	m.room.L = &m.mu
	return m
}

func (m *mailbox) put(fn func()) {
	m.mu.Lock()
	m.append(event{fn: fn})
	m.mu.Unlock()
}

// look lets the loop flush though nothing was put.
func (m *mailbox) look() { m.put(func() {}) }

func (m *mailbox) putFrame(k kind, frame []byte) {
	m.mu.Lock()
	for m.frames[k] >= mailboxFrames && !m.closed {
		m.room.Wait()
	}
	m.frames[k]++
	m.append(event{kind: k, frame: frame})
	m.mu.Unlock()
}

func (m *mailbox) append(e event) {
	if m.closed {
		return
	}
	m.queue = append(m.queue, e)
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// take returns what waits, in order, using spare for the next batch.
func (m *mailbox) take(spare []event) []event {
	m.mu.Lock()
	batch := m.queue
	m.queue = spare[:0]
	m.frames = [3]int{}
	m.room.Broadcast()
	m.mu.Unlock()
	return batch
}

// close makes every putter return; nothing is taken any more.
func (m *mailbox) close() {
	m.mu.Lock()
	m.closed = true
	m.queue = nil
	m.room.Broadcast()
	m.mu.Unlock()
}

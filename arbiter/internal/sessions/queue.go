package sessions

import (
	"sync"
	"sync/atomic"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// queueMax bounds the messages that wait for one replica to read them.
const queueMax = 256

// Queue holds the messages that leave on one stream, in order. One goroutine
// takes them.
type Queue struct {
	mu      sync.Mutex
	msgs    []*pb.ToReplica
	ended   bool
	dropped atomic.Bool
	wake    chan struct{}
	over    chan struct{}
}

func newQueue() *Queue { return &Queue{wake: make(chan struct{}, 1), over: make(chan struct{})} }

// push appends messages. false: the queue has ended, or is full, and ends.
func (q *Queue) push(msgs []*pb.ToReplica) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	if len(q.msgs)+len(msgs) > queueMax {
		q.msgs, q.ended = nil, true
		q.dropped.Store(true)
		close(q.over)
		q.signal()
		return false
	}
	q.msgs = append(q.msgs, msgs...)
	q.signal()
	return true
}

// end lets nothing follow the refusal, which may be nil. With drop, what waits
// is not sent any more. A second end has no effect.
func (q *Queue) end(refusal *pb.Refusal, drop bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if drop {
		q.dropped.Store(true)
	}
	if q.ended {
		return
	}
	q.ended = true
	close(q.over)
	if drop {
		q.msgs = nil
	}
	if refusal != nil {
		q.msgs = append(q.msgs, &pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: refusal}})
	}
	q.signal()
}

func (q *Queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// Wake is signalled when there is something to Take.
func (q *Queue) Wake() <-chan struct{} { return q.wake }

// Over is closed when nothing more is queued: what waits is the last.
func (q *Queue) Over() <-chan struct{} { return q.over }

// Take returns the waiting messages, and whether they are the last ones. spare is
// room for those that come next, such as what the Take before has returned.
func (q *Queue) Take(spare []*pb.ToReplica) (msgs []*pb.ToReplica, last bool) {
	clear(spare)
	q.mu.Lock()
	defer q.mu.Unlock()
	msgs, q.msgs = q.msgs, spare[:0]
	return msgs, q.ended
}

// Void tells whether a message that was taken must not be sent any more,
// because the arbiter has given the VM up. A refusal is sent all the same.
func (q *Queue) Void(m *pb.ToReplica) bool {
	return q.dropped.Load() && m.GetRefusal() == nil
}

// Package events keeps the last events of the arbiter's VMs and lets readers
// follow them.
package events

import (
	"context"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Log is a ring of the last events. Sequence numbers increase by 1 with each
// event and are greater than those of earlier processes on this host, as long
// as its clock does not jump back. Methods may be called from any goroutine.
type Log struct {
	mu    sync.Mutex
	ring  []*pb.Event // event s is at index s % len(ring)
	first uint64      // sequence number of the oldest kept
	next  uint64      // sequence number of the next
	more  chan struct{}
}

// New returns a log that keeps the last n events.
func New(n int) *Log {
	start := uint64(time.Now().UnixMilli()) * 1000
	return &Log{ring: make([]*pb.Event, n), first: start, next: start, more: make(chan struct{})}
}

// Add appends an event, which is the log's from now on. It sets the sequence
// number, and the time where there is none.
func (l *Log) Add(e *pb.Event) {
	if e.UnixMs == 0 {
		e.UnixMs = time.Now().UnixMilli()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.Sequence = l.next
	l.ring[l.next%uint64(len(l.ring))] = e
	l.next++
	l.first = max(l.first, l.next-min(l.next, uint64(len(l.ring))))
	close(l.more)
	l.more = make(chan struct{})
}

// after returns the kept events with greater sequence numbers, oldest first,
// and a channel that is closed when there are more.
func (l *Log) after(seq uint64) ([]*pb.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*pb.Event
	for s := max(seq+1, l.first); s < l.next; s++ {
		out = append(out, l.ring[s%uint64(len(l.ring))])
	}
	return out, l.more
}

// Last returns up to n of the newest events of vm, or of every VM where vm is
// empty, newest first.
func (l *Log) Last(vm string, n int) []*pb.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*pb.Event
	for s := l.next; s > l.first && len(out) < n; s-- {
		if e := l.ring[(s-1)%uint64(len(l.ring))]; vm == "" || e.Vm == vm {
			out = append(out, proto.Clone(e).(*pb.Event))
		}
	}
	return out
}

// More returns a channel that is closed when the next event has been added.
func (l *Log) More() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.more
}

// Follow calls do with each event of vm (empty: every VM) whose sequence number
// is greater than seq: those that are kept, then new ones as they come. A
// reader that is slower than the ring misses the oldest. It ends with the
// context's or do's error. do must not change the event.
func (l *Log) Follow(ctx context.Context, vm string, seq uint64, do func(*pb.Event) error) error {
	for {
		events, more := l.after(seq)
		for _, e := range events {
			seq = e.Sequence
			if vm != "" && e.Vm != vm {
				continue
			}
			if err := do(e); err != nil {
				return err
			}
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

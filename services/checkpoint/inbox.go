package checkpoint

import (
	"context"
	"sync"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// inbox holds the standby's answer to one begin until the sender uses it. It
// never blocks who puts: the standby may be waiting for its answer to be read
// before it reads on, while the sender waits for the standby to read.
type inbox struct {
	epoch, nonce uint64
	limit        [kinds]uint64
	ready        chan struct{} // capacity 1

	mu    sync.Mutex
	queue []*pb.DirtyPages
	kind  kind          // kind of the last number
	next  [kinds]uint64 // lowest number that may follow
	last  bool
	err   error
}

func newInbox(epoch, nonce uint64, sp *[kinds]space) *inbox {
	return &inbox{
		epoch: epoch, nonce: nonce, limit: [kinds]uint64{sp[pages].n, sp[blocks].n},
		ready: make(chan struct{}, 1),
	}
}

// put takes a message of the answer; those to other begins are ignored.
func (b *inbox) put(m *pb.DirtyPages) {
	if m.Nonce != b.nonce || m.Epoch != b.epoch {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return
	}
	if b.err = b.check(m); b.err == nil {
		b.queue = append(b.queue, m)
	}
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// check bounds the answer: its numbers ascend, so there are at most as many as
// the guest has, and every message but the last brings some.
func (b *inbox) check(m *pb.DirtyPages) error {
	if b.last {
		return violation("answer goes on after its end")
	}
	if len(m.Pages)+len(m.Blocks) == 0 && !m.Last {
		return violation("empty part of an answer")
	}
	if len(m.PageDigests) != len(m.Pages)*digestSize || len(m.BlockDigests) != len(m.Blocks)*digestSize {
		return violation("answer with %d pages and %d digest bytes, %d blocks and %d digest bytes",
			len(m.Pages), len(m.PageDigests), len(m.Blocks), len(m.BlockDigests))
	}
	for k, numbers := range [kinds][]uint64{m.Pages, m.Blocks} {
		if len(numbers) == 0 {
			continue
		}
		if kind(k) < b.kind {
			return violation("answer with pages after blocks")
		}
		b.kind = kind(k)
		next, err := ascending(kind(k), numbers, b.next[k], b.limit[k])
		if err != nil {
			return err
		}
		b.next[k] = next
	}
	b.last = m.Last
	return nil
}

// ascending checks that numbers ascend from next on and stay below limit, and
// returns the lowest number that may follow.
func ascending(k kind, numbers []uint64, next, limit uint64) (uint64, error) {
	for _, n := range numbers {
		if n < next || n >= limit {
			return 0, violation("%s %d where %d to below %d may follow", k, n, next, limit)
		}
		next = n + 1
	}
	return next, nil
}

// take waits for the next message of the answer.
func (b *inbox) take(ctx context.Context) (*pb.DirtyPages, error) {
	for {
		b.mu.Lock()
		if len(b.queue) > 0 {
			m := b.queue[0]
			b.queue[0] = nil
			b.queue = b.queue[1:]
			b.mu.Unlock()
			return m, nil
		}
		err := b.err
		b.mu.Unlock()
		if err != nil {
			return nil, err
		}
		select {
		case <-b.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

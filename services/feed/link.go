package feed

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/protobuf/proto"
)

// stream is either end of a gRPC stream.
type stream[S, R any] interface {
	// Send sends m. done, where not nil, is called when m's memory may be
	// reused.
	Send(m *S, done func()) error
	// Recv returns the next message, which is valid until free is called, if it
	// is.
	Recv() (m *R, free func(), err error)
}

// plain is a stream whose messages are copied.
type plain[S, R any] struct {
	grpc interface {
		Send(*S) error
		Recv() (*R, error)
	}
}

func (p plain[S, R]) Send(m *S, done func()) error {
	defer call(done)
	return p.grpc.Send(m)
}

func (p plain[S, R]) Recv() (*R, func(), error) {
	m, err := p.grpc.Recv()
	return m, func() {}, err
}

func call(f func()) {
	if f != nil {
		f()
	}
}

// link is one stream with its send queue, its reader and its watchdog.
type link[S, R any] struct {
	cfg Config
	// ctx ends with the link; its cause is why.
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}

	// room is what the queue has left, in bytes; size is all it has.
	room *semaphore.Weighted
	size int64
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	queue  []item[S]
	queued int64
	closed bool // the writer has ended
	// beatDue asks for a message of beat, ahead of the queue.
	beatDue bool

	// beat makes what is said when there is nothing to say, or nil. The writer
	// calls it just before it sends the result.
	beat func() *S
	// waiting is the instant, on the clock now, since which the reader waits
	// for the peer; 0 while the owner is busy with a message.
	waiting atomic.Int64
}

// item is a message in the queue. One without a message only has its done
// called.
type item[S any] struct {
	msg  *S
	size int64
	done func()
}

var start = time.Now()

// now is a monotonic clock in nanoseconds, never 0.
func now() int64 { return int64(time.Since(start)) + 1 }

func newLink[S, R any](ctx context.Context, cfg Config, beat func() *S) *link[S, R] {
	l := &link[S, R]{
		cfg: cfg, done: make(chan struct{}), beat: beat,
		room: semaphore.NewWeighted(int64(cfg.QueueBytes)), size: int64(cfg.QueueBytes),
		wake: make(chan struct{}, 1),
	}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	return l
}

// fail ends the link. Only the first cause counts.
func (l *link[S, R]) fail(err error) {
	if err == nil {
		err = ErrClosed
	}
	l.cancel(err)
}

// err is why the link has ended.
func (l *link[S, R]) err() error { return context.Cause(l.ctx) }

// send queues m, and waits for room as long as ctx and the configuration
// allow; not at all where wait is false. See checkpoint.Send about done.
func (l *link[S, R]) send(ctx context.Context, m *S, done func(), wait bool) error {
	size := int64(sizeOf(any(m).(proto.Message)))
	err := l.reserve(ctx, size, wait)
	if err == nil {
		err = l.put(size, func(*S) bool { return false }, item[S]{msg: m, done: done})
	}
	if err != nil && done != nil {
		done()
	}
	return err
}

// reserve takes room for size bytes.
func (l *link[S, R]) reserve(ctx context.Context, size int64, wait bool) error {
	if size > MaxMessage {
		return fmt.Errorf("message of %d bytes, %d are allowed", size, MaxMessage)
	}
	if l.ctx.Err() != nil {
		return l.err()
	}
	size = min(size, l.size)
	if l.room.TryAcquire(size) {
		return nil
	}
	if !wait {
		return ErrFull
	}
	wctx, cancel := context.WithTimeoutCause(ctx, l.cfg.SendTimeout, ErrFull)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if err := l.room.Acquire(wctx, size); err != nil {
		if l.ctx.Err() != nil {
			return l.err()
		}
		return fmt.Errorf("wait to send: %w", context.Cause(wctx))
	}
	return nil
}

// put queues size bytes, for which there is room: merged into the last message
// that waits, or as the new item i.
func (l *link[S, R]) put(size int64, merge func(last *S) bool, i item[S]) error {
	size = min(size, l.size)
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		l.room.Release(size)
		return l.err()
	}
	l.queued += size
	if n := len(l.queue); n > 0 && l.queue[n-1].msg != nil && merge(l.queue[n-1].msg) {
		l.queue[n-1].size += size
	} else {
		i.size = size
		l.queue = append(l.queue, i)
	}
	l.mu.Unlock()
	l.wakeWriter()
	return nil
}

func (l *link[S, R]) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// flush waits until all that is queued was handed to the transport.
func (l *link[S, R]) flush(ctx context.Context) error {
	gone := make(chan struct{})
	if err := l.put(0, func(*S) bool { return false }, item[S]{done: func() { close(gone) }}); err != nil {
		return err
	}
	select {
	case <-gone:
		if l.ctx.Err() != nil {
			return l.err()
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// waits returns the bytes that wait to be sent.
func (l *link[S, R]) waits() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return int(l.queued)
}

// dueBeat lets the writer say something now.
func (l *link[S, R]) dueBeat() {
	l.mu.Lock()
	l.beatDue = true
	l.mu.Unlock()
	l.wakeWriter()
}

// next returns what to send next. ok is false when there is nothing.
func (l *link[S, R]) next() (i item[S], ok bool) {
	l.mu.Lock()
	if l.beatDue {
		l.beatDue = false
		l.mu.Unlock()
		return item[S]{msg: l.beat()}, true
	}
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return i, false
	}
	i = l.queue[0]
	l.queue[0] = item[S]{}
	if l.queue = l.queue[1:]; len(l.queue) == 0 {
		l.queue = nil
	}
	return i, true
}

// run carries messages until the link ends, and returns why it did. receive
// is called for each message, with what Recv returned; its error ends the link.
// Leftover messages get their done called. The caller sees to it that Send and
// Recv return once the link's context is done.
func (l *link[S, R]) run(s stream[S, R], receive func(*R, func()) error) error {
	var wg sync.WaitGroup
	wg.Go(func() { l.write(s) })
	wg.Go(l.watch)
	l.read(s, receive)
	wg.Wait()
	return l.err()
}

func (l *link[S, R]) write(s stream[S, R]) {
	defer l.discard()
	for l.ctx.Err() == nil {
		i, ok := l.next()
		if !ok {
			select {
			case <-l.wake:
			case <-l.ctx.Done():
			}
			continue
		}
		var err error
		if i.msg != nil {
			err = s.Send(i.msg, i.done)
			i.done = nil
		}
		l.finish(i)
		if err != nil {
			l.broken(fmt.Errorf("send: %w", err))
			return
		}
	}
}

// finish frees an item's room and tells its owner.
func (l *link[S, R]) finish(i item[S]) {
	l.mu.Lock()
	l.queued -= i.size
	l.mu.Unlock()
	l.room.Release(i.size)
	call(i.done)
}

// discard empties the queue for good.
func (l *link[S, R]) discard() {
	l.mu.Lock()
	left := l.queue
	l.queue, l.closed = nil, true
	l.mu.Unlock()
	for _, i := range left {
		l.finish(i)
	}
}

// broken ends the link after an error of the writer. gRPC tells the writer
// only that the stream is over; the reader hears why, at once.
func (l *link[S, R]) broken(err error) {
	select {
	case <-l.ctx.Done():
	case <-time.After(l.cfg.PingInterval):
		l.fail(err)
	}
}

func (l *link[S, R]) read(s stream[S, R], receive func(*R, func()) error) {
	for {
		l.waiting.Store(now())
		m, free, err := s.Recv()
		l.waiting.Store(0)
		if err == nil && l.ctx.Err() != nil {
			return
		}
		if err == nil {
			err = receive(m, free)
		} else {
			err = fmt.Errorf("receive: %w", err)
		}
		if err != nil {
			l.fail(err)
			return
		}
	}
}

// watch ends the link when the peer is silent, and asks for beats. It counts
// silence in its own ticks: when this process did not run for a while, what the
// peer said meanwhile is still to be read.
func (l *link[S, R]) watch() {
	period := min(l.cfg.PingInterval, l.cfg.SilentAfter/4)
	tick := time.NewTicker(period)
	defer tick.Stop()
	var (
		since  int64
		silent time.Duration
	)
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
		}
		if w := l.waiting.Load(); w == 0 || w != since {
			since, silent = w, 0
		} else if silent += period; silent >= l.cfg.SilentAfter {
			l.fail(fmt.Errorf("%w for %v", ErrSilent, l.cfg.SilentAfter))
			return
		}
		if l.beat != nil {
			l.dueBeat()
		}
	}
}

// within calls f and ends the link where f has not returned after d.
func (l *link[S, R]) within(d time.Duration, what string, f func() error) error {
	late := fmt.Errorf("%s took more than %v: %w", what, d, context.DeadlineExceeded)
	timer := time.AfterFunc(d, func() { l.fail(late) })
	err := f()
	if !timer.Stop() {
		l.fail(late) // its goroutine may not have come to it yet
	}
	if l.ctx.Err() != nil {
		return l.err()
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

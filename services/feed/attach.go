package feed

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// AttachHandler takes what an arbiter says. Its methods are called by one
// goroutine, in order, and must not block.
type AttachHandler interface {
	// OnUp says that the arbiter at addr has answered. Attach.Send works from
	// here until OnDown.
	OnUp(addr string)
	// OnMessage owns m. A Refusal may come without OnUp.
	OnMessage(m *pb.ToReplica)
	// OnDown says that the arbiter of the last OnUp is lost; or, once and
	// before any OnUp, that none could be reached.
	OnDown(err error)
}

// Back-off between tries to attach.
const (
	backoffMin = 20 * time.Millisecond
	backoffMax = time.Second
	// putOff is how long an address that did not answer is tried only where no
	// other is left: the owner of a VM that has died, to which the others
	// redirect until its lease has ended.
	putOff = 2 * time.Second
	// redirectsMax bounds redirections in a row that are followed at once.
	redirectsMax = 3
)

// Attach keeps a replica attached to an arbiter: it tries the addresses one
// after the other, goes where a refusal redirects it, and begins again when a
// stream ends, until Close or a refusal that says exit. Its methods may be
// called by any goroutine.
type Attach struct {
	cfg     Config
	addrs   []string
	hello   func() *pb.FromReplica
	handler AttachHandler
	ctx     context.Context
	cancel  context.CancelCauseFunc
	done    chan struct{}

	mu      sync.Mutex
	link    *link[pb.FromReplica, pb.ToReplica] // of the stream that is up, or nil
	stream  grpc.BidiStreamingClient[pb.FromReplica, pb.ToReplica]
	closing bool
}

// NewAttach begins to attach to one of addrs. hello is called for the first
// message of each try, by a goroutine of its own.
func NewAttach(addrs []string, hello func() *pb.FromReplica, h AttachHandler, cfg Config) *Attach {
	cfg.setDefaults()
	a := &Attach{cfg: cfg, addrs: addrs, hello: hello, handler: h, done: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	go a.run()
	return a
}

// Send queues m. It never blocks: a queue that is full ends the stream
// (ErrFull). While there is no stream it returns ErrClosed.
func (a *Attach) Send(m *pb.FromReplica) error {
	a.mu.Lock()
	l := a.link
	if a.closing {
		l = nil
	}
	a.mu.Unlock()
	if l == nil {
		return fmt.Errorf("send to arbiter: %w", ErrClosed)
	}
	err := l.send(context.Background(), m, nil, false)
	if errors.Is(err, ErrFull) {
		l.fail(err)
	}
	if err != nil {
		return fmt.Errorf("send to arbiter: %w", err)
	}
	return nil
}

// Close ends it all. Until ctx is done it waits for what is queued to reach
// the arbiter; a context that is done already ends it at once. It must not be
// called by a callback.
func (a *Attach) Close(ctx context.Context) {
	a.mu.Lock()
	l, s := a.link, a.stream
	a.closing = true
	a.mu.Unlock()
	if l != nil && ctx.Err() == nil && l.flush(ctx) == nil {
		// The writer is idle for good. The arbiter ends the stream when it has
		// read all of it.
		_ = s.CloseSend() // the wait ends either way
		select {
		case <-l.ctx.Done():
		case <-ctx.Done():
		}
	}
	a.cancel(ErrClosed)
}

// Done is closed when all has ended and no callback runs any more.
func (a *Attach) Done() <-chan struct{} { return a.done }

// run attaches again and again.
func (a *Attach) run() {
	defer close(a.done)
	var (
		next      int // in addrs
		redirect  string
		redirects int
		wait      = backoffMin
		said      bool // that no arbiter is there
		silent    = map[string]time.Time{}
	)
	isSilent := func(addr string) bool {
		at, ok := silent[addr]
		return ok && time.Since(at) < putOff
	}
	for {
		addr := redirect
		if addr == "" {
			for i := 1; i < len(a.addrs) && isSilent(a.addrs[next%len(a.addrs)]); i++ {
				next++
			}
			addr = a.addrs[next%len(a.addrs)]
		}
		redirect = ""
		up, refusal, err := a.attach(addr)
		if delete(silent, addr); !up && refusal == nil {
			maps.DeleteFunc(silent, func(other string, _ time.Time) bool { return !isSilent(other) })
			silent[addr] = time.Now()
		}
		said = said || up
		if a.ctx.Err() != nil {
			return
		}
		if up {
			wait, redirects = backoffMin, 0
		} else {
			next++
		}
		switch refusal.GetAction() {
		case pb.Refusal_ACTION_EXIT:
			return
		case pb.Refusal_ACTION_REDIRECT:
			if to := refusal.GetAddress(); to != "" && redirects < redirectsMax && !isSilent(to) {
				redirect = to
				redirects++
				continue
			}
		}
		redirects = 0
		if !said && refusal == nil && next >= len(a.addrs) {
			said = true
			a.handler.OnDown(err)
		}
		// A whole pass over the addresses shares one wait.
		if !up && refusal == nil && next%len(a.addrs) != 0 {
			continue
		}
		select {
		case <-time.After(wait + rand.N(wait/2)):
		case <-a.ctx.Done():
			return
		}
		if !up {
			wait = min(2*wait, backoffMax)
		}
	}
}

// attach opens a stream and carries it to its end. up tells whether OnUp was
// called; refusal is what the arbiter refused with, if it did.
func (a *Attach) attach(addr string) (up bool, refusal *pb.Refusal, err error) {
	conn, err := a.cfg.dial(addr)
	if err != nil {
		return false, nil, fmt.Errorf("attach to %s: %w", addr, err)
	}
	defer conn.close()
	l := newLink[pb.FromReplica, pb.ToReplica](a.ctx, a.cfg, nil)
	defer l.fail(ErrClosed)
	var (
		s     grpc.BidiStreamingClient[pb.FromReplica, pb.ToReplica]
		first *pb.ToReplica
	)
	err = l.within(a.cfg.DialTimeout, "handshake", func() (err error) {
		if s, err = pb.NewArbiterClient(conn).Attach(l.ctx, grpc.ForceCodecV2(newCodec())); err != nil {
			return err
		}
		// An error of Send says nothing that Recv does not say better.
		_ = s.Send(a.hello())
		first, err = s.Recv()
		return err
	})
	if err != nil {
		return false, nil, fmt.Errorf("attach to %s: %w", addr, err)
	}
	if refusal = first.GetRefusal(); refusal != nil {
		a.handler.OnMessage(first)
		return false, refusal, fmt.Errorf("attach to %s: %w: %s", addr, ErrRefused, refusal.GetDetail())
	}
	if !a.up(l, s) {
		return false, nil, ErrClosed
	}
	a.handler.OnUp(addr)
	a.handler.OnMessage(first)
	err = l.run(plain[pb.FromReplica, pb.ToReplica]{s}, func(m *pb.ToReplica, _ func()) error {
		a.handler.OnMessage(m)
		if refusal = m.GetRefusal(); refusal != nil {
			return fmt.Errorf("%w: %s", ErrRefused, refusal.GetDetail())
		}
		return nil
	})
	a.down()
	err = fmt.Errorf("attached to %s: %w", addr, err)
	a.handler.OnDown(err)
	return true, refusal, err
}

// up lets Send use the link, unless Close was called.
func (a *Attach) up(l *link[pb.FromReplica, pb.ToReplica], s grpc.BidiStreamingClient[pb.FromReplica, pb.ToReplica]) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closing {
		return false
	}
	a.link, a.stream = l, s
	return true
}

func (a *Attach) down() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.link, a.stream = nil, nil
}

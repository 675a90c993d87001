package feed

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// ActiveHandler takes what the standby says. Its methods are called by one
// goroutine of the feed, in order.
type ActiveHandler interface {
	// OnMessage owns m, which is never a welcome, a refusal or a pong.
	OnMessage(m *pb.FromStandby)
	// OnDown is the last call.
	OnDown(err error)
}

// Active is the active's end of a feed. Its methods may be called by any
// goroutine.
type Active struct {
	*link[pb.FromActive, pb.FromStandby]
	term     uint64
	handler  ActiveHandler
	guestNow func() uint64

	mu        sync.Mutex
	lastInput uint64
	hasInput  bool
	batch     int // bytes in the last message of inputs

	pings pings
}

// Dial opens a feed under term to the standby at addr (host:port, or a target
// of gRPC), with hello as the first message. guestNow reads the active's guest
// clock. It returns when the standby has welcomed or refused it (ErrRefused),
// at the latest after Config.DialTimeout. ctx matters only until then.
func Dial(ctx context.Context, addr string, term uint64, hello *pb.FeedHello, guestNow func() uint64, h ActiveHandler, cfg Config) (*Active, *pb.FeedWelcome, error) {
	cfg.setDefaults()
	a := &Active{term: term, handler: h, guestNow: guestNow}
	a.link = newLink[pb.FromActive, pb.FromStandby](context.Background(), cfg, a.ping)
	conn, err := cfg.dial(addr)
	if err != nil {
		return nil, nil, fmt.Errorf("feed to %s: %w", addr, err)
	}
	stop := context.AfterFunc(ctx, func() { a.fail(context.Cause(ctx)) })
	defer stop()
	var (
		s       grpc.BidiStreamingClient[pb.FromActive, pb.FromStandby]
		welcome *pb.FeedWelcome
	)
	err = a.within(cfg.DialTimeout, "handshake", func() (err error) {
		s, welcome, err = a.open(conn, hello)
		return err
	})
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		a.fail(err)
		conn.close()
		return nil, nil, fmt.Errorf("feed to %s: %w", addr, err)
	}
	go func() {
		defer close(a.done)
		defer conn.close()
		h.OnDown(a.run(newActiveStream(s), a.receive))
	}()
	return a, welcome, nil
}

func (a *Active) open(conn *connection, hello *pb.FeedHello) (grpc.BidiStreamingClient[pb.FromActive, pb.FromStandby], *pb.FeedWelcome, error) {
	s, err := pb.NewReplicationClient(conn).Feed(a.ctx, grpc.ForceCodecV2(newCodec()))
	if err != nil {
		return nil, nil, err
	}
	if err := s.Send(&pb.FromActive{Term: a.term, Body: &pb.FromActive_Hello{Hello: hello}}); err != nil {
		// What went wrong is what Recv returns.
		if _, cause := s.Recv(); cause != nil {
			err = cause
		}
		return nil, nil, err
	}
	m, err := s.Recv()
	if err != nil {
		return nil, nil, err
	}
	switch b := m.Body.(type) {
	case *pb.FromStandby_Refusal:
		return nil, nil, fmt.Errorf("%w: %s", ErrRefused, b.Refusal.GetDetail())
	case *pb.FromStandby_Welcome:
		if m.Term != a.term {
			return nil, nil, fmt.Errorf("%w: welcome of term %d to a feed of term %d", ErrProtocol, m.Term, a.term)
		}
		return s, b.Welcome, nil
	}
	return nil, nil, fmt.Errorf("%w: %T before a welcome", ErrProtocol, m.Body)
}

// Send queues m, whose Term it sets, and blocks while the queue is full, until
// ctx is done or Config.SendTimeout is over (ErrFull). done, where not nil, is
// called at most once, by any goroutine, when m's memory may be reused: m has
// left, or will not. It may stay uncalled where the feed ends.
func (a *Active) Send(ctx context.Context, m *pb.FromActive, done func()) error {
	m.Term = a.term
	return a.send(ctx, m, done, true)
}

const (
	// frameOverhead is an upper bound of what a message needs for a frame.
	frameOverhead = 8
	// inputsBytes and inputsFrames bound the inputs that travel together.
	inputsBytes  = 128 << 10
	inputsFrames = 512
)

// Input queues input number n, which follows the one before, and blocks like
// Send. Inputs that wait travel together. frame must not change any more.
func (a *Active) Input(ctx context.Context, n uint64, frame []byte) error {
	size := int64(len(frame)) + frameOverhead
	if err := a.reserve(ctx, size, true); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.hasInput && n != a.lastInput+1 {
		a.room.Release(min(size, a.size))
		return fmt.Errorf("input %d after input %d", n, a.lastInput)
	}
	merged := false
	err := a.put(size, func(last *pb.FromActive) bool {
		in := last.GetInputs()
		if in == nil || len(in.Frames) == inputsFrames || a.batch+len(frame) > inputsBytes {
			return false
		}
		in.Frames = append(in.Frames, frame)
		merged = true
		return true
	}, item[pb.FromActive]{msg: &pb.FromActive{
		Term: a.term, Body: &pb.FromActive_Inputs{Inputs: &pb.Inputs{First: n, Frames: [][]byte{frame}}},
	}})
	if err != nil {
		return err
	}
	a.lastInput, a.hasInput = n, true
	if !merged {
		a.batch = 0
	}
	a.batch += len(frame)
	return nil
}

func (a *Active) receive(m *pb.FromStandby, _ func()) error {
	at := now()
	if m.Term != a.term {
		return fmt.Errorf("%w: term %d in a feed of term %d", ErrProtocol, m.Term, a.term)
	}
	switch b := m.Body.(type) {
	case *pb.FromStandby_Pong:
		a.pings.pong(at, b.Pong)
		return nil
	case *pb.FromStandby_Refusal:
		return fmt.Errorf("%w: %s", ErrRefused, b.Refusal.GetDetail())
	case *pb.FromStandby_Welcome, nil:
		return fmt.Errorf("%w: %T out of place", ErrProtocol, m.Body)
	}
	a.handler.OnMessage(m)
	return nil
}

func (a *Active) ping() *pb.FromActive {
	p := a.pings.ping(now())
	// Read after the instant that held_ns ends at, so that a delay in between
	// makes the guest time that the standby assumes larger, not smaller.
	p.GuestNs = a.guestNow()
	return &pb.FromActive{Term: a.term, Body: &pb.FromActive_Ping{Ping: p}}
}

// RoundTrip returns the shortest round trip of the last pings; 0: none yet.
func (a *Active) RoundTrip() time.Duration { return a.pings.shortest() }

// Queued returns the bytes that wait to be sent.
func (a *Active) Queued() int { return a.waits() }

// Flush waits until all that was queued before is handed to the transport.
func (a *Active) Flush(ctx context.Context) error { return a.flush(ctx) }

// Context is done as soon as the feed has ended; its cause is why.
func (a *Active) Context() context.Context { return a.ctx }

// Close ends the feed; OnDown gets the cause (nil: ErrClosed). It never
// blocks.
func (a *Active) Close(cause error) { a.fail(cause) }

// Done is closed when the feed has ended and no callback runs any more.
func (a *Active) Done() <-chan struct{} { return a.done }

// pings measures round trips.
type pings struct {
	mu       sync.Mutex
	sequence uint64
	// sent are the instants of the last pings that have no pong yet, or 0.
	sent [64]int64
	// stamp and at are those of the last pong.
	stamp, at int64
	trips     [64]int64
	n         int
}

// ping returns the next ping, sent at the instant.
func (p *pings) ping(at int64) *pb.FeedPing {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sequence++
	p.sent[p.sequence%uint64(len(p.sent))] = at
	m := &pb.FeedPing{Sequence: p.sequence}
	if p.at != 0 {
		m.PongStampNs, m.HeldNs = p.stamp, at-p.at
	}
	return m
}

// pong takes a pong that came at the instant. A standby repeats its last pong
// while it gets no ping: only the first counts.
func (p *pings) pong(at int64, m *pb.FeedPong) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stamp, p.at = m.GetStampNs(), at
	sent := &p.sent[m.GetSequence()%uint64(len(p.sent))]
	if m.GetSequence() == 0 || m.GetSequence()+uint64(len(p.sent)) <= p.sequence || m.GetSequence() > p.sequence || *sent == 0 {
		return
	}
	p.trips[p.n%len(p.trips)] = at - *sent
	p.n++
	*sent = 0
}

func (p *pings) shortest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	var least int64
	for i := range min(p.n, len(p.trips)) {
		if t := p.trips[i]; i == 0 || t < least {
			least = t
		}
	}
	return time.Duration(least)
}

// count returns how many round trips were measured.
func (p *pings) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

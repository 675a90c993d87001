package feed

import (
	"context"
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// StandbyHandler takes what the active says. Its methods are called by one
// goroutine of the feed, in order.
type StandbyHandler interface {
	// OnMessage owns m, which is never a hello or a ping. The data of pages and
	// blocks is valid until free is called: once, by any goroutine, or never.
	OnMessage(m *pb.FromActive, free func())
	// OnDown is the last call.
	OnDown(err error)
}

// Accept decides about a feed that an active opens: its term, VM, protocol and
// machine. An error refuses it with the error's text. s may be used as soon as
// Accept has it, but what it sends leaves after the welcome. When the feed
// ended while Accept worked, OnDown is still called.
type Accept func(s *Standby, term uint64, hello *pb.FeedHello) (StandbyHandler, *pb.FeedWelcome, error)

// Server is the Replication service of a replica, to be registered at a
// grpc.Server that was made with ServerOptions, which bring its codec.
type Server struct {
	pb.UnimplementedReplicationServer
	accept Accept
	cfg    Config
}

// NewServer returns a service that asks accept about each feed.
func NewServer(accept Accept, cfg Config) *Server {
	cfg.setDefaults()
	return &Server{accept: accept, cfg: cfg}
}

// Standby is the standby's end of a feed. Its methods may be called by any
// goroutine.
type Standby struct {
	*link[pb.FromStandby, pb.FromActive]
	term    uint64
	handler StandbyHandler

	mu       sync.Mutex
	clock    clock
	sequence uint64 // of the last ping
}

// Feed serves one feed. It returns as soon as the feed has ended, which lets
// the stream's readers and writers return, too.
func (v *Server) Feed(stream grpc.BidiStreamingServer[pb.FromActive, pb.FromStandby]) error {
	s := &Standby{}
	s.link = newLink[pb.FromStandby, pb.FromActive](context.Background(), v.cfg, s.pong)
	broken, release := lingering(stream.Context())
	defer release()
	go s.serve(stream, v)
	select {
	case <-s.ctx.Done():
	case <-broken.Done():
		s.drain()
		s.fail(fmt.Errorf("feed lost: %w", context.Cause(broken)))
	}
	return status.Error(codes.Aborted, s.err().Error())
}

func (s *Standby) serve(stream grpc.BidiStreamingServer[pb.FromActive, pb.FromStandby], v *Server) {
	defer close(s.done)
	err := s.within(v.cfg.DialTimeout, "handshake", func() error { return s.open(stream, v.accept) })
	if err == nil {
		err = s.run(newStandbyStream(stream), s.receive)
	} else {
		s.fail(err)
		s.discard()
	}
	if s.handler != nil {
		s.handler.OnDown(err)
	}
}

// open does the handshake. It sets the handler as soon as there is one.
func (s *Standby) open(stream grpc.BidiStreamingServer[pb.FromActive, pb.FromStandby], accept Accept) error {
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := m.GetHello()
	if hello == nil {
		return fmt.Errorf("%w: %T before a hello", ErrProtocol, m.Body)
	}
	s.term = m.Term
	h, welcome, err := accept(s, m.Term, hello)
	if err != nil {
		refusal := &pb.FeedRefusal{Detail: err.Error()}
		if sendErr := stream.Send(&pb.FromStandby{Term: s.term, Body: &pb.FromStandby_Refusal{Refusal: refusal}}); sendErr != nil {
			return fmt.Errorf("%w, and it was not told: %w", err, sendErr)
		}
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	s.handler = h
	return stream.Send(&pb.FromStandby{Term: s.term, Body: &pb.FromStandby_Welcome{Welcome: welcome}})
}

func (s *Standby) receive(m *pb.FromActive, free func()) error {
	at := now()
	if m.Term != s.term {
		return fmt.Errorf("%w: term %d in a feed of term %d", ErrProtocol, m.Term, s.term)
	}
	switch b := m.Body.(type) {
	case *pb.FromActive_Ping:
		s.mu.Lock()
		s.sequence = b.Ping.GetSequence()
		if stamp, held := b.Ping.GetPongStampNs(), b.Ping.GetHeldNs(); stamp > 0 {
			s.clock.add(at, b.Ping.GetGuestNs(), at-stamp-held, held)
		}
		s.mu.Unlock()
		s.dueBeat()
		return nil
	case *pb.FromActive_Hello, nil:
		return fmt.Errorf("%w: %T out of place", ErrProtocol, m.Body)
	}
	s.handler.OnMessage(m, free)
	return nil
}

func (s *Standby) pong() *pb.FromStandby {
	s.mu.Lock()
	sequence := s.sequence
	s.mu.Unlock()
	return &pb.FromStandby{Term: s.term, Body: &pb.FromStandby_Pong{
		Pong: &pb.FeedPong{Sequence: sequence, StampNs: now()},
	}}
}

// Send queues m, whose Term it sets, and blocks like Active.Send.
func (s *Standby) Send(ctx context.Context, m *pb.FromStandby) error {
	m.Term = s.term
	return s.send(ctx, m, nil, true)
}

// GuestTime returns the best bounds known of the active's guest time now. ok
// is false until a few pings have come.
func (s *Standby) GuestTime() (c ClockSample, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.At = time.Now()
	low, high, ok := s.clock.bounds(now())
	c.GuestNs, c.Uncertainty = uint64(max(low, 0)), time.Duration(high-max(low, 0))
	return c, ok
}

// Context is done as soon as the feed has ended; its cause is why.
func (s *Standby) Context() context.Context { return s.ctx }

// Close ends the feed; OnDown gets the cause (nil: ErrClosed). It never
// blocks.
func (s *Standby) Close(cause error) { s.fail(cause) }

// Done is closed when the feed has ended and no callback runs any more.
func (s *Standby) Done() <-chan struct{} { return s.done }

// Package feed holds the transports of a replica: the Feed stream between
// active and standby, and the Attach stream to the arbiter.
package feed

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

var errNotBuilt = errors.New("not built yet")

// Errors of a stream.
var (
	// ErrSilent: the peer sent nothing for SilentAfter.
	ErrSilent = errors.New("peer is silent")
	// ErrFull: the send queue stayed full for SendTimeout.
	ErrFull = errors.New("send queue is full")
	// ErrClosed: Close was called.
	ErrClosed = errors.New("closed")
	// ErrRefused: the peer refused the handshake; the text says why.
	ErrRefused = errors.New("refused")
)

// Config tunes all streams. Zero fields take the defaults.
type Config struct {
	QueueBytes   int           // default 8 MiB
	SendTimeout  time.Duration // default 1 s
	DialTimeout  time.Duration // default 2 s
	PingInterval time.Duration // default 50 ms
	SilentAfter  time.Duration // default 400 ms
	// Credentials secure the transport; nil: plain text.
	Credentials credentials.TransportCredentials
	DialOptions []grpc.DialOption
}

// Active is the active's end of a feed.
type Active struct{}

// ActiveHandler is called by one goroutine of the feed, in order. OnMessage
// sees neither welcome, refusal nor pong. OnDown is the last call, once.
type ActiveHandler interface {
	OnMessage(m *pb.FromStandby)
	OnDown(err error)
}

// Dial opens a feed under term to the standby at addr. guestNow reads the
// active's guest clock.
func Dial(ctx context.Context, addr string, term uint64, hello *pb.FeedHello, guestNow func() uint64, h ActiveHandler, cfg Config) (*Active, *pb.FeedWelcome, error) {
	return nil, nil, errNotBuilt
}

// Send queues m, whose Term it sets. It blocks while the queue is full, for
// SendTimeout at most. done: see checkpoint.Send.
func (a *Active) Send(ctx context.Context, m *pb.FromActive, done func()) error { return errNotBuilt }

// Input queues input number n, like Send; consecutive inputs that wait travel
// in one message. The frame is kept and must not change.
func (a *Active) Input(ctx context.Context, n uint64, frame []byte) error { return errNotBuilt }

// RoundTrip returns the shortest round trip of the last seconds; 0: none yet.
func (a *Active) RoundTrip() time.Duration { return 0 }

// Queued returns the bytes that wait to be sent.
func (a *Active) Queued() int { return 0 }

// Close ends the feed with the cause that OnDown gets. Never blocks.
func (a *Active) Close(cause error) {}

// Flush waits until all that was queued is handed to the transport.
func (a *Active) Flush(ctx context.Context) error { return errNotBuilt }

// Done is closed when the feed has ended and no callback runs any more.
func (a *Active) Done() <-chan struct{} { return nil }

// Standby is the standby's end of a feed.
type Standby struct{}

// StandbyHandler is like ActiveHandler.
type StandbyHandler interface {
	OnMessage(m *pb.FromActive)
	OnDown(err error)
}

// Accept decides about a feed that an active opens. An error refuses it with
// the error's text. s may be used once Accept has returned without error.
type Accept func(s *Standby, term uint64, hello *pb.FeedHello) (StandbyHandler, *pb.FeedWelcome, error)

// Server serves the Replication service.
type Server struct {
	pb.UnimplementedReplicationServer
}

// NewServer returns a Replication service to register at a grpc.Server that
// was made with ServerOptions.
func NewServer(accept Accept, cfg Config) *Server { return &Server{} }

// ServerOptions returns the options for a grpc.Server.
func ServerOptions(cfg Config) []grpc.ServerOption { return nil }

// Send queues m like Active.Send.
func (s *Standby) Send(ctx context.Context, m *pb.FromStandby) error { return errNotBuilt }

// GuestTime returns the best bounds of the active's guest time, now.
func (s *Standby) GuestTime() (ClockSample, bool) { return ClockSample{}, false }

// Close, Done: like Active.
func (s *Standby) Close(cause error) {}

// Done is closed when the feed has ended and no callback runs any more.
func (s *Standby) Done() <-chan struct{} { return nil }

// ClockSample says that at instant At the peer's guest time was between
// GuestNs and GuestNs+Uncertainty.
type ClockSample struct {
	At          time.Time
	GuestNs     uint64
	Uncertainty time.Duration
}

// Attach is a replica's connection to the arbiters.
type Attach struct{}

// AttachHandler is called by one goroutine, in order.
type AttachHandler interface {
	// OnUp: an arbiter at addr answered. Send works until OnDown.
	OnUp(addr string)
	OnMessage(m *pb.ToReplica)
	// OnDown: the stream of the last OnUp is gone, or (once, before any OnUp)
	// no arbiter could be reached. Attach goes on trying until Close.
	OnDown(err error)
}

// NewAttach starts to attach to one of addrs. hello is called for the first
// message (term and Hello) of each try, by any goroutine.
func NewAttach(addrs []string, hello func() *pb.FromReplica, h AttachHandler, cfg Config) *Attach {
	return &Attach{}
}

// Send queues m and never blocks. It returns an error while down; a full queue
// ends the stream.
func (a *Attach) Send(m *pb.FromReplica) error { return errNotBuilt }

// Close sends what is queued until ctx is done, then ends.
func (a *Attach) Close(ctx context.Context) {}

// Done is closed when everything has ended.
func (a *Attach) Done() <-chan struct{} { return nil }

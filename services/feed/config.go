package feed

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
)

// Errors that end a stream or refuse a message.
var (
	// ErrSilent: the peer sent nothing for Config.SilentAfter.
	ErrSilent = errors.New("peer is silent")
	// ErrFull: the send queue stayed full for Config.SendTimeout.
	ErrFull = errors.New("send queue is full")
	// ErrClosed: this end was closed, or is not connected.
	ErrClosed = errors.New("closed")
	// ErrRefused: the peer refused the handshake; the text says why.
	ErrRefused = errors.New("refused")
	// ErrProtocol: the peer sent what does not belong into its stream.
	ErrProtocol = errors.New("protocol violated")
)

// MaxMessage bounds an encoded message, in bytes.
const MaxMessage = 4 << 20

// Config tunes a stream. Zero fields take the defaults.
type Config struct {
	// QueueBytes bounds the messages that wait to be sent. Default 8 MiB.
	QueueBytes int
	// SendTimeout bounds how long a Send waits for room. Default 1 s.
	SendTimeout time.Duration
	// DialTimeout bounds connection and handshake together. Default 2 s.
	DialTimeout time.Duration
	// PingInterval is how often each end of a feed says something. Default 50 ms.
	PingInterval time.Duration
	// SilentAfter is after how long a silent peer is lost. Default 400 ms.
	SilentAfter time.Duration
	// Credentials secure the connection; nil: plain text.
	Credentials credentials.TransportCredentials
	// DialOptions are added to those of this package.
	DialOptions []grpc.DialOption
}

func (c *Config) setDefaults() {
	setDefault(&c.QueueBytes, 8<<20)
	setDefault(&c.SendTimeout, time.Second)
	setDefault(&c.DialTimeout, 2*time.Second)
	setDefault(&c.PingInterval, 50*time.Millisecond)
	setDefault(&c.SilentAfter, 400*time.Millisecond)
	if c.Credentials == nil {
		c.Credentials = insecure.NewCredentials()
	}
}

func setDefault[T int | time.Duration](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// Flow control windows in bytes: they hold what a reader that pauses for a
// moment has not taken yet, at the speed of a fast network.
const (
	streamWindow = 4 << 20
	connWindow   = 8 << 20
	ioBuffer     = 128 << 10
)

// dial returns a connection that is not opened yet.
func (c *Config) dial(addr string) (*grpc.ClientConn, error) {
	if !strings.Contains(addr, ":///") && !strings.HasPrefix(addr, "unix:") {
		// The dialler resolves names itself, afresh each time.
		addr = "passthrough:///" + addr
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(c.Credentials),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A connection is tried once; who wants another makes another.
			Backoff: backoff.DefaultConfig, MinConnectTimeout: c.DialTimeout,
		}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
	return grpc.NewClient(addr, append(opts, c.DialOptions...)...)
}

// ServerOptions returns the options of a grpc.Server that serves replicas.
func ServerOptions(cfg Config) []grpc.ServerOption {
	cfg.setDefaults()
	return []grpc.ServerOption{
		grpc.Creds(cfg.Credentials),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(ioBuffer),
		grpc.WriteBufferSize(ioBuffer),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.ConnectionTimeout(cfg.DialTimeout),
		grpc.MaxConcurrentStreams(16),
		grpc.InTapHandle(linger),
		// Connections without a stream that nobody closed.
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Minute, Time: 10 * time.Second, Timeout: 5 * time.Second}),
	}
}

package feed

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
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
	// SendTimeout bounds how long a Send waits for room. Default 1 s, or twice
	// SilentAfter where that is longer.
	SendTimeout time.Duration
	// DialTimeout bounds connection and handshake together. Default 2 s.
	DialTimeout time.Duration
	// PingInterval is how often each end of a feed says something. Default 50 ms.
	PingInterval time.Duration
	// SilentAfter is after how long a silent peer is lost, to within a
	// PingInterval. Default 400 ms.
	SilentAfter time.Duration
	// Credentials secure the connection; nil: plain text.
	Credentials credentials.TransportCredentials
	// Keep is told of each connection that is opened; what it returns is called
	// before the connection is closed. Default: nothing is done.
	Keep func(net.Conn) (release func())
	// DialOptions are added to those of this package.
	DialOptions []grpc.DialOption

	// drained is how long the reader of a broken stream must find nothing to
	// have taken all there was. Default 5 ms: far more than a goroutine needs
	// to be woken, on a machine that is not overloaded.
	drained time.Duration
}

func (c *Config) setDefaults() {
	setDefault(&c.QueueBytes, 8<<20)
	setDefault(&c.DialTimeout, 2*time.Second)
	setDefault(&c.PingInterval, 50*time.Millisecond)
	setDefault(&c.SilentAfter, 400*time.Millisecond)
	setDefault(&c.SendTimeout, max(time.Second, 2*c.SilentAfter))
	setDefault(&c.drained, 5*time.Millisecond)
	if c.Credentials == nil {
		c.Credentials = insecure.NewCredentials()
	}
	if c.Keep == nil {
		c.Keep = func(net.Conn) func() { return func() {} }
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

// connection is a gRPC connection that can be closed at once. By itself gRPC
// waits seconds for a peer that does not read to take its farewell.
type connection struct {
	*grpc.ClientConn
	keep   func(net.Conn) (release func())
	mu     sync.Mutex
	opened []func() // each closes one
	closed bool
}

// dial returns a connection that is not opened yet.
func (c *Config) dial(addr string) (*connection, error) {
	if !strings.Contains(addr, ":///") {
		// The dialler resolves names itself, afresh each time.
		addr = "passthrough:///" + addr
	}
	conn := &connection{keep: c.Keep}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(c.Credentials),
		grpc.WithContextDialer(conn.open),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(ioBuffer),
		grpc.WithWriteBufferSize(ioBuffer),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessage), grpc.MaxCallSendMsgSize(MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: c.DialTimeout}),
		grpc.WithDisableRetry(),
		grpc.WithDisableServiceConfig(),
		grpc.WithNoProxy(),
	}
	cc, err := grpc.NewClient(addr, append(opts, c.DialOptions...)...)
	if err != nil {
		return nil, err
	}
	conn.ClientConn = cc
	return conn, nil
}

// open is the dialler of a connection.
func (c *connection) open(ctx context.Context, addr string) (net.Conn, error) {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = raw.Close() // never used
		return nil, ErrClosed
	}
	release := c.keep(raw)
	c.opened = append(c.opened, func() {
		release()
		_ = raw.Close()
	})
	return raw, nil
}

// close ends the connection whatever the peer does. Nothing on it matters any
// more.
func (c *connection) close() {
	c.mu.Lock()
	c.closed = true
	for _, closeIt := range c.opened {
		closeIt()
	}
	c.mu.Unlock()
	_ = c.ClientConn.Close()
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
		grpc.ForceServerCodecV2(newCodec()),
		grpc.ConnectionTimeout(cfg.DialTimeout),
		grpc.MaxConcurrentStreams(16),
		grpc.InTapHandle(linger),
		// Connections without a stream that nobody closed. A stream's end is for
		// SilentAfter to tell, which this must not anticipate.
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: time.Minute, Time: 10 * time.Second, Timeout: max(5*time.Second, 2*cfg.SilentAfter)}),
	}
}

package uplink

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/uplink/wire"
)

// Bounds of waiting for the gateway.
const (
	dialTimeout  = 2 * time.Second
	sendTimeout  = 100 * time.Millisecond
	firstBackoff = 20 * time.Millisecond
	maxBackoff   = time.Second
)

// gateway is a port of the user-mode gateway's switch.
type gateway struct {
	network, address string
	secure           *tls.Config // nil: plain text
	log              hclog.Logger
	ear              *ear

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	done   chan struct{}

	mu    sync.Mutex // held while writing
	muted bool
	conn  net.Conn // nil while down
	buf   []byte
}

func openGateway(network, address string, secure *tls.Config, recv func([]byte), log hclog.Logger) *gateway {
	ctx, cancel := context.WithCancel(context.Background())
	g := &gateway{
		network: network, address: address, secure: secure, log: log.With("gateway", address),
		ear: newEar(recv), ctx: ctx, cancel: cancel, done: make(chan struct{}), muted: true,
	}
	go g.run()
	return g
}

// run keeps a connection until Close.
func (g *gateway) run() {
	defer close(g.done)
	backoff := firstBackoff
	failing := false
	for g.ctx.Err() == nil {
		conn, reader, err := g.connect()
		if err != nil {
			if g.ctx.Err() != nil {
				return
			}
			if !failing {
				g.log.Warn("gateway is unreachable, trying on", "error", err)
				failing = true
			}
			select {
			case <-g.ctx.Done():
			// The pauses differ, so that many replicas do not come at once.
			case <-time.After(backoff/2 + rand.N(backoff/2)):
			}
			backoff = min(2*backoff, maxBackoff)
			continue
		}
		g.log.Info("connected to the gateway")
		backoff, failing = firstBackoff, false
		err = g.read(reader)
		g.drop(conn)
		if g.ctx.Err() == nil {
			g.log.Warn("lost the gateway, connecting again", "error", err)
		}
	}
}

// connect returns a connection that is ready for frames and known to Send.
func (g *gateway) connect() (net.Conn, *wire.Reader, error) {
	dialer := net.Dialer{
		Timeout: dialTimeout,
		// A gateway's host that is gone is noticed after a few seconds of silence.
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3},
	}
	conn, err := dialer.DialContext(g.ctx, g.network, g.address)
	if err != nil {
		return nil, nil, fmt.Errorf("connecting: %w", err)
	}
	conn = identity.Client(conn, g.secure) // shakes hands with the greeting
	stop := context.AfterFunc(g.ctx, func() { conn.Close() })
	reader := wire.NewReader(bufio.NewReaderSize(conn, 1<<16))
	if err := handshake(conn, reader); err != nil {
		stop()
		conn.Close()
		return nil, nil, fmt.Errorf("greeting: %w", err)
	}

	g.mu.Lock()
	defer g.mu.Unlock()
	g.conn = conn
	if err := g.write(wire.AppendMode(g.buf[:0], g.muted)); err != nil {
		return nil, nil, err
	}
	return conn, reader, nil
}

func handshake(conn net.Conn, reader *wire.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(wire.AppendHello(nil)); err != nil {
		return err
	}
	if err := reader.Expect(); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// read delivers frames until the connection fails.
func (g *gateway) read(reader *wire.Reader) error {
	for {
		m, err := reader.Next()
		if err != nil {
			return err
		}
		if m.Kind == wire.Frame && g.ctx.Err() == nil {
			g.ear.hear(m.Frame)
		}
	}
}

// write sends a message on the connection; g.mu is held. After an error the
// stream may end within a message, so that the connection is given up.
func (g *gateway) write(message []byte) error {
	g.buf = message[:0]
	err := g.conn.SetWriteDeadline(time.Now().Add(sendTimeout))
	if err == nil {
		_, err = g.conn.Write(message)
	}
	if err != nil {
		g.conn.Close()
		g.conn = nil
		return fmt.Errorf("writing to the gateway: %w", err)
	}
	return nil
}

func (g *gateway) drop(conn net.Conn) {
	conn.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn == conn {
		g.conn = nil
	}
}

func (g *gateway) Send(frames ...[]byte) error {
	if err := checkFrames(frames); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.ctx.Err() != nil:
		return ErrClosed
	case g.muted:
		return ErrMuted
	case g.conn == nil:
		return ErrDown
	}
	message := g.buf[:0]
	for _, f := range frames {
		message = wire.AppendFrame(message, f)
	}
	return g.write(message)
}

func (g *gateway) Mute(muted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ear.mute(muted)
	if g.muted == muted {
		return
	}
	g.muted = muted
	if g.conn != nil {
		if err := g.write(wire.AppendMode(g.buf[:0], muted)); err != nil {
			g.log.Warn("telling the gateway failed, connecting again", "muted", muted, "error", err)
		}
	}
}

func (g *gateway) Recent() []Frame { return g.ear.recent() }

func (g *gateway) Close() error {
	g.cancel()
	<-g.done
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conn != nil {
		err := g.conn.Close()
		g.conn = nil
		if err != nil && !errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("closing the connection to the gateway: %w", err)
		}
	}
	return nil
}

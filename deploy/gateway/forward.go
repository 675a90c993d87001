package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/services/forwarder"
	"github.com/hashicorp/go-hclog"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
)

// dialTimeout bounds the opening of a forwarded connection. A guest that is
// being taken over answers well within it.
const dialTimeout = 10 * time.Second

// A Forward leads a port of the host to a port of a guest.
type Forward struct {
	Network string // "tcp" or "udp"
	Local   string // host:port
	Remote  netip.AddrPort
}

func (f Forward) String() string { return f.Network + ":" + f.Local + "=" + f.Remote.String() }

// ParseForward reads "[tcp:|udp:]HOST:PORT=GUEST:PORT".
func ParseForward(text string) (Forward, error) {
	f := Forward{Network: "tcp"}
	spec := text
	for _, network := range []string{"tcp", "udp"} {
		if rest, ok := strings.CutPrefix(spec, network+":"); ok {
			f.Network, spec = network, rest
			break
		}
	}
	local, remote, ok := strings.Cut(spec, "=")
	if !ok {
		return f, fmt.Errorf("forward %q: must be [udp:]HOST:PORT=GUEST:PORT", text)
	}
	if _, _, err := net.SplitHostPort(local); err != nil {
		return f, fmt.Errorf("forward %q: %w", text, err)
	}
	f.Local = local
	var err error
	if f.Remote, err = netip.ParseAddrPort(remote); err != nil || !f.Remote.Addr().Is4() || f.Remote.Port() == 0 {
		return f, fmt.Errorf("forward %q: the guest's side must be an IPv4 address and a port", text)
	}
	return f, nil
}

// forwards serves the forwarded ports of the host.
type forwards struct {
	router *router
	log    hclog.Logger
	ctx    context.Context
	end    []io.Closer
	addrs  []net.Addr
	wg     sync.WaitGroup
}

func (fs *forwards) open(f Forward) error {
	if f.Network == "udp" {
		local, err := net.ResolveUDPAddr("udp", f.Local)
		if err != nil {
			return fmt.Errorf("forwarding %s: %w", f, err)
		}
		listener, err := net.ListenUDP("udp", local)
		if err != nil {
			return fmt.Errorf("forwarding %s: %w", f, err)
		}
		to := address(f.Remote)
		proxy, err := forwarder.NewUDPProxy(listener, func() (net.Conn, error) {
			return gonet.DialUDP(fs.router.stack, nil, &to, ipv4.ProtocolNumber)
		})
		if err != nil {
			listener.Close()
			return fmt.Errorf("forwarding %s: %w", f, err)
		}
		fs.end, fs.addrs = append(fs.end, proxy), append(fs.addrs, listener.LocalAddr())
		fs.wg.Go(proxy.Run)
		return nil
	}
	listener, err := net.Listen("tcp", f.Local)
	if err != nil {
		return fmt.Errorf("forwarding %s: %w", f, err)
	}
	fs.end, fs.addrs = append(fs.end, listener), append(fs.addrs, listener.Addr())
	fs.wg.Go(func() { fs.accept(listener, f) })
	return nil
}

func (fs *forwards) accept(listener net.Listener, f Forward) {
	serve(fs.ctx, listener, &fs.wg, fs.log, func(client net.Conn) {
		ctx, cancel := context.WithTimeout(fs.ctx, dialTimeout)
		guest, err := gonet.DialContextTCP(ctx, fs.router.stack, address(f.Remote), ipv4.ProtocolNumber)
		cancel()
		if err != nil {
			fs.log.Debug("the guest takes no connection", "forward", f, "error", err)
			reset(client)
			return
		}
		splice(fs.ctx, client, guest)
	})
}

// close ends all forwarded connections.
func (fs *forwards) close() {
	for _, c := range fs.end {
		c.Close()
	}
	fs.wg.Wait()
}

// serve accepts until the listener is closed and runs handle for each
// connection.
func serve(ctx context.Context, listener net.Listener, wg *sync.WaitGroup, log hclog.Logger, handle func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) || ctx.Err() != nil {
			if err == nil {
				conn.Close()
			}
			return
		}
		if err != nil {
			// Out of descriptors, mostly: some will come free.
			log.Warn("accepting a connection failed", "listener", listener.Addr(), "error", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
			continue
		}
		wg.Go(func() { handle(conn) })
	}
}

// splice copies both ways until both ends have finished, or one is broken. It
// closes both.
func splice(ctx context.Context, a, b net.Conn) {
	defer a.Close()
	defer b.Close()
	stop := context.AfterFunc(ctx, func() { a.Close(); b.Close() })
	defer stop()
	var wg sync.WaitGroup
	wg.Go(func() { transfer(a, b) })
	wg.Go(func() { transfer(b, a) })
	wg.Wait()
}

// transfer copies from src to dst and passes the end on: an orderly one as an
// orderly one, a broken connection as a broken one.
func transfer(dst, src net.Conn) {
	_, err := io.Copy(dst, src)
	if half, ok := dst.(interface{ CloseWrite() error }); ok && err == nil && half.CloseWrite() == nil {
		return
	}
	reset(dst)
	reset(src)
}

// reset closes a connection so that its peer does not take it for an orderly
// end.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	c.Close()
}

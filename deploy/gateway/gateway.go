package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/identity"
)

// Config is what a gateway is started with.
type Config struct {
	// Listen are the addresses for uplinks: unix:PATH or HOST:PORT.
	Listen []string
	// Identity is the gateway's certificate, which clients at HOST:PORT need to
	// trust, and they one of a replica; nil: plain text.
	Identity *identity.Source
	// Subnet is the guests' network, IPv4. The gateway has its first address.
	Subnet netip.Prefix
	// Leases are the addresses that DHCP gives to known guests. Others get
	// the lowest that is free.
	Leases map[netip.Addr]mac
	// Forwards lead ports of the host to guests.
	Forwards []Forward
	// Outbound lets guests open connections to the outside.
	Outbound bool
	// MTU is told to guests by DHCP, and the stack's own, in bytes.
	MTU int
}

func (c Config) routerIP() netip.Addr { return c.Subnet.Masked().Addr().Next() }

func (c Config) check() error {
	if !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() < 8 || c.Subnet.Bits() > 30 {
		return fmt.Errorf("subnet %s: must be IPv4 with a prefix of 8 to 30 bits", c.Subnet)
	}
	if c.MTU < 576 || c.MTU > 9000 {
		return fmt.Errorf("MTU %d: must be 576 to 9000", c.MTU)
	}
	for ip := range c.Leases {
		if !c.Subnet.Contains(ip) || ip == c.routerIP() {
			return fmt.Errorf("lease of %s: not a guest's address in %s", ip, c.Subnet.Masked())
		}
	}
	for _, f := range c.Forwards {
		if !c.Subnet.Contains(f.Remote.Addr()) || f.Remote.Addr() == c.routerIP() {
			return fmt.Errorf("forward %s: %s is not a guest's address in %s", f, f.Remote.Addr(), c.Subnet.Masked())
		}
	}
	if len(c.Listen) == 0 {
		return errors.New("no address to listen on")
	}
	return nil
}

// A Gateway is a running gateway.
type Gateway struct {
	log       hclog.Logger
	cancel    context.CancelFunc
	eth       *ethernet
	router    *router
	forwards  *forwards
	outbound  *outbound
	listeners []net.Listener
	wg        sync.WaitGroup
}

// Start starts a gateway. When it returns, uplinks and clients can connect.
func Start(cfg Config, log hclog.Logger) (_ *Gateway, err error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	g := &Gateway{log: log, cancel: cancel, eth: newEthernet(routerMAC, log)}
	defer func() {
		if err != nil {
			g.Close()
		}
	}()
	if g.router, err = newRouter(cfg, g.eth, log); err != nil {
		return nil, err
	}
	g.outbound = &outbound{ctx: ctx, log: log}
	if cfg.Outbound {
		g.outbound.start(g.router.stack)
	}
	g.forwards = &forwards{router: g.router, log: log, ctx: ctx}
	for _, f := range cfg.Forwards {
		if err := g.forwards.open(f); err != nil {
			return nil, err
		}
		log.Info("forwarding", "forward", f)
	}
	for _, at := range cfg.Listen {
		listener, err := listen(at)
		if err != nil {
			return nil, err
		}
		g.listeners = append(g.listeners, listener)
		log.Info("listening for uplinks", "address", listener.Addr())
		secure := cfg.Identity.ServerTLS(identity.ID{Role: identity.Replica})
		if listener.Addr().Network() == "unix" {
			secure = nil
		}
		g.wg.Go(func() {
			serve(ctx, listener, &g.wg, log, func(conn net.Conn) {
				conn = identity.Server(conn, secure) // shakes hands with the greeting
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				servePort(conn, g.eth, log)
			})
		})
	}
	return g, nil
}

// Close ends the gateway and all connections through it.
func (g *Gateway) Close() {
	g.cancel()
	for _, l := range g.listeners {
		l.Close()
	}
	g.wg.Wait()
	if g.forwards != nil {
		g.forwards.close()
	}
	if g.outbound != nil {
		g.outbound.wg.Wait()
	}
	if g.router != nil {
		g.router.close()
	}
}

// listen opens unix:PATH or HOST:PORT. A socket that a dead gateway left
// behind is replaced.
func listen(at string) (net.Listener, error) {
	path, isUnix := strings.CutPrefix(at, "unix:")
	if !isUnix {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return nil, fmt.Errorf("listening for uplinks: %w", err)
		}
		return l, nil
	}
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) {
		conn, dialErr := net.DialTimeout("unix", path, time.Second)
		if dialErr == nil {
			conn.Close()
			return nil, fmt.Errorf("listening for uplinks: %s is in use by another gateway", path)
		}
		if !errors.Is(dialErr, syscall.ECONNREFUSED) {
			return nil, fmt.Errorf("listening for uplinks: %w", err)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replacing a dead gateway's socket: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("listening for uplinks: %w", err)
	}
	return l, nil
}

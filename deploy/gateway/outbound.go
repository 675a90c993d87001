package main

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// Bounds of what guests may have open to the outside.
const (
	maxOutbound = 1024 // connections, and as many UDP flows
	maxPending  = 128  // connections being opened
	udpIdle     = 90 * time.Second
	maxDatagram = 64 << 10
)

// outbound carries guests' connections to the outside, from the host's own
// addresses.
type outbound struct {
	ctx      context.Context
	log      hclog.Logger
	wg       sync.WaitGroup
	tcp, udp atomic.Int64
}

// start registers for what no socket of the stack is there for.
func (o *outbound) start(s *stack.Stack) {
	connections := tcp.NewForwarder(s, 0, maxPending, func(r *tcp.ForwarderRequest) {
		defer o.tcp.Add(-1)
		if o.tcp.Add(1) > maxOutbound || o.ctx.Err() != nil {
			r.Complete(true)
			return
		}
		o.connect(r)
	})
	s.SetTransportProtocolHandler(tcp.ProtocolNumber, connections.HandlePacket)
	datagrams := udp.NewForwarder(s, o.flow)
	s.SetTransportProtocolHandler(udp.ProtocolNumber, datagrams.HandlePacket)
}

// allowed refuses link-local targets: in a cloud the host's identity is served
// there, which is not a guest's.
func allowed(id stack.TransportEndpointID) (target net.IP, ok bool) {
	target = id.LocalAddress.AsSlice()
	return target, target.IsGlobalUnicast()
}

func (o *outbound) connect(r *tcp.ForwarderRequest) {
	id := r.ID()
	target, ok := allowed(id)
	if !ok {
		r.Complete(true)
		return
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	outside, err := dialer.DialContext(o.ctx, "tcp", (&net.TCPAddr{IP: target, Port: int(id.LocalPort)}).String())
	if err != nil {
		o.log.Debug("a guest's connection to the outside failed", "error", err)
		r.Complete(true)
		return
	}
	var queue waiter.Queue
	endpoint, tcpErr := r.CreateEndpoint(&queue)
	r.Complete(false)
	if tcpErr != nil {
		o.log.Debug("a guest gave its connection up", "error", tcpErr)
		outside.Close()
		return
	}
	splice(o.ctx, outside, gonet.NewTCPConn(&queue, endpoint))
}

func (o *outbound) flow(r *udp.ForwarderRequest) {
	id := r.ID()
	target, ok := allowed(id)
	if !ok || o.ctx.Err() != nil {
		return
	}
	if o.udp.Add(1) > maxOutbound {
		o.udp.Add(-1)
		return
	}
	var queue waiter.Queue
	endpoint, err := r.CreateEndpoint(&queue)
	if err != nil {
		o.udp.Add(-1)
		return
	}
	guest := gonet.NewUDPConn(&queue, endpoint)
	o.wg.Go(func() {
		defer o.udp.Add(-1)
		defer guest.Close()
		outside, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: target, Port: int(id.LocalPort)})
		if err != nil {
			o.log.Debug("a guest's datagram to the outside failed", "error", err)
			return
		}
		defer outside.Close()
		stop := context.AfterFunc(o.ctx, func() { guest.Close(); outside.Close() })
		defer stop()
		var wg sync.WaitGroup
		wg.Go(func() { datagrams(outside, guest) })
		wg.Go(func() { datagrams(guest, outside) })
		wg.Wait()
	})
}

// datagrams copies until either side was idle for udpIdle or closed.
func datagrams(dst, src net.Conn) {
	defer dst.Close()
	buf := make([]byte, maxDatagram)
	for {
		if err := src.SetReadDeadline(time.Now().Add(udpIdle)); err != nil {
			return
		}
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		// An answer keeps the other direction alive, too.
		if err := dst.SetReadDeadline(time.Now().Add(udpIdle)); err != nil {
			return
		}
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

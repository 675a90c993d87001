package main

import (
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/containers/gvisor-tap-vsock/pkg/services/dhcp"
	"github.com/containers/gvisor-tap-vsock/pkg/services/dns"
	"github.com/containers/gvisor-tap-vsock/pkg/tap"
	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/hashicorp/go-hclog"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

// Bounds of the retransmission time-out, see the package comment.
const (
	minRTO = 60 * time.Millisecond
	maxRTO = time.Second
	// probeRetries is how many unanswered probes of a closed window end a
	// connection: at maxRTO apart, two minutes.
	probeRetries = 120
)

// nic is the stack's only interface.
const nic tcpip.NICID = 1

// routerMAC is the address of the stack on every gateway, so that a gateway
// that was started again is the same to the guests.
var routerMAC = mac{0x52, 0x55, 0x55, 0x44, 0x00, 0x01}

// router is the user-mode stack as a port of the switch.
type router struct {
	stack *stack.Stack
	link  *tap.LinkEndpoint
	acks  *delayedAcks
}

// link is the stack's side of the wire. Unlike the endpoint that it is made
// of, it lets the stack verify checksums: a frame that a replica damaged must
// not reach a client.
type link struct{ *tap.LinkEndpoint }

func (link) Capabilities() stack.LinkEndpointCapabilities { return stack.CapabilityResolutionRequired }

// newRouter builds the stack and connects it to the switch.
func newRouter(cfg Config, eth *ethernet, log hclog.Logger) (*router, error) {
	endpoint, err := tap.NewLinkEndpoint(false, uint32(cfg.MTU), routerMAC.String(), cfg.routerIP().String(), nil)
	if err != nil {
		return nil, fmt.Errorf("making the stack's link: %w", err)
	}
	r := &router{link: endpoint, acks: newDelayedAcks(func(frame []byte) { eth.send(routerPort, frame) })}
	endpoint.Connect(r)
	r.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	if err := r.configure(cfg, link{endpoint}); err != nil {
		r.close()
		return nil, err
	}
	if err := r.serve(cfg, log); err != nil {
		r.close()
		return nil, err
	}
	eth.setRouter(r)
	return r, nil
}

func (r *router) configure(cfg Config, ep stack.LinkEndpoint) error {
	if err := r.stack.CreateNIC(nic, ep); err != nil {
		return fmt.Errorf("making the stack's interface: %v", err)
	}
	if err := r.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFrom4(cfg.routerIP().As4()).WithPrefix(),
	}, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("setting the stack's address: %v", err)
	}
	// The stack answers as whatever host a guest wants to reach.
	if err := r.stack.SetSpoofing(nic, true); err != nil {
		return fmt.Errorf("setting the stack up as a router: %v", err)
	}
	if err := r.stack.SetPromiscuousMode(nic, true); err != nil {
		return fmt.Errorf("setting the stack up as a router: %v", err)
	}
	subnet, err := tcpip.NewSubnet(tcpip.AddrFrom4(cfg.Subnet.Masked().Addr().As4()), tcpip.MaskFromBytes(net.CIDRMask(cfg.Subnet.Bits(), 32)))
	if err != nil {
		return fmt.Errorf("setting the stack's route: %w", err)
	}
	r.stack.SetRouteTable([]tcpip.Route{{Destination: subnet, NIC: nic}})

	lowest, highest, probes := tcpip.TCPMinRTOOption(minRTO), tcpip.TCPMaxRTOOption(maxRTO), tcpip.TCPMaxRetriesOption(probeRetries)
	for _, option := range []tcpip.SettableTransportProtocolOption{&lowest, &highest, &probes} {
		if err := r.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("setting the stack's TCP timers: %v", err)
		}
	}
	return nil
}

// serve starts DHCP and DNS at the router's address. They end with the stack.
func (r *router) serve(cfg Config, log hclog.Logger) error {
	_, subnet, err := net.ParseCIDR(cfg.Subnet.Masked().String())
	if err != nil {
		return fmt.Errorf("reading the subnet: %w", err)
	}
	pool := tap.NewIPPool(subnet)
	pool.Reserve(cfg.routerIP().AsSlice(), routerMAC.String())
	for ip, m := range cfg.Leases {
		pool.Reserve(ip.AsSlice(), m.String())
	}
	leases, err := dhcp.New(&types.Configuration{
		MTU: cfg.MTU, Subnet: cfg.Subnet.Masked().String(), GatewayIP: cfg.routerIP().String(), GatewayMacAddress: routerMAC.String(),
	}, r.stack, pool)
	if err != nil {
		return fmt.Errorf("starting the DHCP server: %w", err)
	}
	go func() {
		if err := leases.Serve(); err != nil {
			log.Debug("the DHCP server ended", "error", err)
		}
	}()

	at := tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(cfg.routerIP().As4()), Port: 53}
	datagrams, err := gonet.DialUDP(r.stack, &at, nil, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("starting the DNS server: %w", err)
	}
	listener, err := gonet.ListenTCP(r.stack, at, ipv4.ProtocolNumber)
	if err != nil {
		return fmt.Errorf("starting the DNS server: %w", err)
	}
	names, err := dns.New(datagrams, listener, nil)
	if err != nil {
		return fmt.Errorf("starting the DNS server: %w", err)
	}
	for _, serve := range []func() error{names.Serve, names.ServeTCP} {
		go func() {
			if err := serve(); err != nil {
				log.Debug("the DNS server ended", "error", err)
			}
		}()
	}
	return nil
}

// deliver hands a frame from the switch to the stack.
func (r *router) deliver(frame []byte) {
	data := buffer.MakeWithData(frame[header.EthernetMinimumSize:])
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: data})
	r.link.DeliverNetworkPacket(header.Ethernet(frame).Type(), pkt)
	pkt.DecRef()
}

// DeliverNetworkPacket takes a frame from the stack (tap.NetworkSwitch).
func (r *router) DeliverNetworkPacket(_ tcpip.NetworkProtocolNumber, pkt *stack.PacketBuffer) {
	view := pkt.ToView()
	frame := append([]byte(nil), view.AsSlice()...)
	view.Release()
	r.acks.pass(time.Now(), frame)
}

func (r *router) close() { r.stack.Destroy() }

func address(a netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(a.Addr().As4()), Port: a.Port()}
}

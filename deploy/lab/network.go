package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"github.com/understudy-ft/understudy/deploy/cluster"
)

// Addresses in the lab's network, 192.168.127.0/24. The guest's is
// cluster.GuestIP, the clients' (and the gateway's) is .1.
const (
	clientIP    = "192.168.127.1"
	arbiterIP   = "192.168.127.10"
	arbiterPort = "7400"
	redisPort   = "6379"
)

// network links the hosts with each other and with the clients, who are this
// process.
type network interface {
	// link is the -netdev of one more host.
	link() (string, error)
	// redis and arbiter are where the clients find these.
	redis() string
	arbiter() string
	close() error
}

// errNoBridge: this process may not make bridges and TAP devices here.
var errNoBridge = errors.New("no bridge can be made")

// bridge is a Linux bridge with a TAP device for each host.
type bridge struct {
	links []netlink.Link // the bridge first
}

const bridgeName = "lab"

// newBridge makes a bridge in this process's network namespace. Errors wrap
// errNoBridge.
func newBridge() (*bridge, error) {
	b := &bridge{}
	if err := b.make(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", errNoBridge, err), b.close())
	}
	return b, nil
}

func (b *bridge) make() error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	br := &netlink.Bridge{LinkAttrs: attrs}
	if err := netlink.LinkAdd(br); err != nil {
		return fmt.Errorf("make bridge %s: %w", bridgeName, err)
	}
	b.links = append(b.links, br)
	addr, err := netlink.ParseAddr(clientIP + "/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(br, addr); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(br); err != nil {
		return err
	}
	// Whether TAP devices can be made shows with the first one.
	_, err = b.tap("probe")
	return err
}

func (b *bridge) tap(name string) (string, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName + name
	attrs.MasterIndex = b.links[0].Attrs().Index
	t := &netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP}
	if err := netlink.LinkAdd(t); err != nil {
		return "", fmt.Errorf("make TAP device %s: %w", attrs.Name, err)
	}
	b.links = append(b.links, t)
	if err := netlink.LinkSetUp(t); err != nil {
		return "", err
	}
	return attrs.Name, nil
}

func (b *bridge) link() (string, error) {
	name, err := b.tap(fmt.Sprint(len(b.links)))
	return "tap,ifname=" + name + ",script=no,downscript=no", err
}

func (b *bridge) redis() string   { return net.JoinHostPort(cluster.GuestIP, redisPort) }
func (b *bridge) arbiter() string { return net.JoinHostPort(arbiterIP, arbiterPort) }

func (b *bridge) close() (err error) {
	for _, l := range b.links {
		err = errors.Join(err, netlink.LinkDel(l))
	}
	return err
}

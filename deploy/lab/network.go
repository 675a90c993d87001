package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/network"
)

// Addresses in the lab's network, 192.168.127.0/24. The guest's is
// cluster.GuestIP, the clients' (and the gateway's) is .1.
const (
	clientIP    = "192.168.127.1"
	arbiterIP   = "192.168.127.10"
	arbiterPort = "7400"
	redisPort   = "6379"
)

// fabric links the hosts with each other and with the clients, who are this
// process.
type fabric interface {
	// link is the -netdev of one more host.
	link() (string, error)
	// redis and arbiter are where the clients find these.
	redis() string
	arbiter() string
	close() error
}

// bridge links hosts by TAP devices.
type bridge struct {
	*network.Bridge
	taps int
}

const bridgeName = "lab"

// newBridge makes a bridge in this process's network namespace. Errors wrap
// network.ErrUnable.
func newBridge() (*bridge, error) {
	made, err := network.NewBridge(bridgeName, clientIP+"/24")
	if err != nil {
		return nil, err
	}
	b := &bridge{Bridge: made}
	// Whether TAP devices can be made shows with the first one.
	if _, err := made.Tap("probe"); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", network.ErrUnable, err), made.Close())
	}
	return b, nil
}

func (b *bridge) link() (string, error) {
	b.taps++
	name, err := b.Tap(fmt.Sprint(b.taps))
	return "tap,ifname=" + name + ",script=no,downscript=no", err
}

func (b *bridge) redis() string   { return net.JoinHostPort(cluster.GuestIP, redisPort) }
func (b *bridge) arbiter() string { return net.JoinHostPort(arbiterIP, arbiterPort) }
func (b *bridge) close() error    { return b.Bridge.Close() }

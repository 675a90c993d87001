package cluster

import (
	"fmt"

	"github.com/understudy-ft/understudy/deploy/network"
)

// Ports of processes that have a host each.
const (
	arbiterPort = "7400"
	feedPort    = "7410"
	etcdPort    = "2379"
	peerPort    = "2380"
)

// Host is the host of a process by its name: arbiter, arbiter-2, etcd, primary,
// secondary-1 and so on; nil without Config.Network.
func (c *Cluster) Host(name string) *network.Host { return c.hosts[name] }

func (c *Cluster) newHost(name string) (*network.Host, error) {
	if h := c.hosts[name]; h != nil {
		return h, nil
	}
	h, err := c.Network.Host()
	if err != nil {
		return nil, fmt.Errorf("a host for %s: %w", name, err)
	}
	c.hosts[name] = h
	return h, nil
}

// place gives arbiters and etcd their hosts, and puts their addresses into addrs,
// which are as start uses them.
func (c *Cluster) place(addrs []string) error {
	if c.Network == nil {
		return nil
	}
	c.hosts = map[string]*network.Host{}
	for _, p := range []struct {
		addr       int
		name, port string
	}{{0, "arbiter", arbiterPort}, {3, "etcd", etcdPort}, {4, "etcd", peerPort}, {5, "arbiter-2", arbiterPort}} {
		h, err := c.newHost(p.name)
		if err != nil {
			return err
		}
		addrs[p.addr] = h.At(p.port)
	}
	return nil
}

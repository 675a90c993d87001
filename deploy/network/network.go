// Package network makes small networks in the kernel: a bridge, TAP devices for
// emulated hosts, and hosts of its own, each a network namespace that a pair of
// virtual Ethernet devices joins to the bridge. A host can be unplugged, and what
// one host sends to another can be dropped, each way for itself.
//
// It needs the right to make networks: root's, or anybody's in a namespace of
// his own, which Isolate gives a program.
package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/vishvananda/netlink"
)

// ErrUnable is wrapped by the errors of a process that may not make networks
// where it runs.
var ErrUnable = errors.New("no network can be made")

// Isolate lets a program that is about to be started run in a network namespace
// of its own, which ends with it. It may make networks there.
func Isolate(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	if os.Geteuid() != 0 {
		// In a user namespace everybody may make networks.
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
}

// Bridge is a Linux bridge in this process's namespace, which has an address on
// it. Its methods are for one goroutine.
type Bridge struct {
	name  string
	own   *net.IPNet
	links []netlink.Link // the bridge first
	hosts []*Host
}

// NewBridge makes a bridge. own is this process's address on it, in CIDR
// notation. Errors wrap ErrUnable.
func NewBridge(name, own string) (*Bridge, error) {
	b := &Bridge{name: name}
	if err := b.make(own); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUnable, err), b.Close())
	}
	return b, nil
}

func (b *Bridge) make(own string) error {
	if lo, err := netlink.LinkByName("lo"); err == nil {
		if err := netlink.LinkSetUp(lo); err != nil {
			return err
		}
	}
	addr, err := netlink.ParseAddr(own)
	if err != nil {
		return err
	}
	b.own = addr.IPNet
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.name
	if err := b.add(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make bridge %s: %w", b.name, err)
	}
	if err := netlink.AddrAdd(b.links[0], addr); err != nil {
		return err
	}
	return netlink.LinkSetUp(b.links[0])
}

// add makes a device that ends with the bridge.
func (b *Bridge) add(l netlink.Link) error {
	err := netlink.LinkAdd(l)
	if err == nil {
		b.links = append(b.links, l)
	}
	return err
}

// port are the attributes of a device that is one of the bridge's ports.
func (b *Bridge) port(name string) netlink.LinkAttrs {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = b.name + name
	attrs.MasterIndex = b.links[0].Attrs().Index
	return attrs
}

// Tap makes one more TAP device and returns its name, which ends with name.
func (b *Bridge) Tap(name string) (string, error) {
	t := &netlink.Tuntap{LinkAttrs: b.port(name), Mode: netlink.TUNTAP_MODE_TAP}
	if err := b.add(t); err != nil {
		return "", fmt.Errorf("make TAP device %s: %w", t.Name, err)
	}
	return t.Name, netlink.LinkSetUp(t)
}

// Close removes all.
func (b *Bridge) Close() (err error) {
	for _, l := range b.links { // a host's goes with its namespace otherwise
		err = errors.Join(err, netlink.LinkDel(l))
	}
	for _, h := range b.hosts {
		err = errors.Join(err, h.close())
	}
	b.hosts, b.links = nil, nil
	return err
}

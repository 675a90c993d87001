package network

import (
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Host is a network namespace on a bridge.
type Host struct {
	// IP is its address.
	IP net.IP

	namespace *os.File
	inside    *netlink.Handle
	// outer is the port of the bridge, inner the host's own device.
	outer, inner netlink.Link
}

// Host makes one more host, with the next address of the bridge's network, of
// which there must be some left.
func (b *Bridge) Host() (_ *Host, err error) {
	n := len(b.hosts) + 1
	h := &Host{IP: append(net.IP(nil), b.own.IP.To4()...)}
	h.IP[3] += byte(n)
	defer func() {
		if err != nil {
			err = fmt.Errorf("make host %v: %w", h.IP, err)
		}
	}()
	if h.namespace, err = newNamespace(); err != nil {
		return nil, err
	}
	b.hosts = append(b.hosts, h) // from here on Close cleans up
	if h.inside, err = netlink.NewHandleAt(netns.NsHandle(h.namespace.Fd())); err != nil {
		return nil, err
	}
	pair := &netlink.Veth{LinkAttrs: b.port(fmt.Sprint(n)), PeerName: "eth0", PeerNamespace: netlink.NsFd(h.namespace.Fd())}
	if err := b.add(pair); err != nil {
		return nil, err
	}
	h.outer = pair
	if h.inner, err = h.inside.LinkByName("eth0"); err != nil {
		return nil, err
	}
	lo, err := h.inside.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	if err := h.inside.LinkSetUp(lo); err != nil {
		return nil, err
	}
	if err := h.inside.AddrAdd(h.inner, &netlink.Addr{IPNet: &net.IPNet{IP: h.IP, Mask: b.own.Mask}}); err != nil {
		return nil, err
	}
	if err := h.inside.LinkSetUp(h.inner); err != nil {
		return nil, err
	}
	return h, h.Plug()
}

// At is a port of the host.
func (h *Host) At(port string) string { return net.JoinHostPort(h.IP.String(), port) }

// Namespace is the host's, to start processes in.
func (h *Host) Namespace() *os.File { return h.namespace }

// Unplug pulls the host's cable; Plug puts it back.
func (h *Host) Unplug() error { return netlink.LinkSetDown(h.outer) }

// Plug follows Unplug.
func (h *Host) Plug() error { return netlink.LinkSetUp(h.outer) }

// nobody is an Ethernet address that no host has.
var nobody = net.HardwareAddr{0x02, 0, 0, 0, 0, 0xff}

// Drop loses what the host sends to another one from now on, silently; what the
// other sends still arrives. Pass ends it.
func (h *Host) Drop(to *Host) error {
	return h.inside.NeighSet(&netlink.Neigh{LinkIndex: h.inner.Attrs().Index, State: netlink.NUD_PERMANENT, IP: to.IP, HardwareAddr: nobody})
}

// Pass follows Drop.
func (h *Host) Pass(to *Host) error {
	return h.inside.NeighDel(&netlink.Neigh{LinkIndex: h.inner.Attrs().Index, IP: to.IP})
}

func (h *Host) close() error {
	if h.inside != nil {
		h.inside.Close()
	}
	return h.namespace.Close() // with it and its processes the namespace ends
}

// ownNamespace is the calling thread's.
const ownNamespace = "/proc/thread-self/ns/net"

// newNamespace makes a network namespace.
func newNamespace() (f *os.File, err error) {
	err = away(func() error { return unix.Unshare(unix.CLONE_NEWNET) }, func() (err error) {
		f, err = os.Open(ownNamespace)
		return err
	})
	return f, err
}

// Within calls fn, in the same thread, while that is in a network namespace.
func Within(namespace *os.File, fn func() error) error {
	return away(func() error { return unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNET) }, fn)
}

// away calls fn while the thread is where leave brings it.
func away(leave, fn func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	own, err := os.Open(ownNamespace)
	if err != nil {
		return err
	}
	defer func() { _ = own.Close() }() // only read
	if err := leave(); err != nil {
		return fmt.Errorf("enter the network namespace: %w", err)
	}
	err = fn()
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		// What this thread does next would be done in the wrong place.
		panic(fmt.Sprintf("return to the network namespace: %v", back))
	}
	return err
}

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

// newNamespace makes a network namespace.
func newNamespace() (_ *os.File, err error) {
	runtime.LockOSThread() // the thread is back in its namespace, or ends with this goroutine
	own, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer func() { _ = own.Close() }() // only read
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	f, err := os.Open("/proc/thread-self/ns/net")
	if back := unix.Setns(int(own.Fd()), unix.CLONE_NEWNET); back != nil {
		return nil, fmt.Errorf("return to the network namespace: %w", back)
	}
	runtime.UnlockOSThread()
	return f, err
}

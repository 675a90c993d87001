package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// portInterval is the time between looks at whether the port is in its place.
const portInterval = time.Second

// errNoPort says that no device is the port.
var errNoPort = errors.New("there is no such device")

// keepPort puts the port into the bridge, and again whenever it has come back,
// until stop is called.
func keepPort(s tapSpec, log hclog.Logger) (stop func(), err error) {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE) // it stays in this thread's namespace
	if err != nil {
		return nil, fmt.Errorf("putting %s into bridge %s: %w", s.port, s.bridge, err)
	}
	b := bridged{nl: nl, bridge: s.bridge, port: s.port}
	if _, err := b.join(); err != nil {
		nl.Close()
		return nil, err
	}
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		defer nl.Close()
		b.keep(done, log)
	}()
	return func() { close(done); <-ended }, nil
}

// bridged is a bridge and the device that is its way to the outside.
type bridged struct {
	nl           *netlink.Handle
	bridge, port string
}

// keep joins the port again when it has come back.
func (b bridged) keep(done <-chan struct{}, log hclog.Logger) {
	ticker := time.NewTicker(portInterval)
	defer ticker.Stop()
	said := ""
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
		}
		joined, err := b.join()
		switch {
		case err == nil && (joined || said != ""):
			said = ""
			log.Info("the bridge's port is back", "bridge", b.bridge, "port", b.port)
		case err != nil && err.Error() != said:
			said = err.Error()
			log.Warn("the bridge has lost its port: the guest is cut off on this host", "error", err)
		}
		if errors.Is(err, errNoPort) {
			if err := b.giveBack(); err != nil {
				log.Warn("the bridge keeps the address of the port that it has lost", "error", err)
			}
		}
	}
}

// join makes the bridge if it is absent, puts the port into it and moves the
// port's addresses and routes there. Doing it again does only what is missing.
// joined tells whether the port was not in the bridge before.
func (b bridged) join() (joined bool, err error) {
	fail := func(err error) (bool, error) {
		return false, fmt.Errorf("putting %s into bridge %s: %w", b.port, b.bridge, err)
	}
	bridge, err := b.nl.LinkByName(b.bridge)
	if err != nil && !errors.As(err, &netlink.LinkNotFoundError{}) {
		return fail(err)
	}
	if bridge != nil && bridge.Type() != "bridge" {
		return fail(fmt.Errorf("%s is no bridge but a device of type %s", b.bridge, bridge.Type()))
	}
	port, err := b.find(bridge)
	if err != nil {
		return fail(err)
	}
	if bridge == nil {
		if bridge, err = b.create(port.Attrs()); err != nil {
			return fail(err)
		}
	}
	switch port.Attrs().MasterIndex {
	case bridge.Attrs().Index:
	case 0:
		joined = true
		if err := b.nl.LinkSetMaster(port, bridge); err != nil {
			return fail(err)
		}
	default:
		return fail(fmt.Errorf("%s belongs to another device already", port.Attrs().Name))
	}
	for _, l := range []netlink.Link{bridge, port} {
		if l.Attrs().RawFlags&unix.IFF_UP == 0 {
			if err := b.nl.LinkSetUp(l); err != nil {
				return fail(err)
			}
		}
	}
	if err := b.move(port, bridge); err != nil {
		return fail(err)
	}
	return joined, nil
}

// find returns the port: by its name, or by an address within the prefix. A
// port whose address has moved to the bridge is the bridge's one that is no TAP
// device.
func (b bridged) find(bridge netlink.Link) (netlink.Link, error) {
	if !strings.Contains(b.port, "/") {
		link, err := b.nl.LinkByName(b.port)
		if errors.As(err, &netlink.LinkNotFoundError{}) {
			return nil, errNoPort
		}
		return link, err
	}
	prefix, err := netip.ParsePrefix(b.port)
	if err != nil {
		return nil, err
	}
	links, err := b.nl.LinkList()
	if err != nil {
		return nil, err
	}
	var member netlink.Link
	for _, link := range links {
		if bridge != nil && link.Attrs().Index == bridge.Attrs().Index {
			continue
		}
		addrs, err := b.nl.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			if within(prefix, a.IP) {
				return link, nil
			}
		}
		if bridge != nil && link.Attrs().MasterIndex == bridge.Attrs().Index && link.Type() != "tuntap" {
			member = link
		}
	}
	if member == nil {
		return nil, errNoPort
	}
	return member, nil
}

func within(p netip.Prefix, ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && p.Contains(a.Unmap())
}

// giveBack takes the address of a port that is gone from the bridge: a device
// that comes back with it would find it in use.
func (b bridged) giveBack() error {
	prefix, err := netip.ParsePrefix(b.port)
	if err != nil {
		return nil // found by its name: its address may be anything
	}
	bridge, err := b.nl.LinkByName(b.bridge)
	if err != nil {
		return err
	}
	addrs, err := b.nl.AddrList(bridge, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	for _, a := range addrs {
		if within(prefix, a.IP) {
			if err := b.nl.AddrDel(bridge, &netlink.Addr{IPNet: a.IPNet}); err != nil {
				return fmt.Errorf("taking the address %s from %s: %w", a.IPNet, b.bridge, err)
			}
		}
	}
	return nil
}

// create makes the bridge with the port's MAC address and MTU: a bridge without
// an address of its own would change it with its ports.
func (b bridged) create(port *netlink.LinkAttrs) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = b.bridge, port.HardwareAddr, port.MTU
	snooping := false // a handful of ports: flooding is simple and right
	if err := b.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("making the bridge: %w", err)
	}
	return b.nl.LinkByName(b.bridge)
}

// move moves addresses and routes. A device in a bridge hears nothing itself.
func (b bridged) move(from, to netlink.Link) error {
	addrs, err := b.nl.AddrList(from, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	// Routes vanish with their addresses; those of the kernel come by themselves.
	routes, err := b.nl.RouteList(from, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	moved := false
	for _, a := range addrs {
		if a.IP.IsLinkLocalUnicast() && a.IP.To4() == nil {
			continue // each device has one
		}
		there := netlink.Addr{IPNet: a.IPNet, Broadcast: a.Broadcast}
		if err := b.nl.AddrDel(from, &netlink.Addr{IPNet: a.IPNet}); err != nil {
			return fmt.Errorf("taking the address %s from %s: %w", a.IPNet, from.Attrs().Name, err)
		}
		if err := b.nl.AddrReplace(to, &there); err != nil {
			return fmt.Errorf("giving %s the address %s: %w", to.Attrs().Name, a.IPNet, err)
		}
		moved = true
	}
	if !moved {
		return nil
	}
	for _, r := range routes {
		if r.Protocol == unix.RTPROT_KERNEL {
			continue
		}
		r.LinkIndex = to.Attrs().Index
		if err := b.nl.RouteReplace(&r); err != nil {
			return fmt.Errorf("moving the route %s to %s: %w", r, to.Attrs().Name, err)
		}
	}
	return nil
}

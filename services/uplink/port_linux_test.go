package uplink

import (
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
)

// cable makes two devices that are the ends of one cable, as a container's
// network is: the inner end has an address and a default route.
func cable(t *testing.T, inner, outer string) {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = outer
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: inner}))
	for _, name := range []string{inner, outer} {
		must(t, netlink.LinkSetUp(link(t, name)))
	}
	addr, err := netlink.ParseAddr("10.98.0.2/24")
	must(t, err)
	must(t, netlink.AddrAdd(link(t, inner), addr))
	must(t, netlink.RouteReplace(&netlink.Route{LinkIndex: link(t, inner).Attrs().Index, Gw: net.IPv4(10, 98, 0, 1)}))
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	must(t, err)
	return l
}

func addresses(t *testing.T, name string) (all []string) {
	t.Helper()
	addrs, err := netlink.AddrList(link(t, name), netlink.FAMILY_V4)
	must(t, err)
	for _, a := range addrs {
		all = append(all, a.IPNet.String())
	}
	return all
}

func TestPortJoinsABridgeThatIsMade(t *testing.T) {
	for _, port := range []string{"inner", "10.98.0.0/24"} {
		t.Run(strings.ReplaceAll(port, "/", "-"), func(t *testing.T) {
			inNamespace(t)
			cable(t, "inner", "outer")
			mac := link(t, "inner").Attrs().HardwareAddr.String()
			up := open(t, "tap:us0,bridge=br0,port="+port)
			again := open(t, "tap:us1,bridge=br0,port="+port) // all is in place already

			bridge := link(t, "br0")
			if got := link(t, "inner").Attrs().MasterIndex; got != bridge.Attrs().Index {
				t.Errorf("the port's master is %d, want the bridge, %d", got, bridge.Attrs().Index)
			}
			if got := bridge.Attrs().HardwareAddr.String(); got != mac {
				t.Errorf("the bridge's MAC is %s, want the port's, %s", got, mac)
			}
			if got := addresses(t, "inner"); len(got) != 0 {
				t.Errorf("the port still has %v", got)
			}
			if got := addresses(t, "br0"); len(got) != 1 || got[0] != "10.98.0.2/24" {
				t.Errorf("the bridge has %v, want the port's address", got)
			}
			routes, err := netlink.RouteList(bridge, netlink.FAMILY_V4)
			must(t, err)
			gateways := 0
			for _, r := range routes {
				if r.Gw.Equal(net.IPv4(10, 98, 0, 1)) {
					gateways++
				}
			}
			if gateways != 1 {
				t.Errorf("the bridge's routes are %v, want one by 10.98.0.1", routes)
			}

			// Frames pass both ways through the cable.
			far := bridgeOf(t, "br1", "outer")
			other := open(t, "tap:us2,bridge="+far)
			exchange(t, up, other)
			must(t, up.Close())
			must(t, again.Close())
		})
	}
}

func bridgeOf(t *testing.T, name, port string) string {
	t.Helper()
	must(t, netlink.LinkSetMaster(link(t, port), bridge(t, name)))
	return name
}

// exchange sends frames until both have heard the other's.
func exchange(t *testing.T, a, b *tapEnd) {
	t.Helper()
	for _, end := range []*tapEnd{a, b} {
		end.Mute(false)
	}
	hello := ether(0xff, 1, "from a")
	for heard := false; !heard; {
		must(t, a.Send(hello))
		select {
		case f := <-b.heard:
			heard = string(f) == string(hello)
		case <-time.After(10 * time.Millisecond):
		}
	}
	answer := ether(1, 2, "from b")
	must(t, b.Send(answer))
	a.expect(t, answer)
}

func TestPortComesBack(t *testing.T) {
	inNamespace(t)
	cable(t, "inner", "outer")
	nl, err := netlink.NewHandle()
	must(t, err)
	defer nl.Close()
	b := bridged{nl: nl, bridge: "br0", port: "10.98.0.0/24"}
	if joined, err := b.join(); err != nil || !joined {
		t.Fatalf("first join: %v, %v", joined, err)
	}
	if joined, err := b.join(); err != nil || joined {
		t.Fatalf("join of what is in place: %v, %v", joined, err)
	}
	must(t, netlink.LinkDel(link(t, "outer"))) // and the inner end with it
	if _, err := b.join(); !errors.Is(err, errNoPort) {
		t.Fatalf("join without the port: %v", err)
	}
	must(t, b.giveBack())
	if got := addresses(t, "br0"); len(got) != 0 {
		t.Errorf("the bridge still has %v of the port that is gone", got)
	}
	cable(t, "renamed", "outer") // another name, the same network
	if joined, err := b.join(); err != nil || !joined {
		t.Fatalf("join of the port that came back: %v, %v", joined, err)
	}
	if got := link(t, "renamed").Attrs().MasterIndex; got != link(t, "br0").Attrs().Index {
		t.Errorf("the new port's master is %d", got)
	}
	if got := addresses(t, "br0"); len(got) != 1 {
		t.Errorf("the bridge has %v, want the port's address", got)
	}
}

func TestPortThatCannotJoin(t *testing.T) {
	inNamespace(t)
	cable(t, "inner", "outer")
	other := bridge(t, "other")
	must(t, netlink.LinkSetMaster(link(t, "outer"), other))
	for spec, want := range map[string]string{
		"tap:us0,bridge=br0,port=none":         "no such device",
		"tap:us0,bridge=br0,port=10.99.0.0/24": "no such device",
		"tap:us0,bridge=br0,port=outer":        "belongs to another",
		"tap:us0,bridge=inner,port=outer":      "no bridge",
	} {
		_, err := Open(spec, func([]byte) {}, hclog.NewNullLogger())
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error with %q", spec, err, want)
		}
	}
}

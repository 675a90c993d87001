package uplink

import (
	"bytes"
	"errors"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace moves the test into an empty network namespace, which vanishes
// with it. Without the privileges it skips; in CI as root that is a failure.
func inNamespace(t *testing.T) {
	t.Helper()
	give := t.Skipf
	if os.Getuid() == 0 && os.Getenv("CI") == "true" {
		give = t.Fatalf
	}
	if os.Getuid() != 0 {
		give("SKIPPED: TAP devices are tested by root only")
	}
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		give("SKIPPED: no network namespaces here: %v", err)
	}
	space, err := netns.New()
	if err != nil {
		give("SKIPPED: no new network namespace: %v", err)
	}
	t.Cleanup(func() {
		space.Close()
		if err := netns.Set(home); err != nil {
			t.Errorf("returning to the namespace: %v", err) // and the thread stays locked, so it ends
			return
		}
		home.Close()
		runtime.UnlockOSThread()
	})
	if _, err := os.Stat(tunDevice); err != nil {
		give("SKIPPED: %v", err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bridge(t *testing.T, name string) netlink.Link {
	t.Helper()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	must(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}))
	link, err := netlink.LinkByName(name)
	must(t, err)
	must(t, netlink.LinkSetUp(link))
	return link
}

type tapEnd struct {
	Uplink
	heard chan []byte
}

func open(t *testing.T, spec string) *tapEnd {
	t.Helper()
	e := &tapEnd{heard: make(chan []byte, 1000)}
	up, err := Open(spec, func(f []byte) { e.heard <- f }, hclog.NewNullLogger())
	must(t, err)
	e.Uplink = up
	t.Cleanup(func() { up.Close() })
	return e
}

// expect waits for a frame; what the kernel itself says is passed over.
func (e *tapEnd) expect(t *testing.T, want []byte) {
	t.Helper()
	for {
		if bytes.Equal(receive(t, "a frame from the bridge", e.heard), want) {
			return
		}
	}
}

func ether(dst, src byte, text string) []byte {
	d := []byte{2, 0, 0, 0, 0, dst}
	if dst == 0xff {
		d = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return append(append(d, 2, 0, 0, 0, 0, src, 0x88, 0xb5), text...)
}

func TestTAPsOnABridge(t *testing.T) {
	inNamespace(t)
	br := bridge(t, "br0")
	// On a bridge that does not learn at the replicas' ports, a muted standby
	// hears what the guest is sent.
	active := open(t, "tap:us0,bridge=br0,learning=off")
	standby := open(t, "tap:us1,bridge=br0,learning=off")
	client := open(t, "tap:us2,bridge=br0")
	for _, name := range []string{"us0", "us1", "us2"} {
		link, err := netlink.LinkByName(name)
		must(t, err)
		if link.Attrs().MasterIndex != br.Attrs().Index || link.Attrs().RawFlags&unix.IFF_UP == 0 {
			t.Fatalf("%s: not up in the bridge: %+v", name, link.Attrs())
		}
	}
	active.Mute(false)
	client.Mute(false)

	// A port needs a moment until the bridge forwards; then frames pass.
	announcement := ether(0xff, 1, "guest")
	for heard := false; !heard; {
		must(t, active.Send(announcement))
		select {
		case f := <-client.heard:
			heard = bytes.Equal(f, announcement)
		default:
		}
	}
	if err := standby.Send(announcement); !errors.Is(err, ErrMuted) {
		t.Fatalf("the standby sent: %v", err)
	}
	request := ether(1, 3, "request")
	kept := func() bool {
		return slices.ContainsFunc(standby.Recent(), func(f Frame) bool { return bytes.Equal(f.Data, request) })
	}
	for !kept() {
		must(t, client.Send(request))
		active.expect(t, request)
	}

	// Fail-over.
	must(t, active.Close())
	if _, err := netlink.LinkByName("us0"); err == nil {
		t.Fatal("the device outlived its uplink")
	}
	standby.Mute(false)
	must(t, standby.Send(ether(0xff, 1, "guest again")))
	client.expect(t, ether(0xff, 1, "guest again"))
	must(t, client.Send(ether(1, 3, "after")))
	standby.expect(t, ether(1, 3, "after"))
}

func TestExistingTAPStays(t *testing.T) {
	inNamespace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "mine"
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attrs, Mode: netlink.TUNTAP_MODE_TAP, Flags: netlink.TUNTAP_NO_PI}))
	up := open(t, "tap:mine")
	if _, err := Open("tap:mine", func([]byte) {}, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "another process uses it") {
		t.Errorf("opened twice: %v", err)
	}
	must(t, up.Close())
	must(t, up.Close())
	if err := up.Send(ether(0xff, 1, "")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if _, err := netlink.LinkByName("mine"); err != nil {
		t.Errorf("the owner's device is gone: %v", err)
	}
}

func TestTAPErrorsSayWhatIsWrong(t *testing.T) {
	inNamespace(t)
	bridge(t, "br0")
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "v0"
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "v1"}))
	for spec, want := range map[string]string{
		"tap:v0":             "device of another kind",
		"tap:us0,bridge=br9": "bridge br9: Link not found: make it",
		"tap:us0,bridge=v1":  "that is no bridge but a device of type veth",
	} {
		up, err := Open(spec, func([]byte) {}, hclog.NewNullLogger())
		if err == nil {
			up.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", spec, err, want)
		}
	}
	if _, err := netlink.LinkByName("us0"); err == nil {
		t.Error("a device is left behind after an error")
	}
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/uplink"
	"github.com/understudy-ft/understudy/services/uplink/wire"
)

const patience = time.Minute

// eventually waits until a condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for !holds() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out: %s", what)
		}
	}
}

func testConfig(t *testing.T) Config {
	return Config{
		Listen: []string{"unix:" + filepath.Join(t.TempDir(), "gw.sock")},
		Subnet: netip.MustParsePrefix("192.168.127.0/24"), MTU: 1500, Outbound: true,
	}
}

func startGateway(t *testing.T, cfg Config) *Gateway {
	t.Helper()
	g, err := Start(cfg, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Close)
	return g
}

func (g *Gateway) ports() int {
	g.eth.mu.Lock()
	defer g.eth.mu.Unlock()
	return len(g.eth.table.muted)
}

// replica is an uplink with what it heard while live.
type replica struct {
	uplink.Uplink
	heard chan []byte
}

// plug opens an uplink to the gateway and waits until it is connected.
func plug(t *testing.T, g *Gateway, cfg Config) *replica {
	t.Helper()
	before := g.ports()
	r := &replica{heard: make(chan []byte, 10_000)}
	up, err := uplink.Open("gateway:"+cfg.Listen[0], func(f []byte) { r.heard <- f }, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { up.Close() })
	r.Uplink = up
	eventually(t, "a port connects", func() bool { return g.ports() == before+1 })
	return r
}

// live unmutes the uplink and waits until the connection can send.
func (r *replica) live(t *testing.T, announce []byte) {
	t.Helper()
	r.Mute(false)
	eventually(t, "the uplink sends", func() bool { return r.Send(announce) == nil })
}

func (r *replica) expect(t *testing.T, frame []byte) {
	t.Helper()
	for {
		select {
		case f := <-r.heard:
			if bytes.Equal(f, frame) {
				return
			}
		case <-time.After(patience):
			t.Fatalf("did not hear %x", frame)
		}
	}
}

// tell sends a frame until another hears it: like any Ethernet, an uplink that
// has to connect anew loses frames.
func (r *replica) tell(t *testing.T, to *replica, frame []byte) {
	t.Helper()
	r.live(t, frame)
	deadline := time.After(patience)
	for {
		select {
		case f := <-to.heard:
			if bytes.Equal(f, frame) {
				return
			}
		case <-time.After(time.Second):
			r.live(t, frame)
		case <-deadline:
			t.Fatalf("%x was not heard", frame)
		}
	}
}

func (r *replica) kept(frame []byte) bool {
	for _, f := range r.Recent() {
		if bytes.Equal(f.Data, frame) {
			return true
		}
	}
	return false
}

func TestFailOverAtTheGateway(t *testing.T) {
	cfg := testConfig(t)
	g := startGateway(t, cfg)
	active, standby, client := plug(t, g, cfg), plug(t, g, cfg), plug(t, g, cfg)

	hello := frameOf(all, guestA, "here I am")
	active.live(t, hello)
	eventually(t, "the standby hears the announcement", func() bool { return standby.kept(hello) })
	client.live(t, frameOf(all, guestB, "client"))
	active.expect(t, frameOf(all, guestB, "client"))

	// The standby must not speak, and hears what the guest is sent.
	if err := standby.Send(hello); !errors.Is(err, uplink.ErrMuted) {
		t.Fatalf("a muted uplink sent: %v", err)
	}
	request := frameOf(guestA, guestB, "request 1")
	if err := client.Send(request); err != nil {
		t.Fatal(err)
	}
	active.expect(t, request)
	eventually(t, "the standby keeps the request", func() bool { return standby.kept(request) })

	// The active dies. What is sent meanwhile reaches the standby.
	active.Close()
	eventually(t, "the dead port is removed", func() bool { return g.ports() == 2 })
	lost := frameOf(guestA, guestB, "request 2")
	if err := client.Send(lost); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the standby keeps the request that nobody else heard", func() bool { return standby.kept(lost) })

	// The standby goes live: the guest is there now.
	announcement := frameOf(all, guestA, "here I am again")
	standby.live(t, announcement)
	client.expect(t, announcement)
	if !standby.kept(lost) {
		t.Fatal("going live forgot what was heard")
	}
	after := frameOf(guestA, guestB, "request 3")
	if err := client.Send(after); err != nil {
		t.Fatal(err)
	}
	standby.expect(t, after)
	if standby.kept(after) {
		t.Fatal("a frame was delivered and kept")
	}
}

func TestGuestMovesWhileBothPortsLive(t *testing.T) {
	cfg := testConfig(t)
	g := startGateway(t, cfg)
	old, young, client := plug(t, g, cfg), plug(t, g, cfg), plug(t, g, cfg)
	old.live(t, frameOf(all, guestA, "old"))
	eventually(t, "the old port has spoken", func() bool { return young.kept(frameOf(all, guestA, "old")) })
	young.live(t, frameOf(all, guestA, "young"))
	old.expect(t, frameOf(all, guestA, "young")) // so it has moved
	client.live(t, frameOf(all, guestB, "client"))
	young.expect(t, frameOf(all, guestB, "client"))
	request := frameOf(guestA, guestB, "request")
	if err := client.Send(request); err != nil {
		t.Fatal(err)
	}
	young.expect(t, request)
	for len(old.heard) > 0 {
		if f := <-old.heard; bytes.Equal(f, request) {
			t.Fatal("a live port that lost the guest heard a frame for it")
		}
	}
}

func TestUplinkFollowsARestartOfTheGateway(t *testing.T) {
	cfg := testConfig(t)
	first := startGateway(t, cfg)
	a, b := plug(t, first, cfg), plug(t, first, cfg)
	a.live(t, frameOf(all, guestA, "1"))
	first.Close()
	eventually(t, "sending fails", func() bool { return errors.Is(a.Send(frameOf(all, guestA, "lost")), uplink.ErrDown) })

	second := startGateway(t, cfg)
	eventually(t, "both connect again", func() bool { return second.ports() == 2 })
	// Both are as muted as before.
	again := frameOf(all, guestA, "2")
	a.live(t, again)
	eventually(t, "frames pass again", func() bool { return b.kept(again) })
}

// A port that reads nothing loses frames and in the end its place; the others
// lose nothing.
func TestStalledPortHarmsNobody(t *testing.T) {
	cfg := testConfig(t)
	g := startGateway(t, cfg)
	stalled, err := net.Dial("unix", strings.TrimPrefix(cfg.Listen[0], "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer stalled.Close()
	if _, err := stalled.Write(wire.AppendHello(nil)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the port connects", func() bool { return g.ports() == 1 })
	sender, receiver := plug(t, g, cfg), plug(t, g, cfg)
	sender.live(t, frameOf(all, guestA, ""))
	receiver.live(t, frameOf(all, guestB, ""))

	// More than the stalled port's queue and socket hold, at the pace of the
	// one that listens.
	const frames = 6000
	for i := range frames {
		frame := frameOf(all, guestA, fmt.Sprintf("%04d%s", i, strings.Repeat("x", 1000)))
		if err := sender.Send(frame); err != nil {
			t.Fatalf("frame %d: %v", i, err)
		}
		receiver.expect(t, frame)
	}
	eventually(t, "the stalled port is removed", func() bool { return g.ports() == 2 })
}

func TestStrangersAreRefused(t *testing.T) {
	cfg := testConfig(t)
	g := startGateway(t, cfg)
	for name, text := range map[string]string{
		"HTTP":           "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"other version":  strings.ReplaceAll(string(wire.AppendHello(nil)), "\x01", "\x02"),
		"frame first":    string(wire.AppendFrame(nil, frameOf(all, guestA, ""))),
		"second hello":   string(wire.AppendHello(wire.AppendHello(nil))),
		"nothing at all": "",
	} {
		conn, err := net.Dial("unix", strings.TrimPrefix(cfg.Listen[0], "unix:"))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
		// The gateway greets, and hangs up.
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		for err = nil; err == nil; {
			_, err = conn.Read(make([]byte, 256))
		}
		if errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "timeout") {
			t.Errorf("%s: %v", name, err)
		}
		conn.Close()
	}
	eventually(t, "no port is left", func() bool { return g.ports() == 0 })
}

func TestAddressInUse(t *testing.T) {
	cfg := testConfig(t)
	first := startGateway(t, cfg)
	if _, err := Start(cfg, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "in use by another gateway") {
		t.Fatalf("got %v", err)
	}
	// The socket that a killed gateway leaves is no obstacle.
	for _, l := range first.listeners {
		l.(*net.UnixListener).SetUnlinkOnClose(false)
	}
	first.Close()
	startGateway(t, cfg)

	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	taken := testConfig(t)
	taken.Forwards = []Forward{{Network: "tcp", Local: busy.Addr().String(), Remote: netip.MustParseAddrPort("192.168.127.2:1")}}
	if _, err := Start(taken, hclog.NewNullLogger()); err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Fatalf("got %v", err)
	}
}

func TestCommandLineTexts(t *testing.T) {
	for text, want := range map[string]string{
		"127.0.0.1:6379=192.168.127.2:6379":    "tcp:127.0.0.1:6379=192.168.127.2:6379",
		":80=192.168.127.2:8080":               "tcp::80=192.168.127.2:8080",
		"udp:[::1]:53=192.168.127.2:53":        "udp:[::1]:53=192.168.127.2:53",
		"127.0.0.1:6379":                       "",
		"127.0.0.1=192.168.127.2:6379":         "",
		"127.0.0.1:1=guest:6379":               "",
		"127.0.0.1:1=[fe80::1]:6379":           "",
		"127.0.0.1:1=192.168.127.2:0":          "",
		"sctp:127.0.0.1:6379=192.168.127.2:80": "",
	} {
		f, err := ParseForward(text)
		if (err == nil) != (want != "") || err == nil && f.String() != want {
			t.Errorf("%q: %v, %v", text, f, err)
		}
	}
	for text, ok := range map[string]bool{
		"52:54:00:00:00:01=192.168.127.9": true, "52:54:00:00:00:01": false,
		"52:54=192.168.127.9": false, "52:54:00:00:00:01=x": false, "52:54:00:00:00:01=::1": false,
		"00:00:00:00:fe:80:00:00=192.168.127.9": false,
	} {
		if _, _, err := parseLease(text); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, spoil := range []func(*Config){
		func(c *Config) { c.Subnet = netip.MustParsePrefix("fd00::/64") },
		func(c *Config) { c.Subnet = netip.MustParsePrefix("10.0.0.0/31") },
		func(c *Config) { c.MTU = 100 },
		func(c *Config) { c.Listen = nil },
		func(c *Config) { c.Leases = map[netip.Addr]mac{netip.MustParseAddr("10.0.0.1"): guestA} },
		func(c *Config) { c.Leases = map[netip.Addr]mac{netip.MustParseAddr("192.168.127.1"): guestA} },
		func(c *Config) { c.Forwards = []Forward{{Remote: netip.MustParseAddrPort("10.0.0.1:1")}} },
	} {
		cfg := testConfig(t)
		spoil(&cfg)
		if g, err := Start(cfg, hclog.NewNullLogger()); err == nil {
			g.Close()
			t.Errorf("%+v was accepted", cfg)
		}
	}
}

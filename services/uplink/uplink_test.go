package uplink

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/uplink/wire"
)

const patience = time.Minute

func frame(text string) []byte {
	return append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, text...)
}

func TestSpecs(t *testing.T) {
	for spec, want := range map[string]parsed{
		"none":                              {},
		"tap:us0":                           {tap: tapSpec{name: "us0"}},
		"tap:us0,bridge=br0":                {tap: tapSpec{name: "us0", bridge: "br0"}},
		"tap:us0,bridge=br0,learning=off":   {tap: tapSpec{name: "us0", bridge: "br0", noLearning: true}},
		"tap:us0,bridge=br0,port=eth1":      {tap: tapSpec{name: "us0", bridge: "br0", port: "eth1"}},
		"tap:us0,bridge=br0,port=fd00::/64": {tap: tapSpec{name: "us0", bridge: "br0", port: "fd00::/64"}},
		"tap:us0,learning=on":               {tap: tapSpec{name: "us0"}},
		"gateway:unix:/run/gw":              {network: "unix", address: "/run/gw"},
		"gateway:127.0.0.1:7410":            {network: "tcp", address: "127.0.0.1:7410"},
		"gateway:[::1]:7410":                {network: "tcp", address: "[::1]:7410"},
		"gateway:gw.example:7410":           {network: "tcp", address: "gw.example:7410"},
		"tap:0123456789abcde,bridge=br.1-2": {tap: tapSpec{name: "0123456789abcde", bridge: "br.1-2"}},
	} {
		if got, err := parse(spec); err != nil || got != want {
			t.Errorf("%q: %+v, %v", spec, got, err)
		}
	}
	for _, spec := range []string{
		"", "none:", "none:x", "eth0", "tap", "tap:", "tap:0123456789abcdef", "tap:a/b", "tap:a b", "tap:tap%d", "tap:..",
		"tap:us0,", "tap:us0,bridge=", "tap:us0,bridge", "tap:us0,vlan=3", "tap:us0,bridge=br0,,", "tap:us0,learning=off",
		"tap:us0,port=eth1", "tap:us0,bridge=br0,port=", "tap:us0,bridge=br0,port=10.0.0.1/24", "tap:us0,bridge=br0,port=10/8", "tap:us0,bridge=br0,port=br0", "tap:us0,bridge=br0,port=us0",
		"tap:us0,bridge=br0,learning=maybe",
		"gateway:", "gateway:unix:", "gateway:/run/gw", "gateway:host", "gateway::7410", "gateway:host:0", "gateway:host:x", "gateway:host:70000",
	} {
		if err := Check(spec); !errors.Is(err, ErrSpec) {
			t.Errorf("%q: %v", spec, err)
		}
		if up, err := Open(spec, func([]byte) {}, hclog.NewNullLogger()); !errors.Is(err, ErrSpec) {
			t.Errorf("%q opened: %v, %v", spec, up, err)
		}
	}
}

func TestNoneTakesFramesNowhere(t *testing.T) {
	up, err := Open("none", func([]byte) { t.Error("heard something") }, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	if err := up.Send(frame("")); !errors.Is(err, ErrMuted) {
		t.Errorf("opened live: %v", err)
	}
	up.Mute(false)
	if err := up.Send(frame("")); err != nil {
		t.Error(err)
	}
	if err := up.Send([]byte("short")); !errors.Is(err, ErrFrameSize) {
		t.Error(err)
	}
	if err := up.Close(); err != nil {
		t.Error(err)
	}
	if err := up.Send(frame("")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

// The ring holds exactly the newest frames within both bounds.
func TestRing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := ring{window: time.Second, limit: 1000}
		now := time.Unix(0, 0)
		var heard []Frame
		for range rapid.IntRange(0, 100).Draw(t, "frames") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			f := make([]byte, rapid.IntRange(14, 1200).Draw(t, "length"))
			r.add(now, f)
			heard = append(heard, Frame{At: now, Data: f})
		}
		now = now.Add(time.Duration(rapid.IntRange(0, 1500).Draw(t, "wait")) * time.Millisecond)
		want, bytes := len(heard), 0
		for want > 0 {
			f := heard[want-1]
			if bytes += len(f.Data); bytes > 1000 || now.Sub(f.At) > time.Second {
				break
			}
			want--
		}
		got := r.recent(now)
		if !slices.EqualFunc(got, heard[want:], func(a, b Frame) bool { return a.At.Equal(b.At) && &a.Data[0] == &b.Data[0] }) {
			t.Fatalf("%d frames, want %d", len(got), len(heard)-want)
		}
	})
}

func TestEarKeepsWhileMutedAndDeliversWhileLive(t *testing.T) {
	var delivered []string
	e := newEar(func(f []byte) { delivered = append(delivered, string(f[14:])) })
	kept := func() (k []string) {
		for _, f := range e.recent() {
			k = append(k, string(f.Data[14:]))
		}
		return k
	}
	e.hear(frame("a"))
	e.hear(frame("b"))
	e.mute(false)
	e.hear(frame("c"))
	if !slices.Equal(kept(), []string{"a", "b"}) || !slices.Equal(delivered, []string{"c"}) {
		t.Fatalf("kept %q, delivered %q", kept(), delivered)
	}
	e.mute(true)
	if len(kept()) != 0 {
		t.Fatalf("muting kept %q", kept())
	}
	e.hear(frame("d"))
	e.mute(true)
	if !slices.Equal(kept(), []string{"d"}) || !slices.Equal(delivered, []string{"c"}) {
		t.Fatalf("kept %q, delivered %q", kept(), delivered)
	}
}

func TestAnnouncementsAreRepeatedUntilMuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var mu sync.Mutex
		muted := false
		var log []string
		a := NewAnnouncer(func(f []byte) error {
			mu.Lock()
			defer mu.Unlock()
			if muted {
				return ErrMuted
			}
			log = append(log, fmt.Sprintf("%s@%d", f, time.Since(begun).Milliseconds()))
			return ErrDown // does not stop it
		})
		mute := func(m bool) {
			mu.Lock()
			defer mu.Unlock()
			muted = m
		}
		// after returns what was sent since the last call, once d has passed.
		after := func(d time.Duration) []string {
			time.Sleep(d)
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			sent := log
			log = nil
			return sent
		}
		a.Announce([][]byte{[]byte("x"), []byte("y")})
		if sent := after(0); !slices.Equal(sent, []string{"x@0", "y@0"}) {
			t.Fatalf("at once: %q", sent)
		}
		want := []string{"x@50", "y@50", "x@150", "y@150", "x@400", "y@400"}
		if sent := after(500 * time.Millisecond); !slices.Equal(sent, want) {
			t.Fatalf("got %q, want %q", sent, want)
		}
		a.Announce([][]byte{[]byte("z")}) // anew
		want = []string{"z@500", "z@550", "z@650", "z@900"}
		if sent := after(600 * time.Millisecond); !slices.Equal(sent, want) {
			t.Fatalf("got %q, want %q", sent, want)
		}
		mute(true)
		sent := after(time.Hour)
		mute(false)
		if sent = append(sent, after(time.Hour)...); len(sent) != 0 {
			t.Fatalf("muted, but sent %q", sent)
		}
		a.Announce([][]byte{[]byte("last")})
		if sent := after(time.Hour); len(sent) != 1+len(announceAt) {
			t.Fatalf("sent %q", sent)
		}
		a.Announce([][]byte{[]byte("stopped")})
		a.Stop()
		if sent := after(time.Hour); !slices.Equal(sent, []string{"stopped@" + fmt.Sprint(time.Since(begun).Milliseconds()-3_600_000)}) {
			t.Fatalf("stopped, but sent %q", sent)
		}
	})
}

// peer is the gateway's end of a connection.
type peer struct {
	net.Conn
	messages chan wire.Message
}

// gatewayAt listens as a gateway would and greets who connects.
func gatewayAt(t *testing.T, path string) (net.Listener, <-chan *peer) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	peers := make(chan *peer, 16)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			r := wire.NewReader(bufio.NewReader(conn))
			if _, err := conn.Write(wire.AppendHello(nil)); err != nil || r.Expect() != nil {
				conn.Close()
				continue
			}
			p := &peer{Conn: conn, messages: make(chan wire.Message, 1000)}
			go func() {
				defer close(p.messages)
				for {
					m, err := r.Next()
					if err != nil {
						return
					}
					p.messages <- m
				}
			}()
			peers <- p
		}
	}()
	return l, peers
}

func receive[T any](t *testing.T, what string, c <-chan T) T {
	t.Helper()
	select {
	case v, ok := <-c:
		if !ok {
			t.Fatalf("%s: ended", what)
		}
		return v
	case <-time.After(patience):
		t.Fatalf("%s: timed out", what)
	}
	panic("unreachable")
}

func TestGatewayPortSaysWhatItIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gw")
	_, peers := gatewayAt(t, path)
	heard := make(chan []byte, 10)
	up, err := Open("gateway:unix:"+path, func(f []byte) { heard <- f }, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	p := receive(t, "a connection", peers)
	mode := func(muted bool) {
		t.Helper()
		if m := receive(t, "a mode", p.messages); m.Kind != wire.Mode || m.Muted != muted {
			t.Fatalf("got %+v, want muted %v", m, muted)
		}
	}
	mode(true)
	up.Mute(true) // no news
	up.Mute(false)
	mode(false)
	if err := up.Send(frame("out")); err != nil {
		t.Fatal(err)
	}
	if m := receive(t, "a frame", p.messages); !bytes.Equal(m.Frame, frame("out")) {
		t.Fatalf("got %+v", m)
	}
	if _, err := p.Write(wire.AppendFrame(nil, frame("in"))); err != nil {
		t.Fatal(err)
	}
	if f := receive(t, "a frame", heard); !bytes.Equal(f, frame("in")) {
		t.Fatalf("heard %x", f)
	}
	for _, bad := range [][]byte{nil, make([]byte, wire.MinFrame-1), make([]byte, wire.MaxFrame+1)} {
		if err := up.Send(bad); !errors.Is(err, ErrFrameSize) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	up.Mute(true)
	mode(true)
	if err := up.Send(frame("never")); !errors.Is(err, ErrMuted) {
		t.Error(err)
	}
	if err := up.Close(); err != nil {
		t.Error(err)
	}
	if m, ok := <-p.messages; ok {
		t.Errorf("after muting the gateway got %+v", m)
	}
	if err := up.Send(frame("never")); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestGatewayPortComesBackAsItWas(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gw")
	// The gateway is not there yet: no reason not to start.
	up, err := Open("gateway:unix:"+path, func([]byte) {}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	up.Mute(false)
	if err := up.Send(frame("")); !errors.Is(err, ErrDown) {
		t.Fatalf("without a gateway: %v", err)
	}
	l, peers := gatewayAt(t, path)
	p := receive(t, "a connection", peers)
	if m := receive(t, "a mode", p.messages); m.Muted {
		t.Fatal("it says that it is muted")
	}
	// What is no gateway's word ends the connection.
	if _, err := p.Write([]byte{0, 0, 0, 0}); err != nil {
		t.Fatal(err)
	}
	p = receive(t, "a connection after nonsense", peers)
	receive(t, "a mode", p.messages)

	l.Close()
	p.Close()
	_, peers = gatewayAt(t, path)
	p = receive(t, "a connection after a restart", peers)
	if m := receive(t, "a mode", p.messages); m.Muted {
		t.Fatal("it says that it is muted")
	}
}

// A gateway that takes nothing costs the sender a bounded time, and its place.
func TestHungGatewayDoesNotBlock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gw")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	up, err := Open("gateway:unix:"+path, func([]byte) {}, hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(wire.AppendHello(nil)); err != nil {
		t.Fatal(err)
	}
	up.Mute(false)
	big := frame(string(make([]byte, 60_000)))
	deadline := time.Now().Add(patience)
	for time.Now().Before(deadline) {
		begun := time.Now()
		err := up.Send(big)
		if took := time.Since(begun); took > patience/2 {
			t.Fatalf("Send took %v", took)
		}
		if err != nil && !errors.Is(err, ErrDown) {
			return // the write gave up
		}
	}
	t.Fatal("a hung gateway took everything")
}

package nettest

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/deploy/network"
)

// socket is one of a host.
func socket(t *testing.T, h *network.Host) net.PacketConn {
	t.Helper()
	type result struct {
		conn net.PacketConn
		err  error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		err := unix.Setns(int(h.Namespace().Fd()), unix.CLONE_NEWNET)
		var conn net.PacketConn
		if err == nil {
			conn, err = net.ListenPacket("udp", h.At("7"))
		}
		made <- result{conn, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.conn.Close() }) // nothing is left to be sent
	return r.conn
}

// What is dropped is lost one way and silently, and only between the two; an
// unplugged host neither sends nor hears.
func TestHosts(t *testing.T) {
	if !Isolated(t) {
		return
	}
	bridge := Bridge(t, "10.91.0.1/24")
	var hosts [3]*network.Host
	var sockets [3]net.PacketConn
	for i := range hosts {
		var err error
		if hosts[i], err = bridge.Host(); err != nil {
			t.Fatal(err)
		}
		sockets[i] = socket(t, hosts[i])
	}
	// arrives tells whether one of a few datagrams does.
	arrives := func(from, to int, patience time.Duration) bool {
		t.Helper()
		addr := sockets[to].LocalAddr()
		text := []byte{byte(from), byte(to), byte(time.Now().UnixNano())}
		for end := time.Now().Add(patience); time.Now().Before(end); {
			_, _ = sockets[from].WriteTo(text, addr) // an unplugged host may find no way
			if err := sockets[to].SetReadDeadline(time.Now().Add(20 * time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			for b := make([]byte, 16); ; {
				n, _, err := sockets[to].ReadFrom(b)
				if err != nil {
					break
				}
				if string(b[:n]) == string(text) {
					return true
				}
			}
		}
		return false
	}
	expect := func(when string, lost map[[2]int]bool) {
		t.Helper()
		for from := range hosts {
			for to := range hosts {
				if from == to {
					continue
				}
				patience := 30 * time.Second
				if lost[[2]int{from, to}] {
					patience = 200 * time.Millisecond
				}
				if got := arrives(from, to, patience); got == lost[[2]int{from, to}] {
					t.Errorf("%s: from %d to %d arrives: %v", when, from, to, got)
				}
			}
		}
	}
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	expect("at first", nil)
	do(hosts[0].Drop(hosts[1]))
	expect("dropped from 0 to 1", map[[2]int]bool{{0, 1}: true})
	do(hosts[0].Pass(hosts[1]))
	expect("passed again", nil)
	do(hosts[2].Unplug())
	expect("2 is unplugged", map[[2]int]bool{{0, 2}: true, {2, 0}: true, {1, 2}: true, {2, 1}: true})
	do(hosts[2].Plug())
	expect("2 is plugged in again", nil)

	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Logf("no TAP device was tried: %v", err)
	} else if _, err := bridge.Tap("tap"); err != nil {
		t.Error(err)
	}
}

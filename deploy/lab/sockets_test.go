package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Hosts that are linked by sockets hear each other and the gateway, as on a hub,
// without any privilege.
func TestSocketsLinkHosts(t *testing.T) {
	if _, err := os.Stat(filepath.Join(bin, "gateway")); err != nil {
		t.Skipf("SKIPPED, NOT TESTED: run make build first: %v", err)
	}
	s, err := newSockets(bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.close(); err != nil {
			t.Error(err)
		}
	}()
	link, err := s.link()
	if err != nil {
		t.Fatal(err)
	}
	_, path, ok := strings.Cut(link, "addr.path=")
	if !ok {
		t.Fatalf("link %q", link)
	}
	plug := func() net.Conn {
		c, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := plug(), plug()
	// An ARP question for the gateway, asked again until both hear: the hub may
	// not have noticed the second cable yet, nor the gateway the hub.
	ask := append(bytes.Repeat([]byte{0xff}, 6), 2, 0, 0, 0, 0, 0xa, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 0xa, 192, 168, 127, 10,
		0, 0, 0, 0, 0, 0, 192, 168, 127, 1)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			if _, err := a.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(ask))), ask...)); err != nil {
				return
			}
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	hear := func(c net.Conn, what string, ok func([]byte) bool) {
		t.Helper()
		for {
			var head [4]byte
			if _, err := io.ReadFull(c, head[:]); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			frame := make([]byte, binary.BigEndian.Uint32(head[:]))
			if _, err := io.ReadFull(c, frame); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if ok(frame) {
				return
			}
		}
	}
	hear(b, "the question at the other host", func(f []byte) bool { return bytes.HasPrefix(f, ask) })
	hear(a, "the gateway's answer", func(f []byte) bool {
		return len(f) >= 42 && f[12] == 8 && f[13] == 6 && f[21] == 2 && bytes.Equal(f[28:32], []byte{192, 168, 127, 1})
	})
}

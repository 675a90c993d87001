package etcd

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-ft/understudy/services/fence"
)

// link is a TCP relay to etcd that can be cut without closing connections, as a
// partition does.
type link struct {
	listener net.Listener
	mu       sync.Mutex
	state    linkState
	changed  chan struct{}
	conns    []net.Conn
}

type linkState int

const (
	whole linkState = iota
	cutAnswers
	cut
)

func newLink(t *testing.T, to string) *link {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &link{listener: ln, changed: make(chan struct{})}
	t.Cleanup(func() { ln.Close(); l.set(whole); l.reset() })
	go func() {
		for {
			near, err := ln.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", to)
			if err != nil {
				near.Close()
				continue
			}
			l.mu.Lock()
			l.conns = append(l.conns, near, far)
			l.mu.Unlock()
			go l.relay(far, near, cut)
			go l.relay(near, far, cutAnswers)
		}
	}()
	return l
}

// relay copies while the link's state is below stop.
func (l *link) relay(to, from net.Conn, stop linkState) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		for l.state >= stop {
			changed := l.changed
			l.mu.Unlock()
			<-changed
			l.mu.Lock()
		}
		l.mu.Unlock()
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				from.Close()
			}
			return
		}
	}
}

func (l *link) set(s linkState) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.state = s
	close(l.changed)
	l.changed = make(chan struct{})
}

// reset breaks all connections and makes the link whole.
func (l *link) reset() {
	l.mu.Lock()
	for _, c := range l.conns {
		c.Close()
	}
	l.conns = nil
	l.mu.Unlock()
	l.set(whole)
}

func (l *link) endpoint() string { return "http://" + l.listener.Addr().String() }

// held is a lease with the changes that it told.
type held struct {
	*fence.Lease
	changes chan fence.Grant
}

func hold(t *testing.T, c *clientv3.Client, key string, ttl time.Duration) held {
	t.Helper()
	h := held{changes: make(chan fence.Grant, 1000)}
	h.Lease = fence.NewLease(c, fence.LeaseConfig{
		Key: key, Value: "v", TTL: ttl, Margin: 200 * time.Millisecond,
		OnChange: func(g fence.Grant) { h.changes <- g },
	})
	t.Cleanup(func() { h.Close(context.Background()) })
	return h
}

func (h held) await(t *testing.T, what string, ok func(fence.Grant) bool) fence.Grant {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case g := <-h.changes:
			if ok(g) {
				return g
			}
		case <-timeout:
			t.Fatalf("never saw %s; last error: %v", what, h.Err())
		}
	}
}

func granted(g fence.Grant) bool { return g.ID != 0 }

func keyLease(t *testing.T, c *clientv3.Client, key string) int64 {
	t.Helper()
	r, err := c.Get(within(t, time.Minute), key)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kvs) == 0 {
		return 0
	}
	return r.Kvs[0].Lease
}

func TestLeaseIsKeptAndClosed(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	asked := fence.Now()
	h := hold(t, c, "k", 4*time.Second)
	if err := h.Wait(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	first := h.await(t, "a grant", granted)
	if id := keyLease(t, c, "k"); id != first.ID || h.ID() != id {
		t.Errorf("key under lease %x, told %x, now %x", id, first.ID, h.ID())
	}
	if lo, hi := asked+3800*time.Millisecond, fence.Now()+3800*time.Millisecond; first.Until < lo || first.Until > hi {
		t.Errorf("valid until %v, not within %v to %v", first.Until, lo, hi)
	}
	later := h.await(t, "a renewal past the first end", func(g fence.Grant) bool { return g.Until > first.Until+4*time.Second })
	if later.ID != first.ID || !h.Valid(fence.Now()) {
		t.Errorf("renewed as %+v, was %+v", later, first)
	}
	if err := h.Close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if h.Valid(fence.Now()) || keyLease(t, c, "k") != 0 {
		t.Error("held after Close")
	}
	if err := h.Wait(within(t, time.Second)); err != nil {
		t.Error("Wait is about the first grant:", err)
	}
}

func TestLeaseLostIsGrantedAnew(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	h := hold(t, c, "k", time.Second)
	first := h.await(t, "a grant", granted)
	revoke(t, c, first.ID)
	h.await(t, "the loss", func(g fence.Grant) bool { return g == fence.Grant{} })
	second := h.await(t, "another grant", granted)
	if second.ID == first.ID || keyLease(t, c, "k") != second.ID {
		t.Errorf("%+v after %+v, key under %x", second, first, keyLease(t, c, "k"))
	}
}

// A holder that is cut off stops believing in its lease before the server ends
// it, and gets another after the partition.
func TestLeaseEndsForItsHolderFirst(t *testing.T) {
	server := run(t, Config{})
	c := connect(t, server.LocalEndpoint())
	link := newLink(t, server.Addr().String())
	h := hold(t, connect(t, link.endpoint()), "k", time.Second)
	h.await(t, "a grant", granted)
	ends := c.Watch(within(t, time.Minute), "k")
	link.set(cut)
	for r := range ends {
		if len(r.Events) > 0 && r.Events[0].Type == clientv3.EventTypeDelete {
			break
		}
	}
	if now := fence.Now(); h.Valid(now) {
		t.Errorf("the server has ended the lease; its holder believes in it for %v more", h.ValidUntil()-now)
	}
	lost := h.Grant()
	link.reset()
	if g := h.await(t, "a grant after the partition", func(g fence.Grant) bool { return g.Valid(fence.Now()) }); g.ID == lost.ID {
		t.Errorf("the dead lease %x came back", g.ID)
	}
}

// A server that was away for less than the TTL still has the lease.
func TestLeaseSurvivesARestartOfEtcd(t *testing.T) {
	dir := t.TempDir()
	server := run(t, Config{DataDir: dir})
	h := hold(t, connect(t, server.LocalEndpoint()), "k", 10*time.Second)
	first := h.await(t, "a grant", granted)
	server.Close()
	run(t, Config{DataDir: dir})
	if g := h.await(t, "a renewal", func(g fence.Grant) bool { return g.Until > first.Until }); g.ID != first.ID {
		t.Errorf("lease %x became %x", first.ID, g.ID)
	}
}

func TestTwoHoldersOfOneKey(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	a := hold(t, c, "k", 10*time.Second)
	first := a.await(t, "a grant", granted)
	b := hold(t, c, "k", time.Second)
	if err := b.Wait(within(t, time.Second)); !errors.Is(err, fence.ErrKeyTaken) {
		t.Errorf("the second holder waited for: %v", err)
	}
	if b.Valid(fence.Now()) || keyLease(t, c, "k") != first.ID {
		t.Error("the second holder took the key")
	}
	if err := a.Close(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if g := b.await(t, "its turn", granted); keyLease(t, c, "k") != g.ID {
		t.Errorf("key under %x, not %x", keyLease(t, c, "k"), g.ID)
	}
}

// Who knows that a holder is dead need not wait for its lease.
func TestEndLeaseOfTheDead(t *testing.T) {
	c := connect(t, run(t, Config{}).LocalEndpoint())
	ctx := within(t, time.Minute)
	dead := lease(t, c, "k")
	for _, key := range []string{"k", "k", "nobody's"} { // a second time there is nothing to do
		if err := fence.EndLeaseOf(ctx, c, key); err != nil {
			t.Fatal(err)
		}
	}
	h := hold(t, c, "k", time.Second)
	if g := h.await(t, "a grant", granted); g.ID == dead {
		t.Error("the dead lease lives")
	}
}

func TestLeaseSaysWhyItCannotBeGot(t *testing.T) {
	h := hold(t, connect(t, "http://127.0.0.1:1"), "k", time.Second)
	err := h.Wait(within(t, 5*time.Second))
	const want = "get an etcd lease: dial tcp 127.0.0.1:1: connect: connection refused"
	if err == nil || err.Error() != want || h.Valid(fence.Now()) {
		t.Fatalf("got %v, want %s", err, want)
	}
}

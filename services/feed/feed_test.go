package feed

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func TestMessagesArriveInOrderBothWays(t *testing.T) {
	noLeaks(t)
	s := serve(t, testConfig())
	a, ae := connect(t, s.addr, testConfig())
	se := wait(t, s.ends, "feed")
	if se.term != 3 || se.hello.Vm != "vm" {
		t.Errorf("accepted term %d, %v", se.term, se.hello)
	}
	for n := range uint64(500) {
		if n%2 == 0 {
			if err := a.Input(t.Context(), 10+n/2, []byte{byte(n / 2)}); err != nil {
				t.Fatal(err)
			}
		} else if err := a.Send(t.Context(), &pb.FromActive{Body: &pb.FromActive_Emitted{Emitted: &pb.Emitted{Epoch: n}}}, nil); err != nil {
			t.Fatal(err)
		}
		if err := se.Send(t.Context(), consumed(n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range uint64(500) {
		if m := wait(t, ae.messages, "message"); m.GetStaged().GetEpoch() != n || m.Term != 3 {
			t.Fatalf("got %v, want %d", m, n)
		}
		m := wait(t, se.messages, "message")
		if n%2 == 0 {
			if in := m.GetInputs(); in.GetFirst() != 10+n/2 || len(in.GetFrames()) != 1 || in.Frames[0][0] != byte(n/2) {
				t.Fatalf("got %v at %d", m, n)
			}
		} else if m.GetEmitted().GetEpoch() != n || m.Term != 3 {
			t.Fatalf("got %v at %d", m, n)
		}
	}
	cause := errors.New("enough")
	a.Close(cause)
	a.Close(nil)
	expectEnd(t, ae.down, a.Done(), cause)
	expectEnd(t, se.down, se.Done(), nil)
}

func TestRefusal(t *testing.T) {
	noLeaks(t)
	s := serve(t, testConfig())
	why := errors.New("term 3 is older than 4")
	s.refuse.Store(&why)
	_, _, err := Dial(t.Context(), s.addr, 3, hello, guestZero, newActiveEnd(), testConfig())
	if !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), why.Error()) {
		t.Fatal(err)
	}
}

func TestStandbyClosesWithItsReason(t *testing.T) {
	noLeaks(t)
	s := serve(t, testConfig())
	a, ae := connect(t, s.addr, testConfig())
	se := wait(t, s.ends, "feed")
	se.Close(errors.New("a newer term began"))
	if err := wait(t, ae.down, "end"); !strings.Contains(err.Error(), "a newer term began") {
		t.Error(err)
	}
	<-a.Done()
	<-se.Done()
	if err := a.Send(t.Context(), &pb.FromActive{}, nil); err == nil {
		t.Error("sent after the end")
	}
	if err := a.Input(t.Context(), 1, nil); err == nil {
		t.Error("input after the end")
	}
	if err := a.Flush(t.Context()); err == nil {
		t.Error("flushed after the end")
	}
}

func TestCutConnectionIsNoticedAtOnce(t *testing.T) {
	noLeaks(t)
	cfg := testConfig() // patience: only the cut itself can tell
	s := serve(t, cfg)
	p := newProxy(t, s.addr)
	a, ae := connect(t, p.addr, cfg)
	se := wait(t, s.ends, "feed")
	p.cut()
	expectEnd(t, ae.down, a.Done(), nil)
	expectEnd(t, se.down, se.Done(), nil)
}

func TestStalledConnectionIsNoticedByTime(t *testing.T) {
	noLeaks(t)
	cfg := testConfig()
	cfg.QueueBytes, cfg.SilentAfter = 100_000, 300*time.Millisecond
	s := serve(t, cfg)
	p := newProxy(t, s.addr)
	a, ae := connect(t, p.addr, cfg)
	se := wait(t, s.ends, "feed")
	p.stall()
	// The owner goes on sending: it is held up, but never beyond its deadline.
	var dones atomic.Int64
	sent, longest := int64(0), time.Duration(0)
	frame := make([]byte, 50_000)
	for {
		began := time.Now()
		err := a.Send(t.Context(), &pb.FromActive{Body: &pb.FromActive_BootImage{BootImage: &pb.BootImage{Data: frame}}}, func() { dones.Add(1) })
		longest = max(longest, time.Since(began))
		sent++
		if err != nil {
			break
		}
	}
	if longest > cfg.SendTimeout+30*time.Second {
		t.Errorf("a send took %v", longest)
	}
	expectEnd(t, ae.down, a.Done(), ErrSilent)
	expectEnd(t, se.down, se.Done(), ErrSilent)
	if dones.Load() != sent {
		t.Errorf("%d messages, %d called back", sent, dones.Load())
	}
}

func TestTooLargeMessageIsRefused(t *testing.T) {
	noLeaks(t)
	s := serve(t, testConfig())
	a, _ := connect(t, s.addr, testConfig())
	called := false
	m := &pb.FromActive{Body: &pb.FromActive_BootImage{BootImage: &pb.BootImage{Data: make([]byte, MaxMessage)}}}
	if err := a.Send(t.Context(), m, func() { called = true }); err == nil || !called {
		t.Fatalf("%v, called back: %t", err, called)
	}
	if a.Context().Err() != nil {
		t.Error("the feed ended")
	}
}

func TestWaitingInputsTravelTogether(t *testing.T) {
	noLeaks(t)
	s := serve(t, testConfig())
	release := s.hold(t)
	a, _ := connect(t, s.addr, testConfig())
	se := wait(t, s.ends, "feed")
	// Fill the way, so that inputs have to wait.
	for range 7 {
		m := &pb.FromActive{Body: &pb.FromActive_BootImage{BootImage: &pb.BootImage{Data: make([]byte, 1<<20)}}}
		if err := a.Send(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
	}
	const inputs = 2000
	for n := range uint64(inputs) {
		if err := a.Input(t.Context(), 100+n, []byte{byte(n), byte(n >> 8)}); err != nil {
			t.Fatal(err)
		}
	}
	release()
	next, messages := uint64(100), 0
	for next < 100+inputs {
		m := wait(t, se.messages, "message")
		in := m.GetInputs()
		if in == nil {
			continue
		}
		messages++
		if in.First != next {
			t.Fatalf("input %d, want %d", in.First, next)
		}
		for _, f := range in.Frames {
			if got := uint64(f[0]) + uint64(f[1])<<8; got != next-100 {
				t.Fatalf("input %d carries %d", next, got)
			}
			next++
		}
	}
	if messages > inputs/inputsFrames+2 {
		t.Errorf("%d inputs took %d messages", inputs, messages)
	}
	if err := a.Input(t.Context(), next+1, nil); err == nil {
		t.Error("a gap was accepted")
	}
	if err := a.Input(t.Context(), next, nil); err != nil {
		t.Error(err)
	}
}

func TestStandbyTakesAllThatADyingActiveSent(t *testing.T) {
	noLeaks(t)
	cfg := testConfig()
	cfg.PingInterval, cfg.SilentAfter = time.Hour, time.Hour // nothing else is under way
	cfg.drained = 300 * time.Millisecond                     // the machine is overloaded, with other tests
	s := serve(t, cfg)
	release := s.hold(t)
	p := newProxy(t, s.addr)
	a, _ := connect(t, p.addr, cfg)
	se := wait(t, s.ends, "feed")
	const messages = 1000
	size := s.read.Load()
	for n := range uint64(messages) {
		m := &pb.FromActive{Body: &pb.FromActive_Emitted{Emitted: &pb.Emitted{Epoch: n}}}
		if err := a.Send(t.Context(), m, nil); err != nil {
			t.Fatal(err)
		}
		size += 9 + 5 + int64(proto.Size(m)) // HTTP/2 and gRPC headers
	}
	if !eventually(func() bool { return s.read.Load() >= size }) {
		t.Fatalf("%d of %d bytes arrived", s.read.Load(), size)
	}
	p.cut()
	<-a.Done()
	release()
	err := wait(t, se.down, "end")
	if got := len(se.messages); got != messages {
		t.Errorf("%d of %d messages taken before the end (%v)", got, messages, err)
	}
}

func TestOwnerBusyWithAMessageIsNotASilentPeer(t *testing.T) {
	noLeaks(t)
	cfg := testConfig()
	cfg.SilentAfter = time.Second
	s := serve(t, cfg)
	release := s.hold(t)
	a, _ := connect(t, s.addr, cfg)
	se := wait(t, s.ends, "feed")
	if err := a.Input(t.Context(), 1, nil); err != nil {
		t.Fatal(err)
	}
	select {
	case <-a.Done():
		t.Error("the active gave up a standby that says it lives")
	case <-se.Context().Done():
		t.Error("the standby gave up while it did not listen")
	case <-time.After(2 * cfg.SilentAfter): // nothing must happen
	}
	release()
	wait(t, se.messages, "message")
}

func TestDialEndsInTime(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig()
	cfg.DialTimeout = 50 * time.Millisecond
	// A host that accepts and never says anything.
	if _, _, err := Dial(t.Context(), ln.Addr().String(), 3, hello, guestZero, newActiveEnd(), cfg); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("mute listener: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := Dial(ctx, ln.Addr().String(), 3, hello, guestZero, newActiveEnd(), testConfig()); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	_ = ln.Close()
	cfg.DialTimeout = patience
	began := time.Now()
	if _, _, err := Dial(t.Context(), ln.Addr().String(), 3, hello, guestZero, newActiveEnd(), cfg); err == nil || time.Since(began) > patience/2 {
		t.Errorf("closed port: %v after %v", err, time.Since(began))
	}
}

// rawFeed opens a stream that speaks no handshake of its own accord.
func rawFeed(t *testing.T, addr string) grpc.BidiStreamingClient[pb.FromActive, pb.FromStandby] {
	t.Helper()
	cfg := testConfig()
	cfg.setDefaults()
	conn, err := cfg.dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c, err := pb.NewReplicationClient(conn).Feed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestStandbyEndsAFeedThatBreaksTheProtocol(t *testing.T) {
	helloMessage := &pb.FromActive{Term: 3, Body: &pb.FromActive_Hello{Hello: hello}}
	for name, messages := range map[string][]*pb.FromActive{
		"no hello":      {{Term: 3, Body: &pb.FromActive_Ping{Ping: &pb.FeedPing{}}}},
		"empty first":   {{}},
		"nothing":       {},
		"second hello":  {helloMessage, helloMessage},
		"another term":  {helloMessage, {Term: 4, Body: &pb.FromActive_Ping{Ping: &pb.FeedPing{}}}},
		"empty message": {helloMessage, {Term: 3}},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			cfg := testConfig()
			cfg.DialTimeout = patience
			if len(messages) == 0 {
				cfg.DialTimeout = 2 * time.Second // also of the connection, on a busy machine
			}
			s := serve(t, cfg)
			c := rawFeed(t, s.addr)
			for _, m := range messages {
				if err := c.Send(m); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			for err == nil {
				_, err = c.Recv()
			}
			if len(messages) == 2 {
				expectEnd(t, wait(t, s.ends, "feed").down, nil2done(), ErrProtocol)
			}
		})
	}
}

// nil2done is done already.
func nil2done() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}

func TestServerStopEndsFeeds(t *testing.T) {
	noLeaks(t)
	s := serve(t, testConfig())
	a, ae := connect(t, s.addr, testConfig())
	se := wait(t, s.ends, "feed")
	s.grpc.Stop()
	expectEnd(t, ae.down, a.Done(), nil)
	expectEnd(t, se.down, se.Done(), nil)
}

func TestOverAnyTransport(t *testing.T) {
	noLeaks(t)
	ln := bufconn.Listen(1 << 16)
	s := &standbyServer{ends: make(chan *standbyEnd, 1)}
	s.serve(t, ln, testConfig())
	cfg := testConfig()
	cfg.DialOptions = []grpc.DialOption{grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return ln.DialContext(ctx) })}
	a, _ := connect(t, "passthrough:///standby", cfg)
	se := wait(t, s.ends, "feed")
	if err := a.Input(t.Context(), 1, []byte("frame")); err != nil {
		t.Fatal(err)
	}
	if m := wait(t, se.messages, "input"); string(m.GetInputs().GetFrames()[0]) != "frame" {
		t.Error(m)
	}
}

func TestRoundTripAndGuestTime(t *testing.T) {
	noLeaks(t)
	const way = 15 * time.Millisecond
	cfg := testConfig()
	s := serve(t, cfg)
	p := newProxy(t, s.addr)
	p.delay.Store(int64(way))
	began := time.Now()
	guestNow := func() uint64 { return 1_000_000 + uint64(time.Since(began)) }
	ae := newActiveEnd()
	a, _, err := Dial(t.Context(), p.addr, 3, hello, guestNow, ae, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(nil); <-a.Done() })
	se := wait(t, s.ends, "feed")
	if !eventually(func() bool { _, ok := se.GuestTime(); return ok && a.RoundTrip() > 0 }) {
		t.Fatal("no sample")
	}
	for range 5 {
		before := guestNow()
		c, _ := se.GuestTime()
		after := guestNow()
		if c.GuestNs > after || c.GuestNs+uint64(c.Uncertainty) < before {
			t.Errorf("guest time %d to %d, said %d + %v", before, after, c.GuestNs, c.Uncertainty)
		}
		if c.Uncertainty < way {
			t.Errorf("uncertain by %v, where a way takes %v", c.Uncertainty, way)
		}
		seen := a.pings.count()
		eventually(func() bool { return a.pings.count() > seen })
	}
	if rtt := a.RoundTrip(); rtt < 2*way {
		t.Errorf("round trip %v, where a way takes %v", rtt, way)
	}
}

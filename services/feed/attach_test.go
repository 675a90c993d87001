package feed

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// arbiter answers the first message of each stream with first, and records
// what it is told. It ends a stream when the replica has said all.
type arbiter struct {
	pb.UnimplementedArbiterServer
	addr     string
	first    *pb.ToReplica
	streams  chan grpc.BidiStreamingServer[pb.FromReplica, pb.ToReplica]
	messages chan *pb.FromReplica
	grpc     *grpc.Server
	// deaf, where not nil, keeps it from reading until it is closed.
	deaf chan struct{}
}

func heartbeat() *pb.ToReplica {
	return &pb.ToReplica{Term: 5, Body: &pb.ToReplica_Heartbeat{Heartbeat: &pb.ArbiterHeartbeat{}}}
}

func refuse(action pb.Refusal_Action, addr string) *pb.ToReplica {
	return &pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: &pb.Refusal{Action: action, Address: addr, Detail: "because"}}}
}

func serveArbiter(t *testing.T, addr string, first *pb.ToReplica) *arbiter {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	a := &arbiter{
		addr: ln.Addr().String(), first: first,
		streams: make(chan grpc.BidiStreamingServer[pb.FromReplica, pb.ToReplica], 1000), messages: make(chan *pb.FromReplica, 1000),
		grpc: grpc.NewServer(ServerOptions(testConfig())...),
	}
	pb.RegisterArbiterServer(a.grpc, a)
	var wg sync.WaitGroup
	wg.Go(func() { _ = a.grpc.Serve(ln) })
	t.Cleanup(func() { a.grpc.Stop(); wg.Wait() })
	return a
}

func (a *arbiter) Attach(s grpc.BidiStreamingServer[pb.FromReplica, pb.ToReplica]) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	a.messages <- m
	if err := s.Send(a.first); err != nil || a.first.GetRefusal() != nil {
		return err
	}
	a.streams <- s
	if a.deaf != nil {
		<-a.deaf
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return nil
		}
		a.messages <- m
	}
}

// attachEnd records what an AttachHandler hears.
type attachEnd struct {
	events chan string
}

func (e *attachEnd) OnUp(addr string) { e.events <- "up " + addr }
func (e *attachEnd) OnMessage(m *pb.ToReplica) {
	if m.GetHeartbeat() == nil {
		e.events <- "message " + strings.TrimPrefix(strings.Fields(m.String())[0], "term:")
	}
}
func (e *attachEnd) OnDown(err error) { e.events <- "down " + err.Error() }

func attachTo(t *testing.T, cfg Config, addrs ...string) (*Attach, *attachEnd) {
	t.Helper()
	e := &attachEnd{events: make(chan string, 1000)}
	hello := &pb.FromReplica{Term: 4, Body: &pb.FromReplica_Hello{Hello: &pb.Hello{Vm: "vm"}}}
	a := NewAttach(addrs, func() *pb.FromReplica { return hello }, e, cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		a.Close(ctx)
		wait(t, a.Done(), "end of the attachment")
	})
	return a, e
}

func (e *attachEnd) expect(t *testing.T, prefix string) string {
	t.Helper()
	got := wait(t, e.events, prefix)
	if !strings.HasPrefix(got, prefix) {
		t.Fatalf("%q, want %q", got, prefix)
	}
	return got
}

func progress(n uint64) *pb.FromReplica {
	return &pb.FromReplica{Term: 5, Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{DeliveredInput: n}}}
}

func TestAttachCarriesMessagesAndSaysGoodbye(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", heartbeat())
	a, e := attachTo(t, testConfig(), arb.addr)
	e.expect(t, "up "+arb.addr)
	if m := wait(t, arb.messages, "hello"); m.GetHello().GetVm() != "vm" || m.Term != 4 {
		t.Fatal(m)
	}
	s := wait(t, arb.streams, "stream")
	if err := s.Send(&pb.ToReplica{Term: 6, Body: &pb.ToReplica_Release{Release: &pb.Release{Epoch: 2}}}); err != nil {
		t.Fatal(err)
	}
	e.expect(t, "message 6")
	for n := range uint64(100) {
		if err := a.Send(progress(n)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.Send(&pb.FromReplica{Body: &pb.FromReplica_Left{Left: &pb.Left{Detail: "bye"}}}); err != nil {
		t.Fatal(err)
	}
	a.Close(ctx)
	if ctx.Err() != nil {
		t.Error("Close waited for its deadline")
	}
	for n := range uint64(100) {
		if m := wait(t, arb.messages, "progress"); m.GetHeartbeat().GetDeliveredInput() != n {
			t.Fatalf("%v, want %d", m, n)
		}
	}
	if m := wait(t, arb.messages, "goodbye"); m.GetLeft().GetDetail() != "bye" {
		t.Fatal(m)
	}
	e.expect(t, "down")
	if err := a.Send(progress(1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
}

func TestAttachComesBack(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", heartbeat())
	a, e := attachTo(t, testConfig(), arb.addr)
	e.expect(t, "up")
	arb.grpc.Stop()
	e.expect(t, "down")
	if err := a.Send(progress(1)); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	// It goes on trying, and does not say so again.
	select {
	case got := <-e.events:
		t.Fatal(got)
	case <-time.After(200 * time.Millisecond): // nothing must happen
	}
	arb = serveArbiter(t, arb.addr, heartbeat())
	e.expect(t, "up")
	if m := wait(t, arb.messages, "hello"); m.GetHello() == nil {
		t.Fatal(m)
	}
	if err := a.Send(progress(7)); err != nil {
		t.Fatal(err)
	}
	if m := wait(t, arb.messages, "progress"); m.GetHeartbeat().GetDeliveredInput() != 7 {
		t.Fatal(m)
	}
}

func TestAttachSaysOnceThatNobodyIsThere(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	_, e := attachTo(t, testConfig(), addr, addr)
	e.expect(t, "down")
	select {
	case got := <-e.events:
		t.Fatal(got)
	case <-time.After(200 * time.Millisecond): // nothing must happen
	}
	serveArbiter(t, addr, heartbeat())
	e.expect(t, "up")
}

func TestAttachTriesTheOtherArbiter(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := ln.Addr().String()
	_ = ln.Close()
	arb := serveArbiter(t, "127.0.0.1:0", heartbeat())
	_, e := attachTo(t, testConfig(), dead, arb.addr)
	e.expect(t, "up "+arb.addr)
}

func TestAttachFollowsARedirection(t *testing.T) {
	noLeaks(t)
	owner := serveArbiter(t, "127.0.0.1:0", heartbeat())
	other := serveArbiter(t, "127.0.0.1:0", refuse(pb.Refusal_ACTION_REDIRECT, owner.addr))
	_, e := attachTo(t, testConfig(), other.addr)
	e.expect(t, "message refusal")
	e.expect(t, "up "+owner.addr)
	// An owner that is up may send it away, too.
	third := serveArbiter(t, "127.0.0.1:0", heartbeat())
	if err := wait(t, owner.streams, "stream").Send(refuse(pb.Refusal_ACTION_REDIRECT, third.addr)); err != nil {
		t.Fatal(err)
	}
	e.expect(t, "message refusal")
	e.expect(t, "down")
	e.expect(t, "up "+third.addr)
}

func TestAttachDoesNotFollowToAnArbiterThatIsDead(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	dead := ln.Addr().String()
	other := serveArbiter(t, "127.0.0.1:0", refuse(pb.Refusal_ACTION_REDIRECT, dead))
	cfg := testConfig()
	cfg.DialTimeout = time.Second
	_, e := attachTo(t, cfg, dead, other.addr)
	// Once the dead one was found silent, the other is asked again and again.
	began := time.Now()
	for range 5 {
		e.expect(t, "message refusal")
	}
	if took := time.Since(began); took > cfg.DialTimeout+putOff {
		t.Errorf("the fifth answer came after %v", took)
	}
}

func TestAttachDoesNotRunInCircles(t *testing.T) {
	noLeaks(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	_ = ln.Close()
	serveArbiter(t, addr, refuse(pb.Refusal_ACTION_REDIRECT, addr))
	_, e := attachTo(t, testConfig(), addr)
	after := time.After(300 * time.Millisecond)
	for n := 0; ; n++ {
		select {
		case <-e.events:
			continue
		case <-after:
		}
		if n > 40 {
			t.Errorf("%d tries in 300 ms", n)
		}
		return
	}
}

func TestAttachEndsWhereItIsToldTo(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", refuse(pb.Refusal_ACTION_EXIT, ""))
	a, e := attachTo(t, testConfig(), arb.addr)
	e.expect(t, "message refusal")
	wait(t, a.Done(), "end")
	if len(e.events) != 0 {
		t.Error(<-e.events)
	}
}

func TestAttachComesBackWhereItIsToldTo(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", refuse(pb.Refusal_ACTION_RETRY, ""))
	_, e := attachTo(t, testConfig(), arb.addr)
	e.expect(t, "message refusal")
	e.expect(t, "message refusal")
	e.expect(t, "message refusal")
}

func TestSilentArbiterIsLost(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", heartbeat())
	cfg := testConfig()
	cfg.SilentAfter = 100 * time.Millisecond
	_, e := attachTo(t, cfg, arb.addr)
	e.expect(t, "up")
	if got := e.expect(t, "down"); !strings.Contains(got, ErrSilent.Error()) {
		t.Error(got)
	}
}

func TestArbiterThatDoesNotReadNeverBlocksTheOwner(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", heartbeat())
	arb.deaf = make(chan struct{})
	defer close(arb.deaf)
	cfg := testConfig()
	cfg.QueueBytes = 1 << 20
	a, e := attachTo(t, cfg, arb.addr)
	e.expect(t, "up")
	big := &pb.FromReplica{Body: &pb.FromReplica_Left{Left: &pb.Left{Detail: strings.Repeat("x", 100_000)}}}
	var err error
	for err == nil {
		began := time.Now()
		err = a.Send(big)
		if took := time.Since(began); took > patience/2 {
			t.Errorf("Send took %v", took)
		}
	}
	if !errors.Is(err, ErrFull) {
		t.Error(err)
	}
	e.expect(t, "down")
	e.expect(t, "up")
}

func TestStalledArbiterDoesNotDelayClose(t *testing.T) {
	noLeaks(t)
	arb := serveArbiter(t, "127.0.0.1:0", heartbeat())
	p := newProxy(t, arb.addr)
	a, e := attachTo(t, testConfig(), p.addr)
	e.expect(t, "up")
	p.stall()
	if err := a.Send(progress(1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	a.Close(ctx)
	wait(t, a.Done(), "end")
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("Close took %v", took)
	}
}

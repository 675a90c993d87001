package feed

import (
	"errors"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// patience bounds what must happen; only a failing test waits so long.
const patience = time.Minute

// testConfig pings often. A machine that is busy with other tests must not
// make a peer look silent.
func testConfig() Config {
	return Config{PingInterval: 10 * time.Millisecond, SilentAfter: patience, SendTimeout: 100 * time.Millisecond}
}

// noLeaks fails the test if goroutines of this package or of gRPC are left
// after all of its cleanups.
func noLeaks(t *testing.T) {
	t.Helper()
	t.Cleanup(func() {
		if !eventually(func() bool { return leftover() == "" }) {
			t.Errorf("goroutines left:\n%s", leftover())
		}
	})
}

func leftover() string {
	buf := make([]byte, 1<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var found []string
	for _, g := range strings.Split(string(buf), "\n\n")[1:] {
		if (strings.Contains(g, "/services/feed.") || strings.Contains(g, "google.golang.org/grpc")) && !strings.Contains(g, "testing.tRunner") {
			found = append(found, g)
		}
	}
	return strings.Join(found, "\n\n")
}

// eventually polls until ok or out of patience.
func eventually(ok func() bool) bool {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); <-tick.C {
		if ok() {
			return true
		}
	}
	return ok()
}

// wait returns the next value of c.
func wait[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s", what)
		panic("unreachable")
	}
}

// activeEnd and standbyEnd record what their handlers hear.
type activeEnd struct {
	messages chan *pb.FromStandby
	down     chan error
}

func newActiveEnd() *activeEnd {
	return &activeEnd{messages: make(chan *pb.FromStandby, 1000), down: make(chan error, 2)}
}

func (e *activeEnd) OnMessage(m *pb.FromStandby) { e.messages <- m }
func (e *activeEnd) OnDown(err error)            { e.down <- err }

type standbyEnd struct {
	*Standby
	hello    *pb.FeedHello
	term     uint64
	messages chan *pb.FromActive
	down     chan error
	// gate, where not nil, is waited for before each message is taken.
	gate chan struct{}
}

func (e *standbyEnd) OnMessage(m *pb.FromActive, _ func()) {
	if e.gate != nil {
		<-e.gate
	}
	e.messages <- m
}
func (e *standbyEnd) OnDown(err error) { e.down <- err }

// standbyServer serves feeds and hands out the ends that it accepted.
type standbyServer struct {
	addr string
	ends chan *standbyEnd
	// refuse, where set, is why it accepts nobody.
	refuse atomic.Pointer[error]
	gate   chan struct{}
	grpc   *grpc.Server
	read   atomic.Int64 // bytes that came in
}

func serve(t *testing.T, cfg Config) *standbyServer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &standbyServer{ends: make(chan *standbyEnd, 100), addr: ln.Addr().String()}
	s.serve(t, countingListener{ln, &s.read}, cfg)
	return s
}

// hold lets the standby's owner take no message until release is called.
func (s *standbyServer) hold(t *testing.T) (release func()) {
	s.gate = make(chan struct{})
	release = sync.OnceFunc(func() { close(s.gate) })
	t.Cleanup(release)
	return release
}

// countingListener counts the bytes that its connections have read.
type countingListener struct {
	net.Listener
	read *atomic.Int64
}

func (l countingListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	return countingConn{c, l.read}, err
}

type countingConn struct {
	net.Conn
	read *atomic.Int64
}

func (c countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.read.Add(int64(n))
	return n, err
}

func (s *standbyServer) serve(t *testing.T, ln net.Listener, cfg Config) {
	s.grpc = grpc.NewServer(ServerOptions(cfg)...)
	pb.RegisterReplicationServer(s.grpc, NewServer(s.accept, cfg))
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.grpc.Serve(ln) })
	t.Cleanup(func() { s.grpc.Stop(); wg.Wait() })
}

func (s *standbyServer) accept(st *Standby, term uint64, hello *pb.FeedHello) (StandbyHandler, *pb.FeedWelcome, error) {
	if err := s.refuse.Load(); err != nil {
		return nil, nil, *err
	}
	e := &standbyEnd{
		Standby: st, hello: hello, term: term, gate: s.gate,
		messages: make(chan *pb.FromActive, 10000), down: make(chan error, 2),
	}
	s.ends <- e
	return e, &pb.FeedWelcome{DiskEmpty: true}, nil
}

var hello = &pb.FeedHello{Protocol: 1, Vm: "vm", ActiveId: "a", StandbyId: "s"}

func guestZero() uint64 { return 0 }

// connect opens a feed of term 3 to addr.
func connect(t *testing.T, addr string, cfg Config) (*Active, *activeEnd) {
	t.Helper()
	e := newActiveEnd()
	a, welcome, err := Dial(t.Context(), addr, 3, hello, guestZero, e, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !welcome.DiskEmpty {
		t.Error("another welcome")
	}
	t.Cleanup(func() { a.Close(nil); <-a.Done() })
	return a, e
}

func consumed(n uint64) *pb.FromStandby {
	return &pb.FromStandby{Body: &pb.FromStandby_Staged{Staged: &pb.Staged{Epoch: n}}}
}

// proxy is a TCP wire that can be cut, stalled and slowed down.
type proxy struct {
	addr  string
	delay atomic.Int64 // nanoseconds, each way

	mu      sync.Mutex
	stalled chan struct{} // closed: not stalled
	conns   []net.Conn
}

func newProxy(t *testing.T, to string) *proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{addr: ln.Addr().String(), stalled: make(chan struct{})}
	close(p.stalled)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, in, out)
			p.mu.Unlock()
			wg.Go(func() { p.carry(in, out) })
			wg.Go(func() { p.carry(out, in) })
		}
	})
	t.Cleanup(func() { _ = ln.Close(); p.resume(); p.cut(); wg.Wait() })
	return p
}

func (p *proxy) carry(from, to net.Conn) {
	type piece struct {
		data []byte
		at   time.Time
	}
	pieces := make(chan piece, 1000)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() { _ = to.Close() }()
		for c := range pieces {
			time.Sleep(time.Until(c.at)) // the wire's delay
			if _, err := to.Write(c.data); err != nil {
				_ = from.Close()
			}
		}
	})
	defer wg.Wait()
	defer close(pieces)
	for {
		p.mu.Lock()
		stalled := p.stalled
		p.mu.Unlock()
		<-stalled
		b := make([]byte, 32<<10)
		n, err := from.Read(b)
		if err != nil {
			return
		}
		p.mu.Lock()
		stalled = p.stalled
		p.mu.Unlock()
		<-stalled
		pieces <- piece{b[:n], time.Now().Add(time.Duration(p.delay.Load()))}
	}
}

// stall lets nothing through and reads nothing, until resume.
func (p *proxy) stall() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stalled = make(chan struct{})
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.stalled:
	default:
		close(p.stalled)
	}
}

func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		_ = c.Close()
	}
	p.conns = nil
}

// expectEnd checks that the feed ended once, for the reason.
func expectEnd(t *testing.T, down <-chan error, done <-chan struct{}, want error) {
	t.Helper()
	err := wait(t, down, "end of the feed")
	if want != nil && !errors.Is(err, want) {
		t.Errorf("ended with %v, want %v", err, want)
	}
	wait(t, done, "end of the goroutines")
	select {
	case err := <-down:
		t.Errorf("ended twice: %v", err)
	default:
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"
)

const patience = time.Minute

// running is an arbiter in this process.
type running struct {
	*arbiter
	addr, page string
	options    *options
	cancel     context.CancelFunc
	done       chan error
}

// launch starts an arbiter with the flags given. Heartbeats may be late, because
// the machine that runs the tests may be busy.
func launch(t testing.TB, args ...string) *running {
	t.Helper()
	c, o := command()
	args = append([]string{"--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--lease-ttl=2s", "--heartbeat-timeout=2s"}, args...)
	if err := c.Parse(args, func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	log := hclog.NewInterceptLogger(&hclog.LoggerOptions{Name: "arbiter", Level: hclog.LevelFromString(os.Getenv("TEST_LOG")), Output: os.Stderr})
	if os.Getenv("TEST_LOG") == "" {
		log.SetLevel(hclog.Error)
	}
	a, err := start(t.Context(), o, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{arbiter: a, addr: a.listener.Addr().String(), page: "http://" + a.page.Addr().String(), options: o,
		cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- a.run(ctx) }()
	t.Cleanup(r.shut)
	return r
}

// shut stops the arbiter in order and waits for its end.
func (r *running) shut() {
	r.cancel()
	if err := <-r.done; err != nil {
		fmt.Fprintln(os.Stderr, "arbiter:", err)
	}
	r.done <- nil
}

func (r *running) dial(t testing.TB) *grpc.ClientConn {
	t.Helper()
	return dial(t, r.addr)
}

func dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10)) // fixed, so that a deaf peer is felt soon
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// peer is a replica as the arbiter sees one: it holds a lease and speaks the
// protocol, by the test's hand.
type peer struct {
	t     testing.TB
	vm    string
	ref   *pb.ReplicaRef
	etcd  *clientv3.Client
	lease *fence.Lease

	conn   *grpc.ClientConn
	stream pb.Arbiter_AttachClient
	cancel context.CancelFunc
	got    chan *pb.ToReplica // but heartbeats
	beats  chan struct{}      // one for each heartbeat, as far as there is room
	deaf   sync.Mutex         // while it is held, the peer reads nothing

	mu    sync.Mutex
	role  pb.Role
	mode  pb.Mode
	term  uint64
	epoch uint64
}

// join makes a replica, which finds etcd by the arbiter, and attaches it.
func join(t testing.TB, addr, vm, id string, role pb.Role) *peer {
	t.Helper()
	p := &peer{t: t, vm: vm, ref: &pb.ReplicaRef{Id: id, Address: id + ".example:7500"}, role: role}
	found, err := pb.NewArbiterClient(dial(t, addr)).Discover(within(t, patience), &pb.DiscoverRequest{Protocol: session.ProtocolVersion}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	if p.etcd, err = fence.Connect(found.EtcdEndpoints, nil); err != nil {
		t.Fatal(err)
	}
	p.lease = fence.NewLease(p.etcd, fence.LeaseConfig{
		Key: fence.ReplicaKey(vm, id), Value: p.ref.Address,
		TTL: time.Duration(found.LeaseTtlMs) * time.Millisecond, Margin: time.Duration(found.LeaseMarginMs) * time.Millisecond,
	})
	t.Cleanup(func() {
		p.leave()
		p.lease.Close(context.Background())
		p.etcd.Close()
	})
	if err := p.lease.Wait(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	p.attach(addr)
	return p
}

// attach opens a stream and says Hello with what the replica holds.
func (p *peer) attach(addr string) {
	p.t.Helper()
	p.leave()
	p.conn = dial(p.t, addr)
	ctx, cancel := context.WithCancel(context.Background())
	p.cancel = cancel
	var err error
	if p.stream, err = pb.NewArbiterClient(p.conn).Attach(ctx, grpc.WaitForReady(true)); err != nil {
		p.t.Fatal(err)
	}
	p.got, p.beats = make(chan *pb.ToReplica, 1000), make(chan struct{}, 100)
	p.mu.Lock()
	hello := &pb.Hello{Protocol: session.ProtocolVersion, Vm: p.vm, Replica: p.ref, Role: p.role, Mode: p.mode, Epoch: p.epoch,
		LeaseId: p.lease.ID(), Version: "test"}
	p.mu.Unlock()
	p.send(&pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: hello}})
	go p.read(p.stream, p.got, p.beats)
	go p.beat(ctx, p.stream)
}

// attached waits until the arbiter has taken the Hello.
func (p *peer) attached() {
	p.t.Helper()
	select {
	case <-p.beats:
	case <-time.After(patience):
		p.t.Fatalf("%s hears nothing from the arbiter", p.ref.Id)
	}
}

func (p *peer) read(stream pb.Arbiter_AttachClient, got chan<- *pb.ToReplica, beats chan<- struct{}) {
	defer close(got)
	for {
		p.deaf.Lock()
		m, err := stream.Recv()
		p.deaf.Unlock()
		if err != nil {
			return
		}
		if m.GetHeartbeat() != nil {
			select {
			case beats <- struct{}{}:
			default:
			}
			continue
		}
		got <- m
	}
}

// beat sends heartbeats until the stream ends.
func (p *peer) beat(ctx context.Context, stream pb.Arbiter_AttachClient) {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			p.mu.Lock()
			m := &pb.FromReplica{Term: p.term, Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: p.epoch, LeaseId: p.lease.ID()}}}
			err := stream.Send(m)
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}
}

// send sends a message under the peer's term.
func (p *peer) send(m *pb.FromReplica) {
	p.mu.Lock()
	defer p.mu.Unlock()
	m.Term = p.term
	if err := p.stream.Send(m); err != nil && !errors.Is(err, io.EOF) {
		p.t.Logf("%s: send: %v", p.ref.Id, err)
	}
}

// leave breaks the stream, as a crash does.
func (p *peer) leave() {
	if p.cancel != nil {
		p.cancel()
		p.conn.Close()
		p.cancel = nil
	}
}

// await returns the next message that ok accepts.
func (p *peer) await(what string, ok func(*pb.ToReplica) bool) *pb.ToReplica {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case m, open := <-p.got:
			if !open {
				p.t.Fatalf("%s: the stream ended before %s", p.ref.Id, what)
			}
			if ok(m) {
				return m
			}
			p.t.Logf("%s: before %s came %v", p.ref.Id, what, m)
		case <-timeout:
			p.t.Fatalf("%s: never got %s", p.ref.Id, what)
		}
	}
}

// assigned waits for a part in a record of that mode and takes it.
func (p *peer) assigned(mode pb.Mode) *pb.Record {
	p.t.Helper()
	m := p.await(mode.String(), func(m *pb.ToReplica) bool { return m.GetAssignment().GetRecord().GetMode() == mode })
	a := m.GetAssignment()
	if a.LeaseId != p.lease.ID() {
		p.t.Errorf("%s: assigned under lease %x, its own is %x", p.ref.Id, a.LeaseId, p.lease.ID())
	}
	if m.Term != a.Record.Term {
		p.t.Errorf("%s: message of term %d brings a record of term %d", p.ref.Id, m.Term, a.Record.Term)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.term, p.mode = a.Record.Term, mode
	switch p.ref.Id {
	case a.Record.Active.GetId():
		p.role = pb.Role_ROLE_ACTIVE
	case a.Record.Standby.GetId():
		p.role = pb.Role_ROLE_STANDBY
	default:
		p.t.Errorf("%s: assigned to a record that does not name it: %v", p.ref.Id, a.Record)
	}
	return a.Record
}

func (p *peer) refused() *pb.Refusal {
	p.t.Helper()
	return p.await("a refusal", func(m *pb.ToReplica) bool { return m.GetRefusal() != nil }).GetRefusal()
}

// ended waits for the end of the stream.
func (p *peer) ended() {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case _, open := <-p.got:
			if !open {
				return
			}
		case <-timeout:
			p.t.Fatalf("%s: the stream did not end", p.ref.Id)
		}
	}
}

// startEpoch says that the replica is in the epoch.
func (p *peer) startEpoch(epoch uint64, stats *pb.SyncStats) {
	p.mu.Lock()
	p.epoch = epoch
	p.mu.Unlock()
	p.send(&pb.FromReplica{Body: &pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: epoch, Stats: stats}}})
}

// output reports datagrams with the ids first to last, whose digests are made
// of the ids and the salt.
func (p *peer) output(first, last uint64, salt byte) {
	p.mu.Lock()
	o := &pb.Outputs{Epoch: p.epoch}
	p.mu.Unlock()
	for id := first; id <= last; id++ {
		digest := make([]byte, 16)
		digest[0], digest[1], digest[15] = byte(id), byte(id>>8), salt
		out := &pb.Output{Id: id, Kind: pb.OutputKind_OUTPUT_KIND_DATAGRAM, Flow: 7, End: id, Digest: digest}
		if id == 1 {
			out.Name = "udp 10.0.0.2:53 > 10.0.0.9:4711"
		}
		o.Outputs = append(o.Outputs, out)
	}
	p.send(&pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: o}})
}

// pass reports outputs that are not compared.
func (p *peer) pass(first, last uint64) {
	o := &pb.Outputs{Epoch: 1}
	for id := first; id <= last; id++ {
		o.Outputs = append(o.Outputs, &pb.Output{Id: id, Kind: pb.OutputKind_OUTPUT_KIND_PASS})
	}
	p.send(&pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: o}})
}

// released waits for the release of the outputs through last, each once and in
// order.
func (p *peer) released(first, last uint64) {
	p.t.Helper()
	for next := first; next <= last; {
		m := p.await(fmt.Sprintf("the release of %d", next), func(m *pb.ToReplica) bool { return m.GetRelease() != nil })
		p.mu.Lock()
		if m.Term != p.term || m.GetRelease().Epoch != p.epoch {
			p.t.Errorf("%s: release of term %d epoch %d", p.ref.Id, m.Term, m.GetRelease().Epoch)
		}
		p.mu.Unlock()
		for _, r := range m.GetRelease().Outputs {
			if r.Id != next {
				p.t.Fatalf("%s: released %d, expected %d", p.ref.Id, r.Id, next)
			}
			next++
		}
	}
}

// protect boots a VM on one replica and makes another its standby.
func protect(t testing.TB, addr, vm string) (active, standby *peer) {
	t.Helper()
	active = join(t, addr, vm, "r-1", pb.Role_ROLE_CANDIDATE)
	active.assigned(pb.Mode_MODE_SOLO)
	standby = join(t, addr, vm, "r-2", pb.Role_ROLE_SPARE)
	active.assigned(pb.Mode_MODE_SYNCING)
	standby.assigned(pb.Mode_MODE_SYNCING)
	standby.startEpoch(1, nil)
	active.startEpoch(1, &pb.SyncStats{PauseUs: 1500, PagesSent: 10})
	active.assigned(pb.Mode_MODE_PROTECTED)
	standby.assigned(pb.Mode_MODE_PROTECTED)
	return active, standby
}

// freePort returns an address that nobody listens on at this moment.
func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func vmStatus(t *testing.T, a *running, vm string) *pb.VMStatus {
	t.Helper()
	s, err := pb.NewAdminClient(a.dial(t)).GetVM(within(t, patience), &pb.GetVMRequest{Vm: vm})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"
)

func vmStatus(t *testing.T, a *running, vm string) *pb.VMStatus {
	t.Helper()
	s, err := pb.NewAdminClient(a.dial(t)).GetVM(within(t, patience), &pb.GetVMRequest{Vm: vm})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestFromBootToFailOver(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")

	// Outputs leave when both copies have made them, whoever is first.
	active.output(1, 3, 0)
	standby.output(1, 2, 0)
	active.released(1, 2)
	standby.output(3, 5, 0)
	active.released(3, 3)
	active.output(4, 5, 0)
	active.released(4, 5)

	s := vmStatus(t, a, "web")
	if s.Record.Mode != pb.Mode_MODE_PROTECTED || s.Record.Active.Id != "r-1" || s.Record.Standby.Id != "r-2" ||
		s.Epoch != 1 || s.Counters.GetOutputsReleased() != 5 || len(s.Replicas) != 2 || s.Summary == "" {
		t.Errorf("status: %v", s)
	}
	for path, want := range map[string]string{
		"/":        "Protected",
		"/metrics": `understudy_outputs_released_total{vm="web"} 5`,
		"/readyz":  "ready",
		"/healthz": "ok",
	} {
		if body := get(t, a.page+path, http.StatusOK); !strings.Contains(body, want) {
			t.Errorf("%s has no %q:\n%s", path, want, body)
		}
	}

	// The arbiter is heard all the while.
	for range 2 {
		select {
		case <-standby.beats:
		case <-time.After(patience):
			t.Fatal("no heartbeats")
		}
	}
	// The active dies: its stream ends, and the standby takes over at once.
	begun := time.Now()
	active.leave()
	r := standby.assigned(pb.Mode_MODE_SOLO)
	if r.Active.Id != "r-2" || r.Term <= s.Record.Term {
		t.Errorf("took over with %v", r)
	}
	took := time.Since(begun)
	t.Logf("fail-over after %v", took)
	if took > a.options.heartbeatTimeout {
		t.Errorf("a broken stream took %v to notice, longer than a silent one", took)
	}
	// etcd says the same.
	v, err := fence.NewStore(a.client).Load(within(t, patience), "web")
	if err != nil || v.Record.GetActive().GetId() != "r-2" || v.Record.Term != r.Term || v.Owner == nil {
		t.Errorf("etcd holds %+v, %v", v, err)
	}
	// The old active, back with its copy, is told to discard it.
	active.attach(a.addr)
	if got := active.refused(); got.Action != pb.Refusal_ACTION_DISCARD {
		t.Errorf("the old active was told %v", got)
	}
}

func get(t *testing.T, url string, want int) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != want {
		t.Fatalf("%s: %v %v %s", url, r.Status, err, b)
	}
	return string(b)
}

func TestMismatchIsResynchronized(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	active.output(1, 1, 0)
	standby.output(1, 1, 9)
	m := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil })
	if r := m.GetResync(); r.Epoch != 2 || r.Reason != pb.Reason_REASON_MISMATCH {
		t.Errorf("got %v", r)
	}
	standby.startEpoch(2, nil)
	active.startEpoch(2, &pb.SyncStats{PauseUs: 900})
	standby.output(1, 1, 0)
	active.output(1, 1, 0)
	active.released(1, 1)
	if s := vmStatus(t, a, "web"); s.Epoch != 2 || s.Counters.Mismatches != 1 {
		t.Errorf("status: %v", s)
	}
}

func TestSilentReplicaIsLost(t *testing.T) {
	a := launch(t, "--heartbeat-timeout=500ms")
	active, standby := protect(t, a.addr, "web")
	active.mu.Lock() // no heartbeat leaves any more, though the stream is open
	defer active.mu.Unlock()
	if r := standby.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-2" || r.Reason != pb.Reason_REASON_LOST_REPLICA {
		t.Errorf("got %v", r)
	}
}

func TestRestartOnTheSameDataDirectory(t *testing.T) {
	dir, listen := t.TempDir(), freePort(t)
	a := launch(t, "--data-dir", dir, "--listen", listen)
	active, standby := protect(t, a.addr, "web")
	before := vmStatus(t, a, "web")
	a.shut()
	for _, p := range []*peer{active, standby} {
		if r := p.refused(); r.Action != pb.Refusal_ACTION_RETRY {
			t.Errorf("%s was told %v", p.ref.Id, r)
		}
		p.ended()
	}

	a = launch(t, "--data-dir", dir, "--listen", listen)
	active.attach(a.addr)
	standby.attach(a.addr)
	active.assigned(pb.Mode_MODE_PROTECTED)
	// What was reported before may be lost: the copies are made equal first.
	m := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil })
	epoch := m.GetResync().Epoch
	standby.startEpoch(epoch, nil)
	active.startEpoch(epoch, &pb.SyncStats{})
	active.output(1, 2, 0)
	standby.output(1, 2, 0)
	active.released(1, 2)
	after := vmStatus(t, a, "web")
	if after.Record.Active.Id != "r-1" || after.Record.Standby.Id != "r-2" || after.Record.Term < before.Record.Term {
		t.Errorf("before: %v\nafter: %v", before.Record, after.Record)
	}
}

// TestMain lets the test binary be the arbiter, too, so that one can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_AS_ARBITER") != "" {
		main()
	}
	os.Exit(m.Run())
}

// spawn runs an arbiter in a process of its own.
func spawn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"--http=off", "--log-level=error", "--heartbeat-timeout=2s"}, args...)...)
	cmd.Env = append(os.Environ(), "TEST_AS_ARBITER=1")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	return cmd
}

// An arbiter that was killed has left its lease behind. With its data directory
// in hand nobody needs to wait for that lease.
func TestRestartAfterACrash(t *testing.T) {
	dir, listen := t.TempDir(), freePort(t)
	args := []string{"--data-dir", dir, "--listen", listen, "--lease-ttl", "30s"}
	killed := spawn(t, args...)
	active, standby := protect(t, listen, "web")
	active.output(1, 1, 0)
	standby.output(1, 1, 0)
	active.released(1, 1)
	killed.Process.Kill()
	killed.Wait()
	active.ended()
	standby.ended()

	begun := time.Now()
	spawn(t, args...)
	active.attach(listen)
	standby.attach(listen)
	r := active.assigned(pb.Mode_MODE_PROTECTED)
	took := time.Since(begun)
	t.Logf("owned again after %v", took)
	if took > 25*time.Second || r.Active.Id != "r-1" || r.Standby.Id != "r-2" {
		t.Errorf("after %v: %v", took, r)
	}
	epoch := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil }).GetResync().Epoch
	standby.startEpoch(epoch, nil)
	active.startEpoch(epoch, &pb.SyncStats{})
	active.output(1, 1, 0)
	standby.output(1, 1, 0)
	active.released(1, 1)
}

func TestTwoPrimariesOfOneVM(t *testing.T) {
	a := launch(t)
	first := join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE)
	first.assigned(pb.Mode_MODE_SOLO)
	second := join(t, a.addr, "web", "r-2", pb.Role_ROLE_CANDIDATE)
	if r := second.refused(); r.Action != pb.Refusal_ACTION_EXIT || !strings.Contains(r.Detail, "r-1") {
		t.Errorf("the second primary was told %v", r)
	}
	second.ended()
	if s := vmStatus(t, a, "web"); s.Record.Active.Id != "r-1" || s.Record.Mode != pb.Mode_MODE_SOLO {
		t.Errorf("status: %v", s)
	}
}

func TestReplicaIsSentToTheOwner(t *testing.T) {
	a := launch(t)
	b := launch(t, "--etcd", a.member.LocalEndpoint())
	active := join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE)
	active.assigned(pb.Mode_MODE_SOLO)
	lost := join(t, b.addr, "web", "r-2", pb.Role_ROLE_SPARE)
	if r := lost.refused(); r.Action != pb.Refusal_ACTION_REDIRECT || r.Address != a.addr {
		t.Fatalf("told %v, the owner is at %s", r, a.addr)
	}
	lost.ended()

	// Both arbiters tell of the VM; orders go to its owner.
	s := vmStatus(t, b, "web")
	if s.Record.GetActive().GetId() != "r-1" || !strings.Contains(s.Summary, a.addr) {
		t.Errorf("the other arbiter says %v", s)
	}
	if _, err := pb.NewAdminClient(b.dial(t)).Resync(within(t, patience), &pb.ResyncRequest{Vm: "web"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("an order to the other arbiter: %v", err)
	}

	// The owner goes, and the VM follows whoever can own it.
	lost.attach(a.addr)
	lost.assigned(pb.Mode_MODE_SYNCING)
	active.assigned(pb.Mode_MODE_SYNCING)
	c := launch(t, "--etcd", a.member.LocalEndpoint()) // besides b: any will do
	if err := a.vms.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	if r := active.refused(); r.Action != pb.Refusal_ACTION_RETRY {
		t.Errorf("the stopping arbiter told %v", r)
	}
	active.attach(c.addr)
	if r := active.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-1" {
		t.Errorf("under the new owner: %v", r)
	}
}

// An arbiter that cannot reach etcd owns nothing and says so; its replicas are
// told to try elsewhere.
func TestWithoutEtcd(t *testing.T) {
	a := launch(t, "--etcd", "127.0.0.1:1")
	if body := get(t, a.page+"/readyz", http.StatusServiceUnavailable); !strings.Contains(body, "not ready") {
		t.Errorf("readyz: %s", body)
	}
	p := &peer{t: t, vm: "web", ref: &pb.ReplicaRef{Id: "r-1"}, role: pb.Role_ROLE_CANDIDATE}
	client, err := fence.Connect([]string{"127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.lease = fence.NewLease(client, fence.LeaseConfig{Key: "k"})
	t.Cleanup(func() { p.leave(); p.lease.Close(context.Background()); client.Close() })
	p.attach(a.addr)
	if r := p.refused(); r.Action != pb.Refusal_ACTION_RETRY {
		t.Errorf("told %v", r)
	}
	h, err := healthpb.NewHealthClient(a.dial(t)).Check(within(t, patience), &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health: %v %v", h, err)
	}
}

// When etcd is lost, the owner stops releasing before its lease can have run
// out, and gives the VM up.
func TestOwnerWithoutProofStopsReleasing(t *testing.T) {
	a := launch(t)
	b := launch(t, "--etcd", a.member.LocalEndpoint()) // owns, on an etcd that will die
	active, standby := protect(t, b.addr, "web")
	active.output(1, 1, 0)
	standby.output(1, 1, 0)
	active.released(1, 1)
	a.member.Close()
	for _, p := range []*peer{active, standby} {
		if r := p.refused(); r.Action != pb.Refusal_ACTION_RETRY {
			t.Errorf("%s was told %v", p.ref.Id, r)
		}
		p.ended()
	}
	if g := b.lease.Grant(); g.Valid(fence.Now()) {
		t.Errorf("given up with a valid lease %v", g)
	}
}

func TestHostileStreams(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	client := pb.NewArbiterClient(a.dial(t))
	digest := make([]byte, 16)
	hello := func(edit func(*pb.Hello)) *pb.FromReplica {
		h := &pb.Hello{Protocol: session.ProtocolVersion, Vm: "web", Replica: &pb.ReplicaRef{Id: "evil", Address: "e:1"},
			Role: pb.Role_ROLE_SPARE, LeaseId: 1}
		edit(h)
		return &pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: h}}
	}
	fine := hello(func(*pb.Hello) {})
	var many pb.Outputs
	for i := range 50000 {
		many.Outputs = append(many.Outputs, &pb.Output{Id: uint64(i), Kind: pb.OutputKind_OUTPUT_KIND_STREAM, Flow: uint64(i), Digest: digest})
	}
	for name, msgs := range map[string][]*pb.FromReplica{
		"nothing":               {},
		"empty message":         {{}},
		"nil hello":             {{Body: &pb.FromReplica_Hello{}}},
		"heartbeat first":       {{Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{}}}},
		"wrong protocol":        {hello(func(h *pb.Hello) { h.Protocol = 99 })},
		"bad VM":                {hello(func(h *pb.Hello) { h.Vm = "../../x" })},
		"no replica":            {hello(func(h *pb.Hello) { h.Replica = nil })},
		"unknown role":          {hello(func(h *pb.Hello) { h.Role = 77 })},
		"says it is active":     {hello(func(h *pb.Hello) { h.Role = pb.Role_ROLE_ACTIVE; h.Epoch = 1 << 63 })},
		"no body later":         {fine, {}},
		"hello twice":           {fine, fine},
		"nil bodies":            {fine, {Body: &pb.FromReplica_Heartbeat{}}, {Body: &pb.FromReplica_Outputs{}}, {Body: &pb.FromReplica_ProbeReply{}}, {Body: &pb.FromReplica_EpochStarted{}}, {Body: &pb.FromReplica_SyncFailed{}}, {Body: &pb.FromReplica_Left{}}},
		"wrong term":            {fine, {Term: 1 << 63, Body: &pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: 9}}}},
		"outputs of a spare":    {fine, {Term: 3, Body: &pb.FromReplica_Outputs{Outputs: &many}}},
		"short digest":          {fine, {Term: 3, Body: &pb.FromReplica_ProbeReply{ProbeReply: &pb.ProbeReply{Epoch: 1, Digest: []byte{1}}}}},
		"an impossible failure": {fine, {Term: 3, Body: &pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{Detail: strings.Repeat("x", 1<<20)}}}},
		"huge":                  {fine, {Body: &pb.FromReplica_Left{Left: &pb.Left{Detail: strings.Repeat("x", 5<<20)}}}},
	} {
		stream, err := client.Attach(within(t, patience))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range msgs {
			if err := stream.Send(m); err != nil {
				break // ended already: its reason is what Recv says
			}
		}
		stream.CloseSend()
		for err == nil { // the stream ends, one way or the other
			_, err = stream.Recv()
		}
		if status.Code(err) == codes.DeadlineExceeded && !errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The protected VM has not noticed.
	active.output(1, 100, 0)
	standby.output(1, 100, 0)
	active.released(1, 100)
	if s := vmStatus(t, a, "web"); s.Record.Mode != pb.Mode_MODE_PROTECTED || s.Record.Active.Id != "r-1" {
		t.Errorf("status: %v", s)
	}
}

// The active itself may lie, too: that may cost its VM, never the arbiter.
func TestHostileActive(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	other, otherStandby := protect(t, a.addr, "db")
	for _, o := range []*pb.Outputs{
		nil, {}, {Epoch: 1, Outputs: []*pb.Output{{}}},
		{Epoch: 1, Outputs: []*pb.Output{{Id: 1 << 63, Kind: 99, Flow: 1, End: 1 << 63, Digest: []byte{1, 2, 3}, Flags: 1 << 31, Name: strings.Repeat("n", 1<<16)}}},
		{Epoch: 1 << 63, Outputs: []*pb.Output{{Id: 1, Kind: pb.OutputKind_OUTPUT_KIND_PASS}}},
		{Epoch: 1, Outputs: []*pb.Output{{Id: 5, Kind: pb.OutputKind_OUTPUT_KIND_PASS}, {Id: 5, Kind: pb.OutputKind_OUTPUT_KIND_PASS}, {Id: 1}}},
	} {
		active.send(&pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: o}})
		standby.send(&pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: o}})
	}
	active.startEpoch(1<<63, &pb.SyncStats{PauseUs: 1 << 63})
	other.output(1, 10, 0)
	otherStandby.output(1, 10, 0)
	other.released(1, 10)
}

// A guest that opens flows without end costs its VM resynchronizations and the
// arbiter bounded memory; clients of other VMs get their answers.
func TestFloodOfOneVMLeavesTheOther(t *testing.T) {
	a := launch(t)
	loud, loudStandby := protect(t, a.addr, "loud")
	web, webStandby := protect(t, a.addr, "web")
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)

	const flows, batch, answers = 50_000, 500, 100
	over, flooded := make(chan struct{}), make(chan int, 1)
	go func() {
		sent := 0
		defer func() { flooded <- sent }()
		for epoch := uint64(1); ; {
			o := &pb.Outputs{Epoch: epoch}
			for i := range batch {
				id := uint64(sent + i + 1)
				o.Outputs = append(o.Outputs, &pb.Output{Id: id, Kind: pb.OutputKind_OUTPUT_KIND_DATAGRAM, Flow: id, End: 1,
					Digest: make([]byte, 16), Name: strings.Repeat("n", 300)})
			}
			loud.send(&pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: o}})
			if sent += batch; sent < flows {
				continue
			}
			select {
			case <-over:
				return
			default:
			}
		}
	}()
	// Its standby has made none of them: the arbiter runs into its limit.
	order := loud.await("an order to resynchronize", func(m *pb.ToReplica) bool { return m.GetResync() != nil }).GetResync()
	if order.Reason != pb.Reason_REASON_LAGGING && order.Reason != pb.Reason_REASON_COMPARE_TIMEOUT {
		t.Errorf("ordered %v", order)
	}
	for id := uint64(1); id <= answers; id++ {
		web.output(id, id, 0)
		webStandby.output(id, id, 0)
		web.released(id, id)
	}
	runtime.ReadMemStats(&after)
	close(over)
	if sent := <-flooded; sent < flows {
		t.Errorf("only %d flows", sent)
	}
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 256<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	loudStandby.startEpoch(order.Epoch, nil)
	loud.startEpoch(order.Epoch, &pb.SyncStats{})
	loud.output(1, 10, 0)
	loudStandby.output(1, 10, 0)
	loud.released(1, 10)
	if n := vmStatus(t, a, "web").Counters.Resyncs; n != 0 {
		t.Errorf("the quiet VM was resynchronized %d times", n)
	}
}

// A replica that does not read costs the arbiter a bounded queue, and itself its
// part.
func TestReplicaThatDoesNotReadIsClosed(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	active.deaf.Lock() // its gRPC window fills, then the arbiter's queue
	defer active.deaf.Unlock()
	over := make(chan struct{})
	defer close(over)
	go func() {
		const batch = 500
		for first := uint64(1); first < 10000*batch; first += batch {
			select {
			case <-over:
				return
			default:
				active.pass(first, first+batch-1)
			}
		}
	}()
	if r := standby.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-2" {
		t.Errorf("got %v", r)
	}
	why := ""
	for _, e := range a.ring.Last("web", 10) {
		why += e.Detail + "\n"
	}
	if !strings.Contains(why, "does not read its messages") {
		t.Errorf("what happened:\n%s", why)
	}
}

func TestOperator(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	conn := a.dial(t)
	admin := pb.NewAdminClient(conn)
	ctx := within(t, patience)

	for name, tc := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"unknown VM":       {func() error { _, err := admin.GetVM(ctx, &pb.GetVMRequest{Vm: "none"}); return err }, codes.NotFound},
		"bad name":         {func() error { _, err := admin.GetVM(ctx, &pb.GetVMRequest{Vm: "a b"}); return err }, codes.InvalidArgument},
		"no name":          {func() error { _, err := admin.FailOver(ctx, &pb.FailOverRequest{}); return err }, codes.InvalidArgument},
		"order to no VM":   {func() error { _, err := admin.Resync(ctx, &pb.ResyncRequest{Vm: "none"}); return err }, codes.NotFound},
		"unknown replica":  {func() error { _, err := admin.Detach(ctx, &pb.DetachRequest{Vm: "web", ReplicaId: "r-9"}); return err }, codes.NotFound},
		"no replica named": {func() error { _, err := admin.Detach(ctx, &pb.DetachRequest{Vm: "web"}); return err }, codes.InvalidArgument},
		"the active":       {func() error { _, err := admin.Detach(ctx, &pb.DetachRequest{Vm: "web", ReplicaId: "r-1"}); return err }, codes.FailedPrecondition},
	} {
		if err := tc.call(); status.Code(err) != tc.want {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
	list, err := admin.ListVMs(ctx, &pb.ListVMsRequest{})
	if err != nil || len(list.Vms) != 1 || list.Vms[0].Record.Vm != "web" {
		t.Errorf("list: %v %v", list, err)
	}

	// A watcher sees what is kept, then what happens.
	watch, err := admin.WatchEvents(ctx, &pb.WatchEventsRequest{Vm: "web"})
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	see := func(want pb.EventType) *pb.Event {
		t.Helper()
		for {
			e, err := watch.Recv()
			if err != nil {
				t.Fatalf("waiting for %v: %v", want, err)
			}
			if e.Sequence <= last || e.Vm != "web" || e.UnixMs == 0 {
				t.Errorf("event %v after sequence %d", e, last)
			}
			last = e.Sequence
			if e.Type == want {
				return e
			}
		}
	}
	see(pb.EventType_EVENT_TYPE_SOLO)
	see(pb.EventType_EVENT_TYPE_SYNCING)
	see(pb.EventType_EVENT_TYPE_PROTECTED)

	type outcome struct {
		s   *pb.VMStatus
		err error
	}
	ordered := func(call func() (*pb.VMStatus, error)) chan outcome {
		done := make(chan outcome, 1)
		go func() { s, err := call(); done <- outcome{s, err} }()
		return done
	}
	resync := ordered(func() (*pb.VMStatus, error) { return admin.Resync(ctx, &pb.ResyncRequest{Vm: "web"}) })
	m := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil })
	if m.GetResync().Reason != pb.Reason_REASON_OPERATOR {
		t.Errorf("got %v", m)
	}
	standby.startEpoch(m.GetResync().Epoch, nil)
	active.startEpoch(m.GetResync().Epoch, &pb.SyncStats{})
	if o := <-resync; o.err != nil || o.s.Epoch != 2 {
		t.Errorf("resync: %v %v", o.s, o.err)
	}
	see(pb.EventType_EVENT_TYPE_RESYNC_DONE)

	over := ordered(func() (*pb.VMStatus, error) { return admin.FailOver(ctx, &pb.FailOverRequest{Vm: "web"}) })
	if r := standby.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-2" || r.Reason != pb.Reason_REASON_OPERATOR {
		t.Errorf("got %v", r)
	}
	if o := <-over; o.err != nil || o.s.Record.Active.Id != "r-2" {
		t.Errorf("fail-over: %v %v", o.s, o.err)
	}
	if e := see(pb.EventType_EVENT_TYPE_FAILOVER); e.Term != standby.term {
		t.Errorf("event %v", e)
	}
	if _, err := admin.FailOver(ctx, &pb.FailOverRequest{Vm: "web"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("fail-over without a standby: %v", err)
	}

	// grpcurl and probes need no files.
	reflection, err := reflectionpb.NewServerReflectionClient(conn).ServerReflectionInfo(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := reflection.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	services, err := reflection.Recv()
	if err != nil || !strings.Contains(services.String(), "understudy.v1.Admin") {
		t.Errorf("reflection: %v %v", services, err)
	}
	for _, service := range []string{"", "understudy.v1.Arbiter", "understudy.v1.Admin"} {
		h, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: service})
		if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
			t.Errorf("health of %q: %v %v", service, h, err)
		}
	}
}

// A policy is stored with the VM, comes to the copies with a resynchronization
// that the call waits for, and is there whoever owns the VM next.
func TestPolicyIsSetLive(t *testing.T) {
	args := []string{"--data-dir", t.TempDir(), "--listen", freePort(t)}
	a := launch(t, args...)
	active, standby := protect(t, a.addr, "web")
	ctx := within(t, patience)
	set := func(fields []string, p *pb.Policy) (*pb.VMStatus, error) {
		return pb.NewAdminClient(a.dial(t)).SetPolicy(ctx, &pb.SetPolicyRequest{Vm: "web", Policy: p, Update: &fieldmaskpb.FieldMask{Paths: fields}})
	}
	for name, f := range map[string]func() error{
		"no field":      func() error { _, err := set(nil, &pb.Policy{}); return err },
		"unknown field": func() error { _, err := set([]string{"colour"}, &pb.Policy{}); return err },
		"no rule": func() error {
			_, err := set([]string{"flow_rules"}, &pb.Policy{FlowRules: []string{"tcp any"}})
			return err
		},
		"short time-out": func() error {
			_, err := set([]string{"heartbeat_timeout_ms"}, &pb.Policy{HeartbeatTimeoutMs: 1})
			return err
		},
	} {
		if err := f(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}

	const rule = "tcp 10.0.0.2:443 > any: pass"
	answered := make(chan error, 1)
	go func() {
		s, err := set([]string{"flow_rules"}, &pb.Policy{FlowRules: []string{rule}})
		if err == nil && (s.Epoch != 2 || !slices.Equal(s.Policy.FlowRules, []string{rule}) || s.Policy.CompareMaxMs == 0) {
			err = fmt.Errorf("status %v", s)
		}
		answered <- err
	}()
	order := active.await("the order", func(m *pb.ToReplica) bool { return m.GetResync() != nil }).GetResync()
	if order.Reason != pb.Reason_REASON_POLICY || !slices.Equal(order.Policy.GetFlowRules(), []string{rule}) {
		t.Errorf("order %v", order)
	}
	select {
	case err := <-answered:
		t.Errorf("answered before the copies have the policy: %v", err)
	default:
	}
	standby.startEpoch(2, nil)
	active.startEpoch(2, &pb.SyncStats{})
	if err := <-answered; err != nil {
		t.Error(err)
	}

	a.shut()
	a = launch(t, args...)
	if s := vmStatus(t, a, "web"); !slices.Equal(s.Record.Policy.GetFlowRules(), []string{rule}) {
		t.Errorf("after a restart: %v", s.Record)
	}
}

func TestStatusPageIsLive(t *testing.T) {
	a := launch(t)
	r, err := http.Get(a.page + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	seen := make(chan string, 100)
	go func() {
		defer close(seen)
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Body.Read(buf)
			if err != nil {
				return
			}
			seen <- string(buf[:n])
		}
	}()
	await := func(want string) {
		t.Helper()
		timeout := time.After(patience)
		var all bytes.Buffer
		for !strings.Contains(all.String(), want) {
			select {
			case s := <-seen:
				all.WriteString(s)
			case <-timeout:
				t.Fatalf("no %q in %s", want, &all)
			}
		}
	}
	await("No VM yet")
	join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE).assigned(pb.Mode_MODE_SOLO)
	await("Needs a secondary")
}

func TestDiscover(t *testing.T) {
	a := launch(t)
	client := pb.NewArbiterClient(a.dial(t))
	d, err := client.Discover(within(t, patience), &pb.DiscoverRequest{Protocol: session.ProtocolVersion})
	if err != nil || len(d.EtcdEndpoints) != 1 || d.EtcdEndpoints[0] != a.member.LocalEndpoint() || d.LeaseTtlMs != 2000 || d.LeaseMarginMs != 500 || d.ArbiterId == "" {
		t.Errorf("%v %v", d, err)
	}
	if _, err := client.Discover(within(t, patience), &pb.DiscoverRequest{Protocol: 7}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("protocol 7: %v", err)
	}

	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	port := a.member.Addr().Port
	everywhere := launch(t, "--etcd-listen", "0.0.0.0:0", "--insecure")
	for name, tc := range map[string]struct {
		a             *running
		local, remote string
		want          string
	}{
		"same host":                   {a, "127.0.0.1", "127.0.0.1", fmt.Sprintf("http://127.0.0.1:%d", port)},
		"same host, by its address":   {a, "10.0.0.3", "10.0.0.3", fmt.Sprintf("http://127.0.0.1:%d", port)},
		"another host":                {a, "10.0.0.3", "10.0.0.9", ""},
		"another host, reachable":     {everywhere, "10.0.0.3", "10.0.0.9", fmt.Sprintf("http://10.0.0.3:%d", everywhere.member.Addr().Port)},
		"another host, over IPv6":     {everywhere, "fd00::3", "fd00::9", fmt.Sprintf("http://[fd00::3]:%d", everywhere.member.Addr().Port)},
		"same host, by all addresses": {everywhere, "127.0.0.1", "127.0.0.1", fmt.Sprintf("http://127.0.0.1:%d", everywhere.member.Addr().Port)},
	} {
		got, err := tc.a.endpoints(tc.a.options)(tcp(tc.local), tcp(tc.remote))
		if tc.want == "" {
			if err == nil || !strings.Contains(err.Error(), "--etcd-listen") {
				t.Errorf("%s: %v %v", name, got, err)
			}
		} else if err != nil || len(got) != 1 || got[0] != tc.want {
			t.Errorf("%s: %v %v, want %s", name, got, err, tc.want)
		}
	}
}

func TestStartSaysInOneLineWhatIsWrong(t *testing.T) {
	taken := launch(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"port in use":          {[]string{"--listen", taken.addr}, cli.ExitError, "--listen " + taken.addr + ": address already in use"},
		"page's port in use":   {[]string{"--http", strings.TrimPrefix(taken.page, "http://")}, cli.ExitError, "address already in use"},
		"bad address":          {[]string{"--listen", "nonsense"}, cli.ExitUsage, "must be host:port"},
		"bad page address":     {[]string{"--http", "80"}, cli.ExitUsage, "must be host:port"},
		"bad etcd":             {[]string{"--etcd", "http://x"}, cli.ExitUsage, "--etcd"},
		"unusable directory":   {[]string{"--data-dir", file}, cli.ExitError, "data directory"},
		"directory for etcd":   {[]string{"--data-dir", file, "--etcd", "x:1"}, cli.ExitUsage, "--data-dir is for the embedded etcd"},
		"bad id":               {[]string{"--id", "a b"}, cli.ExitUsage, "--id"},
		"lease too short":      {[]string{"--lease-ttl", "10ms"}, cli.ExitUsage, "--lease-ttl"},
		"margin too long":      {[]string{"--lease-margin", "2s"}, cli.ExitUsage, "--lease-margin"},
		"heartbeats too slow":  {[]string{"--heartbeat", "3s"}, cli.ExitUsage, "--heartbeat-timeout"},
		"compare out of order": {[]string{"--compare-idle", "3s"}, cli.ExitUsage, "--compare-max"},
	} {
		c, o := command()
		var stderr bytes.Buffer
		args := append([]string{"--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--log-level=off"}, tc.args...)
		code := c.Run(t.Context(), args, func(string) (string, bool) { return "", false }, io.Discard, &stderr,
			func(ctx context.Context, log hclog.Logger) error {
				if err := o.check(); err != nil {
					return err
				}
				a, err := start(ctx, o, log)
				if err == nil {
					a.close()
				}
				return err
			})
		if code != tc.code || !strings.Contains(stderr.String(), tc.want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: code %d: %q, want %d and %q", name, code, stderr.String(), tc.code, tc.want)
		}
	}
}

// BenchmarkRelease is what the gate adds to one output: from both reports to
// the release, over loopback.
func BenchmarkRelease(b *testing.B) {
	a := launch(b)
	active, standby := protect(b, a.addr, "web")
	id := uint64(0)
	for b.Loop() {
		id++
		active.output(id, id, 0)
		standby.output(id, id, 0)
		active.released(id, id)
	}
}

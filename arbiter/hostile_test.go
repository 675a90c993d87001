package main

import (
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"
)

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

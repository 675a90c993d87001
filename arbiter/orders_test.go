package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

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

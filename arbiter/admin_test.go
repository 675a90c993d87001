package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/admin/bundletest"
)

// detail returns the error's detail of a type.
func detail[T any](t *testing.T, err error, code codes.Code) T {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code {
		t.Fatalf("got %v, want %v", err, code)
	}
	for _, d := range s.Details() {
		if d, ok := d.(T); ok {
			return d
		}
	}
	t.Fatalf("%v has the details %v", err, s.Details())
	panic("unreachable")
}

// An order's answer says what is wrong in a form that programs can read.
func TestRefusedOrdersSayWhy(t *testing.T) {
	a := launch(t)
	join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE).assigned(pb.Mode_MODE_SOLO)
	admin := pb.NewAdminClient(a.dial(t))
	ctx := within(t, patience)

	_, err := admin.Drain(ctx, &pb.DrainRequest{Vm: "a b"})
	bad := detail[*errdetails.BadRequest](t, err, codes.InvalidArgument)
	if v := bad.FieldViolations; len(v) != 2 || v[0].Field != "vm" || v[1].Field != "replica_id" {
		t.Errorf("violations: %v", bad)
	}
	_, err = admin.SetPolicy(ctx, &pb.SetPolicyRequest{Vm: "web", Policy: &pb.Policy{}, Update: &fieldmaskpb.FieldMask{Paths: []string{"speed"}}})
	if bad := detail[*errdetails.BadRequest](t, err, codes.InvalidArgument); bad.FieldViolations[0].Field != "policy" {
		t.Errorf("violations: %v", bad)
	}
	_, err = admin.SwitchOver(ctx, &pb.SwitchOverRequest{Vm: "web"})
	if f := detail[*errdetails.PreconditionFailure](t, err, codes.FailedPrecondition); f.Violations[0].Type != "NOT_PROTECTED" || f.Violations[0].Subject != "web" {
		t.Errorf("precondition: %v", f)
	}
	_, err = admin.Detach(ctx, &pb.DetachRequest{Vm: "web", ReplicaId: "r-1"})
	if i := detail[*errdetails.ErrorInfo](t, err, codes.FailedPrecondition); i.Reason != "IS_ACTIVE" || i.Domain != "understudy" {
		t.Errorf("info: %v", i)
	}
	for name, call := range map[string]func() error{
		"NO_SUCH_VM": func() error { _, err := admin.TestFailOver(ctx, &pb.TestFailOverRequest{Vm: "none"}); return err },
		"NO_SUCH_REPLICA": func() error {
			_, err := admin.GetReplica(ctx, &pb.GetReplicaRequest{Vm: "web", ReplicaId: "r-9"})
			return err
		},
		"NO_SUCH_ARBITER": func() error { _, err := admin.GetArbiter(ctx, &pb.GetArbiterRequest{Id: "none"}); return err },
	} {
		if i := detail[*errdetails.ErrorInfo](t, call(), codes.NotFound); i.Reason != name {
			t.Errorf("%s: %v", name, i)
		}
	}

	// Another arbiter names the owner.
	b := launch(t, "--etcd", a.member.LocalEndpoint())
	other := pb.NewAdminClient(b.dial(t))
	_, err = other.SuspendProtection(ctx, &pb.SuspendProtectionRequest{Vm: "web"})
	i := detail[*errdetails.ErrorInfo](t, err, codes.FailedPrecondition)
	if i.Reason != "OWNED_ELSEWHERE" || i.Metadata["address"] != a.addr || i.Metadata["vm"] != "web" {
		t.Errorf("info: %v", i)
	}
	told := map[string]*pb.ArbiterStatus{}
	eventually(t, "the other arbiter among the arbiters", func() (bool, string) {
		list, err := other.ListArbiters(ctx, &pb.ListArbitersRequest{})
		if err != nil {
			return false, err.Error()
		}
		for _, x := range list.Arbiters {
			told[x.Arbiter.Address] = x
		}
		return told[b.addr].GetReady(), list.String()
	})
	if owner := told[a.addr]; owner == nil || owner.Self || len(owner.Vms) != 1 || owner.Vms[0] != "web" {
		t.Errorf("the owner as the other arbiter knows it: %v", owner)
	}
	if self := told[b.addr]; self == nil || !self.Self || !self.Ready || self.Version == "" || self.StartedUnixMs == 0 || len(self.Vms) != 0 {
		t.Errorf("the other arbiter itself: %v", self)
	}
	if self, err := other.GetArbiter(ctx, &pb.GetArbiterRequest{}); err != nil || self.Arbiter.Address != b.addr {
		t.Errorf("the other arbiter itself: %v %v", self, err)
	}
}

// orders returns the orders among the events of a VM, oldest first.
func orders(a *running, vm string) (all []*pb.Event) {
	for _, e := range a.ring.Last(vm, 1000) {
		if e.Type == pb.EventType_EVENT_TYPE_ORDER {
			all = append([]*pb.Event{e}, all...)
		}
	}
	return all
}

// What operators order to last holds with the next arbiter, too, and every
// order is an event with its giver.
func TestSettingsOutliveTheArbiter(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	spare := join(t, a.addr, "web", "r-3", pb.Role_ROLE_SPARE)
	admin := pb.NewAdminClient(a.dial(t))
	ctx := within(t, patience)
	spare.attached()

	if s, err := admin.Drain(ctx, &pb.DrainRequest{Vm: "web", ReplicaId: "r-3"}); err != nil || len(s.Record.Drained) != 1 || s.Record.Mode != pb.Mode_MODE_PROTECTED {
		t.Fatalf("drain: %v %v", s, err)
	}
	s, err := admin.SuspendProtection(ctx, &pb.SuspendProtectionRequest{Vm: "web"})
	if err != nil || !s.Record.Suspended || s.Record.Mode != pb.Mode_MODE_SOLO || !strings.Contains(s.Summary, "suspended") {
		t.Fatalf("suspend: %v %v", s, err)
	}
	if r := active.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-1" {
		t.Fatalf("got %v", r)
	}
	if r := standby.refused(); r.Action != pb.Refusal_ACTION_DISCARD {
		t.Errorf("the standby was told %v", r)
	}
	if _, err := admin.FailOver(ctx, &pb.FailOverRequest{Vm: "web"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("fail-over of a suspended VM: %v", err)
	}
	p, err := admin.GetReplica(ctx, &pb.GetReplicaRequest{Vm: "web", ReplicaId: "r-3"})
	if err != nil || !p.Drained || p.Version != "test" || p.Vm != "web" {
		t.Errorf("the drained spare: %v %v", p, err)
	}
	if l, err := admin.ListReplicas(ctx, &pb.ListReplicasRequest{}); err != nil || len(l.Replicas) < 2 {
		t.Errorf("replicas: %v %v", l, err)
	}

	got := orders(a, "web")
	for i, want := range []struct{ method, arguments, code string }{
		{"Drain", `{"vm":"web","replica_id":"r-3"}`, "OK"},
		{"SuspendProtection", `{"vm":"web"}`, "OK"},
		{"FailOver", `{"vm":"web"}`, "FAILED_PRECONDITION"},
	} {
		if i >= len(got) {
			t.Fatalf("%d orders are events", len(got))
		}
		o := got[i].Order
		if o.Method != want.method || o.Arguments != want.arguments || o.Code != want.code || !strings.HasPrefix(o.Caller, "127.0.0.1:") ||
			(o.Message == "") != (want.code == "OK") || got[i].Term == 0 {
			t.Errorf("order %d: %v", i, got[i])
		}
	}

	b := launch(t, "--etcd", a.member.LocalEndpoint())
	if err := a.vms.Stop(within(t, patience)); err != nil {
		t.Fatal(err)
	}
	active.refused()
	spare.refused()
	spare.attach(b.addr)
	active.attach(b.addr)
	active.assigned(pb.Mode_MODE_SOLO)
	s = vmStatus(t, b, "web")
	if !s.Record.Suspended || len(s.Record.Drained) != 1 || s.Record.Mode != pb.Mode_MODE_SOLO {
		t.Errorf("under the new owner: %v", s)
	}
	next := pb.NewAdminClient(b.dial(t))
	if s, err := next.Undrain(ctx, &pb.UndrainRequest{Vm: "web", ReplicaId: "r-3"}); err != nil || len(s.Record.Drained) != 0 {
		t.Errorf("undrain: %v %v", s, err)
	}
	if s, err := next.ResumeProtection(ctx, &pb.ResumeProtectionRequest{Vm: "web"}); err != nil || s.Record.Suspended {
		t.Errorf("resume: %v %v", s, err)
	}
	if r := spare.assigned(pb.Mode_MODE_SYNCING); r.Standby.Id != "r-3" {
		t.Errorf("got %v", r)
	}
}

// A switch-over is answered when the standby is active, after a new epoch.
func TestSwitchOver(t *testing.T) {
	a := launch(t)
	active, standby := protect(t, a.addr, "web")
	admin := pb.NewAdminClient(a.dial(t))
	ctx := within(t, patience)
	type outcome struct {
		s   *pb.VMStatus
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		s, err := admin.SwitchOver(ctx, &pb.SwitchOverRequest{Vm: "web"})
		done <- outcome{s, err}
	}()
	m := active.await("a resync", func(m *pb.ToReplica) bool { return m.GetResync() != nil })
	standby.startEpoch(m.GetResync().Epoch, nil)
	active.startEpoch(m.GetResync().Epoch, &pb.SyncStats{})
	if r := standby.assigned(pb.Mode_MODE_SOLO); r.Active.Id != "r-2" || r.Reason != pb.Reason_REASON_OPERATOR {
		t.Errorf("got %v", r)
	}
	if o := <-done; o.err != nil || o.s.Record.Active.Id != "r-2" {
		t.Errorf("switch-over: %v %v", o.s, o.err)
	}
	if r := active.refused(); r.Action != pb.Refusal_ACTION_DISCARD {
		t.Errorf("the old active was told %v", r)
	}

	// An order outlives a caller that does not wait, and says so.
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := admin.SwitchOver(short, &pb.SwitchOverRequest{Vm: "web"}); status.Code(err) != codes.Canceled {
		t.Errorf("a caller that is gone: %v", err)
	}
}

// A support bundle is an archive of what the arbiter knows.
func TestSupportBundle(t *testing.T) {
	a := launch(t)
	join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE).assigned(pb.Mode_MODE_SOLO)
	join(t, a.addr, "db", "r-7", pb.Role_ROLE_CANDIDATE).assigned(pb.Mode_MODE_SOLO)
	admin := pb.NewAdminClient(a.dial(t))

	get := func(vm string) map[string]string {
		t.Helper()
		stream, err := admin.GetSupportBundle(within(t, patience), &pb.GetSupportBundleRequest{Vm: vm})
		if err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		for {
			chunk, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			b.Write(chunk.Data)
		}
		return bundletest.Read(t, &b)
	}
	all := get("")
	for file, holds := range map[string]string{
		"version.txt": "version ", "arbiters.json": a.addr, "vms.json": "r-7", "events.json": "EVENT_TYPE_SOLO",
		"metrics.txt": "understudy_", "log.txt": "arbiter started", "goroutines.txt": "goroutine ",
	} {
		if !strings.Contains(all[file], holds) {
			t.Errorf("%s does not hold %q: %.500s", file, holds, all[file])
		}
	}
	one := get("web")
	for _, file := range []string{"vms.json", "events.json", "log.txt"} {
		if strings.Contains(one[file], "r-7") || !strings.Contains(one[file], "r-1") {
			t.Errorf("%s of VM web: %.2000s", file, one[file])
		}
	}
	if _, err := admin.GetVM(within(t, patience), &pb.GetVMRequest{Vm: "web"}); err != nil {
		t.Error(err)
	}
	if got := orders(a, "web"); len(got) != 1 || got[0].Order.Method != "GetSupportBundle" {
		t.Errorf("orders: %v", got)
	}
}

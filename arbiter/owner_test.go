package main

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
)

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

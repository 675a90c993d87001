package sessions

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
)

// leaseless is an arbiter that never gets a lease, so that it owns nothing.
type leaseless struct{}

func (leaseless) Grant() fence.Grant { return fence.Grant{} }

func unowned(t *testing.T, edit func(*Config)) *Registry {
	t.Helper()
	client, err := fence.Connect([]string{"127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Store: fence.NewStore(client), Lease: leaseless{}, Self: fence.Owner{ID: "A"}, Events: events.New(10), Log: hclog.NewNullLogger()}
	edit(&cfg)
	r := New(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := r.Stop(ctx); err != nil {
			t.Error(err)
		}
		client.Close()
	})
	return r
}

func spare(vm, id string) *pb.FromReplica {
	return &pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: &pb.Hello{
		Protocol: session.ProtocolVersion, Vm: vm, Replica: &pb.ReplicaRef{Id: id, Address: "h:1"}, Role: pb.Role_ROLE_SPARE, LeaseId: 1,
	}}}
}

func attach(t *testing.T, r *Registry, vm, id string) *Stream {
	t.Helper()
	s, refusal := r.Attach(t.Context(), spare(vm, id))
	if refusal != nil {
		t.Fatalf("%s %s was refused: %v", vm, id, refusal)
	}
	return s
}

// refusedWith waits for a stream's end and returns its refusal.
func refusedWith(t *testing.T, s *Stream) *pb.Refusal {
	t.Helper()
	select {
	case <-s.Over():
	case <-time.After(time.Minute):
		t.Fatal("the stream does not end")
	}
	msgs, last := s.Take(nil)
	if !last || len(msgs) == 0 {
		t.Fatalf("over with %v, %v", msgs, last)
	}
	return msgs[len(msgs)-1].GetRefusal()
}

func TestLimits(t *testing.T) {
	r := unowned(t, func(c *Config) { c.MaxVMs, c.MaxStreams = 2, 3 })
	for i := range 3 {
		defer attach(t, r, "a", fmt.Sprint("r-", i)).Detach("over")
	}
	defer attach(t, r, "b", "r-1").Detach("over")
	for _, vm := range []string{"a", "c"} {
		s, refusal := r.Attach(t.Context(), spare(vm, "r-9"))
		if s != nil || refusal.GetAction() != pb.Refusal_ACTION_RETRY || !strings.Contains(refusal.Detail, "limit") {
			t.Errorf("%s: %v", vm, refusal)
		}
	}
}

func TestVMEndsWithItsLastStream(t *testing.T) {
	r := unowned(t, func(*Config) {})
	s := attach(t, r, "a", "r-1")
	v := r.find("a")
	s.Detach("over")
	select {
	case <-v.done:
	case <-time.After(time.Minute):
		t.Fatal("the VM lives on without streams")
	}
	if r.find("a") != nil {
		t.Error("the VM is still listed")
	}
	if _, err := v.order(t.Context(), func(k session.Token) session.Input { return session.FailOver{Token: k} }); !errors.Is(err, ErrGone) {
		t.Errorf("an order to the ended VM: %v", err)
	}
	if err := s.Received(t.Context(), &pb.FromReplica{}); !errors.Is(err, ErrGone) {
		t.Errorf("a message to the ended VM: %v", err)
	}
	defer attach(t, r, "a", "r-1").Detach("over") // it begins anew
}

func TestReplicasOfAnUnownableVMAreSentAway(t *testing.T) {
	r := unowned(t, func(c *Config) { c.Session.Policy = &pb.Policy{HeartbeatTimeoutMs: 60_000} })
	s := attach(t, r, "a", "r-1")
	defer s.Detach("over")
	if got := refusedWith(t, s); got.GetAction() != pb.Refusal_ACTION_RETRY || !strings.Contains(got.Detail, "no valid etcd lease") {
		t.Errorf("refused with %v", got)
	}
}

func TestOrdersToUnownedVMs(t *testing.T) {
	r := unowned(t, func(*Config) {})
	defer attach(t, r, "a", "r-1").Detach("over")
	_, err := r.Order(t.Context(), "a", func(k session.Token) session.Input { return session.FailOver{Token: k} })
	if !errors.Is(err, session.ErrNotOwned) {
		t.Errorf("got %v", err)
	}
	if _, err := r.Order(t.Context(), "a/b", func(k session.Token) session.Input { return session.FailOver{Token: k} }); !errors.Is(err, ErrNoVM) {
		t.Errorf("got %v", err)
	}
}

// A defect in one VM's session ends that session, and nothing else.
func TestDefectIsContained(t *testing.T) {
	r := unowned(t, func(*Config) {})
	broken, other := attach(t, r, "a", "r-1"), attach(t, r, "b", "r-1")
	defer broken.Detach("over")
	defer other.Detach("over")
	v := r.find("a")
	v.tell(t.Context(), task{call: func() { panic("a defect") }})
	if got := refusedWith(t, broken); got.GetAction() != pb.Refusal_ACTION_RETRY {
		t.Errorf("refused with %v", got)
	}
	<-v.done
	if s, err := r.find("b").status(t.Context()); err != nil || s.Record.Vm != "b" {
		t.Errorf("the other VM: %v %v", s, err)
	}
	defer attach(t, r, "a", "r-1").Detach("over")
}

func TestStopSendsEveryoneAway(t *testing.T) {
	r := unowned(t, func(*Config) {})
	s := attach(t, r, "a", "r-1")
	defer s.Detach("over")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if got := refusedWith(t, s); got.GetAction() != pb.Refusal_ACTION_RETRY || !strings.Contains(got.Detail, "stopping") {
		t.Errorf("refused with %v", got)
	}
	if _, refusal := r.Attach(ctx, spare("b", "r-1")); refusal.GetAction() != pb.Refusal_ACTION_RETRY {
		t.Errorf("attached to a stopping arbiter: %v", refusal)
	}
}

package admin

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// service is one of an arbiter that runs no VM and reaches no etcd: what it
// answers, it answers by itself.
func service(t *testing.T) *Service {
	t.Helper()
	etcd, err := fence.Connect([]string{"127.0.0.1:1"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = etcd.Close() })
	return New(Config{
		VMs: sessions.New(sessions.Config{Store: fence.NewStore(etcd), Log: hclog.NewNullLogger()}), Events: events.New(100), ArbiterID: "a", Version: "v1",
		Ready: func() error { return nil }, Log: hclog.NewNullLogger(),
	})
}

// A name that cannot be one is refused by every call before anything is asked
// or done, and a refused order is an event as well, with its caller.
func TestNamesAreChecked(t *testing.T) {
	const bad = "a b"
	s := service(t)
	for method, call := range map[string]func(context.Context, string, string) error{
		"GetVM": func(ctx context.Context, vm, _ string) error {
			_, err := s.GetVM(ctx, &pb.GetVMRequest{Vm: vm})
			return err
		},
		"ListReplicas": func(ctx context.Context, _, _ string) error {
			_, err := s.ListReplicas(ctx, &pb.ListReplicasRequest{Vm: bad})
			return err
		},
		"GetReplica": func(ctx context.Context, vm, id string) error {
			_, err := s.GetReplica(ctx, &pb.GetReplicaRequest{Vm: vm, ReplicaId: id})
			return err
		},
		"GetArbiter": func(ctx context.Context, _, _ string) error {
			_, err := s.GetArbiter(ctx, &pb.GetArbiterRequest{Id: bad})
			return err
		},
	} {
		if err := call(t.Context(), bad, bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", method, err)
		}
	}
	if len(s.cfg.Events.Last("", 100)) != 0 {
		t.Error("to look is no event")
	}

	orders := map[string]func(context.Context, string, string) error{
		"FailOver": func(ctx context.Context, vm, _ string) error {
			_, err := s.FailOver(ctx, &pb.FailOverRequest{Vm: vm})
			return err
		},
		"SwitchOver": func(ctx context.Context, vm, _ string) error {
			_, err := s.SwitchOver(ctx, &pb.SwitchOverRequest{Vm: vm})
			return err
		},
		"TestFailOver": func(ctx context.Context, vm, _ string) error {
			_, err := s.TestFailOver(ctx, &pb.TestFailOverRequest{Vm: vm})
			return err
		},
		"Resync": func(ctx context.Context, vm, _ string) error {
			_, err := s.Resync(ctx, &pb.ResyncRequest{Vm: vm})
			return err
		},
		"SuspendProtection": func(ctx context.Context, vm, _ string) error {
			_, err := s.SuspendProtection(ctx, &pb.SuspendProtectionRequest{Vm: vm})
			return err
		},
		"ResumeProtection": func(ctx context.Context, vm, _ string) error {
			_, err := s.ResumeProtection(ctx, &pb.ResumeProtectionRequest{Vm: vm})
			return err
		},
		"SetPolicy": func(ctx context.Context, vm, _ string) error {
			_, err := s.SetPolicy(ctx, &pb.SetPolicyRequest{Vm: vm})
			return err
		},
		"Detach": func(ctx context.Context, vm, id string) error {
			_, err := s.Detach(ctx, &pb.DetachRequest{Vm: vm, ReplicaId: id})
			return err
		},
		"Drain": func(ctx context.Context, vm, id string) error {
			_, err := s.Drain(ctx, &pb.DrainRequest{Vm: vm, ReplicaId: id})
			return err
		},
		"Undrain": func(ctx context.Context, vm, id string) error {
			_, err := s.Undrain(ctx, &pb.UndrainRequest{Vm: vm, ReplicaId: id})
			return err
		},
	}
	for method, order := range orders {
		if err := order(t.Context(), bad, "r-1"); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v", method, err)
		}
		e := s.cfg.Events.Last("", 1)[0]
		if o := e.Order; o.GetMethod() != method || o.GetCode() != "INVALID_ARGUMENT" || o.GetCaller() == "" || e.Vm != "" || !strings.Contains(o.GetArguments(), bad) {
			t.Errorf("%s: the event is %v", method, e)
		}
	}
	for _, method := range []string{"Detach", "Drain", "Undrain"} {
		if err := orders[method](t.Context(), "web", bad); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s of replica %q: %v", method, bad, err)
		}
	}
}

// An event keeps a request's fields in one form, and not more than it can bear.
func TestArguments(t *testing.T) {
	if got := arguments(&pb.DrainRequest{Vm: "web", ReplicaId: "r-1"}); got != `{"vm":"web","replica_id":"r-1"}` {
		t.Errorf("got %s", got)
	}
	if got := arguments(&pb.DrainRequest{Vm: strings.Repeat("x", 5000)}); len(got) > argumentsMax+len("…") || !strings.HasSuffix(got, "…") {
		t.Errorf("%d bytes are kept", len(got))
	}
	if got := arguments(&pb.DrainRequest{Vm: "\xff"}); got != "" {
		t.Errorf("got %q of what is no text", got)
	}
}

func TestCodeName(t *testing.T) {
	for c, want := range map[codes.Code]string{
		codes.OK: "OK", codes.NotFound: "NOT_FOUND", codes.FailedPrecondition: "FAILED_PRECONDITION", codes.Aborted: "ABORTED",
	} {
		if got := codeName(c); got != want {
			t.Errorf("%v is %q", c, got)
		}
	}
}

package api

import (
	"context"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// orderTimeout bounds an order whose caller set no deadline.
const orderTimeout = 30 * time.Second

type admin struct {
	pb.UnimplementedAdminServer
	cfg Config
}

// ListVMs implements pb.AdminServer.
func (a *admin) ListVMs(ctx context.Context, _ *pb.ListVMsRequest) (*pb.ListVMsResponse, error) {
	vms, err := a.cfg.VMs.All(ctx)
	if err != nil {
		if len(vms) == 0 {
			return nil, toStatus(err)
		}
		a.cfg.Log.Warn("the list of VMs lacks those of other arbiters", "error", err)
	}
	return &pb.ListVMsResponse{Vms: vms}, nil
}

// GetVM implements pb.AdminServer.
func (a *admin) GetVM(ctx context.Context, r *pb.GetVMRequest) (*pb.VMStatus, error) {
	if err := fence.CheckName("VM", r.Vm); err != nil {
		return nil, toStatus(err)
	}
	s, err := a.cfg.VMs.Lookup(ctx, r.Vm)
	return s, toStatus(err)
}

// WatchEvents implements pb.AdminServer.
func (a *admin) WatchEvents(r *pb.WatchEventsRequest, g grpc.ServerStreamingServer[pb.Event]) error {
	if r.Vm != "" {
		if err := fence.CheckName("VM", r.Vm); err != nil {
			return toStatus(err)
		}
	}
	// Headers go out at once, so that a watcher of a quiet VM knows that it is
	// connected.
	if err := g.SendHeader(nil); err != nil {
		return err
	}
	return toStatus(a.cfg.Events.Follow(g.Context(), r.Vm, r.After, g.Send))
}

// FailOver implements pb.AdminServer.
func (a *admin) FailOver(ctx context.Context, r *pb.FailOverRequest) (*pb.VMStatus, error) {
	return a.order(ctx, r.Vm, "fail over", func(t session.Token) session.Input { return session.FailOver{Token: t} })
}

// Resync implements pb.AdminServer.
func (a *admin) Resync(ctx context.Context, r *pb.ResyncRequest) (*pb.VMStatus, error) {
	return a.order(ctx, r.Vm, "resynchronize", func(t session.Token) session.Input { return session.ResyncNow{Token: t} })
}

// Detach implements pb.AdminServer.
func (a *admin) Detach(ctx context.Context, r *pb.DetachRequest) (*pb.VMStatus, error) {
	if err := fence.CheckName("replica", r.ReplicaId); err != nil {
		return nil, toStatus(err)
	}
	return a.order(ctx, r.Vm, "detach "+r.ReplicaId, func(t session.Token) session.Input { return session.Drop{Token: t, ReplicaID: r.ReplicaId} })
}

// SetPolicy implements pb.AdminServer.
func (a *admin) SetPolicy(ctx context.Context, r *pb.SetPolicyRequest) (*pb.VMStatus, error) {
	return a.order(ctx, r.Vm, "set policy", func(t session.Token) session.Input {
		return session.SetPolicy{Token: t, By: identity.Name(ctx), Policy: r.Policy, Fields: r.Update.GetPaths()}
	})
}

// order carries out an order, which the log tells with its giver, and returns the VM's status after it.
func (a *admin) order(ctx context.Context, vm, what string, order func(session.Token) session.Input) (*pb.VMStatus, error) {
	if err := fence.CheckName("VM", vm); err != nil {
		return nil, toStatus(err)
	}
	a.cfg.Log.Info("operator's order", "vm", vm, "order", what, "caller", identity.Name(ctx))
	ctx, cancel := context.WithTimeout(ctx, orderTimeout)
	defer cancel()
	if err := a.cfg.VMs.Order(ctx, vm, order); err != nil {
		return nil, toStatus(err)
	}
	s, err := a.cfg.VMs.Lookup(ctx, vm)
	return s, toStatus(err)
}

// toStatus gives an error its gRPC code.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	code := codes.Unknown
	for _, m := range []struct {
		is   error
		code codes.Code
	}{
		{fence.ErrName, codes.InvalidArgument},
		{sessions.ErrNoVM, codes.NotFound},
		{session.ErrUnknownReplica, codes.NotFound},
		{session.ErrPolicy, codes.InvalidArgument},
		{session.ErrNeverStarted, codes.FailedPrecondition},
		{session.ErrNotProtected, codes.FailedPrecondition},
		{session.ErrIsActive, codes.FailedPrecondition},
		{sessions.ErrElsewhere, codes.FailedPrecondition},
		{session.ErrBusy, codes.Aborted},
		{session.ErrOvertaken, codes.Aborted},
		{session.ErrNotOwned, codes.Unavailable},
		{sessions.ErrGone, codes.Unavailable},
		{context.DeadlineExceeded, codes.DeadlineExceeded},
		{context.Canceled, codes.Canceled},
	} {
		if errors.Is(err, m.is) {
			code = m.code
			break
		}
	}
	return status.Error(code, err.Error())
}

package admin

import (
	"bytes"
	"context"
	"encoding/json"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/session"
)

// Bounds of orders whose callers set no deadline.
const (
	orderTimeout = 30 * time.Second
	// longTimeout is for those that wait for the copies.
	longTimeout = 2 * time.Minute
	// testTimeout is for a test, which waits for two first copies.
	testTimeout = 20 * time.Minute
)

// FailOver implements pb.AdminServer.
func (s *Service) FailOver(ctx context.Context, r *pb.FailOverRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "FailOver", r, orderTimeout, func(t session.Token, by string) session.Input {
		return session.FailOver{Token: t, By: by}
	})
}

// SwitchOver implements pb.AdminServer.
func (s *Service) SwitchOver(ctx context.Context, r *pb.SwitchOverRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "SwitchOver", r, longTimeout, func(t session.Token, by string) session.Input {
		return session.SwitchOver{Token: t, By: by}
	})
}

// TestFailOver implements pb.AdminServer.
func (s *Service) TestFailOver(ctx context.Context, r *pb.TestFailOverRequest) (*pb.TestFailOverResponse, error) {
	reply, vm, err := s.carry(ctx, "TestFailOver", r, testTimeout, func(t session.Token, by string) session.Input {
		return session.TestFailOver{Token: t, By: by}
	})
	if err != nil {
		return nil, err
	}
	out := &pb.TestFailOverResponse{Status: vm}
	if t := reply.Test; t != nil {
		out.TookOverUs, out.ProtectedUs = uint64(t.TookOver.Microseconds()), uint64(t.Protected.Microseconds())
		out.Returned, out.Detail = t.Returned, t.Detail
	}
	return out, nil
}

// Resync implements pb.AdminServer.
func (s *Service) Resync(ctx context.Context, r *pb.ResyncRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "Resync", r, orderTimeout, func(t session.Token, by string) session.Input {
		return session.ResyncNow{Token: t, By: by}
	})
}

// Detach implements pb.AdminServer.
func (s *Service) Detach(ctx context.Context, r *pb.DetachRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "Detach", r, orderTimeout, func(t session.Token, by string) session.Input {
		return session.Drop{Token: t, ReplicaID: r.ReplicaId, By: by}
	}, name("replica_id", "replica", r.ReplicaId))
}

// Drain implements pb.AdminServer.
func (s *Service) Drain(ctx context.Context, r *pb.DrainRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "Drain", r, longTimeout, func(t session.Token, by string) session.Input {
		return session.Drain{Token: t, ReplicaID: r.ReplicaId, By: by}
	}, name("replica_id", "replica", r.ReplicaId))
}

// Undrain implements pb.AdminServer.
func (s *Service) Undrain(ctx context.Context, r *pb.UndrainRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "Undrain", r, orderTimeout, func(t session.Token, by string) session.Input {
		return session.Undrain{Token: t, ReplicaID: r.ReplicaId, By: by}
	}, name("replica_id", "replica", r.ReplicaId))
}

// SuspendProtection implements pb.AdminServer.
func (s *Service) SuspendProtection(ctx context.Context, r *pb.SuspendProtectionRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "SuspendProtection", r, orderTimeout, func(t session.Token, by string) session.Input {
		return session.Suspend{Token: t, By: by}
	})
}

// ResumeProtection implements pb.AdminServer.
func (s *Service) ResumeProtection(ctx context.Context, r *pb.ResumeProtectionRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "ResumeProtection", r, orderTimeout, func(t session.Token, by string) session.Input {
		return session.Resume{Token: t, By: by}
	})
}

// SetPolicy implements pb.AdminServer.
func (s *Service) SetPolicy(ctx context.Context, r *pb.SetPolicyRequest) (*pb.VMStatus, error) {
	return s.order(ctx, "SetPolicy", r, longTimeout, func(t session.Token, by string) session.Input {
		return session.SetPolicy{Token: t, By: by, Policy: r.Policy, Fields: r.Update.GetPaths()}
	})
}

// request is one that orders something about a VM.
type request interface {
	proto.Message
	GetVm() string
}

// order carries out an order and returns the VM's status after it.
func (s *Service) order(ctx context.Context, method string, r request, limit time.Duration,
	input func(session.Token, string) session.Input, more ...violation) (*pb.VMStatus, error) {
	_, vm, err := s.carry(ctx, method, r, limit, input, more...)
	return vm, err
}

// carry is order for one that is answered with more.
func (s *Service) carry(ctx context.Context, method string, r request, limit time.Duration,
	input func(session.Token, string) session.Input, more ...violation) (reply session.Reply, after *pb.VMStatus, err error) {
	by := identity.Name(ctx)
	if err = check(append([]violation{name("vm", "VM", r.GetVm())}, more...)...); err != nil {
		s.record(method, r, by, nil, err)
		return reply, nil, err
	}
	if _, limited := ctx.Deadline(); !limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	reply, err = s.cfg.VMs.Order(ctx, r.GetVm(), func(t session.Token) session.Input { return input(t, by) })
	if err = toStatus(err, r.GetVm()); err == nil {
		after = s.after(ctx, r.GetVm())
	}
	s.record(method, r, by, after, err)
	return reply, after, err
}

// after is the VM's status after an order that was carried out, which stays so
// where the status cannot be had.
func (s *Service) after(ctx context.Context, vm string) *pb.VMStatus {
	after, err := s.cfg.VMs.Lookup(ctx, vm)
	if err != nil {
		return &pb.VMStatus{Record: &pb.Record{Vm: vm}, Summary: "the order was carried out; what followed is not known: " + err.Error()}
	}
	return after
}

// record makes an event of an order and its outcome. vm is the VM's status
// after it, where it is known.
func (s *Service) record(method string, r request, by string, vm *pb.VMStatus, err error) {
	answer := status.Convert(err)
	e := &pb.Event{
		Type: pb.EventType_EVENT_TYPE_ORDER, Reason: pb.Reason_REASON_OPERATOR, Vm: r.GetVm(),
		Order: &pb.Order{Method: method, Arguments: arguments(r), Caller: by, Code: codeName(answer.Code()), Message: answer.Message()},
	}
	if name("vm", "VM", e.Vm) != (violation{}) {
		e.Vm = "" // there is none of that name
	}
	if vm == nil && e.Vm != "" {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		vm = s.cfg.VMs.Here(ctx, e.Vm)
	}
	e.Term, e.Epoch = vm.GetRecord().GetTerm(), vm.GetEpoch()
	e.Detail = method + " by " + by
	if err != nil {
		e.Detail += " refused: " + answer.Message()
	}
	args := []any{"vm", e.Vm, "order", method, "arguments", e.Order.Arguments, "caller", by, "code", e.Order.Code, "term", e.Term, "epoch", e.Epoch}
	if err != nil {
		args = append(args, "message", answer.Message())
	}
	s.cfg.Events.Add(e)
	s.cfg.Log.Info("operator's order", args...)
}

// argumentsMax bounds what an event keeps of a request, in bytes.
const argumentsMax = 1000

// arguments are a request's fields as JSON.
func arguments(r request) string {
	b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r)
	if err != nil {
		return "" // invalid UTF-8
	}
	var compact bytes.Buffer // protojson varies its spaces
	if json.Compact(&compact, b) != nil {
		return ""
	}
	if compact.Len() > argumentsMax {
		compact.Truncate(argumentsMax)
		compact.WriteString("…")
	}
	return compact.String()
}

// codeName is a code as the gRPC specification writes it: "FAILED_PRECONDITION".
func codeName(c codes.Code) string {
	var b []byte
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' && c != codes.OK {
			b = append(b, '_')
		}
		b = append(b, byte(r))
	}
	return string(bytes.ToUpper(b))
}

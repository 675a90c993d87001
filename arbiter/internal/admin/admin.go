// Package admin serves the Admin service: what operators see of the VMs of a
// deployment, and what they order. The decisions are package session's; this
// package validates, names the caller, waits for the outcome, tells it with a
// gRPC code and details, and records it as an event.
package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/protocol"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// Config is what the service works on.
type Config struct {
	VMs    *sessions.Registry
	Events *events.Log
	// ArbiterID and Version are this arbiter's.
	ArbiterID, Version string
	// Ready tells why this arbiter cannot own VMs, or nil.
	Ready func() error
	// Metrics serves the arbiter's metrics, and Logs holds its last log lines,
	// for support bundles; each may be nil.
	Metrics http.Handler
	Logs    *Tail
	Log     hclog.Logger
}

// Service implements pb.AdminServer. Methods may be called from any goroutine.
type Service struct {
	pb.UnimplementedAdminServer
	cfg     Config
	started time.Time
}

// New returns the service.
func New(cfg Config) *Service { return &Service{cfg: cfg, started: time.Now()} }

// ListVMs implements pb.AdminServer.
func (s *Service) ListVMs(ctx context.Context, _ *pb.ListVMsRequest) (*pb.ListVMsResponse, error) {
	vms, err := s.all(ctx)
	return &pb.ListVMsResponse{Vms: vms}, err
}

// all lists the VMs. Where etcd does not answer, it lists those that run here.
func (s *Service) all(ctx context.Context) ([]*pb.VMStatus, error) {
	vms, err := s.cfg.VMs.All(ctx)
	if err != nil {
		if len(vms) == 0 {
			return nil, toStatus(err, "")
		}
		s.cfg.Log.Warn("the list of VMs lacks those of other arbiters", "error", err)
	}
	return vms, nil
}

// GetVM implements pb.AdminServer.
func (s *Service) GetVM(ctx context.Context, r *pb.GetVMRequest) (*pb.VMStatus, error) {
	if err := check(name("vm", "VM", r.Vm)); err != nil {
		return nil, err
	}
	vm, err := s.cfg.VMs.Lookup(ctx, r.Vm)
	return vm, toStatus(err, r.Vm)
}

// ListReplicas implements pb.AdminServer.
func (s *Service) ListReplicas(ctx context.Context, r *pb.ListReplicasRequest) (*pb.ListReplicasResponse, error) {
	out := &pb.ListReplicasResponse{}
	if r.Vm != "" {
		vm, err := s.GetVM(ctx, &pb.GetVMRequest{Vm: r.Vm})
		out.Replicas = vm.GetReplicas()
		return out, err
	}
	vms, err := s.all(ctx)
	for _, vm := range vms {
		out.Replicas = append(out.Replicas, vm.Replicas...)
	}
	return out, err
}

// GetReplica implements pb.AdminServer.
func (s *Service) GetReplica(ctx context.Context, r *pb.GetReplicaRequest) (*pb.ReplicaStatus, error) {
	if err := check(name("vm", "VM", r.Vm), name("replica_id", "replica", r.ReplicaId)); err != nil {
		return nil, err
	}
	vm, err := s.GetVM(ctx, &pb.GetVMRequest{Vm: r.Vm})
	if err != nil {
		return nil, err
	}
	for _, p := range vm.Replicas {
		if p.Replica.GetId() == r.ReplicaId {
			return p, nil
		}
	}
	return nil, noReplica(r.Vm, r.ReplicaId)
}

// ListArbiters implements pb.AdminServer.
func (s *Service) ListArbiters(ctx context.Context, _ *pb.ListArbitersRequest) (*pb.ListArbitersResponse, error) {
	arbiters, err := s.cfg.VMs.Arbiters(ctx)
	if err != nil {
		return nil, toStatus(err, "")
	}
	for _, a := range arbiters {
		s.describe(a)
	}
	return &pb.ListArbitersResponse{Arbiters: arbiters}, nil
}

// GetArbiter implements pb.AdminServer.
func (s *Service) GetArbiter(ctx context.Context, r *pb.GetArbiterRequest) (*pb.ArbiterStatus, error) {
	id := r.Id
	if id == "" {
		id = s.cfg.ArbiterID
	} else if err := check(name("id", "arbiter", id)); err != nil {
		return nil, err
	}
	arbiters, err := s.cfg.VMs.Arbiters(ctx)
	for _, a := range arbiters {
		if a.Arbiter.Id == id {
			s.describe(a)
			return a, nil
		}
	}
	if id == s.cfg.ArbiterID { // it holds no lease, or etcd does not answer
		a := &pb.ArbiterStatus{Arbiter: &pb.ArbiterRef{Id: id}}
		s.describe(a)
		return a, nil
	}
	if err != nil {
		return nil, toStatus(err, "")
	}
	return nil, noArbiter(id)
}

// describe adds what only this arbiter itself knows.
func (s *Service) describe(a *pb.ArbiterStatus) {
	if a.Arbiter.Id != s.cfg.ArbiterID {
		return
	}
	a.ProtocolMin, a.ProtocolMax = protocol.Spoken().Min, protocol.Spoken().Max
	a.Self, a.Version, a.StartedUnixMs = true, s.cfg.Version, s.started.UnixMilli()
	if err := s.cfg.Ready(); err != nil {
		a.NotReady = err.Error()
	} else {
		a.Ready = true
	}
}

// WatchEvents implements pb.AdminServer.
func (s *Service) WatchEvents(r *pb.WatchEventsRequest, g grpc.ServerStreamingServer[pb.Event]) error {
	if r.Vm != "" {
		if err := check(name("vm", "VM", r.Vm)); err != nil {
			return err
		}
	}
	// Headers go out at once, so that a watcher of a quiet VM knows that it is
	// connected.
	if err := g.SendHeader(nil); err != nil {
		return err
	}
	return toStatus(s.cfg.Events.Follow(g.Context(), r.Vm, r.After, g.Send), r.Vm)
}

// name says what is wrong with a name in a request's field, if anything is.
func name(field, kind, value string) violation {
	if err := fence.CheckName(kind, value); err != nil {
		return violation{field, err.Error()}
	}
	return violation{}
}

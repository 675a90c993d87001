// Package api serves the arbiter's gRPC services: Arbiter for replicas, Admin
// for operators, and the standard health and reflection services.
package api

import (
	"context"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectionalpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// MaxMessage bounds a message in either direction, in bytes.
const MaxMessage = 4 << 20

// silentMax is how long a connection may leave keep-alives or sent data without
// an answer. Replicas are lost by their heartbeats, and at the time-out that the
// VM's policy sets, so this must not be shorter than the longest one. It finds
// dead operators' connections.
const silentMax = session.MaxHeartbeatTimeout + 10*time.Second

// Config is what the services work on.
type Config struct {
	VMs *sessions.Registry
	// ArbiterID and Version are told to replicas.
	ArbiterID, Version string
	// LeaseTTL and LeaseMargin are how replicas hold their leases.
	LeaseTTL, LeaseMargin time.Duration
	// Endpoints returns where a replica reaches etcd, by the two ends of its
	// connection to the arbiter. Its error is told to the replica.
	Endpoints func(local, remote net.Addr) ([]string, error)
	// Ready tells whether this arbiter can own VMs.
	Ready func() bool
	// Admin serves operators.
	Admin pb.AdminServer
	// Identity is the arbiter's certificate; nil: plain text, and no roles.
	Identity *identity.Source
	// OpenReads lets not only operators read through Admin.
	OpenReads bool
	Log       hclog.Logger
}

// window is the flow control window of a stream in bytes: what a replica may
// send that is not taken yet.
const window = 256 << 10

// Server is the gRPC server. Serve and stop it through its grpc.Server.
type Server struct {
	*grpc.Server
	health *health.Server
	ready  func() bool
}

// New returns a server with all services registered.
func New(cfg Config) *Server {
	g := grpc.NewServer(append(cfg.Identity.ServerOptions(callers(cfg.OpenReads)),
		grpc.ForceServerCodecV2(feed.Codec()),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxSendMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(1000),
		grpc.ConnectionTimeout(5*time.Second),
		// Set, gRPC does not ask for the round-trip time with each message.
		grpc.InitialWindowSize(window),
		grpc.InitialConnWindowSize(2*window),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: silentMax}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)...)
	s := &Server{Server: g, health: health.NewServer(), ready: cfg.Ready}
	pb.RegisterArbiterServer(g, &arbiter{cfg: cfg})
	pb.RegisterAdminServer(g, cfg.Admin)
	healthpb.RegisterHealthServer(g, &freshHealth{HealthServer: s.health, refresh: s.refreshHealth})
	reflection.Register(g)
	s.refreshHealth()
	return s
}

// callers says who may call what. That a replica speaks for its own VM alone is
// checked at its Hello.
func callers(openReads bool) identity.Rules {
	replicas := []identity.ID{{Role: identity.Replica}}
	operators := []identity.ID{{Role: identity.Operator}}
	rules := identity.Rules{
		// It tells where etcd is, and nothing of any VM.
		pb.Arbiter_Discover_FullMethodName: {{Role: identity.Replica}, {Role: identity.Operator}, {Role: identity.Arbiter}},
		pb.Arbiter_Attach_FullMethodName:   replicas,
		pb.Admin_ServiceDesc.ServiceName:   operators,

		healthpb.Health_ServiceDesc.ServiceName:                  identity.Anyone,
		reflectionpb.ServerReflection_ServiceDesc.ServiceName:    identity.Anyone,
		reflectionalpha.ServerReflection_ServiceDesc.ServiceName: identity.Anyone,
	}
	if openReads {
		for _, read := range []string{
			pb.Admin_ListVMs_FullMethodName, pb.Admin_GetVM_FullMethodName, pb.Admin_WatchEvents_FullMethodName,
			pb.Admin_ListReplicas_FullMethodName, pb.Admin_GetReplica_FullMethodName,
			pb.Admin_ListArbiters_FullMethodName, pb.Admin_GetArbiter_FullMethodName,
		} {
			rules[read] = identity.Anyone
		}
	}
	return rules
}

// freshHealth looks at the state before it answers.
type freshHealth struct {
	healthpb.HealthServer
	refresh func()
}

// Check implements healthpb.HealthServer.
func (f *freshHealth) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	f.refresh()
	return f.HealthServer.Check(ctx, r)
}

func (s *Server) refreshHealth() {
	status := healthpb.HealthCheckResponse_NOT_SERVING
	if s.ready() {
		status = healthpb.HealthCheckResponse_SERVING
	}
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus(pb.Arbiter_ServiceDesc.ServiceName, status)
	// Admin answers whether or not the arbiter can own VMs.
	s.health.SetServingStatus(pb.Admin_ServiceDesc.ServiceName, healthpb.HealthCheckResponse_SERVING)
}

// WatchHealth tells the health service's watchers of changes until the context
// ends.
func (s *Server) WatchHealth(ctx context.Context) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			s.health.Shutdown()
			return
		case <-ticker.C:
			s.refreshHealth()
		}
	}
}

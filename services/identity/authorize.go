package identity

import (
	"context"
	"strings"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Rules say who may call what. A key is a method, "/package.Service/Method", or
// a service, "package.Service", for all of its methods that have no rule of
// their own. What has no rule is refused.
type Rules map[string][]ID

// Anyone is the rule for what every party of the deployment may call.
var Anyone = []ID{{}}

// ServerOptions returns the options of a gRPC server at which the rules hold:
// credentials, and interceptors that answer Unauthenticated to a peer without
// an identity and PermissionDenied to one whose role does not allow the call.
// With a nil Source there is no TLS and everybody may call everything.
func (s *Source) ServerOptions(rules Rules) []grpc.ServerOption {
	if s == nil {
		return []grpc.ServerOption{grpc.Creds(s.ServerCredentials())}
	}
	return []grpc.ServerOption{
		grpc.Creds(s.ServerCredentials()),
		grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := rules.check(ctx, info.FullMethod, s.log); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := rules.check(stream.Context(), info.FullMethod, s.log); err != nil {
				return err
			}
			return next(srv, stream)
		}),
	}
}

// check tells whether the caller may call the method.
func (r Rules) check(ctx context.Context, method string, log hclog.Logger) error {
	id, err := Caller(ctx)
	if err != nil {
		log.Warn("call refused", "method", method, "peer", address(ctx), "error", err)
		return status.Error(codes.Unauthenticated, err.Error())
	}
	allowed, ok := r[method]
	if !ok {
		service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
		allowed = r[service]
	}
	if !id.Matches(allowed...) {
		log.Warn("call refused", "method", method, "peer", address(ctx), "caller", id)
		return status.Errorf(codes.PermissionDenied, "%v may not call %s", id, method)
	}
	return nil
}

// Caller is the identity of the client of a gRPC call, as its verified
// certificate says. The error wraps ErrNoIdentity.
func Caller(ctx context.Context) (ID, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ID{}, ErrNoIdentity
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 {
		return ID{}, ErrNoIdentity
	}
	return Of(info.State.VerifiedChains[0][0])
}

// ActsFor tells whether the client of a gRPC call may act as a replica of the
// VM. The error has the code PermissionDenied or Unauthenticated. On a
// connection without TLS, which a server has only where it was told to do
// without, everybody may.
func ActsFor(ctx context.Context, vm string) error {
	if p, ok := peer.FromContext(ctx); ok {
		if _, secured := p.AuthInfo.(credentials.TLSInfo); !secured {
			return nil
		}
	}
	id, err := Caller(ctx)
	if err != nil {
		return status.Error(codes.Unauthenticated, err.Error())
	}
	if (id != ID{Role: Replica, Name: vm}) {
		return status.Errorf(codes.PermissionDenied, "%v may not act as a replica of VM %q", id, vm)
	}
	return nil
}

// Name is the caller in words, for logs: its identity, or its address where it
// has none.
func Name(ctx context.Context) string {
	if id, err := Caller(ctx); err == nil {
		return id.String()
	}
	return address(ctx)
}

func address(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		return p.Addr.String()
	}
	return "unknown"
}

package etcd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/go-hclog"
	etcdpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	etcdlease "go.etcd.io/etcd/server/v3/lease"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/identity"
)

// guard says what a client of the member may do, by the role in its
// certificate. Arbiters and operators may do everything. A replica may read,
// watch and change the keys of its own VM, get and renew leases, and revoke
// those that hold no key of another. Others may do nothing.
type guard struct {
	log hclog.Logger
	// keysOf returns the keys that a lease holds.
	keysOf func(ctx context.Context, lease int64) ([]string, error)
}

func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	vm, err := g.caller(ctx, info.FullMethod)
	if err == nil && vm != "" {
		if err = g.request(ctx, vm, req); err != nil {
			err = g.refuse(ctx, info.FullMethod, err)
		}
	}
	if err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *guard) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	vm, err := g.caller(stream.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if vm == "" {
		return next(srv, stream)
	}
	switch info.FullMethod {
	case etcdpb.Lease_LeaseKeepAlive_FullMethodName:
		return next(srv, stream)
	case etcdpb.Watch_Watch_FullMethodName:
		return next(srv, &watchStream{ServerStream: stream, guard: g, vm: vm})
	}
	return g.refuse(stream.Context(), info.FullMethod, errNotAReplicas)
}

// watchStream looks at what a replica asks to watch.
type watchStream struct {
	grpc.ServerStream
	guard *guard
	vm    string
}

// RecvMsg implements grpc.ServerStream.
func (w *watchStream) RecvMsg(m any) error {
	if err := w.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if r, ok := m.(*etcdpb.WatchRequest); ok {
		if c := r.GetCreateRequest(); c != nil && !inside(w.vm, c.Key, c.RangeEnd) {
			return w.guard.refuse(w.Context(), etcdpb.Watch_Watch_FullMethodName, notOf(w.vm, c.Key))
		}
	}
	return nil
}

var errNotAReplicas = errors.New("not for a replica")

func notOf(vm string, key []byte) error {
	if len(key) > 200 {
		key = key[:200]
	}
	return fmt.Errorf("%q is not a key of VM %s", key, vm)
}

// caller returns the VM of a replica, or "" for who may do everything.
func (g *guard) caller(ctx context.Context, method string) (vm string, err error) {
	id, err := identity.Caller(ctx)
	if err != nil {
		return "", status.Error(codes.Unauthenticated, err.Error())
	}
	switch id.Role {
	case identity.Arbiter, identity.Operator:
		return "", nil
	case identity.Replica:
		return id.Name, nil
	}
	return "", g.refuse(ctx, method, fmt.Errorf("not for a %s", id.Role))
}

func (g *guard) refuse(ctx context.Context, method string, why error) error {
	g.log.Warn("etcd call refused", "caller", identity.Name(ctx), "method", method, "why", why)
	return status.Errorf(codes.PermissionDenied, "%s may not call %s so: %v", identity.Name(ctx), method, why)
}

// request tells what in a request is not the VM's.
func (g *guard) request(ctx context.Context, vm string, req any) error {
	switch r := req.(type) {
	case *etcdpb.RangeRequest:
		return of(vm, r.Key, r.RangeEnd)
	case *etcdpb.PutRequest:
		return of(vm, r.Key, nil)
	case *etcdpb.DeleteRangeRequest:
		return of(vm, r.Key, r.RangeEnd)
	case *etcdpb.TxnRequest:
		return transaction(vm, r)
	case *etcdpb.LeaseGrantRequest:
		return nil
	case *etcdpb.LeaseRevokeRequest:
		keys, err := g.keysOf(ctx, r.ID)
		if err != nil {
			return err
		}
		for _, k := range keys {
			if err := of(vm, []byte(k), nil); err != nil {
				return err
			}
		}
		return nil
	}
	return errNotAReplicas
}

func transaction(vm string, r *etcdpb.TxnRequest) error {
	for _, c := range r.Compare {
		if err := of(vm, c.Key, c.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*etcdpb.RequestOp{r.Success, r.Failure} {
		for _, op := range ops {
			var err error
			switch o := op.Request.(type) {
			case *etcdpb.RequestOp_RequestRange:
				err = of(vm, o.RequestRange.GetKey(), o.RequestRange.GetRangeEnd())
			case *etcdpb.RequestOp_RequestPut:
				err = of(vm, o.RequestPut.GetKey(), nil)
			case *etcdpb.RequestOp_RequestDeleteRange:
				err = of(vm, o.RequestDeleteRange.GetKey(), o.RequestDeleteRange.GetRangeEnd())
			case *etcdpb.RequestOp_RequestTxn:
				if o.RequestTxn != nil {
					err = transaction(vm, o.RequestTxn)
				}
			default:
				err = errNotAReplicas
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func of(vm string, key, end []byte) error {
	if !inside(vm, key, end) {
		return notOf(vm, key)
	}
	return nil
}

// inside tells whether a key, or the range from key to before end, is the
// VM's.
func inside(vm string, key, end []byte) bool {
	prefix := fence.VMPrefix(vm)
	if !strings.HasPrefix(string(key), prefix) {
		return false
	}
	// An end of one zero byte stands for all that follows.
	return len(end) == 0 || string(end) > string(key) && string(end) <= clientv3.GetPrefixRangeEnd(prefix)
}

// keysOf asks a member which keys a lease holds: none where there is no such
// lease.
func keysOf(ctx context.Context, member *embed.Etcd, id int64) ([]string, error) {
	if member == nil {
		return nil, status.Error(codes.Unavailable, "etcd is starting")
	}
	r, err := member.Server.LeaseTimeToLive(ctx, &etcdpb.LeaseTimeToLiveRequest{ID: id, Keys: true})
	if errors.Is(err, etcdlease.ErrLeaseNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	keys := make([]string, len(r.Keys))
	for i, k := range r.Keys {
		keys[i] = string(k)
	}
	return keys, nil
}

package fence

import (
	"context"
	"maps"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Watch sends what etcd holds about a VM: the present view first, then after
// each change the newest. A receiver that is slow misses views in between,
// never the last. Across broken connections the watch goes on by itself; it
// ends, closing the channel, with its context.
func (s *Store) Watch(ctx context.Context, vm string) (<-chan View, error) {
	if err := CheckName("VM", vm); err != nil {
		return nil, err
	}
	views := make(chan View, 1)
	go func() {
		defer close(views)
		for ctx.Err() == nil {
			s.watch(ctx, vm, views)
			select { // a broken watch begins anew with a fresh view
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return views, nil
}

// watch sends views until the watch breaks.
func (s *Store) watch(ctx context.Context, vm string, views chan View) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	v, revision, err := s.load(ctx, vm)
	if err != nil {
		return
	}
	offer(views, v)
	// A member that has lost its leader is left, so that a cut-off one does not
	// keep the watcher in the past.
	changes := s.client.Watch(clientv3.WithRequireLeader(ctx), vmPrefix(vm), clientv3.WithPrefix(), clientv3.WithRev(revision+1))
	for r := range changes {
		if r.Err() != nil {
			return
		}
		if len(r.Events) == 0 {
			continue
		}
		for _, e := range r.Events {
			if v.apply(string(e.Kv.Key), e.Kv.Value, e.Kv.ModRevision, e.Kv.Lease, e.Type == clientv3.EventTypeDelete) != nil {
				return
			}
		}
		offer(views, v)
	}
}

// offer replaces what waits in the channel by a copy of v. There is one sender.
func offer(views chan View, v View) {
	v.Replicas = maps.Clone(v.Replicas)
	if v.Record != nil {
		v.Record = proto.Clone(v.Record).(*pb.Record)
	}
	select {
	case <-views:
	default:
	}
	views <- v
}

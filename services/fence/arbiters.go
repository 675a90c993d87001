package fence

import (
	"context"
	"fmt"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// maxArbiters bounds what Arbiters reads.
const maxArbiters = 1000

// Loads returns how many VMs each living arbiter owns, by ID, and at which
// address each is reached.
func (s *Store) Loads(ctx context.Context) (loads map[string]int, addresses map[string]string, err error) {
	loads, addresses = map[string]int{}, map[string]string{}
	var r *clientv3.GetResponse
	err = repeat(ctx, func(ctx context.Context) (err error) {
		r, err = s.client.Get(ctx, ArbiterKey(""), clientv3.WithPrefix(), clientv3.WithLimit(maxArbiters))
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list arbiters in etcd: %w", Plain(err))
	}
	for _, kv := range r.Kvs {
		id := strings.TrimPrefix(string(kv.Key), ArbiterKey(""))
		loads[id], addresses[id] = 0, string(kv.Value)
	}
	views, err := s.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, v := range views {
		if v.Owner == nil {
			continue
		}
		if _, lives := loads[v.Owner.ID]; lives {
			loads[v.Owner.ID]++
		}
	}
	return loads, addresses, nil
}

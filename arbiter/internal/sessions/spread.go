package sessions

import (
	"context"
	"math/rand/v2"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// spreadMax bounds the VMs that are handed over in one round. Each costs its
// clients the time of a change of the owner, and a resynchronization.
const spreadMax = 10

// moved says where a VM was handed over to.
type moved struct {
	to    string // an address
	until time.Time
}

// handOver tells how many VMs an arbiter gives to which other one, from what
// each of them owns: half of the difference to the one with the fewest, so that
// two that do this at the same time do not overshoot by much.
func handOver(self string, loads map[string]int) (n int, to string) {
	mine, member := loads[self]
	if !member {
		return 0, ""
	}
	for id, load := range loads {
		if id != self && (to == "" || load < loads[to] || load == loads[to] && id < to) {
			to = id
		}
	}
	if to == "" {
		return 0, ""
	}
	return min(max(mine-loads[to], 0)/2, spreadMax), to
}

// Spread hands VMs over to arbiters that own fewer, looking every interval or
// somewhat later, until ctx is done.
func (r *Registry) Spread(ctx context.Context, every time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(every + rand.N(every/2)):
		}
		loads, addresses, err := r.cfg.Store.Loads(ctx)
		if err != nil {
			r.cfg.Log.Debug("what the arbiters own is not known", "error", err)
			continue
		}
		n, to := handOver(r.cfg.Self.ID, loads)
		if n == 0 {
			continue
		}
		given := 0
		for _, v := range r.all() { // in the random order of a map
			if given == n {
				break
			}
			if v.giveTo(ctx, addresses[to], every) {
				given++
			}
		}
		r.cfg.Log.Info("handed VMs over to an arbiter that owns fewer", "vms", given, "to", to, "owned", loads[r.cfg.Self.ID], "there", loads[to])
	}
}

// movedTo returns where replicas of the VM are to attach; "" for here.
func (r *Registry) movedTo(name string) string {
	m, ok := r.moved[name]
	if !ok {
		return ""
	}
	if time.Now().After(m.until) {
		delete(r.moved, name)
		return ""
	}
	return m.to
}

// giveTo hands an owned VM over to the arbiter at that address: this one gives
// it up, and for some time sends its replicas, which attach anew, there. A first
// copy is not interrupted, nor what an operator waits for.
func (v *vm) giveTo(ctx context.Context, address string, sendOn time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	given := false
	err := v.do(ctx, func() {
		m := v.core.Status().GetRecord().GetMode()
		if v.claim.Lease == 0 || len(v.orders) > 0 || m != pb.Mode_MODE_PROTECTED && m != pb.Mode_MODE_SOLO {
			return
		}
		v.reg.mu.Lock()
		v.reg.moved[v.name] = moved{to: address, until: time.Now().Add(sendOn)}
		v.reg.mu.Unlock()
		v.giveUp, v.disown, given = true, true, true
	})
	return err == nil && given // an error: it is gone already, or too busy to move
}

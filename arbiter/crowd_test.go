package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"
)

// member is a replica with a toy guest that lives by itself: it attaches to any
// of the arbiters, goes where it is sent, takes its parts, and counts what it is
// allowed to emit. The copies of a VM make the same outputs.
type member struct {
	vm, id string
	crowd  *crowd

	mu       sync.Mutex
	role     pb.Role
	mode     pb.Mode
	term     uint64
	epoch    uint64
	made     uint64 // outputs of this epoch
	released atomic.Int64
	stale    atomic.Int64 // releases of another term or epoch
}

// crowd is what the members share.
type crowd struct {
	t     *testing.T
	etcd  *clientv3.Client
	store *fence.Store
	lease int64

	mu    sync.Mutex
	addrs []string
	conns map[string]*grpc.ClientConn // by address and share
}

func newCrowd(t *testing.T, endpoint string) *crowd {
	client, err := fence.Connect([]string{endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	// One lease for all: that leases run out is not what is tested with a crowd.
	grant, err := client.Grant(within(t, patience), 3600)
	if err != nil {
		t.Fatal(err)
	}
	return &crowd{t: t, etcd: client, store: fence.NewStore(client), lease: int64(grant.ID), conns: map[string]*grpc.ClientConn{}}
}

// reach says at which addresses arbiters are.
func (c *crowd) reach(addrs ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addrs = addrs
}

// conn returns a connection to an arbiter, which the members of some VMs share.
func (c *crowd) conn(addr, share string, try int) *grpc.ClientConn {
	c.mu.Lock()
	defer c.mu.Unlock()
	if addr == "" {
		addr = c.addrs[try%len(c.addrs)]
	}
	key := addr + " " + share
	if c.conns[key] == nil {
		c.conns[key] = dial(c.t, addr)
	}
	return c.conns[key]
}

// add starts the replicas of one VM.
func (c *crowd) add(ctx context.Context, vm string) []*member {
	var pair []*member
	for i, role := range []pb.Role{pb.Role_ROLE_CANDIDATE, pb.Role_ROLE_SPARE} {
		m := &member{vm: vm, id: fmt.Sprintf("r-%d", i+1), crowd: c, role: role}
		if _, err := c.etcd.Put(within(c.t, patience), fence.ReplicaKey(vm, m.id), "x:1", clientv3.WithLease(clientv3.LeaseID(c.lease))); err != nil {
			c.t.Fatal(err)
		}
		pair = append(pair, m)
		go m.live(ctx)
	}
	return pair
}

// live attaches again and again.
func (m *member) live(ctx context.Context) {
	to := ""
	for try := 0; ctx.Err() == nil; try++ {
		to = m.attach(ctx, to, try)
		if to == "" {
			select {
			case <-ctx.Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
	}
}

// attach carries one stream to its end and returns where it was sent to.
func (m *member) attach(ctx context.Context, to string, try int) string {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := pb.NewArbiterClient(m.crowd.conn(to, m.vm[len(m.vm)-1:], try)).Attach(ctx)
	if err != nil {
		return ""
	}
	m.mu.Lock()
	hello := &pb.FromReplica{Term: m.term, Body: &pb.FromReplica_Hello{Hello: &pb.Hello{Protocol: session.ProtocolVersion, Vm: m.vm,
		Replica: &pb.ReplicaRef{Id: m.id, Address: "x:1"}, Role: m.role, Mode: m.mode, Epoch: m.epoch, LeaseId: m.crowd.lease}}}
	m.mu.Unlock()
	if s.Send(hello) != nil {
		return ""
	}
	var sending sync.Mutex
	send := func(msg *pb.FromReplica) {
		sending.Lock()
		defer sending.Unlock()
		_ = s.Send(msg) // its failure is seen by Recv
	}
	go func() {
		for ctx.Err() == nil {
			m.mu.Lock()
			beat := &pb.FromReplica{Term: m.term, Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: m.epoch, LeaseId: m.crowd.lease}}}
			out := m.output()
			m.mu.Unlock()
			send(beat)
			if out != nil {
				send(out)
			}
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}()
	for {
		msg, err := s.Recv()
		if err != nil {
			return ""
		}
		if r := msg.GetRefusal(); r != nil {
			return r.GetAddress()
		}
		for _, answer := range m.take(msg) {
			send(answer)
		}
	}
}

// output is the next output of a protected copy: a datagram, like the other's.
func (m *member) output() *pb.FromReplica {
	if m.mode != pb.Mode_MODE_PROTECTED {
		return nil
	}
	m.made++
	digest := make([]byte, 16)
	digest[0], digest[1] = byte(m.made), byte(m.made>>8)
	return &pb.FromReplica{Term: m.term, Body: &pb.FromReplica_Outputs{Outputs: &pb.Outputs{Epoch: m.epoch, Outputs: []*pb.Output{
		{Id: m.made, Kind: pb.OutputKind_OUTPUT_KIND_DATAGRAM, Flow: 7, End: m.made, Digest: digest}}}}}
}

func (m *member) take(msg *pb.ToReplica) (answers []*pb.FromReplica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	started := func(epoch uint64) {
		m.epoch, m.made = epoch, 0
		answers = append(answers, &pb.FromReplica{Term: m.term, Body: &pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: epoch}}})
	}
	switch b := msg.GetBody().(type) {
	case *pb.ToReplica_Assignment:
		r := b.Assignment.GetRecord()
		if r.GetTerm() < m.term || r.GetTerm() == m.term && r.GetMode() == m.mode {
			break
		}
		m.term, m.mode, m.role = r.GetTerm(), r.GetMode(), pb.Role_ROLE_STANDBY
		if r.GetActive().GetId() == m.id {
			m.role = pb.Role_ROLE_ACTIVE
		}
		switch m.mode {
		case pb.Mode_MODE_SOLO:
			m.epoch, m.made = 0, 0
		case pb.Mode_MODE_SYNCING:
			started(1)
		}
	case *pb.ToReplica_Resync:
		if msg.GetTerm() == m.term && b.Resync.GetEpoch() > m.epoch {
			started(b.Resync.GetEpoch())
		}
	case *pb.ToReplica_Release:
		if msg.GetTerm() != m.term || b.Release.GetEpoch() != m.epoch || m.role != pb.Role_ROLE_ACTIVE {
			m.stale.Add(1)
			break
		}
		m.released.Add(int64(len(b.Release.GetOutputs())))
	}
	return answers
}

// eventually waits for a state that is sure to come.
func eventually(t *testing.T, what string, ok func() (bool, string)) {
	t.Helper()
	end := time.Now().Add(4 * patience)
	for {
		done, now := ok()
		if done {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("never %s: %s", what, now)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// One arbiter serves 200 VMs; when others join, VMs move to them until none has
// more than one more than another; when one leaves, the others take its VMs. All
// the while outputs leave, and only under the present term.
func TestManyVMsSpreadOverArbiters(t *testing.T) {
	const vms = 200
	args := []string{"--lease-ttl=20s", "--heartbeat=1s", "--heartbeat-timeout=30s", "--spread=1s", "--http=127.0.0.1:0"}
	a := launch(t, args...)
	c := newCrowd(t, a.member.LocalEndpoint())
	c.reach(a.addr)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var all []*member
	for i := range vms {
		all = append(all, c.add(ctx, fmt.Sprintf("vm-%03d", i))...)
	}
	// progress waits until each VM has had outputs released from now on.
	progress := func(what string) {
		t.Helper()
		before := make([]int64, vms)
		sum := func(i int) int64 { return all[2*i].released.Load() + all[2*i+1].released.Load() }
		for i := range vms {
			before[i] = sum(i)
		}
		eventually(t, "outputs of each VM "+what, func() (bool, string) {
			stuck := 0
			for i := range vms {
				if sum(i) < before[i]+2 {
					stuck++
				}
			}
			return stuck == 0, fmt.Sprintf("%d VMs wait", stuck)
		})
	}
	even := func(what string, arbiters int) {
		t.Helper()
		began := time.Now()
		eventually(t, what, func() (bool, string) {
			loads, _, err := c.store.Loads(ctx)
			if err != nil || len(loads) != arbiters {
				return false, fmt.Sprint(loads, err)
			}
			sum, least, most := 0, vms, 0
			for _, n := range loads {
				sum, least, most = sum+n, min(least, n), max(most, n)
			}
			return sum == vms && most-least <= 1, fmt.Sprint(loads)
		})
		t.Logf("%s after %v", what, time.Since(began).Round(time.Second))
	}

	progress("under one arbiter")
	b := launch(t, append(args, "--etcd", a.member.LocalEndpoint())...)
	c.reach(a.addr, b.addr)
	even("two arbiters share the VMs", 2)
	progress("under two arbiters")
	b.shut()
	c.reach(a.addr)
	even("the one that stays has all of them", 1)
	progress("after one has left")
	for _, m := range all {
		if n := m.stale.Load(); n > 0 {
			t.Errorf("%s of %s was sent %d releases of another term or epoch", m.id, m.vm, n)
		}
	}
}

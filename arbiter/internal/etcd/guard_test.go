package etcd

import (
	"testing"
	"time"

	etcdpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/identity/identitytest"
)

var (
	anArbiter = identity.ID{Role: identity.Arbiter}
	web       = identity.ID{Role: identity.Replica, Name: "web"}
)

// connectAs is a client with a certificate.
func connectAs(t *testing.T, s *Server, who *identity.Source) *clientv3.Client {
	t.Helper()
	c, err := fence.Connect([]string{s.LocalEndpoint()}, who.ClientTLS(anArbiter))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestWhoMayDoWhatInEtcd(t *testing.T) {
	ours, others := identitytest.New(t), identitytest.New(t)
	s := run(t, Config{Identity: ours.Source(t, anArbiter)})
	arbiter := connectAs(t, s, ours.Source(t, anArbiter))
	operator := connectAs(t, s, ours.Source(t, identity.ID{Role: identity.Operator}))
	replica := connectAs(t, s, ours.Source(t, web))
	gateway := connectAs(t, s, ours.Source(t, identity.ID{Role: identity.Gateway}))
	ctx := within(t, 20*time.Second)

	theirs, err := arbiter.Grant(ctx, 60)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := arbiter.Put(ctx, fence.ArbiterKey("a-1"), "x", clientv3.WithLease(theirs.ID)); err != nil {
		t.Fatal(err)
	}
	own := fence.VMPrefix("web")
	get := func(key string, opts ...clientv3.OpOption) clientv3.Op { return clientv3.OpGet(key, opts...) }
	for _, c := range []struct {
		op clientv3.Op
		// who may, besides arbiters and operators
		replica bool
	}{
		{get(own + "record"), true},
		{get(own, clientv3.WithPrefix()), true},
		{clientv3.OpPut(own+"replicas/r-1", "x"), true},
		{clientv3.OpDelete(own + "replicas/r-1"), true},
		{clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(own+"record"), "=", 0)}, []clientv3.Op{get(own + "record")},
			[]clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{get(own + "record")}, nil)}), true},
		{get(fence.VMPrefix("db") + "record"), false},
		{get(fence.VMPrefix("web2") + "record"), false},
		{get(own, clientv3.WithFromKey()), false},
		{get(own, clientv3.WithRange(fence.VMPrefix("web2"))), false},
		{get(fence.Prefix, clientv3.WithPrefix()), false},
		{get(fence.ArbiterKey("a-1")), false},
		{clientv3.OpPut(fence.VMPrefix("db")+"record", "x"), false},
		{clientv3.OpPut(fence.ArbiterKey("a-2"), "x"), false},
		{clientv3.OpDelete(fence.VMPrefix("db") + "record"), false},
		{clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.Version(fence.VMPrefix("db")+"record"), "=", 0)}, nil, nil), false},
		{clientv3.OpTxn(nil, nil, []clientv3.Op{clientv3.OpPut(fence.VMPrefix("db")+"record", "x")}), false},
		{clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpTxn(nil, []clientv3.Op{clientv3.OpDelete(fence.VMPrefix("db") + "record")}, nil)}, nil), false},
	} {
		for _, who := range []struct {
			name   string
			client *clientv3.Client
			may    bool
		}{{"replica", replica, c.replica}, {"operator", operator, true}, {"gateway", gateway, false}} {
			if _, err := who.client.Do(ctx, c.op); (err == nil) != who.may || err != nil && !denied(err) {
				t.Errorf("%s, %q: %v", who.name, c.op.KeyBytes(), err)
			}
		}
	}

	// Leases: its own, not the arbiter's.
	if _, err := replica.Revoke(ctx, theirs.ID); !denied(err) {
		t.Errorf("a replica revoked an arbiter's lease: %v", err)
	}
	if _, err := replica.Leases(ctx); !denied(err) {
		t.Errorf("a replica listed leases: %v", err)
	}
	lease := fence.NewLease(replica, fence.LeaseConfig{Key: fence.ReplicaKey("web", "r-1"), TTL: 2 * time.Second})
	if err := lease.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	first := lease.ValidUntil()
	for tick := time.NewTicker(5 * time.Millisecond); lease.ValidUntil() == first; <-tick.C {
		if ctx.Err() != nil {
			t.Fatal("the lease is not renewed")
		}
	}
	if err := lease.Close(ctx); err != nil {
		t.Errorf("a replica gives its lease up: %v", err)
	}

	// Watches.
	views, err := fence.NewStore(replica).Watch(ctx, "web")
	if err != nil {
		t.Fatal(err)
	}
	<-views
	if _, err := arbiter.Put(ctx, own+"record", `{"vm":"web","term":"7"}`); err != nil {
		t.Fatal(err)
	}
	if v := <-views; v.Record.GetTerm() != 7 {
		t.Errorf("saw %v", v.Record)
	}
	if r, open := <-replica.Watch(ctx, fence.VMPrefix("db"), clientv3.WithPrefix()); open && r.Err() == nil {
		t.Errorf("a replica watches another VM: %v", r)
	}

	// A replica that helps itself writes its own VM's record alone.
	if _, err := fence.NewStore(replica).CommitUnowned(ctx, &pb.Record{Vm: "db", Term: 9}, 0); !denied(err) {
		t.Errorf("wrote another VM's record: %v", err)
	}

	for name, who := range map[string]*clientv3.Client{
		"another CA's": connectAs(t, s, others.Source(t, anArbiter)),
		"plain text":   connect(t, "http://"+s.Addr().String()),
	} {
		if _, err := who.Get(within(t, 300*time.Millisecond), own); err == nil {
			t.Errorf("%s got through", name)
		}
	}
}

func denied(err error) bool {
	if status.Code(err) == codes.PermissionDenied {
		return true
	}
	type coder interface{ Code() codes.Code } // rpctypes.EtcdError
	for e := err; e != nil; {
		if c, ok := e.(coder); ok && c.Code() == codes.PermissionDenied {
			return true
		}
		u, ok := e.(interface{ Unwrap() error })
		if !ok {
			return false
		}
		e = u.Unwrap()
	}
	return false
}

func FuzzTransaction(f *testing.F) {
	f.Add([]byte("/understudy/v1/vms/web/record"), []byte{})
	f.Add([]byte("/understudy/v1/vms/web/"), []byte("/understudy/v1/vms/web0"))
	f.Add([]byte("/understudy/v1/vms/web/"), []byte{0})
	f.Fuzz(func(t *testing.T, key, end []byte) {
		r := &etcdpb.TxnRequest{Success: []*etcdpb.RequestOp{{Request: &etcdpb.RequestOp_RequestDeleteRange{
			RequestDeleteRange: &etcdpb.DeleteRangeRequest{Key: key, RangeEnd: end}}}}}
		if transaction("web", r) != nil {
			return
		}
		// What is allowed holds no key outside of the VM's.
		prefix := fence.VMPrefix("web")
		for _, foreign := range []string{"/understudy/v1/vms/web", "/understudy/v1/vms/web0", "/understudy/v1/vms/weba", "/understudy/v1/vms/db/record",
			"/understudy/v1/arbiters/a", "", "\x00", "~"} {
			single := len(end) == 0
			if single && string(key) == foreign || !single && foreign >= string(key) && foreign < string(end) {
				t.Fatalf("[%q, %q) holds %q, which is not below %s", key, end, foreign, prefix)
			}
		}
	})
}

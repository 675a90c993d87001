package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"

	"github.com/understudy-ft/understudy/deploy/cluster"
)

// ownEtcd is a cluster whose etcd outlives its arbiter.
func ownEtcd(t *testing.T) cluster.Config {
	t.Helper()
	if _, err := os.Stat(filepath.Join(bin, "etcd")); err != nil {
		t.Fatal("no etcd: run `make bin/etcd` first")
	}
	return cluster.Config{OwnEtcd: true}
}

// record is what etcd holds about the VM, once ok says so.
func record(t *testing.T, c *cluster.Cluster, ok func(*pb.Record) bool) *pb.Record {
	t.Helper()
	client, err := fence.Connect([]string{c.EtcdAt}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx := deadline(t)
	for {
		view, err := fence.NewStore(client).Load(ctx, c.VM)
		if err == nil && ok(view.Record) {
			return view.Record
		}
		select {
		case <-ctx.Done():
			t.Fatalf("etcd holds %v (%v)", view.Record, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func byItself(r *pb.Record) bool {
	return r.GetMode() == pb.Mode_MODE_SOLO && r.GetReason() == pb.Reason_REASON_NO_ARBITER
}

// The only arbiter is lost for good: the active goes on alone by a transaction
// of its own. An arbiter that comes back protects the VM again.
func TestArbiterStaysAway(t *testing.T) {
	c := start(t, ownEtcd(t), 1)
	l := begin(t, c)
	before := status(t, c).GetRecord()
	if err := c.Arbiter.Kill(); err != nil {
		t.Fatal(err)
	}
	alone := record(t, c, byItself)
	if alone.GetActive().GetId() != before.GetActive().GetId() {
		t.Fatalf("%s went on alone, not the active %s", alone.GetActive().GetId(), before.GetActive().GetId())
	}
	progress(t, l, 300)
	if err := c.StartArbiter(); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "protection by the arbiter that is back", mode(pb.Mode_MODE_PROTECTED, alone.GetTerm()))
	progress(t, l, 300)
	verify(t, l)
}

// The arbiter and the active are lost together: once the active's lease has run
// out, the standby takes over by a transaction of its own.
func TestArbiterAndActiveDie(t *testing.T) {
	c := start(t, ownEtcd(t), 1)
	l := begin(t, c)
	s := status(t, c)
	for _, p := range []*cluster.Process{c.Arbiter, c.Active(s)} {
		if err := p.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	alone := record(t, c, byItself)
	if alone.GetActive().GetId() != s.GetRecord().GetStandby().GetId() {
		t.Fatalf("%s took over, not the standby %s", alone.GetActive().GetId(), s.GetRecord().GetStandby().GetId())
	}
	progress(t, l, 300)
	if err := c.StartArbiter(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartSecondary(); err != nil {
		t.Fatal(err)
	}
	wait(t, c, "new protection", mode(pb.Mode_MODE_PROTECTED, alone.GetTerm()))
	progress(t, l, 300)
	verify(t, l)
}

// Package e2e proves the promise on real processes with a real guest.
package e2e

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/load"
)

// bin and guest are where `make build` and `make guest` put things.
const (
	bin   = "../../bin"
	guest = "../../build/guest/rv64"
)

// patience is the heartbeat time-out of these tests. A killed process is lost
// at once, by its broken streams; that a busy machine lets one wait is no loss.
const patience = "5s"

// limit bounds any wait for a state that is sure to come.
const limit = 2 * time.Minute

func TestMain(m *testing.M) {
	if _, err := os.Stat(filepath.Join(guest, "Image")); err != nil {
		println("e2e: no guest image: run `make guest` first")
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// start starts arbiter, gateway, primary and secondaries, and waits until the
// guest's Redis answers and, with secondaries, until the VM is protected.
func start(t *testing.T, cfg cluster.Config, secondaries int) *cluster.Cluster {
	t.Helper()
	c := open(t, cfg)
	if _, err := c.StartPrimary(); err != nil {
		t.Fatal(err)
	}
	for range secondaries {
		if _, err := c.StartSecondary(); err != nil {
			t.Fatal(err)
		}
	}
	ctx := deadline(t)
	if err := c.DialRedis(ctx); err != nil {
		t.Fatal(err)
	}
	if secondaries > 0 {
		if _, err := c.Protected(ctx, 0); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// open starts what a cluster has without replicas.
func open(t *testing.T, cfg cluster.Config) *cluster.Cluster {
	t.Helper()
	cfg.Guest = guest
	if cfg.Bin == "" {
		cfg.Bin = bin
	}
	if cfg.HeartbeatTimeout == "" {
		cfg.HeartbeatTimeout = patience
	}
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	c, err := cluster.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			dump(t, cfg.Dir)
		}
		c.Close()
	})
	return c
}

// dump shows the end of each process's log.
func dump(t *testing.T, dir string) {
	logs, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, f := range logs {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if len(b) > 6000 {
			b = b[len(b)-6000:]
		}
		t.Logf("--- %s\n%s", filepath.Base(f), b)
	}
}

func deadline(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}

// begin starts a load that ends with the test at the latest.
func begin(t *testing.T, c *cluster.Cluster) *load.Load {
	t.Helper()
	l, err := load.Start(c.Redis, 3, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Stop() })
	progress(t, l, 200)
	return l
}

// progress waits until the load has had n more writes acknowledged.
func progress(t *testing.T, l *load.Load, n int64) {
	t.Helper()
	ctx := deadline(t)
	want := l.Acked() + n
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for l.Acked() < want {
		select {
		case <-ctx.Done():
			t.Fatalf("the service stands still at %d acknowledged writes", l.Acked())
		case <-tick.C:
		}
	}
}

// verify ends the load and checks that nothing acknowledged is lost and that no
// connection broke.
func verify(t *testing.T, l *load.Load) {
	t.Helper()
	res := l.Stop()
	lost, err := l.Verify(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if lost != 0 || res.Wrong != 0 || res.ConnectionsLost != 0 {
		t.Fatalf("lost %d of %d acknowledged writes, %d wrong reads, %d of %d connections: %s",
			lost, res.Acked, res.Wrong, res.ConnectionsLost, res.Connections, res.Problem)
	}
	t.Logf("%d acknowledged writes, %d reads, nothing lost", res.Acked, res.Reads)
}

func status(t *testing.T, c *cluster.Cluster) *pb.VMStatus {
	t.Helper()
	s, err := c.Status(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wait waits for a state of the VM.
func wait(t *testing.T, c *cluster.Cluster, what string, ok func(*pb.VMStatus) bool) *pb.VMStatus {
	t.Helper()
	s, err := c.Wait(deadline(t), what, ok)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func mode(m pb.Mode, after uint64) func(*pb.VMStatus) bool {
	return func(s *pb.VMStatus) bool { return s.GetRecord().GetMode() == m && s.GetRecord().GetTerm() > after }
}

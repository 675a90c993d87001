package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/watch"
	"github.com/understudy-ft/understudy/services/protocol"
)

// module is the path that the linker's -X wants.
const module = "github.com/understudy-ft/understudy/services/"

// build makes a release of the programs: its version, and the versions of the
// protocol that it speaks. What is no part of an upgrade is taken from bin.
func build(t *testing.T, release, speaks string, programs ...string) string {
	t.Helper()
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("SKIPPED, NOT TESTED: there is no go to build releases with")
	}
	dir := beside(t)
	args := []string{"build", "-trimpath", "-o", dir + "/",
		"-ldflags", fmt.Sprintf("-s -w -X %[1]scli.release=%[2]s -X %[1]sprotocol.speaks=%[3]s", module, release, speaks)}
	for _, p := range programs {
		args = append(args, "../../"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", release, err, out)
	}
	return dir
}

// beside makes a directory for the programs of a release, which has what is no
// part of an upgrade from bin.
func beside(t *testing.T) string {
	t.Helper()
	here, err := filepath.Abs(bin)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link(t, here, dir, "gateway", "etcd")
	return dir
}

func link(t *testing.T, from, to string, programs ...string) {
	t.Helper()
	for _, p := range programs {
		if err := os.Symlink(filepath.Join(from, p), filepath.Join(to, p)); err != nil {
			t.Fatal(err)
		}
	}
}

// release is the programs in a directory: what version they say and which versions
// of the protocol they speak.
type release struct {
	dir, version string
	speaks       protocol.Range
}

// releases are an old and a new one. Both are made of this tree; or, where
// UPGRADE_FROM says where an older release's programs are, only the new one.
func releases(t *testing.T, programs ...string) (old, next release) {
	t.Helper()
	from := os.Getenv("UPGRADE_FROM")
	if from == "" {
		return release{build(t, "v1.0.0", "1", programs...), "v1.0.0", protocol.Range{Min: 1, Max: 1}},
			release{build(t, "v1.1.0", "1-2", programs...), "v1.1.0", protocol.Range{Min: 1, Max: 2}}
	}
	if !filepath.IsAbs(from) {
		t.Fatalf("UPGRADE_FROM=%s: must be an absolute path", from)
	}
	said, err := exec.Command(filepath.Join(from, "primary"), "--version").Output()
	words := strings.Fields(string(said))
	if err != nil || len(words) < 2 {
		t.Fatalf("UPGRADE_FROM: what release is %s? %v %q", from, err, said)
	}
	old = release{dir: beside(t), version: words[1]}
	link(t, from, old.dir, programs...)
	next = release{version: "next", speaks: protocol.Spoken()}
	next.dir = build(t, next.version, fmt.Sprintf("%d-%d", next.speaks.Min, next.speaks.Max), programs...)
	return old, next
}

// spoken is what an arbiter says that it speaks. One that says nothing is of a
// release that knew only the first version.
func spoken(a *pb.ArbiterStatus) protocol.Range {
	return protocol.Said(max(a.GetProtocolMin(), 1), a.GetProtocolMax())
}

// of is what the VM's status says of a replica.
func of(s *pb.VMStatus, ref *pb.ReplicaRef) *pb.ReplicaStatus {
	for _, r := range s.GetReplicas() {
		if r.GetReplica().GetId() == ref.GetId() {
			return r
		}
	}
	return nil
}

// feed is the version of the protocol that a replica of a pair speaks with the
// other. One that says nothing is of a release that knew only the first.
func feed(r *pb.ReplicaStatus) uint32 { return max(r.GetFeedProtocol(), 1) }

// pair waits until the VM is protected by two replicas of these releases, which
// both say that their feed carries this version of the protocol.
func pair(t *testing.T, c *cluster.Cluster, vm watch.VM, active, standby string, speaks uint32) *pb.VMStatus {
	t.Helper()
	what := fmt.Sprintf("%s to be protected by %s over protocol %d", active, standby, speaks)
	s, err := vm.Wait(deadline(t), what, func(s *pb.VMStatus) bool {
		a, b := of(s, s.GetRecord().GetActive()), of(s, s.GetRecord().GetStandby())
		return s.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && strings.HasPrefix(a.GetVersion(), active) &&
			strings.HasPrefix(b.GetVersion(), standby) && feed(a) == speaks && feed(b) == speaks
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A cluster of an old release under load becomes one of the new release, one
// process after the other, as docs/upgrade.md says: nothing acknowledged is
// lost, no connection breaks, and old and new protect each other on the way.
func TestRollingUpgrade(t *testing.T) {
	old, next := releases(t, "arbiter", "primary", "secondary")
	cfg := ownEtcd(t)
	cfg.Bin, cfg.SecondArbiter = old.dir, true
	c := open(t, cfg)
	if _, err := c.StartPrimary("--or-spare"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := c.StartSecondary(); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.DialRedis(deadline(t)); err != nil {
		t.Fatal(err)
	}

	// Whichever arbiter owns the VM is asked.
	var vm watch.VM
	owner := func() string {
		t.Helper()
		ctx := deadline(t)
		for {
			for _, at := range []string{c.GRPC, c.SecondAt} {
				vm = watch.VM{Name: c.VM, Admin: c.AdminAt(at)}
				if s, err := vm.Status(ctx); err == nil && s.GetOwner().GetAddress() == at && len(s.GetReplicas()) > 0 {
					return at
				}
			}
			select {
			case <-ctx.Done():
				t.Fatal("no arbiter owns the VM")
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	owner()
	was, err := vm.Admin.GetArbiter(deadline(t), &pb.GetArbiterRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if old.speaks == (protocol.Range{}) {
		old.speaks = spoken(was) // of an older release nobody knows it beforehand
	}
	both, err := old.speaks.Agree(next.speaks, old.version, next.version)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("from %s, which speaks protocol %v, to %s, which speaks %v", old.version, old.speaks, next.version, next.speaks)
	pair(t, c, vm, old.version, old.version, old.speaks.Max)
	l := begin(t, c)

	upgrade := func(p *cluster.Process) *cluster.Process {
		t.Helper()
		if err := p.Stop(time.Minute); err != nil {
			t.Fatal(err)
		}
		n, err := c.RestartFrom(p, next.dir)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	// The arbiters: first the one that does not own the VM.
	owning, other := c.Arbiter, c.Second
	if owner() == c.SecondAt {
		owning, other = other, owning
	}
	for _, p := range []*cluster.Process{other, owning} {
		upgrade(p)
		owner()
		progress(t, l, 200)
	}
	for _, at := range []string{c.GRPC, c.SecondAt} {
		// The connection may still be pausing after the arbiter's restart.
		a, err := c.AdminAt(at).GetArbiter(deadline(t), &pb.GetArbiterRequest{}, grpc.WaitForReady(true))
		if err != nil || !strings.HasPrefix(a.GetVersion(), next.version) || spoken(a) != next.speaks {
			t.Fatalf("the arbiter at %s is %v (%v)", at, a, err)
		}
	}
	s := pair(t, c, vm, old.version, old.version, old.speaks.Max)

	// The spare, then the standby, which the spare replaces: old and new protect
	// the VM.
	drain := func(ref *pb.ReplicaRef) {
		t.Helper()
		err := watch.Order(deadline(t), func(ctx context.Context) error {
			_, err := vm.Admin.Drain(ctx, &pb.DrainRequest{Vm: c.VM, ReplicaId: ref.GetId()})
			return err
		})
		if err != nil {
			t.Fatalf("drain %s: %v", ref.GetId(), err)
		}
	}
	spare := func() *pb.VMStatus {
		t.Helper()
		s, err := vm.Wait(deadline(t), "a spare of the new release", func(s *pb.VMStatus) bool {
			for _, r := range s.GetReplicas() {
				if r.GetRole() == pb.Role_ROLE_SPARE && strings.HasPrefix(r.GetVersion(), next.version) && !r.GetDrained() {
					return true
				}
			}
			return false
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	standby := c.Standby(s)
	for _, p := range c.Replicas {
		if p != standby && p != c.Active(s) {
			upgrade(p)
			break
		}
	}
	spare()
	drain(s.GetRecord().GetStandby())
	s = pair(t, c, vm, old.version, next.version, both)
	compared := s.GetCounters().GetOutputsCompared()
	if err := vm.Resync(deadline(t)); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 300)
	if now, err := vm.Status(deadline(t)); err != nil || now.GetCounters().GetOutputsCompared() < compared+300 {
		t.Fatalf("%d outputs were compared before 300 answers, %d after them (%v)", compared, now.GetCounters().GetOutputsCompared(), err)
	}
	upgrade(standby)
	spare()

	// The active: it is switched over from, and comes back as a spare.
	active := c.Active(s)
	drain(s.GetRecord().GetActive())
	progress(t, l, 200)
	upgrade(active)
	s = pair(t, c, vm, next.version, next.version, next.speaks.Max)
	spare()
	progress(t, l, 200)
	for _, r := range s.GetReplicas() {
		if !strings.HasPrefix(r.GetVersion(), next.version) && r.GetReplica().GetId() != "" {
			t.Errorf("%s is of %s", r.GetReplica().GetId(), r.GetVersion())
		}
	}
	verify(t, l)
}

// Who has no version of the protocol in common does not protect each other, and
// the VM says what to upgrade. Who has one does: the loss of the old active in
// the middle of an upgrade is a fail-over like any other.
func TestMixedReleases(t *testing.T) {
	old, now := build(t, "v1.0.0", "1", "primary"), build(t, "v1.1.0", "1-2", "arbiter", "primary", "secondary")
	next, far := build(t, "v1.2.0", "2-3", "secondary"), build(t, "v2.0.0", "3", "secondary")
	c := open(t, cluster.Config{Bin: now})
	from := func(bin string, start func(...string) (*cluster.Process, error)) *cluster.Process {
		t.Helper()
		c.Bin = bin
		p, err := start()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	primary := from(old, c.StartPrimary)
	if err := c.DialRedis(deadline(t)); err != nil {
		t.Fatal(err)
	}
	l := begin(t, c)

	stranger := from(far, c.StartSecondary)
	says(t, stranger, "this arbiter speaks protocol 1 to 2, the replica 3: upgrade this arbiter first")
	from(next, c.StartSecondary)
	s := wait(t, c, "a word on the spare", func(s *pb.VMStatus) bool { return strings.Contains(s.GetSummary(), "no spare can protect it") })
	if !strings.Contains(s.GetSummary(), "speaks protocol 1, ") || !strings.Contains(s.GetSummary(), " 2 to 3: upgrade "+s.GetRecord().GetActive().GetId()+" first") {
		t.Errorf("the VM says %q", s.GetSummary())
	}

	from(now, c.StartSecondary)
	pair(t, c, c.Watch(), "v1.0.0", "v1.1.0", 1)
	progress(t, l, 200)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 300)
	pair(t, c, c.Watch(), "v1.1.0", "v1.2.0", 2)
	progress(t, l, 200)
	verify(t, l)
	select {
	case <-stranger.Done():
		t.Errorf("the replica that no arbiter speaks with has ended: %v", stranger.Err())
	default:
	}
}

// says waits until a process has logged something.
func says(t *testing.T, p *cluster.Process, what string) {
	t.Helper()
	ctx := deadline(t)
	for !strings.Contains(p.Log(), what) {
		select {
		case <-ctx.Done():
			t.Fatalf("%s does not say %q:\n%s", p.Name, what, p.LogTail(5))
		case <-time.After(50 * time.Millisecond):
		}
	}
}

package e2e

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/load"
	"github.com/understudy-ft/understudy/services/disk"
)

// An image has this size, and this many blocks of a file that nobody changes,
// so that a whole copy differs from one of what has changed.
const (
	diskBytes    = 64 << 20
	fillerBlocks = 2048
)

// ext4 makes an image with an ext4 file system. A machine without
// mkfs.ext4 skips the test, and says so.
func ext4(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "primary.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(diskBytes); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	content := t.TempDir()
	filler := make([]byte, fillerBlocks*disk.BlockSize)
	if _, err := rand.Read(filler); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(content, "filler"), filler, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tool(t, "mkfs.ext4"), "-q", "-F", "-d", content, path).CombinedOutput()
	if err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, out)
	}
	return path
}

// tool finds a program of e2fsprogs, which often is not in a user's PATH.
func tool(t *testing.T, name string) string {
	t.Helper()
	for _, dir := range []string{"", "/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	t.Skipf("SKIPPED, NOT TESTED: %s is missing (Debian package e2fsprogs)", name)
	return ""
}

// fsck checks a copy of an image. A machine that was lost leaves its journal to
// be replayed, as the guest's next mount would; beyond that nothing may be
// wrong.
func fsck(t *testing.T, image string, replay bool) {
	t.Helper()
	if replay {
		copied := filepath.Join(t.TempDir(), filepath.Base(image))
		if out, err := exec.Command("cp", "--sparse=always", image, copied).CombinedOutput(); err != nil {
			t.Fatalf("copy %s: %v\n%s", image, err, out)
		}
		image = copied
		if out, err := exec.Command(tool(t, "e2fsck"), "-y", "-E", "journal_only", image).CombinedOutput(); err != nil {
			t.Errorf("replay the journal of %s: %v\n%s", image, err, out)
		}
	}
	if out, err := exec.Command(tool(t, "e2fsck"), "-fn", image).CombinedOutput(); err != nil {
		t.Errorf("fsck of %s: %v\n%s", image, err, out)
	}
}

func withDisk(image string) cluster.Config {
	return cluster.Config{Disk: image, Append: "ud.disk=/dev/vda"}
}

// A guest whose database is on its disk survives fail-overs and
// resynchronizations under load: secondaries whose image is missing, empty, or
// an old one take the active's.
func TestDisk(t *testing.T) {
	image := ext4(t)
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty.img")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, withDisk(image), 0)
	images := map[*cluster.Process]string{c.Replicas[0]: image}
	add := func(path string) {
		t.Helper()
		p, err := c.StartSecondary("--disk", path)
		if err != nil {
			t.Fatal(err)
		}
		images[p] = path
	}
	// An image of another size is told of once, and not tried again while it is
	// there.
	missing := filepath.Join(dir, "missing.img")
	if err := os.WriteFile(missing, make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	add(missing)
	s := wait(t, c, "a word on the image of another size", func(s *pb.VMStatus) bool {
		return strings.Contains(s.GetSummary(), "has 4096 bytes, the active's has")
	})
	time.Sleep(5 * time.Second)
	if now := status(t, c).GetRecord(); now.GetTerm() != s.GetRecord().GetTerm() {
		t.Errorf("term %d, then %d: the image was tried again", s.GetRecord().GetTerm(), now.GetTerm())
	}
	if err := os.Remove(missing); err != nil {
		t.Fatal(err)
	}
	s = wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, 0))
	l := begin(t, c)
	for range 5 {
		if err := c.Watch().Resync(deadline(t)); err != nil {
			t.Fatal(err)
		}
		progress(t, l, 20)
	}
	add(empty)
	if err := c.Active(s).Kill(); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 50)
	s = wait(t, c, "protection by an empty image", mode(pb.Mode_MODE_PROTECTED, s.GetRecord().GetTerm()))
	progress(t, l, 50)

	add(image) // of the first primary: an old one
	if err := c.Active(s).Kill(); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 50)
	s = wait(t, c, "protection by an old image", mode(pb.Mode_MODE_PROTECTED, s.GetRecord().GetTerm()))
	progress(t, l, 50)
	if err := c.Watch().Resync(deadline(t)); err != nil {
		t.Fatal(err)
	}
	verify(t, l)
	active, standby := c.Active(s), c.Standby(s)
	if images[standby] != image {
		t.Errorf("the old image is not the standby's")
	}
	if err := active.Kill(); err != nil {
		t.Fatal(err)
	}
	fsck(t, images[active], true)
	if err := standby.Kill(); err != nil {
		t.Fatal(err)
	}
	fsck(t, images[standby], true)
}

// sent returns the numbers of blocks that the replica's first copies sent, in
// order.
func sent(t *testing.T, p *cluster.Process) (blocks []int) {
	t.Helper()
	for _, m := range firstCopy.FindAllStringSubmatch(p.LogTail(1<<20), -1) {
		n, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		blocks = append(blocks, n)
	}
	return blocks
}

var firstCopy = regexp.MustCompile(`epoch started: .* reason="new standby" .*blocks_sent=(\d+)`)

// restart starts all that was killed again, with the command lines of then.
func restart(t *testing.T, c *cluster.Cluster, replicas ...*cluster.Process) {
	t.Helper()
	for _, p := range append([]*cluster.Process{c.Arbiter, c.Gateway}, replicas...) {
		if _, err := c.Restart(p); err != nil {
			t.Fatal(err)
		}
	}
}

// survived reads back what was acknowledged before everything was killed, the
// connections with it.
func survived(t *testing.T, c *cluster.Cluster, l *load.Load) {
	t.Helper()
	res := l.Stop()
	if err := c.DialRedis(deadline(t)); err != nil {
		t.Fatal(err)
	}
	lost, err := l.Verify(deadline(t))
	if err != nil {
		t.Fatal(err)
	}
	if lost != 0 || res.Wrong != 0 {
		t.Fatalf("lost %d of %d acknowledged writes, %d wrong reads: %s", lost, res.Acked, res.Wrong, res.Problem)
	}
	t.Logf("%d acknowledged writes, nothing lost", res.Acked)
}

// Every process is killed at once, under load, and started again: first when
// both copies are good, then when only the secondary's is. The VM comes up
// from a good image each time, by itself; the primary's, which is stale by
// then, is refused, and made good again by what has changed.
func TestColdRestart(t *testing.T) {
	image := ext4(t)
	second := filepath.Join(t.TempDir(), "secondary.img")
	c := start(t, withDisk(image), 0)
	if _, err := c.StartSecondary("--disk", second); err != nil {
		t.Fatal(err)
	}
	s := wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, 0))
	l := begin(t, c)
	c.KillAll()
	fsck(t, image, true)
	restart(t, c, c.Replicas...)
	survived(t, c, l)
	s = wait(t, c, "protection after a cold restart", mode(pb.Mode_MODE_PROTECTED, s.GetRecord().GetTerm()))
	if blocks := sent(t, c.Active(s)); len(blocks) != 2 || blocks[0] < fillerBlocks || blocks[1] > fillerBlocks/2 {
		t.Errorf("the first copies sent %v blocks: want all, then what has changed", blocks)
	}

	l = begin(t, c)
	if err := c.Active(s).Kill(); err != nil {
		t.Fatal(err)
	}
	progress(t, l, 100)
	good, stale := c.Standby(s), c.Active(s)
	if good.Name == "primary" {
		t.Fatalf("%s is not to be the active copy here", stale.Name)
	}
	c.KillAll()
	fsck(t, second, true)
	restart(t, c, stale)
	stale = c.Replicas[0]
	select {
	case <-stale.Done():
	case <-deadline(t).Done():
		t.Fatal("a primary with a stale image goes on")
	}
	if word := stale.LogTail(1); stale.Err() == nil || !strings.Contains(word, "lacks what VM demo has written since") || !strings.Contains(word, good.Name) {
		t.Fatalf("a primary with a stale image ended with %v:\n%s", stale.Err(), word)
	}
	if _, err := c.Restart(good); err != nil {
		t.Fatal(err)
	}
	survived(t, c, l)
	if _, err := c.StartSecondary("--disk", image); err != nil {
		t.Fatal(err)
	}
	s = wait(t, c, "protection by the stale image", mode(pb.Mode_MODE_PROTECTED, s.GetRecord().GetTerm()))
	if blocks := sent(t, c.Active(s)); len(blocks) != 1 || blocks[0] > fillerBlocks/2 {
		t.Errorf("the copy to an old image sent %v blocks", blocks)
	}
	l = begin(t, c)
	verify(t, l)

	// An orderly end leaves both images with a clean file system.
	conn, err := net.Dial("tcp", c.Redis)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "SHUTDOWN NOSAVE\r\n"); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*cluster.Process{c.Active(s), c.Standby(s)} {
		select {
		case <-p.Done():
		case <-deadline(t).Done():
			t.Fatalf("%s goes on after the guest's power-off", p.Name)
		}
	}
	fsck(t, image, false)
	fsck(t, second, false)
	a, b := stamp(t, image), stamp(t, second)
	if a.State != disk.Ended || b.State != disk.Ended || a.Term != b.Term || a.Disk == b.Disk {
		t.Errorf("stamps after the end: %+v, %+v", a, b)
	}
}

func stamp(t *testing.T, image string) disk.Stamp {
	t.Helper()
	s, ok, err := disk.ReadStamp(image)
	if err != nil || !ok {
		t.Fatalf("stamp of %s: %v, %v", image, ok, err)
	}
	return s
}

// Everything is killed while checkpoints are being taken and written to the
// standby's image, again and again: what comes up has all that was
// acknowledged.
func TestColdRestartDuringCheckpoints(t *testing.T) {
	image := ext4(t)
	second := filepath.Join(t.TempDir(), "secondary.img")
	c := start(t, withDisk(image), 0)
	if _, err := c.StartSecondary("--disk", second); err != nil {
		t.Fatal(err)
	}
	after := uint64(0)
	for round := range 2 {
		s := wait(t, c, "protection", mode(pb.Mode_MODE_PROTECTED, after))
		after = s.GetRecord().GetTerm()
		l := begin(t, c)
		ctx, cancel := context.WithCancel(deadline(t))
		resyncs := make(chan int)
		go func() {
			n := 0
			for ctx.Err() == nil {
				if _, err := c.Admin().Resync(ctx, &pb.ResyncRequest{Vm: c.VM}); err == nil {
					n++
				}
				select {
				case <-ctx.Done():
				case <-time.After(20 * time.Millisecond): // the guests are to run, too
				}
			}
			resyncs <- n
		}()
		// Another moment of a checkpoint each time.
		progress(t, l, 100+int64(round)*37)
		c.KillAll()
		cancel()
		n := <-resyncs
		if n < 3 {
			t.Errorf("%d resynchronizations", n)
		}
		// Which copy is active may have changed in a busy machine. One image is
		// whole at any time, and what is said to be whole is.
		whole := 0
		for _, path := range []string{image, second} {
			s := stamp(t, path)
			t.Logf("%d resynchronizations; %s is %s of term %d", n, filepath.Base(path), s.State, s.Term)
			if s.Whole() {
				whole++
				fsck(t, path, true)
			}
		}
		if whole == 0 {
			t.Error("no image is whole")
		}
		restart(t, c, c.Replicas...)
		survived(t, c, l)
	}
}

// A primary whose image is another VM's, or whose record is lost, says so; an
// operator can overrule it. Once taken, the image is the VM's.
func TestDiskAdopt(t *testing.T) {
	image := ext4(t)
	cfg := withDisk(image)
	cfg.VM = "first"
	c := start(t, cfg, 0)
	l := begin(t, c)
	c.KillAll()
	survivor := stamp(t, image)
	other := func(vm, data string, args ...string) string {
		t.Helper()
		arbiter := exec.Command(filepath.Join(bin, "arbiter"), "--listen", c.GRPC, "--http", "off", "--data-dir", data)
		arbiter.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := arbiter.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			_ = arbiter.Process.Kill() // it served one question
			_ = arbiter.Wait()
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		args = append([]string{"--vm", vm, "--arbiter", c.GRPC, "--kernel", filepath.Join(guest, "Image"), "--disk", image}, args...)
		out, err := exec.CommandContext(ctx, filepath.Join(bin, "primary"), args...).CombinedOutput()
		if err == nil || ctx.Err() != nil {
			t.Fatalf("VM %s boots from it:\n%s", vm, out)
		}
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return lines[len(lines)-1]
	}
	if word := other("second", t.TempDir()); !strings.Contains(word, "is VM first's, not second's") {
		t.Errorf("another VM's image: %s", word)
	}
	if word := other("first", t.TempDir()); !strings.Contains(word, "etcd has no record of VM first") || !strings.Contains(word, "--disk-adopt") {
		t.Errorf("the record is lost: %s", word)
	}
	if word := other("first", t.TempDir(), "--standalone"); !strings.Contains(word, "belongs to the protected VM first") {
		t.Errorf("standalone: %s", word)
	}
	if s := stamp(t, image); s != survivor {
		t.Errorf("refused starts have changed the stamp from %+v to %+v", survivor, s)
	}
	if err := os.RemoveAll(filepath.Join(c.Dir, "etcd")); err != nil {
		t.Fatal(err)
	}
	restart(t, c)
	p, err := c.StartPrimary("--disk-adopt")
	if err != nil {
		t.Fatal(err)
	}
	survived(t, c, l)
	if s := stamp(t, image); s.Disk == survivor.Disk || s.State != disk.Active {
		t.Errorf("taken, its stamp is %+v, was %+v", s, survivor)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.StartPrimary(); err != nil { // it is the VM's now
		t.Fatal(err)
	}
	if err := c.DialRedis(deadline(t)); err != nil {
		t.Fatal(err)
	}
}

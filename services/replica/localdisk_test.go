package replica

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
)

// boot opens an image as a primary's, spare as a secondary's.
func boot(t *testing.T, path, vm string, adopt bool) (*localDisk, error) {
	t.Helper()
	img, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	return openLocalDisk(&Config{VM: vm, DiskPath: path, DiskAdopt: adopt, Guest: &Guest{Disk: img}, Log: hclog.NewNullLogger()})
}

func spare(path, vm string) (*localDisk, error) {
	return openLocalDisk(&Config{VM: vm, DiskPath: path, Log: hclog.NewNullLogger()})
}

func image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func read(t *testing.T, path string) disk.Stamp {
	t.Helper()
	s, ok, err := disk.ReadStamp(path)
	if err != nil || !ok {
		t.Fatalf("stamp of %s: %v, %v", path, ok, err)
	}
	return s
}

const (
	active    = pb.Role_ROLE_ACTIVE
	standby   = pb.Role_ROLE_STANDBY
	protected = pb.Mode_MODE_PROTECTED
	ended     = pb.Mode_MODE_ENDED
)

// An image keeps its name from the first start on; what it is worth to a later
// start is what it was when the process was killed.
func TestStampThroughLives(t *testing.T) {
	path := image(t)
	d, err := boot(t, path, "web", false)
	if err != nil {
		t.Fatal(err)
	}
	id := read(t, path).Disk
	steps := []struct {
		what  string
		do    func() error
		state disk.State
		term  uint64
	}{
		{"boot", func() error { return d.use(1, "r-1") }, disk.Active, 1},
		{"next term", func() error { d.follow(active, protected, 3, 1, "r-1"); return nil }, disk.Active, 3},
		{"a copy begins", d.hold, disk.Partial, 3},
		{"what is due during the copy waits", func() error { d.follow(standby, protected, 5, 1, "r-2"); return nil }, disk.Partial, 3},
		{"the copy is whole", func() error { d.release(); d.follow(standby, protected, 5, 1, "r-2"); return nil }, disk.Standby, 5},
		{"checkpoint", d.hold, disk.Partial, 5},
		{"the old state stays", func() error { d.release(); d.follow(standby, protected, 5, 1, "r-2"); return nil }, disk.Standby, 5},
		{"end", func() error {
			d.follow(standby, protected, 6, 1, "r-2")
			d.follow(standby, ended, 7, 1, "r-2")
			return nil
		}, disk.Ended, 7},
	}
	for _, s := range steps {
		if err := s.do(); err != nil {
			t.Fatalf("%s: %v", s.what, err)
		}
		d.settle()
		if d.speaks() != (s.state != disk.Partial) {
			t.Errorf("%s: a copy that is alone may speak: %v", s.what, d.speaks())
		}
		got := read(t, path)
		if got.State != s.state || got.Term != s.term || got.Disk != id || got.VM != "web" {
			t.Errorf("%s: stamp %+v, want %s in term %d", s.what, got, s.state, s.term)
		}
		for _, again := range []func() (*localDisk, error){
			func() (*localDisk, error) { return boot(t, path, "web", false) },
			func() (*localDisk, error) { return spare(path, "web") },
		} {
			n, err := again()
			if err != nil {
				t.Fatalf("%s: start again: %v", s.what, err)
			}
			h := n.hello()
			if h.GetId() != id || h.GetTerm() != s.term || h.GetWhole() != (s.state != disk.Partial) || h.GetAdopt() || n.whole() != h.GetWhole() {
				t.Errorf("%s: started again, it says %v", s.what, h)
			}
		}
	}
}

// The image of another VM is not taken, by either program, without the
// operator's word; then it is another disk.
func TestForeignImage(t *testing.T) {
	path := image(t)
	d, err := boot(t, path, "web", false)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.use(4, "r-1"); err != nil {
		t.Fatal(err)
	}
	id := read(t, path).Disk
	_, err = boot(t, path, "mail", false)
	_, err2 := spare(path, "mail")
	for _, err := range []error{err, err2} {
		if err == nil || !strings.Contains(err.Error(), "VM web's") || !strings.Contains(err.Error(), "--disk-adopt") {
			t.Errorf("the image of another VM: %v", err)
		}
	}
	d, err = boot(t, path, "mail", true)
	if err != nil {
		t.Fatal(err)
	}
	if h := d.hello(); h.GetId() == id || !h.GetAdopt() || h.GetTerm() != 0 {
		t.Errorf("taken, it says %v", h)
	}
	if s := read(t, path); s.VM != "mail" || s.State != disk.New {
		t.Errorf("taken, its stamp is %+v", s)
	}
}

// A disk that the guest may only read is copied as well, and is nobody's part:
// its stamp keeps no copy from speaking.
func TestReadOnlyDiskSpeaks(t *testing.T) {
	d, err := spare(image(t), "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.hold(); err != nil {
		t.Fatal(err)
	}
	d.release()
	if !d.speaks() {
		t.Error("a copy of a guest without a writable disk may not speak")
	}
}

// A temporary image has a name, so that the record does not name an older
// one, but leaves nothing behind.
func TestTemporaryImage(t *testing.T) {
	d, err := spare("", "web")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.hold(), d.use(3, "r-2")); err != nil {
		t.Fatal(err)
	}
	if h := d.hello(); h.GetId() == "" || h.GetPath() == "" {
		t.Errorf("it says %v", h)
	}
}

func TestKeptBoot(t *testing.T) {
	path := image(t)
	img, err := disk.Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	g := &Guest{Engine: "rv64", MemoryBytes: 128 << 20, CPUs: 1, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Append: "quiet",
		Kernel: bytes.Repeat([]byte("kernel"), 1000), Initrd: bytes.Repeat([]byte("initrd"), 500), Disk: img}
	if keptBoot(path) || keptBoot("") {
		t.Error("there is a kept boot before it was kept")
	}
	if err := keepBoot(path, g); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path + bootSuffix)
	if err != nil {
		t.Fatal(err)
	}
	if err := keepBoot(path, g); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(path + bootSuffix); err != nil || !os.SameFile(before, after) {
		t.Errorf("what was there was written again (%v)", err)
	}
	img.Close()
	got, err := readBoot(path)
	if err != nil {
		t.Fatal(err)
	}
	got.Disk.Close()
	if got.Engine != g.Engine || got.MemoryBytes != g.MemoryBytes || got.CPUs != 1 || got.MAC != g.MAC || got.Append != g.Append ||
		!bytes.Equal(got.Kernel, g.Kernel) || !bytes.Equal(got.Initrd, g.Initrd) {
		t.Error("what was read is not what was kept")
	}
	b, err := os.ReadFile(path + bootSuffix)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 60 {
		bad := bytes.Clone(b)
		if bad[n] ^= 1; n%2 == 1 {
			bad = bad[:n]
		}
		if _, _, err := parseBoot(bad); !errors.Is(err, errKeptBoot) {
			t.Fatalf("damaged at byte %d: %v", n, err)
		}
	}
	if err := os.Truncate(path, 4096); err != nil {
		t.Fatal(err)
	}
	if _, err := readBoot(path); err == nil || !strings.Contains(err.Error(), "8192") {
		t.Errorf("an image of another size: %v", err)
	}
}

package machine

import (
	"bytes"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/vmm"
)

// guestImages are the boot images that deploy/guest builds, if it was run.
func guestImages(t *testing.T) (kernel, initrd []byte) {
	t.Helper()
	kernel, err := os.ReadFile("../../build/guest/rv64/Image")
	if err == nil {
		initrd, err = os.ReadFile("../../build/guest/rv64/initrd")
	}
	if err != nil {
		t.Skipf("NOT TESTED: the guest images are not built (deploy/guest): %v", err)
	}
	return kernel, initrd
}

// screen is a console that can be waited on.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func newScreen() *screen { return &screen{changed: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.text.Write(p)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// await returns when the screen shows text.
func (s *screen) await(t *testing.T, text string, timeout time.Duration) {
	t.Helper()
	deadline := time.After(timeout)
	for !bytes.Contains([]byte(s.String()), []byte(text)) {
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("no %q within %v; the console says:\n%s", text, timeout, s)
		}
	}
}

func TestGuestBoots(t *testing.T) {
	kernel, initrd := guestImages(t)
	console, stopped := newScreen(), make(chan vmm.Stop, 1)
	m, err := New(Config{
		MemoryBytes: 512 << 20, CPUs: 1, MAC: [6]byte{2, 0, 0, 0, 0, 1},
		Kernel: kernel, Initrd: initrd, Append: "console=ttyS0 earlycon=sbi",
	}, Host{Console: console, OnStop: func(s vmm.Stop) { stopped <- s }, Log: hclog.New(&hclog.LoggerOptions{Level: hclog.Debug})})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	console.await(t, "# ", 100*time.Second)
	t.Logf("booted in %v:\n%s", time.Since(start), console)
}

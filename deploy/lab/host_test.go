package lab

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

const images = "../../build/guest/x86"

// needHosts skips a test where no emulated host can run.
func needHosts(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: boots emulated hosts")
	}
	err := Check(images)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skipf("SKIPPED: %v", err)
	}
}

// goBuild makes a static program for the hosts.
func goBuild(t *testing.T, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	cmd := exec.Command("go", append(args[:len(args)-1:len(args)-1], "-trimpath", "-ldflags", "-s -w", "-o", out, args[len(args)-1])...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, text)
	}
	return out
}

// screen keeps what a host prints.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
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

// host is a host with its console.
type host struct {
	*Host
	*screen
}

func startHost(t *testing.T, memoryMiB int, files ...File) host {
	t.Helper()
	s := &screen{changed: make(chan struct{}, 1)}
	h, err := StartHost(HostConfig{Images: images, Scratch: t.TempDir(), Files: files, MemoryMiB: memoryMiB, Console: s})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Kill)
	return host{h, s}
}

// await returns when the host has printed text.
func (h host) await(t *testing.T, text string, patience time.Duration) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(h.String(), text) {
		select {
		case <-h.changed:
		case <-h.Done():
			if !strings.Contains(h.String(), text) {
				t.Fatalf("the host ended (%v) without %q:\n%s", h.Err(), text, h)
			}
		case <-deadline:
			t.Fatalf("no %q within %v:\n%s", text, patience, h)
		}
	}
}

// guestFiles are the amd64 guest's.
func guestFiles() []File {
	return []File{
		{Name: "bzImage", From: filepath.Join(images, "bzImage")},
		{Name: "initrd", From: filepath.Join(images, "initrd")},
	}
}

// The primary boots a stock guest on KVM.
func TestPrimaryOnKVM(t *testing.T) {
	needHosts(t)
	h := startHost(t, 0, append(guestFiles(),
		File{Name: "primary", From: goBuild(t, "build", "../../primary")},
		File{Name: "run", Text: `#!/bin/sh
/host/primary --standalone --engine kvm --cpu-baseline xsave --kernel /host/bzImage --initrd /host/initrd --console - \
	--append 'console=ttyS0 quiet panic=-1 ud.service=redis ud.ip=10.0.0.2/24'
`})...)
	start := time.Now()
	h.await(t, "understudy-guest: ready", 5*time.Minute)
	t.Logf("guest ready after %v", time.Since(start).Round(time.Second))
}

// The machine's test with a whole guest: all its devices, a move to another
// machine in mid-operation, reboot and power-off, with two vCPUs.
func TestMachineOnKVM(t *testing.T) {
	needHosts(t)
	h := startHost(t, 1280, append(guestFiles(),
		File{Name: "machine.test", From: goBuild(t, "test", "-c", "../../services/machine")},
		File{Name: "run", Text: `#!/bin/sh
cd /tmp
export UNDERSTUDY_GUEST_DIR=/host UNDERSTUDY_EMULATED_KVM=1
/host/machine.test -test.v -test.run '^TestX86Guest$' -test.timeout 15m
`})...)
	h.await(t, "understudy-host: ended with status", 15*time.Minute)
	if text := h.String(); !strings.Contains(text, "--- PASS: TestX86Guest") {
		t.Errorf("the test in the host did not pass:\n%s", text)
	}
}

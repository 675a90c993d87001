package kvmhost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/deploy/initrd"
)

const images = "../../../build/guest/x86"

// needHosts skips a test where no emulated host can run.
func needHosts(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED, NOT TESTED: boots emulated hosts")
	}
	err := Check(images)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
}

// build makes a static program for the hosts with the go tool.
func build(t testing.TB, args ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "program")
	last := len(args) - 1
	cmd := exec.Command("go", append(args[:last:last], "-trimpath", "-ldflags", "-s -w", "-o", out, args[last])...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, text)
	}
	return out
}

// runHost runs a script on a host until it ends, and returns what was printed.
func runHost(t testing.TB, memoryMiB int, patience time.Duration, script string, files ...initrd.File) string {
	t.Helper()
	h, err := Start(Config{Name: "host", Dir: t.TempDir(), Images: images, MemoryMiB: memoryMiB,
		Files: append(files, initrd.File{Name: "host/run", Text: "#!/bin/sh\n" + script})})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Kill() }() // it may have ended before
	select {
	case <-h.Done():
	case <-time.After(patience):
		t.Fatalf("the host does not come to its end within %v:\n%s", patience, h.Log())
	}
	return strings.ReplaceAll(h.Log(), "\r", "")
}

var (
	ended  = regexp.MustCompile(`understudy-host: ended with status (\d+)`)
	result = regexp.MustCompile(`(?m)^\s*(--- (PASS|FAIL|SKIP): .*|PASS|FAIL|ok .*)$`)
)

// The engine and what is built on it, tested by their own tests on a KVM whose
// semantics are the kernel's: the engine, the suite that all engines are held to
// with one and two vCPUs, and the machine, with a whole Debian guest of two vCPUs
// that moves to another machine in mid-operation, reboots and powers off.
func TestEngineOnKVM(t *testing.T) {
	needHosts(t)
	for _, c := range []struct {
		name, pkg, run string
		memory         int
		files          []initrd.File
		sure           []string // tests that must have passed
	}{
		{name: "Engine", pkg: "kvm", run: ".", sure: []string{"TestSaveAfterLoad", "TestLoadOnAnotherCPU", "TestProbe"}},
		{name: "Conformance", pkg: "vmm/vmmtest", run: "KVM", sure: []string{"TestKVM", "TestKVMTwoCPUs"}},
		{name: "Machine", pkg: "machine", run: "X86", memory: 1536, sure: []string{"TestX86Life", "TestX86Copy", "TestX86Guest"}, files: []initrd.File{
			{Name: "host/bzImage", From: filepath.Join(images, "bzImage")},
			{Name: "host/initrd", From: filepath.Join(images, "initrd")},
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			const patience = 15 * time.Minute
			text := runHost(t, c.memory, patience, "cd /tmp\n"+
				"UNDERSTUDY_GUEST_DIR=/host UNDERSTUDY_EMULATED_KVM=1 /host/test -test.v -test.timeout 14m -test.run '"+c.run+"'\n",
				append(c.files, initrd.File{Name: "host/test", From: build(t, "test", "-c", "../../../services/"+c.pkg)})...)
			for _, line := range result.FindAllString(text, -1) {
				t.Log(strings.TrimSpace(line))
			}
			if m := ended.FindStringSubmatch(text); m == nil || m[1] != "0" {
				t.Fatalf("the tests in the host did not pass:\n%s", text)
			}
			for _, name := range c.sure {
				if !strings.Contains(text, "--- PASS: "+name+" ") {
					t.Errorf("%s did not pass:\n%s", name, text)
				}
			}
		})
	}
}

// BenchmarkEngineOnKVM runs the engine's benchmarks on an emulated host. What
// they print are an emulated host's times: only ratios say something.
func BenchmarkEngineOnKVM(b *testing.B) {
	needHosts(b)
	text := runHost(b, 1536, time.Hour, "cd /tmp\n/host/test -test.run '^$' -test.bench . -test.benchtime 11x -test.timeout 50m\n",
		initrd.File{Name: "host/test", From: build(b, "test", "-c", "../../../services/kvm")})
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "Benchmark") {
			fmt.Print(line)
		}
	}
	if m := ended.FindStringSubmatch(text); m == nil || m[1] != "0" {
		b.Fatalf("the benchmarks in the host failed:\n%s", text)
	}
}

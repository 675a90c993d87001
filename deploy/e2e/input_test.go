package e2e

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/services/disk"
)

// Bad input gets one clear line that says what is wrong, and an exit code that
// is not 0.
func TestBadInput(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	image := filepath.Join(guest, "Image")
	kernel, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	odd := file("odd.img", make([]byte, 1000))
	locked := file("locked.img", make([]byte, 1<<20))
	d, err := disk.Open(locked, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	taken := ln.Addr().String()

	for _, tc := range []struct {
		name, bin string
		args      []string
		want      string
	}{
		{"no kernel", "primary", []string{"--standalone"}, "--kernel"},
		{"missing kernel", "primary", []string{"--standalone", "--kernel", filepath.Join(dir, "none")}, "no such file"},
		{"empty kernel", "primary", []string{"--standalone", "--kernel", file("empty", nil)}, "kernel"},
		{"text as kernel", "primary", []string{"--standalone", "--kernel", file("text", []byte(strings.Repeat("hello ", 99)))}, "kernel"},
		{"truncated kernel", "primary", []string{"--standalone", "--kernel", file("half", kernel[:len(kernel)/2])}, "kernel"},
		{"missing initrd", "primary", []string{"--standalone", "--kernel", image, "--initrd", filepath.Join(dir, "none")}, "--initrd"},
		{"little memory", "primary", []string{"--standalone", "--kernel", image, "--memory", "1M"}, "memory"},
		{"odd memory", "primary", []string{"--standalone", "--kernel", image, "--memory", "100000001"}, "memory"},
		{"no size", "primary", []string{"--standalone", "--kernel", image, "--memory", "lots"}, "lots"},
		{"huge memory", "primary", []string{"--standalone", "--kernel", image, "--memory", "4096T"}, "memory"},
		{"many CPUs", "primary", []string{"--standalone", "--kernel", image, "--cpus", "64"}, "hart"},
		{"unknown engine", "primary", []string{"--standalone", "--kernel", image, "--engine", "steam"}, "steam"},
		{"bad MAC", "primary", []string{"--standalone", "--kernel", image, "--mac", "01:00:00:00:00:01"}, "group address"},
		{"bad uplink", "primary", []string{"--standalone", "--kernel", image, "--uplink", "pigeon"}, "pigeon"},
		{"missing disk", "primary", []string{"--standalone", "--kernel", image, "--disk", filepath.Join(dir, "none")}, "no such file"},
		{"odd disk", "primary", []string{"--standalone", "--kernel", image, "--disk", odd}, "512"},
		{"locked disk", "primary", []string{"--standalone", "--kernel", image, "--disk", locked}, "in use by another process"},
		{"unknown flag", "primary", []string{"--kernle", image}, "kernle"},
		{"bad VM name", "secondary", []string{"--vm", "a/b"}, "a/b"},
		{"bad arbiter address", "secondary", []string{"--arbiter", "nowhere"}, "host:port"},
		{"port in use", "secondary", []string{"--listen", taken}, "address already in use"},
		{"every address", "secondary", []string{"--listen", "0.0.0.0:0"}, "--advertise"},
		{"arbiter port in use", "arbiter", []string{"--listen", taken, "--http", "off"}, "address already in use"},
		{"gateway port in use", "gateway", []string{"--listen", taken}, "address already in use"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			defer cancel()
			out, err := exec.CommandContext(ctx, filepath.Join(bin, tc.bin), tc.args...).CombinedOutput()
			if ctx.Err() != nil {
				t.Fatalf("goes on; said so far:\n%s", out)
			}
			if err == nil {
				t.Fatalf("was accepted:\n%s", out)
			}
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			last := lines[len(lines)-1]
			if !strings.Contains(last, tc.want) || !strings.HasPrefix(last, tc.bin+": ") || strings.Contains(string(out), "panic") {
				t.Fatalf("want one line of %s about %q, got:\n%s", tc.bin, tc.want, out)
			}
			if len(lines) != 1 {
				t.Errorf("more than one line:\n%s", out)
			}
		})
	}
}

// A secondary of a VM that nobody runs says that it waits.
func TestSecondaryWaits(t *testing.T) {
	c, err := cluster.Start(cluster.Config{Bin: bin, Guest: guest, Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	p, err := c.StartSecondary()
	if err != nil {
		t.Fatal(err)
	}
	ctx := deadline(t)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !strings.Contains(p.LogTail(3), "waiting for the VM to need a standby") {
		select {
		case <-p.Done():
			t.Fatalf("ended: %v\n%s", p.Err(), p.LogTail(5))
		case <-ctx.Done():
			t.Fatalf("does not say that it waits:\n%s", p.LogTail(5))
		case <-tick.C:
		}
	}
}

// A replica whose arbiter cannot be reached says so once and goes on trying.
func TestUnreachableArbiter(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(bin, "secondary"), "--arbiter", addr)
	out, err := cmd.CombinedOutput()
	if err == nil || ctx.Err() == nil {
		t.Fatalf("ended by itself: %v\n%s", err, out)
	}
	if n := strings.Count(string(out), "no arbiter answers"); n != 1 {
		t.Fatalf("said so %d times:\n%s", n, out)
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/deploy/lab/kvmhost"
	"github.com/understudy-ft/understudy/deploy/story"
)

const (
	bin   = "../../bin"
	guest = "../../build/guest/x86"
)

// needHosts skips a test where no emulated host can run.
func needHosts(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED, NOT TESTED: boots emulated hosts")
	}
	if err := kvmhost.Check(guest); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED, NOT TESTED: %v", err)
	}
}

// runLab runs the lab that make build has made, and returns its results.
func runLab(t *testing.T, args ...string) []story.Result {
	t.Helper()
	needHosts(t)
	cmd := exec.Command(bin+"/lab", append([]string{"--bin", bin, "--guest", guest, "--dir", t.TempDir()}, args...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	err := cmd.Run()
	t.Logf("%v\n%s", time.Since(begin).Round(time.Second), out.String())
	if err != nil {
		t.Fatal(err)
	}
	var results []story.Result
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "{") {
			var r story.Result
			if err := json.Unmarshal([]byte(line), &r); err != nil {
				t.Fatal(err)
			}
			results = append(results, r)
		}
	}
	return results
}

// A stock x86-64 guest with two vCPUs keeps its clients' connections and
// acknowledged writes through ordered resynchronizations, the loss of the network
// of its host, and the death of the next.
func TestGuestOfTwoCPUsOutlivesItsHosts(t *testing.T) {
	results := runLab(t, "--cpus", "2", "--secondaries", "1", "--memory", "192M", "--writers", "3", "--readers", "2",
		"--calm", "5s", "--resyncs", "2")
	if len(results) != 1 {
		t.Fatalf("%d results", len(results))
	}
	r := results[0]
	if !r.Ok || r.Lost != 0 || r.Wrong != 0 || r.ConnectionsLost != 0 || r.Acked == 0 || r.Connections != 5 {
		t.Errorf("the promise was not kept: %+v", r)
	}
	if r.FailoversObserved != 2 || len(r.FailoverGapMs) != 2 {
		t.Errorf("%d fail-overs, a cut and a kill cause 2", r.FailoversObserved)
	}
	if r.Resyncs == 0 || r.PagesCompared == 0 || r.PagesSent == 0 {
		t.Errorf("%d resynchronizations with %d pages compared and %d sent", r.Resyncs, r.PagesCompared, r.PagesSent)
	}
	if r.ClockAsked < 20 || r.ClockBackwards != 0 || len(r.ClockAheadMs) != 2 { // 5 at first, 1 and 5 around each loss, 1 for each order and in the end
		t.Errorf("the guest's clock was asked %d times and ran backwards %d times", r.ClockAsked, r.ClockBackwards)
	}
}

// An interrupted lab, and one that is killed, leave no process behind, and with
// the last process goes their network namespace.
func TestInterruptedLabLeavesNothing(t *testing.T) {
	for name, signal := range map[string]syscall.Signal{"interrupted": syscall.SIGINT, "killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			needHosts(t)
			dir := t.TempDir()
			cmd := exec.Command(bin+"/lab", "--bin", bin, "--guest", guest, "--dir", dir, "--cpus", "1")
			cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- cmd.Wait() }()
			await(t, "a host", func() bool { return len(using(t, dir)) >= 3 }) // lab, lab in its namespace, QEMU
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the lab says that all went well")
				}
			case <-time.After(patience):
				t.Fatal("the lab does not end")
			}
			await(t, "the end of all processes", func() bool { return len(using(t, dir)) == 0 })
		})
	}
}

const patience = 2 * time.Minute

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("wait for %s: %v passed", what, patience)
		}
	}
}

// using lists the processes whose command lines name a directory.
func using(t *testing.T, dir string) (pids []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && bytes.Contains(line, []byte(dir)) {
			pids = append(pids, filepath.Base(filepath.Dir(path)))
		}
	}
	return pids
}

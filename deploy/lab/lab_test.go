package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
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

// runLab runs the lab that make build has made, and returns its results.
func runLab(t *testing.T, args ...string) []story.Result {
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
	if r.FailoversObserved < 2 || len(r.FailoverGapMs) != 2 {
		t.Errorf("%d fail-overs, a cut and a kill cause 2", r.FailoversObserved)
	}
	if r.Resyncs < 2 || r.PagesCompared == 0 || r.PagesSent == 0 {
		t.Errorf("%d resynchronizations with %d pages compared and %d sent", r.Resyncs, r.PagesCompared, r.PagesSent)
	}
}

// Package nettest runs a test in a network namespace of its own.
package nettest

import (
	"bytes"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/understudy-ft/understudy/deploy/network"
)

const (
	// namespaceEnv tells a test that its network namespace was made for it.
	namespaceEnv = "UNDERSTUDY_TEST_NAMESPACE"
	notTested    = "SKIPPED, NOT TESTED"
)

// Isolated runs the calling test, a whole one and no subtest, once more in a
// network namespace of its own, and takes its outcome over. It returns true
// there, and false to the caller outside, who then has nothing left to do.
func Isolated(t *testing.T) bool {
	t.Helper()
	if os.Getenv(namespaceEnv) != "" {
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread() // the child ends with this thread
	defer runtime.UnlockOSThread()
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.count", "1", "-test.timeout", "15m")
	cmd.Env = append(os.Environ(), namespaceEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	network.Isolate(cmd)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("%s: no network namespace can be made: %v", notTested, err)
	}
	err = cmd.Wait()
	t.Logf("%s", out.Bytes())
	switch {
	case err != nil:
		t.Errorf("in its network namespace: %v", err)
	case bytes.Contains(out.Bytes(), []byte(notTested)):
		t.Skip(notTested)
	}
	return false
}

// Bridge is network.NewBridge for a test, which is skipped where none can be
// made.
func Bridge(t *testing.T, own string) *network.Bridge {
	t.Helper()
	b, err := network.NewBridge("test", own)
	if err != nil {
		t.Skipf("%s: %v", notTested, err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

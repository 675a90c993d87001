package e2e

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/watch"
)

// An operator works with understudyctl, by an arbiter that does not own the VM.
func TestOperatorByCommandLine(t *testing.T) {
	cfg := ownEtcd(t)
	cfg.SecondArbiter = true
	c := start(t, cfg, 2)
	s := wait(t, c, "two replicas and a spare", func(s *pb.VMStatus) bool {
		return s.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && len(s.GetReplicas()) == 3
	})
	at := c.SecondAt
	if s.GetOwner().GetAddress() == at {
		at = c.GRPC
	}
	// ctl gives an order until the VM is in a state to carry it out.
	ctl := func(args ...string) string {
		t.Helper()
		ctx := deadline(t)
		for {
			cmd := exec.CommandContext(ctx, filepath.Join(bin, "understudyctl"), append(args, "--arbiter", at)...)
			var out, problem bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &problem
			err := cmd.Run()
			if err == nil {
				return out.String()
			}
			t.Logf("understudyctl %s: %s", strings.Join(args, " "), &problem)
			if cmd.ProcessState.ExitCode() != 1 || ctx.Err() != nil {
				t.Fatal(err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}
	shows := func(want string, args ...string) {
		t.Helper()
		if out := ctl(args...); !strings.Contains(out, want) {
			t.Errorf("%v does not show %q", args, want)
		}
	}
	// Whichever arbiter is asked, the VM's owner knows most.
	vm := watch.VM{Name: c.VM, Admin: c.AdminAt(s.GetOwner().GetAddress())}
	protected := func(more func(*pb.VMStatus) bool) *pb.VMStatus {
		t.Helper()
		s, err := vm.Wait(deadline(t), "protection", func(s *pb.VMStatus) bool {
			return s.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && len(s.GetReplicas()) == 3 && more(s)
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	active, standby := s.GetRecord().GetActive().GetId(), s.GetRecord().GetStandby().GetId()

	shows("demo  protected  "+active, "list")
	shows(s.GetOwner().GetAddress(), "arbiters")
	shows("is protected by "+standby, "show", "demo")
	ctl("resync", "demo")
	shows("compare_max_ms=1900\n", "set-policy", "demo", "compare_max_ms=1900")
	shows("compare_max_ms=1900\n", "policy", "demo")
	shows(standby, "switchover", "demo")
	s = protected(func(s *pb.VMStatus) bool { return s.GetRecord().GetActive().GetId() == standby })
	spare := ""
	for _, r := range s.GetReplicas() {
		if r.GetRole() == pb.Role_ROLE_SPARE {
			spare = r.GetReplica().GetId()
		}
	}
	ctl("drain", "demo", spare)
	shows("drained", "replicas", "demo")
	ctl("undrain", "demo", spare)
	shows("protection is suspended by an operator", "suspend", "demo")
	ctl("resume", "demo")
	protected(func(*pb.VMStatus) bool { return true })
	shows("ResumeProtection by ", "events", "demo", "--timeout", "2s")
	shows("\x1f\x8b", "bundle", "demo") // gzip
}

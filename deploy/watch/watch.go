// Package watch asks an arbiter about a VM and waits for its states. The demo,
// the lab, the end-to-end tests and the benchmarks share it.
package watch

import (
	"context"
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

const (
	pollInterval = 20 * time.Millisecond
	askTimeout   = 2 * time.Second
)

// VM is a VM as an arbiter knows it.
type VM struct {
	Name  string
	Admin pb.AdminClient
}

// Status asks the arbiter about the VM.
func (v VM) Status(ctx context.Context) (*pb.VMStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return v.Admin.GetVM(ctx, &pb.GetVMRequest{Vm: v.Name})
}

// Wait polls the VM's status until ok says so, ctx is done, or alive, which may
// be nil, fails. It returns the last status that it heard.
func (v VM) Wait(ctx context.Context, what string, ok func(*pb.VMStatus) bool, alive func() error) (*pb.VMStatus, error) {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	var last *pb.VMStatus
	for {
		if s, err := v.Status(ctx); err == nil {
			if last = s; ok(s) {
				return s, nil
			}
		}
		if alive != nil {
			if err := alive(); err != nil {
				return last, fmt.Errorf("wait for %s: %w", what, err)
			}
		}
		select {
		case <-ctx.Done():
			return last, fmt.Errorf("wait for %s: %w (last: %s)", what, ctx.Err(), last.GetSummary())
		case <-tick.C:
		}
	}
}

// Protected tells whether two copies run under the arbiter's gate in a term
// above after.
func Protected(after uint64) func(*pb.VMStatus) bool {
	return func(s *pb.VMStatus) bool {
		return s.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && s.GetRecord().GetTerm() > after
	}
}

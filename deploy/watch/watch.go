// Package watch asks an arbiter about a VM and waits for its states. The demo,
// the lab, the end-to-end tests and the benchmarks share it.
package watch

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

const (
	pollInterval = 20 * time.Millisecond
	askTimeout   = 2 * time.Second
	orderAgain   = 100 * time.Millisecond
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

// Order gives an order, and gives it again for as long as the arbiter answers that
// another change of the VM is under way (a divergence may come at any time), that
// the VM lacks a standby or that the arbiter is away for a moment, which a busy
// machine can bring about. It returns what else the arbiter answers, or the last
// answer when ctx is done.
func Order(ctx context.Context, give func(context.Context) error) error {
	for {
		err := give(ctx)
		switch status.Code(err) {
		case codes.Aborted, codes.FailedPrecondition, codes.Unavailable:
		default:
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ctx.Err(), err)
		case <-time.After(orderAgain):
		}
	}
}

// Resync orders a resynchronization, as Order does, and returns when it is done.
func (v VM) Resync(ctx context.Context) error {
	return Order(ctx, func(ctx context.Context) error {
		_, err := v.Admin.Resync(ctx, &pb.ResyncRequest{Vm: v.Name})
		return err
	})
}

// Protected tells whether two copies run under the arbiter's gate in a term
// above after.
func Protected(after uint64) func(*pb.VMStatus) bool {
	return func(s *pb.VMStatus) bool {
		return s.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && s.GetRecord().GetTerm() > after
	}
}

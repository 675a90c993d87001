package cluster

import (
	"context"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// council is the Admin of several arbiters, by their addresses. Of a VM it says
// what its owner says, or where none answers, what another does.
type council struct {
	pb.AdminClient // of one of them
	all            map[string]pb.AdminClient
}

// GetVM asks all arbiters at once.
func (c council) GetVM(ctx context.Context, r *pb.GetVMRequest, opts ...grpc.CallOption) (*pb.VMStatus, error) {
	type answer struct {
		at  string
		vm  *pb.VMStatus
		err error
	}
	answers := make(chan answer, len(c.all))
	for at, admin := range c.all {
		go func() {
			vm, err := admin.GetVM(ctx, r, opts...)
			answers <- answer{at, vm, err}
		}()
	}
	var best answer
	for range c.all {
		a := <-answers
		if a.err == nil && a.vm.GetOwner().GetAddress() == a.at {
			return a.vm, nil
		}
		if best.vm == nil {
			best = a
		}
	}
	return best.vm, best.err
}

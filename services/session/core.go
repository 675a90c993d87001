package session

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Core is the arbiter's state machine for one VM. It is not safe for use by
// several goroutines at once.
type Core struct {
	cfg     Config
	effects []Effect
}

// New returns the Core of a VM that is not owned yet.
func New(cfg Config) *Core { return &Core{cfg: cfg} }

// Step takes one input at the time now and returns what is to be done, in
// order. The slice is valid until the next Step. now must not decrease; its
// wall clock reading is used for the times that people see.
func (c *Core) Step(now time.Time, in Input) []Effect {
	c.effects = c.effects[:0]
	return c.effects
}

// Status returns what is known about the VM, for people. The message is the
// caller's.
func (c *Core) Status() *pb.VMStatus { return &pb.VMStatus{} }

// Counters returns counts that VMStatus has no place for.
func (c *Core) Counters() Counters { return Counters{} }

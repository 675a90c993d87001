package role

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// inputsPerMessage bounds a message of inputs, and so a batch.
const inputsPerMessage = 64

// Input gives a frame that the uplink heard, which the Core owns from now on.
// The standby and the guest get it with the next Flush.
func (c *Core) Input(now time.Duration, frame []byte) {
	if c.role != pb.Role_ROLE_ACTIVE || c.ended {
		return
	}
	if c.in.waiting() == 0 {
		c.gather.since = now
	}
	c.in.accept(frame)
}

// InputBacklog is the number of inputs that wait for the guest; the owner
// slows its sources down where it grows.
func (c *Core) InputBacklog() int { return c.in.waiting() }

// feedInputs sends the standby the inputs that it was not sent yet.
func (c *Core) feedInputs(now time.Duration) {
	switch {
	case !c.feeding:
		c.in.fedAll()
		return
	case c.sync.phase == pausing:
		// An input must not overtake the CheckpointBegin that says which inputs are
		// part of it.
		return
	}
	together := c.gather.on(now)
	for {
		if together && !c.seal(now) {
			return
		}
		first, frames := c.in.unfed(inputsPerMessage)
		if len(frames) == 0 {
			return
		}
		c.pace.fed = true
		c.toStandby(&pb.FromActive_Inputs{Inputs: &pb.Inputs{First: first, Frames: frames, Together: together}})
	}
}

// pump delivers waiting inputs while the guest runs and takes them. An input is
// translated once, right before the guest gets it: the flow table counts the
// inputs that it sees, and must be at the same one in both copies.
func (c *Core) pump(now time.Duration) {
	c.gather.waits = false
	c.feedInputs(now)
	for !c.paused && !c.ended && c.in.waiting() > 0 {
		n := min(c.deliverable(now), c.host.Room())
		if n == 0 {
			return
		}
		n = c.host.Deliver(c.in.translated(c.flows, n))
		if n == 0 {
			return
		}
		c.in.pop(n)
		c.gather.given, c.gather.since = now, now
	}
}

// deliverable is how many of the waiting inputs the guest may be given at once.
func (c *Core) deliverable(now time.Duration) int {
	switch batch := c.in.batch(); {
	case batch == 0 && c.feeding && c.gather.on(now):
		c.gather.waits = true // there were more than a batch holds
		return 0
	case batch == 0:
		return c.in.waiting()
	case batch < 0:
		return -batch // the rest of one that has begun
	case c.ripe(now):
		return batch
	}
	return 0
}

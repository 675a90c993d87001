package role

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Where nothing waits for a new epoch, the active does not pause at once. What
// may differ is copied ahead while both guests run; then a moment is waited for
// at which nothing is under way. Both only make the pause shorter: as soon as
// something waits after all, the guests are paused with what there is.
const (
	// youngEpoch is the age from which on an epoch is worth copying ahead of. At
	// a younger one the standby may still be busy with its checkpoint.
	youngEpoch = 250 * time.Millisecond
	// aheadMost bounds the copying, and so does a quarter of the time that a
	// synchronization may take.
	aheadMost = 2 * time.Second
	// restMost bounds the wait for a moment at which nothing is under way.
	restMost = 100 * time.Millisecond
)

// waits tells whether a synchronization for that reason lets others wait: those
// whose outputs are held.
func waits(r pb.Reason) bool {
	return r != pb.Reason_REASON_PERIODIC && r != pb.Reason_REASON_OPERATOR
}

// copyAhead begins a resynchronization without a pause (active).
func (c *Core) copyAhead(now time.Duration) {
	c.sync.phase, c.sync.pauseBy = copying, now+min(aheadMost, c.syncTimeout/4)
	c.host.CopyAhead(c.sync.epoch, c.sync.reason)
}

// approaching tells whether a resynchronization is under way that has not paused
// the guest yet (active).
func (c *Core) approaching() bool {
	return c.role == pb.Role_ROLE_ACTIVE && !c.sync.first && (c.sync.phase == copying || c.sync.phase == resting)
}

// hasten pauses the guest where it has taken long, or where an output is held
// since the last look: the copies may disagree about it, and an arbiter that has
// ordered a new epoch does not look any more.
func (c *Core) hasten(now time.Duration) {
	if !c.approaching() {
		return
	}
	oldest := c.out.oldest()
	held := oldest != 0 && oldest == c.sync.oldest
	c.sync.oldest = oldest
	if held || now >= c.sync.pauseBy {
		c.beginPause(now)
	}
}

// pauseAtRest pauses the guest where nothing is under way.
func (c *Core) pauseAtRest(now time.Duration) {
	if c.sync.phase == resting && c.out.len() == 0 && c.in.waiting() == 0 && c.host.Idle() > 0 {
		c.beginPause(now)
	}
}

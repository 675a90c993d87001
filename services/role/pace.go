package role

import "time"

// Intervals of messages that are worth gathering.
const (
	// reportEvery is the least time between two reports of outputs to the arbiter
	// while the guest runs. An output of a guest that was idle is reported at once;
	// those of a burst follow together, and what a guest that has come to rest has
	// made does not wait: no other will follow soon.
	reportEvery = time.Millisecond
	// confirmEvery is the least time between two confirmations to the standby of
	// what has left, but for those that travel with inputs. The later the standby
	// hears of it, the more it sends again after a fail-over.
	confirmEvery = 5 * time.Millisecond
)

// pace says when what has gathered was last sent.
type pace struct {
	flushed, reported, confirmed time.Duration
	// fed: inputs were sent to the standby since the last Flush.
	fed bool
}

// Flush passes on what has gathered: inputs, reports of outputs, confirmations.
// It is called after each batch of what happens, and at Due.
func (c *Core) Flush(now time.Duration) {
	if c.ended {
		return
	}
	c.pace.flushed = now
	c.pump(now)
	c.pauseAtRest(now)
	if c.reportable() && (now-c.pace.reported >= reportEvery || c.host.Idle() > 0) {
		c.pace.reported = now
		c.report(now)
	}
	if c.feeding && c.feedUp && (c.pace.fed || now-c.pace.confirmed >= confirmEvery) {
		c.pace.confirmed, c.pace.fed = now, false
		c.confirm()
	}
}

// Due is when Flush will have something to send that it is too early for; 0:
// nothing. It is not too early any more as soon as the guest is idle.
func (c *Core) Due() (at time.Duration) {
	if c.ended {
		return 0
	}
	if c.reportable() {
		at = c.pace.reported + reportEvery
	}
	if look := c.pace.flushed + restLook; (c.gather.waits || c.sync.phase == resting) && (at == 0 || look < at) {
		at = look
	}
	return at
}

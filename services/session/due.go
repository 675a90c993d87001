package session

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Intervals of Ticks: where something is under way, and where nothing is but the
// VM is not protected.
const (
	tickBusy = 10 * time.Millisecond
	tickCalm = 25 * time.Millisecond
)

// Due returns when the next Tick is due, as of the last Step; zero: at once. A
// VM whose outputs are compared, and for which nothing else is under way, has a
// few deadlines that are known, and an earlier Tick would do nothing.
func (c *Core) Due() time.Time {
	switch {
	case c.busy():
		return c.ticked.Add(tickBusy)
	case !c.steady():
		return c.ticked.Add(tickCalm)
	}
	// advance is to see that this process runs.
	due := c.ticked.Add(max(c.cfg.Heartbeat, c.heartbeatTimeout()/8))
	sooner := func(t time.Time) {
		if t.Before(due) {
			due = t
		}
	}
	for _, r := range c.replicas {
		sooner(r.sent.Add(c.cfg.Heartbeat))
		sooner(r.heard.Add(c.heartbeatTimeout()))
	}
	sooner(c.start.Add(c.pair.matcher.Due()))
	if most := c.epochMax(); most > 0 {
		sooner(c.pair.began.Add(most))
	}
	if least := c.ticked.Add(tickBusy); due.Before(least) {
		return least
	}
	return due
}

// busy tells whether something is under way that a Tick could end.
func (c *Core) busy() bool {
	p := &c.pair
	return !c.owned || c.proposal != nil || c.plan != nil || p.resync != nil || p.wanted != nil
}

// steady tells whether the outputs of a protected VM are compared, so that no
// change waits for its time.
func (c *Core) steady() bool {
	return c.record.GetMode() == pb.Mode_MODE_PROTECTED && c.pair.comparing && c.active() != nil && c.standby() != nil &&
		!c.sync.failed && c.ending == 0
}

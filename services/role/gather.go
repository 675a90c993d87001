package role

import "time"

// A guest's answers may depend on which of its inputs it finds together: a server
// that asks which of its connections are ready gets them in another order where
// one came a moment sooner. Where the copies disagree often, the active makes
// batches of inputs for a while, and each copy is given a batch as a whole, with
// one interrupt, when it has come to rest after the one before. Then both find
// the same, however far one is behind the other.
//
// It costs the guest the time between its rest and the next batch, and an input
// the wait for the rest. So it ends after a while, which is longer each time that
// the copies disagree again soon after it; and where they disagree nearly as often
// with it, about something else, it is left for a while.
const (
	// often is so many disagreements within a time.
	often       = 3
	oftenWithin = 10 * time.Second
	gatherFirst = time.Minute
	gatherMost  = time.Hour
	// restPatience bounds the wait for a guest's rest. The standby waits longer, so
	// that it need not be as fast as the active at each moment.
	restPatience        = 25 * time.Millisecond
	restPatienceStandby = 100 * time.Millisecond
	// restLook is how often a guest is looked at that has not come to rest.
	restLook = 500 * time.Microsecond
)

// gather says whether inputs are batched (active), and when the guest was given
// any.
type gather struct {
	// disagreements are when the copies last disagreed since batches began or ended,
	// oldest first.
	disagreements []time.Duration
	// without is the time in which they disagreed often without batches.
	without time.Duration
	// until is when batches end, notBefore when they may begin.
	until, notBefore time.Duration
	// gathers and leaves are how long that was the last time; 0: it was not, or has
	// been right without for as long.
	gathers, leaves time.Duration
	// since is when the oldest waiting input came, or became the oldest; given when
	// the guest was last given inputs.
	since, given time.Duration
	// waits: inputs wait for the guest's rest.
	waits bool
}

func (g *gather) on(now time.Duration) bool { return now < g.until }

// disagreed begins to gather, or ends it, where the copies disagree often.
func (g *gather) disagreed(now time.Duration) {
	if !g.on(now) && now > g.until+g.gathers {
		g.gathers = 0
	}
	if !g.on(now) && g.gathers > 0 { // it ended a moment ago, and that was too soon
		g.leaves = 0
		g.begin(now)
		return
	}
	g.disagreements = append(g.disagreements, now)
	if len(g.disagreements) < often {
		return
	}
	took := now - g.disagreements[0]
	g.disagreements = append(g.disagreements[:0], g.disagreements[1:]...)
	switch {
	case g.on(now) && took <= 2*g.without:
		g.gathers, g.leaves = 0, longer(g.leaves)
		g.until, g.notBefore = now, now+g.leaves
		g.disagreements = g.disagreements[:0]
	case !g.on(now) && took <= oftenWithin && now >= g.notBefore:
		g.without = took
		g.begin(now)
	}
}

func (g *gather) begin(now time.Duration) {
	g.gathers = longer(g.gathers)
	g.until = now + g.gathers
	g.disagreements = g.disagreements[:0]
}

// longer is how long what was done for d is done the next time.
func longer(d time.Duration) time.Duration { return min(max(2*d, gatherFirst), gatherMost) }

// ripe tells whether the guest has come to rest since it was last given inputs,
// or has let those that wait wait for too long.
func (c *Core) ripe(now time.Duration) bool {
	patience := restPatience
	if !c.feeding {
		patience = restPatienceStandby
	}
	if idle := c.host.Idle(); idle > 0 && now-idle >= c.gather.given || now-c.gather.since >= patience {
		return true
	}
	c.gather.waits = true
	return false
}

// seal makes a batch of the inputs that wait (active). It returns false where
// there are none, or the guest has not come to rest.
func (c *Core) seal(now time.Duration) bool {
	if c.in.loose() == 0 || c.in.batch() != 0 || !c.ripe(now) {
		return false
	}
	c.in.seal(inputsPerMessage)
	return true
}

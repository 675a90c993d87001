package session

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// plan is an operator's order that takes several steps: a switch-over (to drain
// the active, too) or a test of the fail-over. There is at most one. It lives
// in this Core alone: where the ownership or the term changes otherwise, it is
// over, and the VM stays as it is then.
type plan struct {
	step   planStep
	tokens []Token
	by     string
	// origin was active when the order came. Its id does not outlive the switch,
	// its address does.
	origin *pb.ReplicaRef
	// target is the id of the replica that is active after the last switch.
	target string
	// drain is written into the record with the switch, if there is one.
	drain *pb.Drained
	// after is the epoch that both must have reached before the switch.
	after uint64
	// deadline ends a wait that nothing else bounds; zero: something does.
	deadline time.Time
	// test: the VM is to be protected again and to go back, which back says to
	// have begun.
	test, back       bool
	began            time.Time
	tookOver, regain time.Duration
}

type planStep int

const (
	// A resynchronization makes the copies equal.
	equalizing planStep = iota
	// The Commit that makes the standby active is under way.
	switching
	// Test: the VM waits to be protected again.
	protecting
)

// Bounds of a plan's waits.
const (
	// restMax is how long the copies may take to come to rest before a switch,
	// on top of a resynchronization.
	restMax = 10 * time.Second
	// spareMax is how long a test waits for a replica that can protect the VM.
	spareMax = 30 * time.Second
	// favourMax is how long an old active is waited for after a switch, while
	// another spare could become the standby.
	favourMax = 2 * time.Second
)

// favour is the address of the replica that is to become the standby, if it
// comes in time: a switch-over's old active.
type favour struct {
	address string
	until   time.Time
}

// TestResult tells how a test of the fail-over went.
type TestResult struct {
	// TookOver is the time from the order to the record that makes the standby
	// active, Protected from there until the VM was protected again (0: it was
	// not).
	TookOver, Protected time.Duration
	// Returned: the VM is back where it was. Otherwise Detail says why not.
	Returned bool
	Detail   string
}

// begin starts a plan on a protected VM.
func (c *Core) begin(t Token, p *plan) {
	err := c.canChange()
	a, s := c.active(), c.standby()
	switch {
	case err != nil:
	case c.record.GetMode() != pb.Mode_MODE_PROTECTED || a == nil || s == nil:
		err = ErrNotProtected
	case c.sync.failed || c.ending != 0 || p.test && !c.atRest():
		err = ErrBusy
	}
	if err != nil {
		c.do(Reply{Token: t, Err: err})
		return
	}
	p.tokens, p.origin, p.target, p.began = []Token{t}, a.ref, a.id(), c.now
	c.plan = p
	if p.test {
		c.switchOver() // as a loss of the active would
		return
	}
	c.equalize()
}

// equalize begins the resynchronization before a switch. One that is under way
// is as good.
func (c *Core) equalize() {
	p := c.plan
	p.step, p.after = equalizing, c.nextEpoch()
	p.deadline = c.now.Add(c.syncTimeout() + restMax)
	if c.pair.resync == nil {
		c.want(pb.Reason_REASON_OPERATOR, "before a switch-over ordered by "+giver(p.by))
	}
}

// atRest tells whether the standby could become active without loss, and is
// there to.
func (c *Core) atRest() bool {
	p, s := &c.pair, c.standby()
	return c.record.GetMode() == pb.Mode_MODE_PROTECTED && c.active() != nil && s != nil && !c.quiet(s) &&
		p.comparing && p.resync == nil && p.wanted == nil && !c.sync.failed && c.ending == 0
}

// followPlan takes the plan's next step where it is due.
func (c *Core) followPlan() {
	p := c.plan
	if p == nil || c.proposal != nil || c.now.Before(c.notBefore) {
		return
	}
	if p.step == equalizing && c.pair.epoch >= p.after && c.atRest() {
		c.switchOver()
		return
	}
	if !p.deadline.IsZero() && !c.now.Before(p.deadline) {
		if p.step == protecting {
			c.tested(false, fmt.Sprintf("no replica came to protect the VM within %v", spareMax))
			return
		}
		c.endPlan(ErrNoRest)
	}
}

// switchOver makes the standby active.
func (c *Core) switchOver() {
	p, s := c.plan, c.standby()
	why := "switch-over ordered by " + giver(p.by)
	switch {
	case p.drain != nil:
		why = p.origin.GetId() + " is drained by " + giver(p.by)
	case p.back:
		why = "back after a test of the fail-over"
	case p.test:
		why = "test of the fail-over ordered by " + giver(p.by)
	}
	q := c.failOver(s, pb.Reason_REASON_OPERATOR, why)
	if p.drain != nil {
		q.record.Drained = append(q.record.Drained, p.drain)
	}
	q.plan = p
	p.step, p.deadline = switching, time.Time{}
	if !p.test {
		q.tokens, p.tokens = p.tokens, nil
	}
	c.commit(q)
}

// entered tells the plan that a term has begun, by the proposal q or by
// somebody else's (nil).
func (c *Core) planEntered(q *proposal) {
	p, rec := c.plan, c.record
	if p == nil {
		return
	}
	switch own := q != nil && q.plan == p; {
	case own && !p.test:
		c.plan = nil
		if p.drain == nil {
			c.favour = favour{p.origin.GetAddress(), c.now.Add(favourMax)}
		}
	case own:
		address := p.origin.GetAddress()
		if p.back {
			address = "" // whoever comes
		} else {
			p.tookOver = c.now.Sub(p.began)
		}
		c.favour = favour{address, c.now.Add(favourMax)}
		p.step, p.target, p.deadline = protecting, rec.GetActive().GetId(), c.now.Add(spareMax)
	case p.step != protecting || rec.GetActive().GetId() != p.target || rec.GetMode() == pb.Mode_MODE_ENDED:
		c.endPlan(ErrOvertaken)
	case rec.GetMode() == pb.Mode_MODE_SOLO:
		p.deadline = c.now.Add(spareMax)
	case rec.GetMode() == pb.Mode_MODE_SYNCING:
		p.deadline = time.Time{} // the copy has one
	case p.back:
		c.tested(true, "")
	default:
		p.regain = c.now.Sub(p.began) - p.tookOver
		if rec.GetStandby().GetAddress() != p.origin.GetAddress() {
			c.tested(false, fmt.Sprintf("%s protects the VM now, because %s did not come back in time", rec.GetStandby().GetId(), p.origin.GetId()))
			return
		}
		p.back = true
		c.equalize()
	}
}

// tested ends a test.
func (c *Core) tested(returned bool, detail string) {
	p := c.plan
	c.plan = nil
	r := &TestResult{TookOver: p.tookOver, Protected: p.regain, Returned: returned, Detail: detail}
	said := fmt.Sprintf("took over in %v", p.tookOver.Round(time.Microsecond))
	if p.regain > 0 {
		said += fmt.Sprintf(", protected again %v later", p.regain.Round(time.Millisecond))
	}
	if returned {
		said += ", and is back"
	} else {
		said += ", and did not go back: " + detail
	}
	c.report(pb.EventType_EVENT_TYPE_TESTED, pb.Reason_REASON_OPERATOR, said, nil)
	for _, t := range p.tokens {
		c.do(Reply{Token: t, Test: r})
	}
}

// endPlan gives a plan up.
func (c *Core) endPlan(err error) {
	p := c.plan
	if p == nil {
		return
	}
	c.plan = nil
	if p.test && c.owned {
		c.report(pb.EventType_EVENT_TYPE_TESTED, pb.Reason_REASON_OPERATOR, "the test of the fail-over was given up: "+err.Error(), nil)
	}
	c.replyAll(p.tokens, err)
}

// giver names who gave an order.
func giver(by string) string {
	if by == "" {
		return "an operator"
	}
	return clip(by)
}

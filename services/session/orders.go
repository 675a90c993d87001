package session

import (
	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// canChange tells whether an operator may change the record now.
func (c *Core) canChange() error {
	switch {
	case !c.owned:
		return ErrNotOwned
	case c.proposal != nil || c.plan != nil || c.now.Before(c.notBefore):
		return ErrBusy
	}
	return nil
}

// orderFailOver makes the standby active.
func (c *Core) orderFailOver(in FailOver) {
	err := c.canChange()
	a, s := c.active(), c.standby()
	switch {
	case err != nil:
	case c.record.GetMode() != pb.Mode_MODE_PROTECTED || a == nil || s == nil:
		err = ErrNotProtected
	case c.pair.resync != nil || !c.pair.comparing || c.sync.failed || c.ending != 0:
		err = ErrBusy
	case c.quiet(s):
		err = ErrBusy // it may be lost: the VM would go with it
	default:
		p := c.failOver(s, pb.Reason_REASON_OPERATOR, "ordered by "+giver(in.By))
		p.tokens = []Token{in.Token}
		c.commit(p)
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

// orderResync begins a new epoch.
func (c *Core) orderResync(in ResyncNow) {
	err := c.canChange()
	switch {
	case err != nil:
	case c.record.GetMode() != pb.Mode_MODE_PROTECTED || c.active() == nil || c.standby() == nil:
		err = ErrNotProtected
	case c.pair.resync != nil || c.pair.wanted != nil || !c.pair.comparing || c.sync.failed:
		err = ErrBusy
	default:
		c.want(pb.Reason_REASON_OPERATOR, "ordered by "+giver(in.By))
		c.pair.wanted.tokens = []Token{in.Token}
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

// orderDrop sends a replica away for good.
func (c *Core) orderDrop(in Drop) {
	why := "detached by " + giver(in.By)
	r := c.byID(in.ReplicaID)
	err := c.canChange()
	switch {
	case !c.owned:
		err = ErrNotOwned
	case r == nil:
		err = ErrUnknownReplica
	case r == c.active():
		err = ErrIsActive
	case r != c.standby():
		err = nil
		c.refuse(r, pb.Refusal_ACTION_EXIT, why)
	case err != nil:
	case c.active() == nil:
		err = ErrBusy
	default:
		c.exiting, c.exitingWhy = r.id(), why
		p := c.solo(c.active(), pb.Reason_REASON_OPERATOR, "the standby was "+why)
		p.tokens = []Token{in.Token}
		c.commit(p)
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

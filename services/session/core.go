package session

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/match"
)

// Core is the arbiter's state machine for one VM. It is not safe for use by
// several goroutines at once.
//
// Each Step first takes the input into the state, then looks at the state as a
// whole (proceed) for what is to be done next. So what is done does not depend
// on the order in which the state came about.
type Core struct {
	cfg     Config
	now     time.Time
	start   time.Time
	ticked  time.Time // the last Tick
	effects []Effect

	owned bool
	// record is what etcd holds, nil for none, at revision.
	record   *pb.Record
	revision int64
	// leases are those that the record's transaction was conditioned on, where
	// this Core made it.
	leases map[string]int64

	// replicas are the open streams, oldest first, at most one for a replica.
	replicas []*replica
	// heard is when any replica was last heard.
	heard time.Time
	// apart: no replica that the record counts on is attached. waitUntil is how
	// long one that is back waits for the other.
	apart     bool
	waitUntil time.Time

	// goodDisk is when a replica that could boot from the active's image was
	// last here.
	goodDisk time.Time

	proposal  *proposal
	notBefore time.Time // of the next Commit, after one has failed
	failures  []failures

	// soloSince is the first term of the unbroken run of SOLO and SYNCING under
	// the present active.
	soloSince uint64
	// ending: the guest ended itself; Commit ENDED for this reason.
	ending pb.Reason
	// exiting is the replica that an operator drops with the proposal, in the
	// words of exitingWhy.
	exiting    string
	exitingWhy string
	sync       synchronization
	pair       pair
	plan       *plan
	favour     favour

	counters Counters
	counts   pb.VMCounters
	matched  match.Counters // of pairs that are over
}

// New returns the Core of a VM that is not owned yet.
func New(cfg Config) *Core { return &Core{cfg: cfg.withDefaults()} }

// Step takes one input at the time now and returns what is to be done, in
// order. The slice is valid until the next Step. now must not decrease; its
// wall clock reading is used for the times that people see.
func (c *Core) Step(now time.Time, in Input) []Effect {
	clear(c.effects)
	c.effects = c.effects[:0]
	if c.start.IsZero() {
		c.start, c.now, c.heard = now, now, now
	}
	c.advance(now)
	switch in := in.(type) {
	case Owned:
		c.own(in)
	case Disowned:
		c.disown()
	case Attached:
		c.attach(in)
	case Detached:
		if r := c.byConn(in.Conn); r != nil {
			c.lose(r, in.Why)
		}
	case Received:
		c.receive(in)
	case Committed:
		c.committed(in.Revision)
	case CommitFailed:
		c.commitFailed(in)
	case FailOver:
		c.orderFailOver(in)
	case SwitchOver:
		c.begin(in.Token, &plan{by: in.By})
	case TestFailOver:
		c.begin(in.Token, &plan{by: in.By, test: true})
	case ResyncNow:
		c.orderResync(in)
	case Drop:
		c.orderDrop(in)
	case Drain:
		c.orderDrain(in)
	case Undrain:
		c.orderUndrain(in)
	case Suspend:
		c.orderSuspend(in)
	case Resume:
		c.orderResume(in)
	case SetPolicy:
		c.orderPolicy(in)
	case Tick:
		c.tick()
	}
	if c.owned {
		c.proceed()
	}
	return c.effects
}

// advance moves the clock. Where the caller itself stood still, the replicas
// have had no chance to be heard: their silence does not count.
func (c *Core) advance(now time.Time) {
	gap := now.Sub(c.now)
	if gap <= 0 {
		return
	}
	c.now = now
	if gap < max(2*c.cfg.Heartbeat, c.heartbeatTimeout()/4) {
		return
	}
	for _, r := range c.replicas {
		r.heard = r.heard.Add(gap)
	}
	if gap >= c.heartbeatTimeout()/2 {
		// Who is there is not known: replicas have left because of this silence,
		// and what is heard first was sent before it.
		if w := c.now.Add(c.heartbeatTimeout() + 2*c.cfg.Heartbeat); w.After(c.waitUntil) {
			c.waitUntil = w
		}
	}
}

// proceed does what the state calls for.
func (c *Core) proceed() {
	c.takeMatched()
	if c.proposal == nil && !c.now.Before(c.notBefore) {
		if p := c.decide(); p != nil {
			c.commit(p)
		}
	}
	c.followPlan()
	c.refuseCandidates()
	c.refuseDisks()
	c.beginResync()
}

func (c *Core) do(e Effect) { c.effects = append(c.effects, e) }

func (c *Core) own(in Owned) {
	if c.owned {
		c.disown()
	}
	c.owned = true
	c.record, c.revision = proto.CloneOf(in.Record), in.Revision
	c.leases, c.ending = nil, 0
	c.heard, c.goodDisk, c.notBefore = c.now, c.now, time.Time{}
	c.waitUntil = c.now.Add(c.heartbeatTimeout() + c.cfg.Grace)
	c.apart = true
	c.soloSince = c.record.GetTerm()
	c.resetTerm()
	c.report(pb.EventType_EVENT_TYPE_OWNED, pb.Reason_REASON_UNSPECIFIED, "", nil)
	for _, r := range append([]*replica(nil), c.replicas...) {
		c.admit(r)
	}
}

func (c *Core) disown() {
	for len(c.replicas) > 0 {
		c.refuse(c.replicas[0], pb.Refusal_ACTION_RETRY, "this arbiter does not own VM "+c.cfg.VM+" any more")
	}
	if c.proposal != nil {
		c.replyAll(c.proposal.tokens, ErrNotOwned)
	}
	c.stopComparing(ErrNotOwned)
	c.proposal, c.failures, c.favour = nil, nil, favour{}
	c.owned, c.record, c.revision, c.leases = false, nil, 0, nil
	c.exiting, c.ending = "", 0
	c.endPlan(ErrNotOwned)
	c.resetTerm()
}

func (c *Core) tick() {
	c.ticked = c.now
	for i := len(c.replicas) - 1; i >= 0; i-- {
		r := c.replicas[i]
		if silent := c.now.Sub(r.heard); silent >= c.heartbeatTimeout() {
			c.loseFor(r, "silent for "+silent.String(), pb.Refusal_ACTION_RETRY)
		} else if c.owned && c.now.Sub(r.sent) >= c.cfg.Heartbeat {
			c.send(r, &pb.ToReplica{Body: &pb.ToReplica_Heartbeat{Heartbeat: &pb.ArbiterHeartbeat{}}})
		}
	}
	if !c.owned {
		return
	}
	if len(c.replicas) == 0 && c.now.Sub(c.heard) >= c.cfg.GiveUpAfter {
		c.heard = c.now
		c.do(GiveUp{})
	}
	if p := c.proposal; p != nil && !p.inFlight && !c.now.Before(c.notBefore) {
		c.retry(p)
	}
	c.tickPair()
}

// send queues a message under the record's term.
func (c *Core) send(r *replica, m *pb.ToReplica) {
	m.Term = c.record.GetTerm()
	r.sent = c.now
	c.do(Send{Conn: r.conn, Msg: m})
}

func (c *Core) report(t pb.EventType, reason pb.Reason, detail string, stats *pb.SyncStats) {
	c.do(Report{Event: &pb.Event{UnixMs: c.now.UnixMilli(), Vm: c.cfg.VM, Term: c.record.GetTerm(), Epoch: c.pair.epoch,
		Type: t, Reason: reason, Detail: detail, Stats: proto.CloneOf(stats)}})
}

func (c *Core) replyAll(tokens []Token, err error) {
	for _, t := range tokens {
		c.do(Reply{Token: t, Err: err})
	}
}

// since is a time on the clock of package match.
func (c *Core) since() time.Duration { return c.now.Sub(c.start) }

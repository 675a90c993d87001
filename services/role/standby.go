package role

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
)

var (
	errNoFeed = errors.New("no feed to the standby")
	// ErrFeed is wrapped by the reasons for refusing a feed.
	ErrFeed = errors.New("feed refused")
)

// AcceptFeed tells whether a feed may be opened to this replica: by the active
// of its term, for its first copy. speaks is the version of the protocol that
// it is to carry.
func (c *Core) AcceptFeed(now time.Duration, term uint64, h *pb.FeedHello) (speaks uint32, err error) {
	speaks, unspoken := protocol.Spoken().Agree(protocol.Said(h.GetProtocol(), h.GetProtocolMax()), "this replica", "the active")
	switch {
	case unspoken != nil:
		return 0, fmt.Errorf("%w: %w", ErrFeed, unspoken)
	case h.GetVm() != c.cfg.VM:
		return 0, fmt.Errorf("%w: it is for VM %q, this replica is for %q", ErrFeed, h.GetVm(), c.cfg.VM)
	case h.GetStandbyId() != c.cfg.Self.GetId():
		return 0, fmt.Errorf("%w: it is for replica %q, this is %q", ErrFeed, h.GetStandbyId(), c.cfg.Self.GetId())
	case term < c.term:
		return 0, fmt.Errorf("%w: term %d is over, this replica is in term %d", ErrFeed, term, c.term)
	case term > c.term || c.role != pb.Role_ROLE_STANDBY || c.sync.phase != copying || c.ended:
		return 0, fmt.Errorf("%w: this replica has not been told to be the standby of term %d", ErrFeed, term)
	case h.GetActiveId() != c.peer.GetId():
		return 0, fmt.Errorf("%w: %q is not the active of term %d", ErrFeed, h.GetActiveId(), term)
	case c.feedUp:
		return 0, fmt.Errorf("%w: there is one already", ErrFeed)
	}
	c.feedTerm = term
	return speaks, nil
}

// FromActive takes a message of the feed, but for pages, blocks and state,
// which the owner's checkpoint receiver takes. The messages must be given in
// the order of the feed.
func (c *Core) FromActive(now time.Duration, m *pb.FromActive) {
	if c.ended || c.role != pb.Role_ROLE_STANDBY || !c.feedUp || m.GetTerm() < c.feedTerm {
		return
	}
	if c.sync.phase == settling {
		c.late = append(c.late, m) // it speaks of the epoch that is being applied
		c.lateBytes += proto.Size(m) + frameOverhead
	} else {
		c.take(now, m)
	}
	waiting := c.in.bytes + c.lateBytes
	if c.next != nil {
		waiting += c.next.bytes
	}
	if c.feedUp && waiting > maxWaitingBytes {
		c.stageFailed(pb.Reason_REASON_LAGGING, fmt.Errorf("more than %d MiB of inputs wait for the guest", maxWaitingBytes>>20))
	}
}

func (c *Core) take(now time.Duration, m *pb.FromActive) {
	switch b := m.GetBody().(type) {
	case *pb.FromActive_Inputs:
		c.fedInputs(now, b.Inputs)
	case *pb.FromActive_FlowOpened:
		c.flows.Learn(opening(b.FlowOpened))
	case *pb.FromActive_Emitted:
		if b.Emitted.GetEpoch() == c.epoch {
			c.emitted(b.Emitted)
		}
	case *pb.FromActive_CheckpointBegin:
		c.checkpointBegins(now, b.CheckpointBegin)
	}
}

func (c *Core) fedInputs(now time.Duration, m *pb.Inputs) {
	if len(m.GetFrames()) == 0 {
		return
	}
	in := c.in
	if c.next != nil {
		in = c.next
	}
	if m.GetFirst() != in.accepted+1 {
		c.stageFailed(pb.Reason_REASON_LOST_FEED,
			fmt.Errorf("the feed brought input %d after input %d", m.GetFirst(), in.accepted))
		return
	}
	if in.waiting() == 0 {
		c.gather.since = now
	}
	for _, f := range m.GetFrames() {
		in.accept(f)
		c.heard.add(f)
	}
	if m.GetTogether() {
		in.batches = append(in.batches, batch{m.GetFirst(), in.accepted})
	}
}

func (c *Core) checkpointBegins(now time.Duration, m *pb.CheckpointBegin) {
	if m.GetLive() {
		return // the receiver's business
	}
	switch {
	case c.sync.phase == copying:
		c.sync.epoch, c.sync.phase = m.GetEpoch(), transferring
	case c.sync.phase != idle || m.GetEpoch() <= c.epoch || m.GetThroughInput() > c.in.accepted:
		c.stageFailed(pb.Reason_REASON_LOST_FEED, fmt.Errorf(
			"checkpoint of epoch %d through input %d begins in epoch %d at input %d (%s)",
			m.GetEpoch(), m.GetThroughInput(), c.epoch, c.in.accepted, c.sync.phase))
		return
	default:
		c.sync = synchronization{phase: pausing, epoch: m.GetEpoch(), reason: m.GetReason(), began: now}
		c.pause()
	}
	c.sync.deadline = now + c.syncTimeout
	c.next = inboxAt(m.GetThroughInput())
	if c.sync.phase == transferring {
		c.host.AnswerDirty(c.sync.epoch) // this machine never ran: nothing to pause
	}
}

// StageReady says that the whole checkpoint is here and checked. From now on
// it is this copy's truth.
func (c *Core) StageReady(now time.Duration, ck *pb.Checkpoint) {
	if c.ended || c.role != pb.Role_ROLE_STANDBY || c.sync.phase != transferring {
		return
	}
	if through := c.next.accepted - uint64(c.next.waiting()); ck.GetEpoch() != c.sync.epoch || ck.GetThroughInput() != through {
		c.stageFailed(pb.Reason_REASON_LOST_FEED, fmt.Errorf(
			"staged epoch %d through input %d, expected epoch %d through input %d",
			ck.GetEpoch(), ck.GetThroughInput(), c.sync.epoch, through))
		return
	}
	c.sync.phase, c.sync.deadline = settling, 0
	c.stage = ck
	c.toActive(&pb.FromStandby_Staged{Staged: &pb.Staged{Epoch: ck.GetEpoch()}})
	c.toArbiter(&pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: ck.GetEpoch(), Reason: c.sync.reason}})
	c.host.ApplyStage(ck)
}

// Applied says that the machine is at the staged checkpoint. An error leaves
// no usable copy.
func (c *Core) Applied(now time.Duration, err error) {
	if c.ended || c.sync.phase != settling || c.stage == nil {
		return
	}
	ck := c.stage
	c.stage = nil
	if err == nil {
		err = c.flows.Load(ck.GetFlows())
	}
	if err != nil {
		c.toArbiter(&pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{
			Reason: pb.Reason_REASON_LOST_REPLICA, Detail: err.Error()}})
		c.discard("the checkpoint could not be applied: " + err.Error())
		return
	}
	c.epoch = ck.GetEpoch()
	c.in, c.next = c.next, nil
	c.events = 0
	c.marks.Reset()
	c.out.take()
	held := make([]output, 0, len(ck.GetHeld()))
	for _, h := range ck.GetHeld() {
		held = append(held, fromMessage(h))
	}
	c.carry(held)
	c.sync = synchronization{}
	c.paused = true // the machine was built or paused for this
	late := c.late
	c.late, c.lateBytes = nil, 0
	for _, m := range late {
		// The feed may have ended meanwhile: what it brought still counts, but a
		// checkpoint that it began will not come.
		if c.feedUp || m.GetCheckpointBegin() == nil {
			c.take(now, m)
		}
	}
	if a := c.takeover; a != nil {
		c.takeover = nil
		c.assign(now, a) // its lease may be lost meanwhile
	}
	if c.sync.phase == idle && !c.ended {
		c.resume()
	}
}

// stageFailed gives the feed up, forgets what there is of a stage and goes on
// from the old state, or as a spare where there is none. A stage that is whole
// stays, with what the feed has brought since. The arbiter decides what follows.
func (c *Core) stageFailed(reason pb.Reason, err error) {
	settles := c.sync.phase == settling
	if settles && !c.feedUp {
		return // the active notices the end of its feed, too
	}
	c.feedUp = false
	c.host.CloseFeed()
	c.event("feed lost", reason, err.Error())
	c.toArbiter(&pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{Reason: reason, Detail: err.Error()}})
	if settles {
		return
	}
	c.dropStage()
	if c.epoch == 0 {
		c.discard("the first copy failed: " + err.Error())
		return
	}
	c.resume()
}

// dropStage goes back to the old state; the inputs of the epoch that did not
// come to be are that state's next ones.
func (c *Core) dropStage() {
	c.host.DropStage()
	c.sync = synchronization{}
	if c.next != nil {
		c.in.merge(c.next)
		c.next = nil
	}
}

// takeOver makes the standby active: it goes on from its copy, gives the guest
// the inputs that the feed has brought, emits what the active did not confirm,
// and announces itself.
func (c *Core) takeOver(now time.Duration, a *pb.Assignment) {
	r := a.GetRecord()
	if c.sync.phase != idle {
		c.dropStage()
	}
	c.feedUp = false
	c.host.CloseFeed()
	c.enter(r)
	c.role = pb.Role_ROLE_ACTIVE
	c.epoch = 0
	c.marks.Reset()
	c.peer = nil
	c.out.reported = 0 // events count anew in this term
	c.host.Mute(false)
	c.emitSolo(now)
	for _, f := range c.heard.missed(c.host.GoLive(c.flows.Addresses())) {
		c.in.accept(f)
	}
	c.in.fedAll()
	c.event("took over", r.GetReason(), "")
	c.resume()
	if r.GetMode() == pb.Mode_MODE_SYNCING {
		c.stayActive(now, a) // a spare had been found before this replica heard
	}
}

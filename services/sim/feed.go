package sim

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/role"
)

// bulk is a checkpoint on its way: it is sent in parts, the last of which holds
// it all, so that it is whole at once or not at all.
type bulk struct {
	ck    *pb.Checkpoint
	guest guestState
	// The active's guest clock at the pause, and when that was.
	clock, at time.Duration
	part      int
	first     bool
	// blocks are those that may differ; image is the whole disk, for the checker.
	blocks []blockWrite
	image  [imageBlocks]block
}

// bulkParts is the number of messages of a checkpoint.
const bulkParts = 3

func (r *replica) DialFeed(to *pb.ReplicaRef) {
	r.w.hit(dialling, r.v)
	r.dial(to, r.core.Term(), 0)
}

func (r *replica) dial(to *pb.ReplicaRef, term uint64, tries int) {
	r.after(r.w.opt.delay(r.w), func() {
		if r.core.Term() != term || r.feeding != nil {
			return
		}
		var s *replica
		for _, h := range r.v.hosts {
			if h.name == to.GetAddress() {
				s = h
			}
		}
		refused := func(why string) {
			if tries > 100 {
				r.do(func() { r.core.FeedDown(r.clock(), fmt.Errorf("no feed: %s", why)) })
				return
			}
			r.after(20*time.Millisecond, func() { r.dial(to, term, tries+1) })
		}
		if r.guest == nil {
			refused("there is no machine to copy yet")
			return
		}
		if s.dead || s.stopped > r.w.now || !r.w.reach(r.process, s.process) {
			refused("unreachable")
			return
		}
		hello := &pb.FeedHello{Protocol: role.Protocol, Vm: r.v.name, ActiveId: r.id, StandbyId: to.GetId()}
		speaks, err := s.core.AcceptFeed(s.clock(), term, hello)
		if err != nil {
			refused(err.Error())
			return
		}
		if s.img == nil {
			r.opened(s, speaks)
			return
		}
		s.stamp(s.keeper.Hold, func() {
			if r.core.Term() != term || r.feeding != nil || r.dead {
				return
			}
			if speaks, err := s.core.AcceptFeed(s.clock(), term, hello); err != nil {
				refused(err.Error())
			} else {
				s.hasDisk = true
				r.opened(s, speaks)
			}
		})
	})
}

// opened begins a feed that the standby has accepted.
func (r *replica) opened(s *replica, speaks uint32) {
	st := r.w.connect(r.process, s.process)
	mine, theirs := st.ends[0], st.ends[1]
	r.feeding, s.following = mine, theirs
	mine.recv = func(msg any) {
		if r.feeding != mine {
			return
		}
		switch m := msg.(type) {
		case *dirtyBlocks:
			if r.answer = m; r.finish != nil {
				r.finish()
			}
		case *pb.FromStandby:
			r.do(func() { r.core.FromStandby(r.clock(), m) })
		}
	}
	mine.down = func(why string) {
		if r.feeding == mine {
			r.do(func() { r.core.FeedDown(r.clock(), fmt.Errorf("%s", why)) })
		}
	}
	theirs.recv = func(msg any) {
		if s.following != theirs {
			return
		}
		if s.holding {
			s.waiting = append(s.waiting, msg)
			return
		}
		s.take(msg)
	}
	theirs.down = func(why string) {
		if s.following == theirs {
			s.do(func() { s.core.FeedDown(s.clock(), fmt.Errorf("%s", why)) })
		}
	}
	st.start()
	s.do(func() { s.core.FeedUp(s.clock(), speaks) })
	r.do(func() { r.core.FeedUp(r.clock(), speaks) })
}

// take is the standby's checkpoint receiver and the core's feed.
func (r *replica) take(msg any) {
	switch m := msg.(type) {
	case *liveBlocks:
		for _, u := range m.blocks {
			r.img.write(u.n, u.data)
		}
		r.img.kept = true
	case *bulk:
		r.w.hit(bulkArrives, r.v)
		r.mutateBulk(m)
		if m.part == bulkParts {
			r.pending = m
			r.stage()
		}
	case *pb.FromActive:
		if m.GetCheckpointBegin() != nil {
			r.w.hit(checkpointBegins, r.v)
			r.pending, r.allowed = nil, false
		}
		m = r.mutateFeed(m)
		r.do(func() { r.core.FromActive(r.clock(), m) })
	}
}

// stage tells the core of a whole checkpoint that was allowed to begin. Where it
// changes the disk, the disk's stamp says so before.
func (r *replica) stage() {
	if !r.allowed || r.pending == nil {
		return
	}
	b, feed := r.pending, r.following
	r.pending, r.allowed = nil, false
	held := r.changesDisk(b)
	ready := func() {
		if r.holding = false; r.following == feed && feed != nil {
			r.staged = b
			r.do(func() { r.core.StageReady(r.clock(), b.ck) })
		}
		if held && !r.applying {
			r.keeper.Release() // the old state stays
		}
		waiting := r.waiting
		r.waiting = nil
		for _, msg := range waiting {
			switch {
			case r.following != feed:
			case r.holding:
				r.waiting = append(r.waiting, msg)
			default:
				r.take(msg)
			}
		}
	}
	if !held || r.w.mutated(NoHold) {
		ready()
		return
	}
	r.holding = true
	r.stamp(r.keeper.Hold, ready)
}

func (r *replica) CloseFeed() {
	for _, e := range []*end{r.feeding, r.following} {
		if e != nil {
			e.close()
		}
	}
	r.feeding, r.following = nil, nil
}

func (r *replica) CopyLive() {
	r.w.hit(copying, r.v)
	feed := r.feeding
	takes := r.w.between(20*time.Millisecond, 300*time.Millisecond)
	r.copyDisk(feed, takes)
	r.after(takes, func() {
		if r.feeding == feed && feed != nil {
			r.do(func() { r.core.CopyConverged(r.clock()) })
		}
	})
}

func (r *replica) CopyAhead(uint64, pb.Reason) {
	r.w.hit(copyingAhead, r.v)
	feed := r.feeding
	r.after(r.w.between(0, 100*time.Millisecond), func() {
		if r.feeding == feed && feed != nil {
			r.do(func() { r.core.CopyConverged(r.clock()) })
		}
	})
}

func (r *replica) SendCheckpoint(ck *role.Checkpoint) {
	feed := r.feeding
	if feed == nil {
		return
	}
	r.w.hit(checkpointSent, r.v)
	if !r.guest.paused {
		r.w.fail("rule 4: %s takes a checkpoint of a running guest", r.id)
	}
	r.epochRules(ck)
	b := bulk{guest: r.mutateState(r.guest.state.clone()), clock: r.clock() + r.guest.offset, at: r.w.now, first: ck.First}
	b.ck = proto.CloneOf(&pb.Checkpoint{Epoch: ck.Epoch, Flows: r.mutateFlows(ck.Flows), Held: ck.Held, ThroughInput: ck.ThroughInput})
	feed.send(&pb.FromActive{Term: r.core.Term(), Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: &pb.CheckpointBegin{
		Epoch: ck.Epoch, Reason: ck.Reason, ThroughInput: ck.ThroughInput}}})
	r.mutateSent(ck)
	r.answer, r.finish = nil, nil
	if ck.First {
		r.answer = &dirtyBlocks{} // the standby has just been sent all
	}
	last := func() {
		if r.feeding != feed {
			return
		}
		r.finish = nil
		b.blocks = r.differing(r.answer)
		if r.img != nil {
			b.image = r.img.cache
		}
		p := b
		feed.send(&p)
		r.do(func() { r.core.Checkpointed(r.clock(), &pb.SyncStats{}) })
	}
	for part := 1; part <= bulkParts; part++ {
		b.part = part
		p := b
		r.work(r.w.between(time.Millisecond/bulkParts, 20*time.Millisecond/bulkParts), func() {
			switch {
			case r.feeding != feed:
			case p.part < bulkParts:
				feed.send(&p)
			case r.answer != nil:
				last()
			default:
				r.finish = last
			}
		})
	}
}

func (r *replica) AbortSync() {}

func (r *replica) AnswerDirty(uint64) {
	r.allowed = true
	if r.following != nil {
		r.following.send(r.dirty())
	}
	r.after(r.w.opt.delay(r.w), r.stage)
}

func (r *replica) ApplyStage(*pb.Checkpoint) {
	r.w.hit(applying, r.v)
	b := r.staged
	r.applying = true
	if r.w.mutated(EarlyRelease) && r.img != nil {
		r.keeper.Release()
	}
	r.applyDisk(b)
	r.work(r.w.between(time.Millisecond, 15*time.Millisecond), func() {
		if r.staged != b {
			return
		}
		if r.applying = false; r.img != nil {
			r.keeper.Release()
		}
		r.guest = &guest{state: b.guest.clone(), paused: true}
		// An upper bound of the active's clock, as the feed measures it.
		r.guest.offset = b.clock + (r.w.now-b.at)*101/100 + time.Millisecond - r.clock()
		r.staged = nil
		r.w.hit(applied, r.v)
		r.do(func() { r.core.Applied(r.clock(), nil) })
	})
}

func (r *replica) DropStage() { r.pending, r.allowed = nil, false }

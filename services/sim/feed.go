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
		r.opened(s, speaks)
	})
}

// opened begins a feed that the standby has accepted.
func (r *replica) opened(s *replica, speaks uint32) {
	st := r.w.connect(r.process, s.process)
	mine, theirs := st.ends[0], st.ends[1]
	r.feeding, s.following = mine, theirs
	mine.recv = func(msg any) {
		if r.feeding == mine {
			r.do(func() { r.core.FromStandby(r.clock(), msg.(*pb.FromStandby)) })
		}
	}
	mine.down = func(why string) {
		if r.feeding == mine {
			r.do(func() { r.core.FeedDown(r.clock(), fmt.Errorf("%s", why)) })
		}
	}
	theirs.recv = func(msg any) {
		if s.following == theirs {
			s.take(msg)
		}
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

// stage tells the core of a whole checkpoint that was allowed to begin.
func (r *replica) stage() {
	if !r.allowed || r.pending == nil {
		return
	}
	r.staged, r.pending, r.allowed = r.pending, nil, false
	r.do(func() { r.core.StageReady(r.clock(), r.staged.ck) })
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
	r.after(r.w.between(20*time.Millisecond, 300*time.Millisecond), func() {
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
	b := bulk{guest: r.mutateState(r.guest.state.clone()), clock: r.clock() + r.guest.offset, at: r.w.now}
	b.ck = proto.CloneOf(&pb.Checkpoint{Epoch: ck.Epoch, Flows: r.mutateFlows(ck.Flows), Held: ck.Held, ThroughInput: ck.ThroughInput})
	feed.send(&pb.FromActive{Term: r.core.Term(), Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: &pb.CheckpointBegin{
		Epoch: ck.Epoch, Reason: ck.Reason, ThroughInput: ck.ThroughInput}}})
	r.mutateSent(ck)
	for part := 1; part <= bulkParts; part++ {
		b.part = part
		p := b
		r.work(r.w.between(time.Millisecond/bulkParts, 20*time.Millisecond/bulkParts), func() {
			if r.feeding != feed {
				return
			}
			feed.send(&p)
			if p.part == bulkParts {
				r.do(func() { r.core.Checkpointed(r.clock(), &pb.SyncStats{}) })
			}
		})
	}
}

func (r *replica) AbortSync() {}

func (r *replica) AnswerDirty(uint64) {
	r.allowed = true
	r.after(r.w.opt.delay(r.w), r.stage)
}

func (r *replica) ApplyStage(*pb.Checkpoint) {
	r.w.hit(applying, r.v)
	b := r.staged
	r.work(r.w.between(time.Millisecond, 15*time.Millisecond), func() {
		if r.staged != b {
			return
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

package sim

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
	"github.com/understudy-ft/understudy/services/role"
)

// replica is a replica's process: the production role core in a shell that does
// what package replica does, with a toy guest.
type replica struct {
	*process
	core  *role.Core
	id    string
	lives int
	boot  bool // a candidate with a bootable guest

	guest   *guest
	muted   bool
	heardBy [][]byte // what the muted uplink heard lately

	lease      int64
	leaseUntil time.Duration

	attach    *end
	attachSeq int
	feeding   *end // active's end of the feed
	following *end // standby's end
	allowed   bool // AnswerDirty was called
	pending   *bulk
	staged    *bulk
	workUntil time.Duration // the worker is busy until then
}

// bulk is a checkpoint on its way.
type bulk struct {
	ck    *pb.Checkpoint
	guest guestState
}

func (w *world) newReplica(name string, boot bool) *replica {
	r := &replica{process: w.newProcess(name), boot: boot}
	w.hosts = append(w.hosts, r)
	r.start()
	return r
}

// start begins a life.
func (r *replica) start() {
	r.lives++
	r.id = fmt.Sprintf("%s.%d", r.name, r.lives)
	r.guest, r.muted, r.heardBy = nil, true, nil
	r.lease, r.attach, r.feeding, r.following = 0, nil, nil, nil
	r.allowed, r.pending, r.staged, r.workUntil = false, nil, nil, 0
	r.core = role.New(role.Config{VM: "vm", Self: &pb.ReplicaRef{Id: r.id, Address: r.name}, Candidate: r.boot, FlowSeed: 1}, r)
	r.takeLease()
	r.tick()
}

// restart is a new start of the process after a crash, or of its life after a
// discard.
func (r *replica) restart() {
	r.life++
	r.dead = false
	r.start()
}

// crash ends the process; its peers hear of it.
func (r *replica) crash() {
	r.w.log("%s crashes", r.id)
	r.dead = true
	r.boot = false
	for _, e := range []*end{r.attach, r.feeding, r.following} {
		if e != nil {
			e.tell()
		}
	}
}

// do lets the core take something and flushes.
func (r *replica) do(fn func()) {
	fn()
	r.core.Flush(r.clock())
}

func (r *replica) takeLease() {
	sent := r.clock()
	id := r.id
	r.w.etcd.do(r.process, func() func() {
		if r.w.etcd.exists(id) {
			return r.takeLease
		}
		lease := r.w.etcd.grant(id)
		return func() {
			r.lease, r.leaseUntil = lease, sent+leaseTTL-leaseMargin
			r.do(func() { r.core.Lease(r.clock(), r.lease, r.leaseUntil) })
			if r.attach == nil {
				r.connect()
			}
			r.after(renewEvery, r.renew)
		}
	}, r.takeLease)
}

func (r *replica) renew() {
	sent, id := r.clock(), r.lease
	r.w.etcd.do(r.process, func() func() {
		ok := r.w.etcd.renew(id)
		return func() {
			if !ok {
				r.do(func() { r.core.Lease(r.clock(), 0, 0) })
				r.takeLease()
				return
			}
			r.leaseUntil = sent + leaseTTL - leaseMargin
			r.do(func() { r.core.Lease(r.clock(), r.lease, r.leaseUntil) })
			r.after(renewEvery, r.renew)
		}
	}, func() { r.after(renewEvery, r.renew) })
}

func (r *replica) tick() {
	r.after(10*time.Millisecond, r.tick)
	var idle time.Duration
	if r.guest != nil && !r.guest.paused && len(r.guest.state.inbox) == 0 {
		idle = time.Second
	}
	r.do(func() { r.core.Tick(r.clock(), idle) })
}

// connect attaches to one of the arbiters: the one it is sent to, or any.
func (r *replica) connect() {
	r.attachSeq++
	seq := r.attachSeq
	a := r.w.arbiters[r.w.rng.IntN(len(r.w.arbiters))]
	r.after(r.w.opt.delay(r.w), func() {
		if r.attachSeq != seq {
			return
		}
		if a.dead || r.w.cut(r.process, a.process) || a.stopped > r.w.now {
			r.after(100*time.Millisecond, r.connect)
			return
		}
		s := r.w.connect(r.process, a.process)
		mine, theirs := s.ends[0], s.ends[1]
		r.attach = mine
		mine.recv = func(msg any) {
			if r.attach == mine {
				r.do(func() { r.core.FromArbiter(r.clock(), msg.(*pb.ToReplica)) })
			}
		}
		mine.down = func(why string) {
			if r.attach == mine {
				r.attach = nil
				r.do(func() { r.core.ArbiterDown(r.clock()) })
				r.after(50*time.Millisecond, r.connect)
			}
		}
		theirs.recv = func(msg any) { a.accept(theirs, msg.(*pb.FromReplica)) }
		theirs.down = func(string) {}
		mine.send(r.core.Hello())
		s.start()
		r.do(func() { r.core.ArbiterUp(r.clock()) })
	})
}

// work queues something for the worker.
func (r *replica) work(takes time.Duration, fn func()) {
	at := max(r.workUntil, r.w.now) + takes
	r.workUntil = at
	r.after(at-r.w.now, fn)
}

// The methods of role.Host.

var _ role.Host = (*replica)(nil)

func (r *replica) ToArbiter(m *pb.FromReplica) {
	if r.attach != nil {
		r.attach.send(m)
	}
}

func (r *replica) ToStandby(m *pb.FromActive) {
	if r.feeding != nil {
		r.feeding.send(m)
	}
}

func (r *replica) ToActive(m *pb.FromStandby) {
	if r.following != nil {
		r.following.send(m)
	}
}

func (r *replica) Emit(frame []byte, leased bool) {
	if r.muted || leased && r.clock() >= r.leaseUntil {
		return
	}
	r.w.check.emitted(r, payload(frame), leased)
	r.w.toClients(frame)
}

func (r *replica) Room() bool {
	return r.guest != nil && !r.guest.paused && len(r.guest.state.inbox) < guestInbox
}

func (r *replica) Deliver(frame []byte) bool {
	r.guest.state.inbox = append(r.guest.state.inbox, append([]byte(nil), frame...))
	r.wake()
	return true
}

// wake lets the guest serve its requests one after the other.
func (r *replica) wake() {
	g := r.guest
	if g == nil || g.paused || g.busy || len(g.state.inbox) == 0 {
		return
	}
	g.busy = true
	r.after(r.w.thinking(), func() {
		g.busy = false
		if r.guest != g || g.paused || len(g.state.inbox) == 0 {
			return
		}
		if frame := g.serve(r.w); frame != nil {
			r.do(func() { r.core.Output(r.clock(), frame) })
		}
		r.do(func() { r.core.InputRoom(r.clock()) })
		r.wake()
	})
}

func (r *replica) Boot() {
	r.work(time.Millisecond, func() {
		r.w.check.booted(r)
		r.guest = newGuest()
		r.do(func() { r.core.InputRoom(r.clock()) })
	})
}

func (r *replica) Pause() {
	r.work(r.w.between(100*time.Microsecond, time.Millisecond), func() {
		if r.guest != nil {
			r.guest.paused = true
		}
		r.do(func() { r.core.Paused(r.clock()) })
	})
}

func (r *replica) Resume() {
	r.work(50*time.Microsecond, func() {
		if r.guest != nil {
			r.guest.paused = false
			r.wake()
		}
		r.do(func() { r.core.InputRoom(r.clock()) })
	})
}

func (r *replica) DialFeed(to *pb.ReplicaRef) { r.dial(to, r.core.Term(), 0) }

func (r *replica) dial(to *pb.ReplicaRef, term uint64, tries int) {
	r.after(r.w.opt.delay(r.w), func() {
		if r.core.Term() != term || r.feeding != nil {
			return
		}
		var s *replica
		for _, h := range r.w.hosts {
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
		if s.dead || s.stopped > r.w.now || r.w.cut(r.process, s.process) {
			refused("unreachable")
			return
		}
		hello := &pb.FeedHello{Protocol: role.Protocol, Vm: "vm", ActiveId: r.id, StandbyId: to.GetId()}
		if err := s.core.AcceptFeed(s.clock(), term, hello); err != nil {
			refused(err.Error())
			return
		}
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
		s.do(func() { s.core.FeedUp(s.clock()) })
		r.do(func() { r.core.FeedUp(r.clock()) })
	})
}

// take is the standby's checkpoint receiver and the core's feed.
func (r *replica) take(msg any) {
	switch m := msg.(type) {
	case *bulk:
		r.pending = m
		r.stage()
	case *pb.FromActive:
		if m.GetCheckpointBegin() != nil {
			r.pending, r.allowed = nil, false
		}
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
	if !r.guest.paused {
		r.w.fail("%s takes a checkpoint of a running guest", r.id)
	}
	b := &bulk{guest: r.guest.state.clone(), ck: &pb.Checkpoint{
		Epoch: ck.Epoch, Flows: ck.Flows, Held: ck.Held, ThroughInput: ck.ThroughInput}}
	feed.send(&pb.FromActive{Term: r.core.Term(), Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: &pb.CheckpointBegin{
		Epoch: ck.Epoch, Reason: ck.Reason, ThroughInput: ck.ThroughInput}}})
	r.work(r.w.between(time.Millisecond, 20*time.Millisecond), func() {
		if r.feeding == feed {
			feed.send(b)
			r.do(func() { r.core.Checkpointed(r.clock(), &pb.SyncStats{}) })
		}
	})
}

func (r *replica) AbortSync() {}

func (r *replica) AnswerDirty(uint64) {
	r.allowed = true
	r.after(r.w.opt.delay(r.w), r.stage)
}

func (r *replica) ApplyStage(ck *pb.Checkpoint) {
	b := r.staged
	r.work(r.w.between(time.Millisecond, 15*time.Millisecond), func() {
		r.guest = &guest{state: b.guest.clone(), paused: true}
		r.staged = nil
		r.do(func() { r.core.Applied(r.clock(), nil) })
	})
}

func (r *replica) DropStage() { r.pending, r.allowed = nil, false }

func (r *replica) Mute(m bool) {
	r.muted = m
	if !m {
		r.w.check.unmuted(r)
	}
}

func (r *replica) GoLive([]packet.Announcement) [][]byte {
	heard := r.heardBy
	r.heardBy = nil
	return heard
}

func (r *replica) Reattach() {
	if r.attach != nil {
		r.attach.close()
		r.attach = nil
	}
	r.core.ArbiterDown(r.clock())
	r.after(200*time.Millisecond, r.connect)
}

func (r *replica) Discard(why string) {
	r.w.log("%s discards: %s", r.id, why)
	r.boot = false
	r.muted = true
	r.end()
	r.after(10*time.Millisecond, r.restart)
}

func (r *replica) Exit(err error) {
	r.w.log("%s exits: %v", r.id, err)
	r.end()
	r.dead = true
}

// end closes the streams and gives the lease up.
func (r *replica) end() {
	if r.attach != nil {
		r.attach.close()
		r.attach = nil
	}
	r.CloseFeed()
	id := r.lease
	r.w.etcd.do(r.process, func() func() {
		delete(r.w.etcd.leases, id)
		return func() {}
	}, func() {})
}

func (r *replica) Report(e role.Event) {
	r.w.log("%s: %s term %d epoch %d %s %s", r.id, e.What, e.Term, e.Epoch, e.Mode, e.Detail)
}

// copyOf is the newest state that the replica holds or has staged.
func (r *replica) copyOf() *guestState {
	switch {
	case r.staged != nil:
		return &r.staged.guest
	case r.guest != nil:
		return &r.guest.state
	}
	return nil
}

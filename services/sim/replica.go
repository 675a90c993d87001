package sim

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/role"
)

// replica is a replica's process: the production role core in a shell that does
// what package replica does, with a toy guest.
type replica struct {
	*process
	v     *vm
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
	sentTo    string // the arbiter to attach to next
	feeding   *end   // active's end of the feed
	following *end   // standby's end
	allowed   bool   // AnswerDirty was called
	pending   *bulk
	staged    *bulk
	claiming  bool          // a transaction of its own is under way
	workUntil time.Duration // the worker is busy until then
	mutant    mutant
}

func (v *vm) newReplica(name string, boot bool) *replica {
	r := &replica{process: v.w.newProcess(name), v: v, boot: boot}
	v.hosts = append(v.hosts, r)
	r.start()
	return r
}

// start begins a life.
func (r *replica) start() {
	r.lives++
	r.id = fmt.Sprintf("%s.%d", r.name, r.lives)
	r.guest, r.muted, r.heardBy = nil, true, nil
	r.lease, r.attach, r.feeding, r.following = 0, nil, nil, nil
	r.claiming = false
	r.allowed, r.pending, r.staged, r.workUntil = false, nil, nil, 0
	r.mutant = mutant{}
	r.core = role.New(role.Config{VM: r.v.name, Self: &pb.ReplicaRef{Id: r.id, Address: r.name}, Candidate: r.boot, FlowSeed: 1, SoloAfter: r.w.opt.soloAfter}, r)
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

// crash ends the process. Its peers hear of it, unless its host went with it.
func (r *replica) crash(silent bool) {
	r.w.log("%s crashes (silently %v)", r.id, silent)
	r.dead = true
	r.boot = false
	for _, e := range []*end{r.attach, r.feeding, r.following} {
		if e != nil && !silent {
			e.tell()
		}
	}
}

// do lets the core take something and flushes.
func (r *replica) do(fn func()) {
	fn()
	r.core.Flush(r.clock())
}

// held tells the core of its lease.
func (r *replica) held(id int64, until time.Duration) {
	r.lease, r.leaseUntil = id, until
	if r.w.mutated(EternalLease) {
		r.leaseUntil = forever
	}
	r.do(func() { r.core.Lease(r.clock(), r.lease, r.leaseUntil) })
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
			r.held(lease, sent+leaseTTL-leaseMargin)
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
				if !r.w.mutated(EternalLease) {
					r.held(0, 0)
				}
				r.takeLease()
				return
			}
			r.held(id, sent+leaseTTL-leaseMargin)
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
	for _, o := range r.w.arbiters {
		if o.name == r.sentTo {
			a = o
		}
	}
	r.sentTo = ""
	r.after(r.w.opt.delay(r.w), func() {
		if r.attachSeq != seq {
			return
		}
		if a.dead || !r.w.reach(r.process, a.process) || a.stopped > r.w.now {
			r.after(100*time.Millisecond, r.connect)
			return
		}
		s := r.w.connect(r.process, a.process)
		mine, theirs := s.ends[0], s.ends[1]
		r.attach = mine
		mine.recv = func(msg any) {
			if r.attach == mine {
				r.fromArbiter(msg.(*pb.ToReplica))
			}
		}
		mine.down = func(why string) {
			if r.attach == mine {
				r.attach = nil
				r.do(func() { r.core.ArbiterDown(r.clock()) })
				r.after(50*time.Millisecond, r.connect)
			}
		}
		theirs.recv = func(msg any) { a.accept(r.v, theirs, msg.(*pb.FromReplica)) }
		theirs.down = func(string) {}
		mine.send(r.core.Hello())
		s.start()
		r.do(func() { r.core.ArbiterUp(r.clock()) })
	})
}

func (r *replica) fromArbiter(m *pb.ToReplica) {
	if to := m.GetRefusal(); to.GetAction() == pb.Refusal_ACTION_REDIRECT {
		r.sentTo = to.GetAddress()
		r.attach.close()
		r.attach = nil
		r.do(func() { r.core.ArbiterDown(r.clock()) })
		r.after(20*time.Millisecond, r.connect)
		return
	}
	if r.w.mutation != "" {
		m = proto.CloneOf(m)
		r.mutateOrder(m)
	}
	r.do(func() { r.core.FromArbiter(r.clock(), m) })
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

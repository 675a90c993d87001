package sim

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
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
	// primary: the process starts as a candidate, and goes on as a spare where it
	// is not wanted as one.
	primary bool
	gone    bool // for good
	starts  int  // of the process

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
	claiming  bool  // a transaction of its own is under way
	jobs      []job // of the worker
	flushing  bool  // a flush is under way
	mutant    mutant
	// rules says for each epoch of the present pair what is done with the dice.
	rules map[uint64]string

	// img is the host's disk image, nil for none; keeper its stamp's, while the
	// process lives.
	img     *image
	keeper  *disk.Keeper
	adopt   bool // an operator starts it with --disk-adopt
	hasDisk bool // the guest has a disk here
	// written are the blocks written since the last common epoch.
	written  uint64
	stamps   []stampWrite // under way or waiting
	noting   bool
	holding  bool  // the feed waits for a stamp
	waiting  []any // what the feed brought meanwhile
	applying bool
	answer   *dirtyBlocks // the standby's, to the checkpoint that is being sent
	finish   func()       // sends the last part once the answer is here
}

func (v *vm) newReplica(name string, boot bool) *replica {
	r := &replica{process: v.w.newProcess(name), v: v, boot: boot, primary: boot && v.disks}
	v.hosts = append(v.hosts, r)
	if v.disks {
		r.img = v.w.newImage()
	}
	r.start()
	return r
}

// start begins a life.
func (r *replica) start() {
	r.lives++
	r.id = fmt.Sprintf("%s.%d", r.name, r.lives)
	r.guest, r.muted, r.heardBy = nil, true, nil
	r.lease, r.attach, r.feeding, r.following = 0, nil, nil, nil
	r.claiming, r.flushing = false, false
	r.allowed, r.pending, r.staged, r.jobs = false, nil, nil, nil
	r.mutant, r.rules = mutant{}, map[uint64]string{}
	r.hasDisk, r.written, r.stamps, r.noting, r.holding, r.waiting = false, 0, nil, false, false, nil
	r.applying, r.answer, r.finish = false, nil, nil
	if r.img != nil && r.keeper == nil {
		r.openDisk()
	}
	cfg := role.Config{VM: r.v.name, Self: &pb.ReplicaRef{Id: r.id, Address: r.name}, Process: fmt.Sprintf("%s#%d", r.name, r.starts), Candidate: r.boot, FlowSeed: 1, SoloAfter: r.w.opt.soloAfter}
	r.describe(&cfg)
	r.core = role.New(cfg, r)
	r.takeLease()
	r.tick()
}

// restart is a new start of the process after a crash, or of its life after a
// discard.
func (r *replica) restart() {
	r.life++
	if r.dead {
		r.boot = r.boot || r.primary
		r.starts++
	}
	r.dead = false
	r.start()
}

// crash ends the process. Its peers hear of it, unless its host went with it.
func (r *replica) crash(silent bool) {
	r.w.log("%s crashes (silently %v)", r.id, silent)
	r.dead = true
	r.boot, r.keeper, r.hasDisk = false, nil, false
	if r.img != nil {
		if silent {
			r.img.powerLost(r.w)
		} else {
			r.img.killed(r.w)
		}
	}
	for _, e := range []*end{r.attach, r.feeding, r.following} {
		if e != nil && !silent {
			e.tell()
		}
	}
}

// do lets the core take something and flushes, now and when it wants to.
func (r *replica) do(fn func()) {
	fn()
	r.core.Flush(r.clock())
	r.follow()
	if at := r.core.Due(); at != 0 && !r.flushing {
		r.flushing = true
		r.after(max(at-r.clock(), 0), func() {
			r.flushing = false
			r.do(func() {})
		})
	}
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
	r.do(func() { r.core.Tick(r.clock()) })
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

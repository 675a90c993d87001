package sim

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/packet"
	"github.com/understudy-ft/understudy/services/role"
)

// What a role core asks of its replica but for feeds: the methods of role.Host.

var _ role.Host = (*replica)(nil)

// work queues something for the worker, which does one thing after the other.
func (r *replica) work(takes time.Duration, fn func()) {
	r.workOn(takes, func(done func()) { fn(); done() })
}

// workOn is work for something that goes on until it calls done.
func (r *replica) workOn(takes time.Duration, fn func(done func())) {
	r.jobs = append(r.jobs, job{takes, fn})
	if len(r.jobs) == 1 {
		r.nextJob()
	}
}

type job struct {
	takes time.Duration
	fn    func(done func())
}

func (r *replica) nextJob() {
	j := r.jobs[0]
	r.after(j.takes, func() {
		j.fn(func() {
			if r.jobs = r.jobs[1:]; len(r.jobs) > 0 {
				r.nextJob()
			}
		})
	})
}

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
	if m.GetStaged() != nil {
		r.w.hit(stagedSent, r.v)
	}
}

func (r *replica) Emit(frame []byte, leased bool) {
	if r.muted || leased && (r.clock() >= r.leaseUntil || r.unfinished()) {
		return
	}
	r.v.check.emitted(r, frame, leased)
	r.v.toClients(frame)
	if !leased {
		r.w.hit(emitted, r.v)
		if isSYN(frame) {
			r.w.hit(synReleased, r.v)
		}
	}
}

func isSYN(frame []byte) bool {
	var p packet.Packet
	p.Parse(frame)
	return p.Form == packet.TCP && p.Flags&packet.SYN != 0
}

func (r *replica) Room() int {
	if r.guest == nil || r.guest.paused {
		return 0
	}
	return max(0, guestInbox-len(r.guest.state.inbox))
}

func (r *replica) Deliver(frames [][]byte) int {
	for _, frame := range frames {
		for _, f := range r.mutateInput(frame) {
			r.guest.deliver(f)
			r.v.check.delivered(r)
		}
	}
	r.wake()
	return len(frames)
}

func (r *replica) Idle() time.Duration {
	if r.guest != nil && !r.guest.paused && len(r.guest.state.inbox) == 0 {
		return r.clock() - r.guest.rested
	}
	return 0
}

// stack is what the guest's endpoints run on.
func (r *replica) stack() *stack {
	s := &stack{w: r.w, now: r.clock() + r.guest.offset, send: r.transmitted}
	if r.img != nil {
		s.disk = r
	}
	return s
}

// transmitted takes a frame of the guest.
func (r *replica) transmitted(frame []byte) {
	r.do(func() { r.core.Output(r.clock(), frame) })
	r.mutateOutput(frame)
}

// wake lets the guest serve its inputs one after the other.
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
		// One that was replaced meanwhile hears what others' outputs led to.
		if problem := g.serve(r.stack()); problem != "" && r.v.names(r.id) {
			r.w.fail("translation: the guest of %s sees that %s (%s)", r.id, problem, r.v.stands())
		}
		g.rested = r.clock()
		r.setTimer()
		r.do(func() {})
		r.wake()
	})
}

// setTimer lets the guest's timers run.
func (r *replica) setTimer() {
	g := r.guest
	if g == nil || g.paused {
		return
	}
	at := g.next()
	if at == 0 {
		return
	}
	at -= g.offset // on the host's clock
	if g.timer != 0 && g.timer <= at {
		return
	}
	g.timer = at
	r.after(max(0, at-r.clock())+50*time.Microsecond, func() {
		if r.guest != g || g.timer != at {
			return
		}
		g.timer = 0
		if !g.paused {
			g.tick(r.stack())
			r.setTimer()
		}
	})
}

func (r *replica) Boot() {
	r.workOn(time.Millisecond, func(done func()) {
		begin := func() {
			r.guest = newGuest()
			if r.img != nil {
				r.bootFromDisk()
			}
			r.do(func() {})
			done()
		}
		if r.img == nil {
			begin()
			return
		}
		r.after(r.w.syncing(), func() {
			if !r.w.mutated(NoBootFlush) {
				r.img.sync(r.img.writes) // what a killed process has left
			}
			r.stamp(func() (disk.Stamp, bool) { return r.keeper.Use(r.core.Term(), r.id) }, begin)
		})
	})
}

func (r *replica) Pause() {
	r.w.hit(pausing, r.v)
	r.work(r.w.between(100*time.Microsecond, time.Millisecond), func() {
		if r.guest != nil {
			r.guest.paused = true
		}
		r.do(func() { r.core.Paused(r.clock()) })
	})
}

func (r *replica) Resume() {
	r.w.hit(resuming, r.v)
	r.work(50*time.Microsecond, func() {
		if r.guest != nil {
			r.guest.paused = false
			r.guest.timer = 0
			if len(r.guest.state.committing) > 0 {
				r.flush() // nobody knows how far the last one came
			}
			r.setTimer()
			r.wake()
		}
		r.do(func() {})
	})
}

func (r *replica) Mute(m bool) {
	r.muted = m
	if !m {
		r.v.check.unmuted(r)
	}
}

func (r *replica) GoLive([]packet.Announcement) [][]byte {
	r.w.hit(tookOver, r.v)
	heard := r.heardBy
	r.heardBy = nil
	return heard
}

func (r *replica) ReadRecord() {
	r.w.etcd.do(r.process, func() func() {
		rec, revision := proto.CloneOf(r.v.entry.record), r.v.entry.revision
		return func() { r.do(func() { r.core.RecordRead(r.clock(), rec, revision) }) }
	}, func() { r.do(func() { r.core.RecordRead(r.clock(), nil, 0) }) })
}

func (r *replica) Claim(c role.Claim) {
	r.w.hit(claiming, r.v)
	r.claiming = true
	claimed := func(ok bool) {
		r.claiming = false
		r.do(func() { r.core.Claimed(r.clock(), ok) })
	}
	r.w.etcd.do(r.process, func() func() {
		ok := r.w.etcd.claim(r.v, r.id, c)
		return func() { claimed(ok) }
	}, func() { claimed(false) })
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
	r.settle()
	r.end()
	r.after(10*time.Millisecond, r.restart)
}

func (r *replica) Exit(err error) {
	r.w.log("%s exits: %v", r.id, err)
	r.settle()
	r.end()
	if r.primary && r.boot && r.guest == nil {
		r.boot = false
		r.after(250*time.Millisecond, r.restart)
		return
	}
	r.dead, r.boot, r.keeper, r.hasDisk = true, false, nil, false
	life := r.life
	r.w.schedule(r.w.now+time.Second, func() { // its supervisor starts it again, as a spare
		if r.dead && r.life == life {
			r.restart()
		}
	})
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

package sim

import (
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"
)

// arbiter is an arbiter's process: a seat for each VM whose replicas attach,
// and one lease.
type arbiter struct {
	*process
	seats map[*vm]*seat
	conns session.Conn
	away  bool // it has left the cluster

	lease      int64
	leaseUntil time.Duration // on its own clock
}

// seat is an arbiter's part for one VM: the production session core in a shell
// that does what package sessions of the arbiter does.
type seat struct {
	a        *arbiter
	v        *vm
	core     *session.Core
	streams  map[session.Conn]*end
	owns     bool
	tenure   int           // counts ownerships
	busy     bool          // a call to etcd about the ownership is under way
	deciding bool          // a transaction is
	waiting  time.Duration // since when replicas wait for the ownership
	nextTry  time.Duration
	dice     map[uint64]bool // for a mutation: flows of the dice
}

const (
	// ownTimeout is how long replicas wait at an arbiter that cannot own the VM.
	ownTimeout = 500 * time.Millisecond
	ownRetry   = 200 * time.Millisecond
)

func (w *world) newArbiter(name string) *arbiter {
	a := &arbiter{process: w.newProcess(name)}
	w.arbiters = append(w.arbiters, a)
	a.start()
	return a
}

func (a *arbiter) start() {
	a.seats = map[*vm]*seat{}
	a.lease = 0
	a.takeLease()
	a.tick()
}

// restart is a crash and a new start.
func (a *arbiter) restart() {
	a.life++
	a.dead, a.away = false, false
	a.start()
}

// crash ends the process. Its peers hear of it, unless its host went with it.
func (a *arbiter) crash(silent bool) {
	a.dead = true
	a.stopped = 0
	for _, t := range a.all() {
		for _, e := range t.all() {
			if !silent {
				e.tell()
			}
		}
	}
}

// leave shuts the arbiter down in order.
func (a *arbiter) leave() {
	for _, t := range a.all() {
		t.giveUp()
	}
	a.dead, a.away = true, true
}

// all returns the seats in the order of the VMs.
func (a *arbiter) all() (seats []*seat) {
	for _, v := range a.w.vms {
		if t := a.seats[v]; t != nil {
			seats = append(seats, t)
		}
	}
	return seats
}

func (a *arbiter) takeLease() {
	sent := a.clock()
	a.w.etcd.do(a.process, func() func() {
		id := a.w.etcd.grant("arbiter/" + a.name)
		return func() {
			a.lease, a.leaseUntil = id, sent+leaseTTL-leaseMargin
			a.after(renewEvery, a.renew)
		}
	}, a.takeLease)
}

func (a *arbiter) renew() {
	sent, id := a.clock(), a.lease
	a.w.etcd.do(a.process, func() func() {
		ok := a.w.etcd.renew(id)
		return func() {
			if !ok {
				a.lease = 0
				for _, t := range a.all() {
					t.disown()
				}
				a.takeLease()
				return
			}
			a.leaseUntil = sent + leaseTTL - leaseMargin
			a.after(renewEvery, a.renew)
		}
	}, func() { a.after(renewEvery, a.renew) })
}

// valid tells whether the arbiter can prove its lease.
func (a *arbiter) valid() bool { return a.lease != 0 && a.clock() < a.leaseUntil }

func (a *arbiter) tick() {
	a.after(10*time.Millisecond, a.tick)
	for _, t := range a.all() {
		t.tick()
	}
}

// accept takes the first message of a stream.
func (a *arbiter) accept(v *vm, e *end, hello *pb.FromReplica) {
	t := a.seats[v]
	if t == nil {
		t = &seat{a: a, v: v, core: session.New(session.Config{VM: v.name, Policy: v.w.opt.policy()}), streams: map[session.Conn]*end{}}
		a.seats[v] = t
	}
	a.conns++
	conn := a.conns
	t.streams[conn] = e
	e.recv = func(msg any) { t.received(conn, msg.(*pb.FromReplica)) }
	e.down = func(why string) {
		if t.streams[conn] == e {
			delete(t.streams, conn)
			t.step(session.Detached{Conn: conn, Why: why})
		}
	}
	if v.w.mutated(StaleBoots) && v.record() != nil && hello.GetHello().GetDisk() != nil {
		hello = proto.CloneOf(hello)
		hello.GetHello().Disk.Id = v.record().GetActiveDisk()
	}
	t.step(session.Attached{Conn: conn, Hello: hello.GetHello(), Term: hello.GetTerm()})
}

func (t *seat) received(conn session.Conn, m *pb.FromReplica) {
	w := t.v.w
	if w.mutation != "" {
		m = proto.CloneOf(m)
		t.mutate(conn, m)
	}
	t.step(session.Received{Conn: conn, Msg: m})
}

// all returns the streams, oldest first.
func (t *seat) all() (ends []*end) {
	for _, conn := range slices.Sorted(maps.Keys(t.streams)) {
		ends = append(ends, t.streams[conn])
	}
	return ends
}

func (t *seat) tick() {
	a := t.a
	if t.owns && !a.valid() {
		t.disown()
	}
	now := a.clock()
	switch {
	case t.owns || len(t.streams) == 0:
		t.waiting = now
	case now-t.waiting > ownTimeout:
		t.sendAway(&pb.Refusal{Action: pb.Refusal_ACTION_RETRY})
	case !t.busy && !t.deciding && a.valid() && now >= t.nextTry:
		t.own()
	}
	if !a.time().Before(t.core.Due()) {
		t.step(session.Tick{})
	}
}

// own asks etcd for the ownership.
func (t *seat) own() {
	a, etcd := t.a, t.v.w.etcd
	t.busy, t.nextTry = true, a.clock()+ownRetry
	lease := a.lease
	etcd.do(a.process, func() func() {
		owner := etcd.own(t.v, a, lease)
		record, revision := t.v.entry.record, t.v.entry.revision
		mine := t.v.entry.ownerKey == lease
		return func() {
			t.busy = false
			switch {
			case owner != nil && owner != a:
				t.sendAway(&pb.Refusal{Action: pb.Refusal_ACTION_REDIRECT, Address: owner.name})
			case mine && len(t.streams) == 0:
				t.release(lease)
			case mine && a.valid() && a.lease == lease && !t.owns:
				t.owns = true
				t.tenure++
				t.step(session.Owned{Record: proto.CloneOf(record), Revision: revision})
			}
		}
	}, func() { t.busy = false })
}

// release tells etcd that the VM is given up.
func (t *seat) release(lease int64) {
	t.v.w.etcd.do(t.a.process, func() func() {
		t.v.w.etcd.disown(t.v, lease)
		return func() {}
	}, func() {})
}

// sendAway ends the streams of a VM that is not owned.
func (t *seat) sendAway(r *pb.Refusal) {
	for _, conn := range slices.Sorted(maps.Keys(t.streams)) {
		s := t.streams[conn]
		delete(t.streams, conn)
		s.send(&pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: r}})
		s.close()
		t.step(session.Detached{Conn: conn, Why: "told to try elsewhere"})
	}
}

func (t *seat) disown() {
	if t.owns {
		t.owns = false
		t.step(session.Disowned{})
	}
}

// giveUp ends the ownership in order.
func (t *seat) giveUp() {
	if t.owns {
		t.disown()
		t.release(t.a.lease)
	}
	t.sendAway(&pb.Refusal{Action: pb.Refusal_ACTION_RETRY})
}

// time is the arbiter's clock as its sessions are told it.
func (a *arbiter) time() time.Time { return time.Unix(0, 0).Add(a.clock()) }

func (t *seat) step(in session.Input) {
	a, w := t.a, t.v.w
	if t.owns && !a.valid() {
		if _, last := in.(session.Disowned); !last {
			t.disown()
		}
	}
	for _, e := range t.core.Step(a.time(), in) {
		switch e := e.(type) {
		case session.Send:
			if s := t.streams[e.Conn]; s != nil && t.owns {
				s.send(e.Msg)
				if e.Msg.GetAssignment() != nil {
					w.hit(assigned, t.v)
				}
			}
		case session.Close:
			s := t.streams[e.Conn]
			if s == nil {
				continue
			}
			delete(t.streams, e.Conn)
			if e.Refusal != nil {
				s.send(&pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: e.Refusal}})
			}
			s.close()
		case session.Commit:
			w.hit(committing, t.v)
			t.commit(e)
		case session.Report:
			ev := e.Event
			w.log("%s: %s %s %s term %d epoch %d %s", a.name, t.v.name, ev.GetType(), ev.GetReason(), ev.GetTerm(), ev.GetEpoch(), ev.GetDetail())
		case session.GiveUp:
			a.after(0, t.giveUp)
		}
	}
}

func (t *seat) commit(c session.Commit) {
	a, etcd := t.a, t.v.w.etcd
	lease, tenure := a.lease, t.tenure
	t.deciding = true
	c.Record = proto.CloneOf(c.Record)
	etcd.do(a.process, func() func() {
		in := etcd.commit(t.v, a, lease, c)
		return func() {
			t.deciding = false
			if !t.owns || t.tenure != tenure {
				return
			}
			if _, lost := in.(session.Disowned); lost {
				t.disown()
				return
			}
			t.step(in)
		}
	}, func() {
		t.deciding = false
		if t.owns && t.tenure == tenure {
			t.step(session.CommitFailed{Cause: session.Unavailable})
		}
	})
}

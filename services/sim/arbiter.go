package sim

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"
)

// arbiter is an arbiter's process: the production session core in a shell that
// does what package sessions of the arbiter does.
type arbiter struct {
	*process
	core    *session.Core
	streams map[session.Conn]*end
	conns   session.Conn

	lease      int64
	leaseUntil time.Duration // on its own clock
	owns       bool
	asking     bool
	waiting    time.Duration // since when replicas wait for the ownership
}

// ownTimeout is how long replicas wait at an arbiter that does not own the VM.
const ownTimeout = 500 * time.Millisecond

func (w *world) newArbiter(name string) *arbiter {
	a := &arbiter{process: w.newProcess(name)}
	w.arbiters = append(w.arbiters, a)
	a.start()
	return a
}

func (a *arbiter) start() {
	a.core = session.New(session.Config{VM: "vm", Policy: a.w.opt.policy()})
	a.streams = map[session.Conn]*end{}
	a.lease, a.owns, a.asking, a.waiting = 0, false, false, a.clock()
	a.takeLease()
	a.tick()
}

// restart is a crash and a new start.
func (a *arbiter) restart() {
	a.life++
	a.dead = false
	a.start()
}

// crash ends the process; its peers hear of it.
func (a *arbiter) crash() {
	a.dead = true
	for _, e := range a.streams {
		e.tell()
	}
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
				a.disown()
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
	if a.owns && !a.valid() {
		a.disown()
	}
	switch {
	case a.owns || len(a.streams) == 0:
		a.waiting = a.clock()
	case a.clock()-a.waiting > ownTimeout:
		for conn, s := range a.streams {
			s.send(&pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: &pb.Refusal{Action: pb.Refusal_ACTION_RETRY}}})
			s.close()
			delete(a.streams, conn)
			a.step(session.Detached{Conn: conn, Why: "told to try elsewhere"})
		}
	}
	if !a.owns && !a.asking && a.valid() && len(a.streams) > 0 {
		a.asking = true
		lease := a.lease
		a.w.etcd.do(a.process, func() func() {
			ok := a.w.etcd.own(a, lease)
			record, revision := a.w.etcd.record, a.w.etcd.revision
			return func() {
				a.asking = false
				if ok && a.valid() && a.lease == lease && !a.owns {
					a.owns = true
					a.step(session.Owned{Record: record, Revision: revision})
				}
			}
		}, func() { a.asking = false })
	}
	a.step(session.Tick{})
}

func (a *arbiter) disown() {
	if a.owns {
		a.owns = false
		a.step(session.Disowned{})
	}
}

// accept takes the first message of a stream.
func (a *arbiter) accept(e *end, hello *pb.FromReplica) {
	a.conns++
	conn := a.conns
	a.streams[conn] = e
	e.recv = func(msg any) { a.step(session.Received{Conn: conn, Msg: msg.(*pb.FromReplica)}) }
	e.down = func(why string) {
		if a.streams[conn] == e {
			delete(a.streams, conn)
			a.step(session.Detached{Conn: conn, Why: why})
		}
	}
	a.step(session.Attached{Conn: conn, Hello: hello.GetHello(), Term: hello.GetTerm()})
}

func (a *arbiter) step(in session.Input) {
	if a.owns && !a.valid() {
		if _, last := in.(session.Disowned); !last {
			a.disown()
		}
	}
	for _, e := range a.core.Step(time.Unix(0, 0).Add(a.clock()), in) {
		switch e := e.(type) {
		case session.Send:
			if s := a.streams[e.Conn]; s != nil && a.owns {
				s.send(e.Msg)
			}
		case session.Close:
			s := a.streams[e.Conn]
			if s == nil {
				continue
			}
			delete(a.streams, e.Conn)
			if e.Refusal != nil {
				s.send(&pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: e.Refusal}})
			}
			s.close()
		case session.Commit:
			a.commit(e)
		case session.Report:
			ev := e.Event
			a.w.log("%s: %s %s term %d epoch %d %s", a.name, ev.GetType(), ev.GetReason(), ev.GetTerm(), ev.GetEpoch(), ev.GetDetail())
		case session.GiveUp:
			a.after(0, a.disown)
		}
	}
}

func (a *arbiter) commit(c session.Commit) {
	lease := a.lease
	a.w.etcd.do(a.process, func() func() {
		in := a.w.etcd.commit(a, lease, c)
		return func() {
			if _, lost := in.(session.Disowned); lost {
				a.disown()
				return
			}
			if a.owns {
				a.step(in)
			}
		}
	}, func() {
		if a.owns {
			a.step(session.CommitFailed{Cause: session.Unavailable})
		}
	})
}

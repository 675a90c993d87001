package sessions

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"
)

const (
	// leaseEvery is how often it is looked whether the arbiter's lease holds, where
	// nothing is sent: well within the lease's margin.
	leaseEvery = 100 * time.Millisecond
	// inboxMax bounds what waits for a VM's goroutine, batchMax what it takes
	// before it answers.
	inboxMax = 256
	batchMax = 256
	// commitTimeout bounds a transaction as the core sees it.
	commitTimeout = time.Second
	// ownRetry is the pause between tries to own a VM, ownTimeout how long its
	// replicas wait here before they are told to try elsewhere.
	ownRetry   = 200 * time.Millisecond
	ownTimeout = 5 * time.Second

	whyStopping = "the arbiter is stopping"
)

// task is one thing for a VM's goroutine to do.
type task struct {
	in     session.Input
	stream *Stream   // with Attached
	at     time.Time // of the arrival, with Received
	call   func()
}

// vm runs one VM. Fields below the line belong to its goroutine.
type vm struct {
	reg      *Registry
	name     string
	log      hclog.Logger
	inbox    chan task
	stop     chan struct{}
	stopOnce sync.Once
	done     chan struct{}
	refs     int // streams that exist; under the registry's lock

	// ----

	core    *session.Core
	stats   Stats
	streams map[session.Conn]*Stream
	dirty   []*Stream // those with pending messages
	spare   []*Stream // room for dirty while that is flushed
	orders  map[session.Token]chan session.Reply
	token   session.Token

	claim fence.Claim // Lease 0: not owned
	// results receives the outcome of the one call to etcd that may be under
	// way (busy), as a function to be run by the goroutine.
	results chan func()
	busy    bool
	// giveUp asks for the end of the ownership, disown for its end in etcd.
	giveUp, disown bool
	toDisown       fence.Claim
	waiting        time.Time // when the wait for the ownership began
	nextTry        time.Time
	// ownProblem is why the VM could not be owned, ownLogged the one logged.
	ownProblem, ownLogged string
	stopping              bool
}

func newVM(r *Registry, name string) *vm {
	cfg := r.cfg.Session
	cfg.VM = name
	return &vm{
		reg: r, name: name, log: r.cfg.Log.With("vm", name),
		inbox: make(chan task, inboxMax), stop: make(chan struct{}), done: make(chan struct{}),
		core: session.New(cfg), stats: newStats(), streams: map[session.Conn]*Stream{}, orders: map[session.Token]chan session.Reply{},
		results: make(chan func(), 1),
	}
}

// tell puts a task into the inbox. ErrGone: the task will not be done.
func (v *vm) tell(ctx context.Context, t task) error {
	select {
	case v.inbox <- t: // alone, because to wait for several takes longer
	default:
		select {
		case v.inbox <- t:
		case <-v.done:
			return ErrGone
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	select {
	case <-v.done:
		return ErrGone
	default:
		return nil
	}
}

// do runs f in the VM's goroutine and waits for it. After an error f may still
// run: what it writes is then not the caller's to read.
func (v *vm) do(ctx context.Context, f func()) error {
	ran := make(chan struct{})
	if err := v.tell(ctx, task{call: func() { f(); close(ran) }}); err != nil {
		return err
	}
	select {
	case <-ran:
		return nil
	case <-v.done:
		return ErrGone
	case <-ctx.Done():
		return ctx.Err()
	}
}

// release gives one stream's hold on the VM back.
func (v *vm) release() {
	v.reg.mu.Lock()
	v.refs--
	v.reg.mu.Unlock()
}

func (v *vm) status(ctx context.Context) (*pb.VMStatus, error) {
	var s *pb.VMStatus
	if err := v.do(ctx, func() { s = v.coreStatus() }); err != nil {
		return nil, err
	}
	return s, nil
}

func (v *vm) coreStatus() *pb.VMStatus {
	s := v.core.Status()
	if s.Record == nil {
		s.Record = &pb.Record{}
	}
	s.Record.Vm = v.name
	if v.claim.Lease != 0 {
		self := v.reg.cfg.Self
		s.Owner = &pb.ArbiterRef{Id: self.ID, Address: self.Address, Page: self.Page}
	}
	return s
}

func (v *vm) order(ctx context.Context, order func(session.Token) session.Input) (session.Reply, error) {
	outcome := make(chan session.Reply, 1)
	err := v.do(ctx, func() {
		v.token++
		v.orders[v.token] = outcome
		v.step(order(v.token))
	})
	if err != nil {
		return session.Reply{}, err
	}
	select {
	case r := <-outcome:
		return r, r.Err
	case <-v.done:
		return session.Reply{}, ErrGone
	case <-ctx.Done():
		return session.Reply{}, fmt.Errorf("the order goes on, its outcome is an event: %w", ctx.Err())
	}
}

// run is the VM's goroutine.
func (v *vm) run() {
	defer v.end()
	defer func() {
		if p := recover(); p != nil {
			// A defect costs this VM a change of its arbiter, not the others theirs.
			v.log.Error("defect in the VM's session; it begins anew", "panic", p, "stack", string(debug.Stack()))
			v.endStreams(refuse(pb.Refusal_ACTION_RETRY, "the arbiter's session of this VM failed"))
		}
	}()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var alarm time.Time // by when the timer fires
	stop := v.stop
	for {
		select {
		case t := <-v.inbox:
			v.take(t)
			v.drain()
		case result := <-v.results:
			v.busy = false
			result()
		case now := <-timer.C:
			alarm = time.Time{}
			v.checkLease()
			if !now.Before(v.core.Due()) {
				v.step(session.Tick{})
			}
		case <-stop:
			stop = nil
			v.stopping = true
			v.endStreams(refuse(pb.Refusal_ACTION_RETRY, whyStopping))
			v.giveUp, v.disown = true, true
		}
		v.flush()
		if v.giveUp {
			v.disowned("given up")
			v.flush()
		}
		v.callEtcd()
		if v.finished() {
			return
		}
		// A timer that is set too early is not set anew with each message.
		if due := v.core.Due(); alarm.IsZero() || due.Before(alarm) {
			alarm = due
			timer.Reset(min(time.Until(due), leaseEvery))
		}
	}
}

// drain takes what has come meanwhile, so that it is answered together.
func (v *vm) drain() {
	for range batchMax {
		select {
		case t := <-v.inbox:
			v.take(t)
		default:
			return
		}
	}
}

func (v *vm) take(t task) {
	switch {
	case t.call != nil:
		t.call()
	case t.stream != nil:
		v.streams[t.stream.conn] = t.stream
		v.step(t.in)
	default:
		if d, ok := t.in.(session.Detached); ok {
			if _, known := v.streams[d.Conn]; !known {
				return // the core closed it
			}
			delete(v.streams, d.Conn)
		} else if r, ok := t.in.(session.Received); ok {
			s := v.streams[r.Conn]
			if s == nil {
				return
			}
			if o := r.Msg.GetOutputs(); o != nil && s.waiting != nil {
				v.stats.reported(s.waiting, o, t.at)
			}
		}
		v.step(t.in)
	}
}

// step gives an input to the core and carries out its effects. Messages wait
// for flush.
func (v *vm) step(in session.Input) {
	for _, e := range v.core.Step(time.Now(), in) {
		switch e := e.(type) {
		case session.Send:
			if s := v.streams[e.Conn]; s != nil {
				if len(s.pending) == 0 {
					v.dirty = append(v.dirty, s)
				}
				s.add(e.Msg)
				if a := e.Msg.GetAssignment(); a != nil {
					s.assigned(a.GetRecord())
				}
			}
		case session.Close:
			v.close(e.Conn, e.Refusal, false)
		case session.Commit:
			v.commit(e)
		case session.Report:
			v.report(e.Event)
		case session.Reply:
			if outcome, ok := v.orders[e.Token]; ok {
				delete(v.orders, e.Token)
				outcome <- e
			}
		case session.GiveUp:
			v.giveUp, v.disown = true, true
		default:
			panic(fmt.Sprintf("unknown effect %T", e))
		}
	}
}

// flush queues the messages of the batch, if the VM still is provably ours.
func (v *vm) flush() {
	if len(v.dirty) > 0 {
		v.checkLease()
	}
	for len(v.dirty) > 0 {
		dirty := v.dirty
		v.dirty = v.spare[:0]
		for _, s := range dirty {
			if len(s.pending) == 0 || v.streams[s.conn] != s {
				continue
			}
			v.measure(s, s.pending)
			pushed := s.push(s.pending)
			clear(s.pending) // they are the queue's
			s.pending = s.pending[:0]
			if pushed {
				continue
			}
			delete(v.streams, s.conn)
			v.step(session.Detached{Conn: s.conn, Why: "does not read its messages"})
		}
		clear(dirty)
		v.spare = dirty
	}
}

// measure takes the time at which releases leave. A message that was queued is
// its stream's: it is looked at before.
func (v *vm) measure(s *Stream, msgs []*pb.ToReplica) {
	if s.waiting == nil {
		return
	}
	now := time.Now()
	for _, m := range msgs {
		if r := m.GetRelease(); r != nil {
			v.stats.released(s.waiting, r, now)
		}
	}
}

// close ends a stream after what waits for it; with drop, or where the VM is not
// owned, without.
func (v *vm) close(conn session.Conn, refusal *pb.Refusal, drop bool) {
	s := v.streams[conn]
	if s == nil {
		return
	}
	delete(v.streams, conn)
	drop = drop || v.claim.Lease == 0
	if !drop && len(s.pending) > 0 {
		s.push(s.pending)
	}
	s.pending = nil
	s.end(refusal, drop)
}

// endStreams ends all streams at once. The core is not told.
func (v *vm) endStreams(refusal *pb.Refusal) {
	for conn := range v.streams {
		v.close(conn, refusal, true)
	}
	v.dirty = nil
}

// checkLease gives the VM up where the arbiter's lease cannot be proved.
func (v *vm) checkLease() {
	if v.claim.Lease == 0 {
		return
	}
	if g := v.reg.cfg.Lease.Grant(); g.ID != v.claim.Lease || !g.Valid(fence.Now()) {
		v.disown = true
		v.disowned("the arbiter's own lease cannot be proved")
	}
}

// disowned ends the ownership here: nothing that waits is sent any more.
func (v *vm) disowned(why string) {
	v.giveUp = false
	claim := v.claim
	v.claim = fence.Claim{}
	if claim.Lease != 0 {
		v.log.Info("not the owner of the VM any more", "reason", why)
		if v.disown {
			v.toDisown = claim
		}
		v.step(session.Disowned{})
	}
	v.disown = false
	// The core has closed its streams; what it left is of no use without it.
	v.endStreams(refuse(pb.Refusal_ACTION_RETRY, "%s", why))
	v.waiting, v.nextTry = time.Time{}, time.Time{}
}

// finished tells whether the VM has no business here any more, and takes it out
// of the registry then.
func (v *vm) finished() bool {
	if len(v.streams) > 0 || v.claim.Lease != 0 || v.busy || v.toDisown.Lease != 0 {
		return false
	}
	v.reg.mu.Lock()
	defer v.reg.mu.Unlock()
	if v.refs > 0 && !v.stopping {
		return false // a stream is about to attach, or to see its end
	}
	delete(v.reg.vms, v.name)
	return true
}

// end lets go of everyone who waits for the VM.
func (v *vm) end() {
	v.reg.mu.Lock()
	if v.reg.vms[v.name] == v {
		delete(v.reg.vms, v.name)
	}
	v.reg.mu.Unlock()
	close(v.done)
	// What attached in the last moment is told to come again.
	why := ErrGone.Error()
	if v.stopping {
		why = whyStopping
	}
	for {
		select {
		case t := <-v.inbox:
			if t.stream != nil {
				t.stream.end(refuse(pb.Refusal_ACTION_RETRY, "%s", why), true)
			}
		default:
			if v.claim.Lease != 0 { // after a panic
				ctx, cancel := context.WithTimeout(context.Background(), commitTimeout)
				defer cancel()
				v.reg.cfg.Store.Disown(ctx, v.claim)
			}
			return
		}
	}
}

func (v *vm) report(e *pb.Event) {
	e.Vm = v.name
	v.stats.event(e)
	v.reg.cfg.Events.Add(e)
	args := []any{"term", e.Term, "epoch", e.Epoch}
	if e.Reason != pb.Reason_REASON_UNSPECIFIED {
		args = append(args, "reason", Words(e.Reason))
	}
	if e.Detail != "" {
		args = append(args, "detail", e.Detail)
	}
	if s := e.Stats; s != nil {
		args = append(args, "pause", time.Duration(s.PauseUs)*time.Microsecond, "pages", s.PagesSent, "bytes", s.BytesSent)
	}
	v.log.Info(Words(e.Type), args...)
}

// callEtcd begins the next call to etcd that is due, if none is under way.
func (v *vm) callEtcd() {
	if v.busy {
		return
	}
	if c := v.toDisown; c.Lease != 0 {
		v.toDisown = fence.Claim{}
		v.call(fence.DefaultTimeout, func(ctx context.Context) func() {
			err := v.reg.cfg.Store.Disown(ctx, c)
			return func() {
				if err != nil { // the claim ends with the lease, then
					v.log.Warn("cannot tell etcd that the VM was given up", "error", err)
				}
			}
		})
		return
	}
	if v.claim.Lease != 0 || len(v.streams) == 0 || v.stopping {
		v.waiting = time.Time{}
		return
	}
	now := time.Now()
	if v.waiting.IsZero() {
		v.waiting = now
	}
	if now.Sub(v.waiting) > ownTimeout {
		v.log.Warn("cannot own the VM: its replicas are to try elsewhere", "error", v.ownProblem)
		v.disownedBy(refuse(pb.Refusal_ACTION_RETRY, "this arbiter cannot own the VM: %s", v.ownProblem))
		return
	}
	if now.Before(v.nextTry) {
		return
	}
	g := v.reg.cfg.Lease.Grant()
	if !g.Valid(fence.Now()) { // looked at again with each tick
		v.owning(errors.New("the arbiter has no valid etcd lease"))
		return
	}
	v.nextTry = now.Add(ownRetry)
	self := v.reg.cfg.Self
	self.Lease = g.ID
	v.call(fence.DefaultTimeout, func(ctx context.Context) func() {
		claim, err := v.reg.cfg.Store.Own(ctx, v.name, self)
		var view fence.View
		if err == nil {
			view, err = v.reg.cfg.Store.Load(ctx, v.name)
		}
		return func() { v.owned(claim, view, err) }
	})
}

// call runs f in a goroutine of its own; what it returns runs in the VM's.
func (v *vm) call(timeout time.Duration, f func(context.Context) func()) {
	v.busy = true
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), timeout)
		defer cancel()
		v.results <- f(ctx) // has room: one call at a time
	}()
}

// owned takes the outcome of a try to own the VM.
func (v *vm) owned(claim fence.Claim, view fence.View, err error) {
	var o *fence.OwnedError
	if errors.As(err, &o) && o.Owner.Address != v.reg.cfg.Self.Address { // else: an earlier life of this arbiter
		v.log.Debug("another arbiter owns the VM", "arbiter", o.Owner.ID, "address", o.Owner.Address)
		r := refuse(pb.Refusal_ACTION_REDIRECT, "%v", err)
		r.Address = o.Owner.Address
		v.disownedBy(r)
		return
	}
	if err != nil {
		v.owning(err)
		if claim.Lease != 0 {
			v.toDisown = claim // owned, but the record could not be read
		}
		return
	}
	if v.stopping || len(v.streams) == 0 {
		v.toDisown = claim
		return
	}
	v.claim, v.ownProblem, v.ownLogged, v.waiting = claim, "", "", time.Time{}
	v.step(session.Owned{Record: view.Record, Revision: view.Revision})
	v.checkLease() // the lease may have ended meanwhile
	v.flush()
}

// owning notes why the VM is not owned yet. What lasts is logged, once.
func (v *vm) owning(err error) {
	v.ownProblem = err.Error()
	if v.ownProblem != v.ownLogged && time.Since(v.waiting) > ownTimeout/10 {
		v.ownLogged = v.ownProblem
		v.log.Warn("cannot own the VM yet; trying again", "error", err)
	}
}

// disownedBy ends the streams of a VM that is not owned.
func (v *vm) disownedBy(refusal *pb.Refusal) {
	for _, conn := range slices.Sorted(maps.Keys(v.streams)) {
		v.close(conn, refusal, true)
		v.step(session.Detached{Conn: conn, Why: "refused"})
	}
	v.waiting, v.nextTry = time.Time{}, time.Time{}
}

// commit begins the transaction that the core asks for.
func (v *vm) commit(c session.Commit) {
	claim := v.claim
	if claim.Lease == 0 {
		return // Disowned was told or is about to be
	}
	conds := make([]fence.Condition, len(c.Conditions))
	for i, k := range c.Conditions {
		conds[i] = fence.Condition{ReplicaID: k.ReplicaID, LeaseID: k.LeaseID, MustExist: !k.Absent}
	}
	record := cloneRecord(c.Record)
	if v.busy {
		// The core asks for one transaction at a time, and other calls are made
		// only without a claim.
		panic("commit while another call to etcd is under way")
	}
	v.call(commitTimeout, func(ctx context.Context) func() {
		begun := time.Now()
		revision, err := v.reg.cfg.Store.Commit(ctx, claim, record, c.Expected, conds...)
		if v.reg.cfg.OnCommit != nil {
			v.reg.cfg.OnCommit(time.Since(begun), err)
		}
		return func() { v.committed(claim, revision, err) }
	})
}

// committed takes the outcome of a transaction.
func (v *vm) committed(claim fence.Claim, revision int64, err error) {
	if v.claim != claim {
		return // given up meanwhile; the core does not wait for it
	}
	if err == nil {
		v.step(session.Committed{Revision: revision})
		return
	}
	v.log.Debug("record not committed", "error", err)
	failed := session.CommitFailed{Cause: session.Unavailable}
	var conflict *fence.ConflictError
	if errors.As(err, &conflict) {
		failed.Record, failed.Revision, failed.ReplicaID = conflict.Record, conflict.Revision, conflict.ReplicaID
		switch conflict.Cause {
		case fence.NotOwner:
			v.disowned("another arbiter may own it")
			return
		case fence.RecordChanged:
			failed.Cause = session.Conflict
		default:
			failed.Cause = session.Condition
		}
	} else if !errors.Is(err, fence.ErrUnknown) {
		v.log.Error("record could not be committed", "error", err)
	}
	v.step(failed)
}

package session

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// TestChaos runs small clusters of toy replicas, an arbiter's Core and an etcd
// from seeds. Replicas die, lose streams and leases, diverge and reboot; Commits
// get lost; arbiters crash. All along it checks what must hold (DESIGN section
// 3): one history of outputs, whoever emits them. Then the faults stop, and the
// VM must become protected and serve again. CHAOS_SEED runs one seed alone.
func TestChaos(t *testing.T) {
	first, n := uint64(1), uint64(100)
	if testing.Short() {
		n = 20
	}
	if s := os.Getenv("CHAOS_SEED"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		first, n = v, 1
	}
	if s := os.Getenv("CHAOS_SEEDS"); s != "" {
		v, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		n = v
	}
	var total tally
	for seed := first; seed < first+n; seed++ {
		w := newCluster(seed)
		w.run()
		if w.err != nil {
			if n == 1 {
				for _, l := range w.trace {
					t.Log(l)
				}
			}
			t.Fatalf("seed %d: %v", seed, w.err)
		}
		total.add(w.tally)
	}
	t.Logf("%d seeds: %+v", n, total)
	if n >= 100 && (total.failovers == 0 || total.resyncs == 0 || total.boots <= int(n) || total.unanswered == 0 || total.owners == 0 ||
		total.switches == 0 || total.returned == 0 || total.settings == 0) {
		t.Errorf("some faults never happened: %+v", total)
	}
}

type tally struct {
	failovers, resyncs, boots, protected, emitted, unanswered, owners int
	switches, tested, returned, settings                              int
}

func (a *tally) add(b tally) {
	a.failovers += b.failovers
	a.resyncs += b.resyncs
	a.boots += b.boots
	a.protected += b.protected
	a.emitted += b.emitted
	a.unanswered += b.unanswered
	a.owners += b.owners
	a.switches += b.switches
	a.tested += b.tested
	a.returned += b.returned
	a.settings += b.settings
}

type letter struct {
	up   *pb.FromReplica
	down *pb.ToReplica
	end  *Close
}

type pipe struct {
	r        *toy
	up, down []letter
}

type cluster struct {
	rng *rand.Rand
	// lazy: no Tick before it is due.
	lazy  bool
	now   time.Time
	core  *Core
	conns Conn
	pipes map[Conn]*pipe
	// streams are the open ones in the order of their opening.
	streams []Conn
	toys    []*toy
	token   Token
	open    map[Token]bool

	record   *pb.Record
	revision int64
	keys     map[string]int64
	leases   int64
	commit   *Commit
	commitAt time.Time

	faults bool
	life   int
	log    []uint64 // what the outside has seen of this life
	next   uint64
	err    error
	trace  []string
	tally  tally
}

func newCluster(seed uint64) *cluster {
	w := &cluster{rng: rand.New(rand.NewPCG(seed, 7)), lazy: seed%2 == 0, now: time.Unix(1_800_000_000, 0), pipes: map[Conn]*pipe{},
		open: map[Token]bool{}, keys: map[string]int64{}, faults: true}
	w.arbiter()
	w.spawn(pb.Role_ROLE_CANDIDATE)
	w.spawn(pb.Role_ROLE_SPARE)
	if w.chance(50) {
		w.spawn(pb.Role_ROLE_SPARE)
	}
	return w
}

func (w *cluster) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *cluster) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
		w.say("VIOLATION %v", w.err)
	}
}

func (w *cluster) say(format string, args ...any) {
	w.trace = append(w.trace, w.now.Format("05.000 ")+fmt.Sprintf(format, args...))
}

func (w *cluster) after(msMax int) time.Time {
	return w.now.Add(time.Duration(w.rng.IntN(msMax)+1) * time.Millisecond)
}

// arbiter starts a Core that owns the VM, after any earlier one has crashed.
func (w *cluster) arbiter() {
	for _, c := range append([]Conn(nil), w.streams...) {
		w.cut(c)
	}
	w.commit, w.open = nil, map[Token]bool{}
	w.core = New(Config{VM: "vm"})
	w.step(Owned{Record: w.record, Revision: w.revision})
}

func (w *cluster) spawn(role pb.Role) {
	n := len(w.toys) + 1
	r := &toy{id: fmt.Sprintf("r-%d", n), n: n, role: role}
	w.toys = append(w.toys, r)
	w.grant(r)
	w.say("%s starts as %v", r.id, role)
}

func (w *cluster) grant(r *toy) {
	w.leases++
	r.lease, r.muted = 1000+w.leases, false
	w.keys[r.id] = r.lease
}

func (w *cluster) byID(id string) *toy {
	for _, r := range w.toys {
		if r.id == id && !r.dead {
			return r
		}
	}
	return nil
}

func (w *cluster) step(in Input) {
	if _, tick := in.(Tick); !tick {
		if rc, ok := in.(Received); !ok || rc.Msg.GetHeartbeat() == nil {
			w.say("> %T %+v", in, in)
		}
	}
	_, tick := in.(Tick)
	early := tick && w.core.owned && !w.core.busy() && w.core.steady() && w.now.Before(w.core.Due())
	if early && w.lazy {
		return
	}
	for _, e := range w.core.Step(w.now, in) {
		if early {
			w.fail("a Tick before it is due does %T %+v", e, e)
		}
		w.effect(e)
	}
}

func (w *cluster) effect(e Effect) {
	switch e := e.(type) {
	case Send:
		p := w.pipes[e.Conn]
		if p == nil {
			w.fail("message to stream %d, which is not open", e.Conn)
			return
		}
		if e.Msg.GetHeartbeat() == nil {
			w.say("< %s %v", p.r.id, e.Msg)
		}
		if e.Msg.GetRelease() != nil && (w.record.GetMode() != pb.Mode_MODE_PROTECTED && w.commit == nil && w.record.GetTerm() == e.Msg.GetTerm() ||
			e.Msg.GetTerm() > w.record.GetTerm() || p.r.id != w.activeOf(e.Msg.GetTerm())) {
			w.fail("release %v to %s under the record %v", e.Msg, p.r.id, w.record)
		}
		if a := e.Msg.GetAssignment(); a != nil && a.GetRecord().GetTerm() > w.record.GetTerm() {
			w.fail("assignment %v, etcd holds %v", a, w.record)
		}
		p.down = append(p.down, letter{down: e.Msg})
	case Close:
		p := w.pipes[e.Conn]
		if p == nil {
			w.fail("closes stream %d, which is not open", e.Conn)
			return
		}
		w.say("< %s close %v", p.r.id, e.Refusal)
		p.down = append(p.down, letter{end: &e})
	case Commit:
		w.say("< %v", e)
		if w.commit != nil {
			w.fail("two commits at once: %v and %v", *w.commit, e)
		}
		w.follows(e.Record, w.core.record)
		w.commit, w.commitAt = &e, w.after(20)
	case Reply:
		if !w.open[e.Token] {
			w.fail("reply to %d, which is not open", e.Token)
		}
		delete(w.open, e.Token)
		if e.Test != nil && e.Test.Returned {
			w.tally.returned++
		}
	case Report:
		w.say("< event %v %s", e.Event.GetType(), e.Event.GetDetail())
		switch e.Event.GetType() {
		case pb.EventType_EVENT_TYPE_FAILOVER:
			w.tally.failovers++
			if strings.HasPrefix(e.Event.GetDetail(), "switch-over") {
				w.tally.switches++
			}
		case pb.EventType_EVENT_TYPE_RESYNC_DONE:
			w.tally.resyncs++
		case pb.EventType_EVENT_TYPE_PROTECTED:
			w.tally.protected++
		case pb.EventType_EVENT_TYPE_TESTED:
			w.tally.tested++
		case pb.EventType_EVENT_TYPE_SETTINGS:
			w.tally.settings++
		}
	}
}

// follows checks that a record may follow another: in a later term, or in the
// same one with nothing changed but an operator's orders, which it obeys.
func (w *cluster) follows(next, old *pb.Record) {
	same := proto.CloneOf(next)
	same.Suspended, same.Drained = old.GetSuspended(), old.GetDrained()
	if next.GetTerm() <= old.GetTerm() && !proto.Equal(same, old) {
		w.fail("%v after %v", next, old)
	}
	if next.GetMode() != pb.Mode_MODE_SYNCING || next.GetTerm() == old.GetTerm() {
		return
	}
	if old.GetSuspended() {
		w.fail("%v although protection is suspended", next)
	}
	for _, d := range old.GetDrained() {
		if d.GetProcess() == next.GetStandby().GetId() {
			w.fail("%v although the standby is drained", next)
		}
	}
}

// activeOf is the active of the present record if it has that term.
func (w *cluster) activeOf(term uint64) string {
	if w.record.GetTerm() == term {
		return w.record.GetActive().GetId()
	}
	return w.core.record.GetActive().GetId() // a commit whose answer is not here yet
}

// transact answers the Commit under way as etcd does.
func (w *cluster) transact() {
	c := w.commit
	w.commit = nil
	lost := w.faults && w.chance(10)
	if lost {
		w.tally.unanswered++
	}
	if lost && w.chance(50) {
		w.step(CommitFailed{Cause: Unavailable})
		return
	}
	fail := CommitFailed{Record: proto.CloneOf(w.record), Revision: w.revision}
	switch {
	case c.Expected != w.revision:
		fail.Cause = Conflict
	default:
		for _, k := range c.Conditions {
			if lease, ok := w.keys[k.ReplicaID]; k.Absent && ok || !k.Absent && lease != k.LeaseID {
				fail.Cause, fail.ReplicaID = Condition, k.ReplicaID
			}
		}
	}
	if fail.Cause == 0 {
		w.follows(c.Record, w.record)
		w.revision++
		w.record = proto.CloneOf(c.Record)
	}
	switch {
	case lost:
		w.step(CommitFailed{Cause: Unavailable})
	case fail.Cause != 0:
		w.step(fail)
	default:
		w.step(Committed{Revision: w.revision})
	}
}

func (w *cluster) cut(c Conn) {
	p := w.pipes[c]
	if p == nil {
		return
	}
	delete(w.pipes, c)
	for i := range w.streams {
		if w.streams[i] == c {
			w.streams = append(w.streams[:i], w.streams[i+1:]...)
			break
		}
	}
	if p.r.conn == c {
		p.r.conn, p.r.attachAt = 0, w.after(200)
	}
}

// breakStream ends a stream from outside: what is on its way is lost.
func (w *cluster) breakStream(c Conn) {
	w.cut(c)
	w.step(Detached{Conn: c, Why: "broken"})
}

func (w *cluster) tell(r *toy, m *pb.FromReplica) {
	if p := w.pipes[r.conn]; p != nil {
		m.Term = r.term
		p.up = append(p.up, letter{up: m})
	}
}

// die kills a replica; its lease runs out later.
func (w *cluster) die(r *toy) {
	if r.dead {
		return
	}
	w.say("%s dies", r.id)
	r.dead = true
	if c := r.conn; c != 0 {
		if w.chance(70) {
			w.breakStream(c)
		} // else it is just silent
	}
}

// deliver takes one letter of a stream in either direction.
func (w *cluster) deliver(c Conn) {
	p := w.pipes[c]
	if p == nil {
		return
	}
	if len(p.up) > 0 && w.chance(80) {
		l := p.up[0]
		p.up = p.up[1:]
		w.step(Received{Conn: c, Msg: l.up})
	}
	if p = w.pipes[c]; p != nil && len(p.down) > 0 && w.chance(80) {
		l := p.down[0]
		p.down = p.down[1:]
		if l.end != nil {
			w.cut(c)
		}
		if !p.r.dead && (p.r.conn == c || l.end != nil) {
			w.take(p.r, l)
		}
	}
}

// disturb makes something go wrong.
func (w *cluster) disturb() {
	r := w.toys[w.rng.IntN(len(w.toys))]
	switch w.rng.IntN(60) {
	case 0:
		w.die(r)
	case 1, 2, 3:
		if r.conn != 0 && !r.dead {
			w.breakStream(r.conn)
		}
	case 12, 13: // it cannot reach the arbiter for a while
		if r.conn != 0 && !r.dead {
			w.breakStream(r.conn)
			r.attachAt = w.after(4000)
		}
	case 4:
		if len(w.toys) < 12 {
			w.spawn(pb.Role_ROLE_SPARE)
		}
	case 5:
		if len(w.toys) < 12 {
			w.spawn(pb.Role_ROLE_CANDIDATE)
		}
	case 6:
		if !r.dead { // its keep-alives get lost for a while
			w.say("%s loses its lease", r.id)
			r.muted = true
			delete(w.keys, r.id)
		}
	case 7:
		w.tally.owners++
		if w.commit != nil && w.chance(50) {
			w.transact() // it happens, and nobody hears the answer
		}
		w.arbiter()
	case 8:
		w.order(FailOver{Token: w.token + 1})
	case 9:
		w.order(ResyncNow{Token: w.token + 1})
	case 10:
		w.order(Drop{Token: w.token + 1, ReplicaID: r.id})
	case 14, 15:
		w.order(SwitchOver{Token: w.token + 1})
	case 16, 17:
		w.order(TestFailOver{Token: w.token + 1})
	case 18:
		w.order(Drain{Token: w.token + 1, ReplicaID: r.id})
	case 19, 20:
		w.order(Undrain{Token: w.token + 1, ReplicaID: r.id})
	case 21:
		w.order(Suspend{Token: w.token + 1})
	case 22, 23, 24:
		w.order(Resume{Token: w.token + 1})
	case 11:
		if c, now := r.conn, w.core.record.GetTerm(); c != 0 && !r.dead && now > 2 { // news of an older term
			w.step(Received{Conn: c, Msg: &pb.FromReplica{Term: uint64(w.rng.IntN(int(now) - 1)), Body: started(uint64(w.rng.IntN(4))).Body}})
		}
	}
}

func (w *cluster) order(in Input) {
	w.token++
	w.open[w.token] = true
	w.step(in)
}

func (w *cluster) turn() {
	w.now = w.now.Add(10 * time.Millisecond)
	for _, c := range append([]Conn(nil), w.streams...) {
		w.deliver(c)
	}
	for _, r := range w.toys {
		if !r.dead {
			w.live(r)
			if r.muted && w.chance(2) {
				w.grant(r)
			}
		} else if w.chance(2) {
			delete(w.keys, r.id) // the lease has run out
		}
	}
	if w.commit != nil && !w.now.Before(w.commitAt) {
		w.transact()
	}
	w.step(Tick{})
}

func (w *cluster) run() {
	for range 3000 {
		if w.turn(); w.err != nil {
			return
		}
		if w.chance(25) {
			w.disturb()
		}
	}
	// The faults end, and there are enough replicas.
	w.faults = false
	w.say("HEAL")
	w.spawn(pb.Role_ROLE_SPARE)
	w.spawn(pb.Role_ROLE_SPARE)
	w.spawn(pb.Role_ROLE_CANDIDATE)
	before, since := 0, 0
	for i := range 4000 {
		if w.turn(); w.err != nil {
			return
		}
		// An operator starts the VM again if all its copies were lost.
		if i%300 == 299 && w.lost() {
			w.spawn(pb.Role_ROLE_CANDIDATE)
		}
		if i%100 == 99 && i < 1000 && w.record.GetSuspended() {
			w.order(Resume{Token: w.token + 1})
		}
		if i == 3000 {
			before, since = len(w.log), w.life
		}
	}
	switch {
	case w.core.record.GetMode() != pb.Mode_MODE_PROTECTED:
		w.fail("not protected in the end: %s", w.core.Status().GetSummary())
	case w.life != since || len(w.log) < before+50:
		w.fail("the outside has seen %d outputs, %d in the last seconds", len(w.log), len(w.log)-before)
	case len(w.open) > 0:
		w.fail("%d orders were never answered", len(w.open))
	}
}

// lost tells whether nobody has a copy of the guest, and nobody offers one.
func (w *cluster) lost() bool {
	for _, r := range w.toys {
		if !r.dead && (r.role == pb.Role_ROLE_CANDIDATE || r.role == pb.Role_ROLE_ACTIVE || r.role == pb.Role_ROLE_STANDBY && r.epoch != 0) {
			return false
		}
	}
	return true
}

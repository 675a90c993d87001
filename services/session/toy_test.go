package session

import (
	"encoding/binary"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// toy is a replica: its guest's state is the list of all outputs that it has
// ever made.
type toy struct {
	id    string
	n     int
	dead  bool
	role  pb.Role
	mode  pb.Mode
	term  uint64
	epoch uint64
	lease int64
	// granted is the lease that the assignment was made under; the replica is
	// mute in SOLO under any other.
	granted int64
	muted   bool // its own clock says that the lease may have run out

	conn     Conn
	attachAt time.Time
	beatAt   time.Time

	life    int // number of the boot that the copy goes back to
	state   []uint64
	emitted int
	base    int // length of the state at the start of the epoch
	// reported outputs of the epoch; held are those of the epoch so far.
	reported int
	inbox    []uint64
	paused   bool
	holding  bool // outputs after the pause of the first copy wait for the record

	peer    string
	syncTo  uint64 // epoch of the synchronization under way; 0: none
	stageAt time.Time
	seeAt   time.Time // when the active sees that it is staged
}

func (w *cluster) attach(r *toy) {
	w.conns++
	r.conn = w.conns
	w.pipes[r.conn] = &pipe{r: r}
	w.streams = append(w.streams, r.conn)
	role := r.role
	if role == pb.Role_ROLE_STANDBY && r.epoch == 0 {
		role = pb.Role_ROLE_SPARE
	}
	w.step(Attached{Conn: r.conn, Term: r.term, Hello: &pb.Hello{Protocol: ProtocolVersion, Vm: "vm", Replica: ref(r.id),
		Role: role, Mode: r.mode, Epoch: r.epoch, LeaseId: r.lease}})
}

func (w *cluster) discard(r *toy) {
	id, n, lease, muted := r.id, r.n, r.lease, r.muted
	*r = toy{id: id, n: n, lease: lease, muted: muted, role: pb.Role_ROLE_SPARE, attachAt: w.after(100)}
}

// take is a replica's answer to the arbiter.
func (w *cluster) take(r *toy, l letter) {
	if l.end != nil {
		switch l.end.Refusal.GetAction() {
		case pb.Refusal_ACTION_EXIT:
			w.die(r)
		case pb.Refusal_ACTION_DISCARD:
			if r.role != pb.Role_ROLE_CANDIDATE {
				w.discard(r)
			}
		}
		return
	}
	switch b := l.down.GetBody().(type) {
	case *pb.ToReplica_Assignment:
		w.assigned(r, b.Assignment)
	case *pb.ToReplica_Release:
		if r.term != l.down.GetTerm() || r.mode != pb.Mode_MODE_PROTECTED || b.Release.GetEpoch() != r.epoch || r.role != pb.Role_ROLE_ACTIVE {
			return
		}
		for _, o := range b.Release.GetOutputs() {
			w.emit(r, r.base+int(o.GetId())-1)
		}
	case *pb.ToReplica_Resync:
		if r.term == l.down.GetTerm() && r.mode == pb.Mode_MODE_PROTECTED && r.role == pb.Role_ROLE_ACTIVE && r.syncTo == 0 && b.Resync.GetEpoch() > r.epoch {
			r.syncTo, r.stageAt, r.paused = b.Resync.GetEpoch(), w.after(150), true
		}
	}
}

func (w *cluster) assigned(r *toy, a *pb.Assignment) {
	rec := a.GetRecord()
	if rec.GetTerm() < r.term {
		return
	}
	if rec.GetMode() == pb.Mode_MODE_ENDED {
		w.die(r)
		return
	}
	active := rec.GetActive().GetId() == r.id
	if !active && rec.GetStandby().GetId() != r.id {
		w.discard(r)
		return
	}
	if a.GetLeaseId() != r.lease {
		w.breakStream(r.conn)
		return
	}
	r.granted = r.lease
	if rec.GetTerm() == r.term && rec.GetMode() == r.mode {
		return
	}
	was := r.role
	r.term, r.mode = rec.GetTerm(), rec.GetMode()
	switch {
	case active && was == pb.Role_ROLE_CANDIDATE:
		if r.mode != pb.Mode_MODE_SOLO {
			w.fail("%s told to boot in mode %v", r.id, r.mode)
		}
		w.life++
		w.tally.boots++
		r.role, r.life, w.log = pb.Role_ROLE_ACTIVE, w.life, nil
	case active && was == pb.Role_ROLE_SPARE, active && was == pb.Role_ROLE_STANDBY && r.epoch == 0:
		w.fail("%s made active without a copy", r.id)
	case active && was == pb.Role_ROLE_STANDBY:
		r.role, r.epoch, r.peer = pb.Role_ROLE_ACTIVE, 0, ""
		for len(r.inbox) > 0 {
			w.work(r)
		}
	case active && r.mode == pb.Mode_MODE_SOLO:
		r.epoch, r.peer, r.syncTo, r.seeAt, r.paused, r.holding = 0, "", 0, time.Time{}, false, false
	case active && r.mode == pb.Mode_MODE_SYNCING:
		r.epoch, r.peer, r.syncTo, r.stageAt, r.seeAt = 0, rec.GetStandby().GetId(), 1, w.after(400), time.Time{}
		r.paused, r.holding = false, false
	case active:
		if r.epoch == 0 && r.syncTo == 0 || r.peer != rec.GetStandby().GetId() {
			w.syncFailed(r)
			return
		}
		r.holding = false
		if r.epoch != 0 {
			w.emitUpTo(r, r.base)
		}
	case r.mode == pb.Mode_MODE_SYNCING:
		if r.epoch != 0 || was == pb.Role_ROLE_ACTIVE || was == pb.Role_ROLE_CANDIDATE {
			w.fail("%s with a copy told to take a first one", r.id)
		}
		r.role, r.peer = pb.Role_ROLE_STANDBY, rec.GetActive().GetId()
	case r.mode == pb.Mode_MODE_PROTECTED && r.epoch == 0:
		w.fail("%s made standby without a copy", r.id)
	}
}

func (w *cluster) syncFailed(r *toy) {
	r.syncTo, r.stageAt, r.seeAt, r.paused = 0, time.Time{}, time.Time{}, false
	w.tell(r, &pb.FromReplica{Body: &pb.FromReplica_SyncFailed{SyncFailed: &pb.SyncFailed{Reason: pb.Reason_REASON_LOST_FEED, Detail: "toy"}}})
}

// emit lets output i of the replica's history leave.
func (w *cluster) emit(r *toy, i int) {
	if i >= len(r.state) {
		w.fail("%s released output %d of %d", r.id, i, len(r.state))
		return
	}
	v := r.state[i]
	switch {
	case r.life != w.life:
		w.fail("%s emits %d of life %d, the VM is in life %d", r.id, v, r.life, w.life)
	case i < len(w.log) && w.log[i] != v:
		w.fail("%s emits %d as output %d, the outside has seen %d", r.id, v, i, w.log[i])
	case i > len(w.log):
		w.fail("%s emits output %d, the outside has seen %d", r.id, i, len(w.log))
	case i == len(w.log):
		w.log = append(w.log, v)
		w.tally.emitted++
	}
	r.emitted = max(r.emitted, i+1)
}

func (w *cluster) emitUpTo(r *toy, n int) {
	for r.emitted < n {
		w.emit(r, r.emitted)
	}
}

// work gives the guest one input: it makes one output.
func (w *cluster) work(r *toy) {
	v := r.inbox[0]
	r.inbox = r.inbox[1:]
	if w.faults && w.chance(3) || !w.faults && w.rng.IntN(1000) == 0 {
		v |= uint64(r.n) << 40 // the copies diverge here
	}
	r.state = append(r.state, v)
}

// live lets a replica do what it does by itself.
func (w *cluster) live(r *toy) {
	if r.conn == 0 && !w.now.Before(r.attachAt) {
		w.attach(r)
	}
	if r.conn != 0 && !w.now.Before(r.beatAt) {
		r.beatAt = w.now.Add(50 * time.Millisecond)
		idle := uint64(0)
		if len(r.inbox) == 0 && w.chance(10) {
			idle = 300_000
		}
		w.tell(r, &pb.FromReplica{Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: r.epoch, IdleUs: idle, LeaseId: r.lease}}})
	}
	running := !r.paused && r.life != 0
	if r.role == pb.Role_ROLE_ACTIVE && running && w.chance(20) {
		w.next++
		r.inbox = append(r.inbox, w.next)
		// From the pause of the first copy on, inputs go to the standby, too.
		if s := w.byID(r.peer); s != nil && s.role == pb.Role_ROLE_STANDBY && s.peer == r.id && s.epoch != 0 && r.epoch != 0 {
			s.inbox = append(s.inbox, w.next)
		}
		w.work(r)
	}
	if r.role == pb.Role_ROLE_STANDBY && running && len(r.inbox) > 0 && w.chance(60) {
		w.work(r)
	}
	if r.role == pb.Role_ROLE_ACTIVE && (r.mode == pb.Mode_MODE_SOLO || r.mode == pb.Mode_MODE_SYNCING && !r.holding) && !r.muted && r.granted == r.lease {
		w.emitUpTo(r, len(r.state))
	}
	if r.mode == pb.Mode_MODE_PROTECTED && r.epoch != 0 && r.conn != 0 {
		w.reportOutputs(r)
	}
	w.synchronize(r)
}

func (w *cluster) reportOutputs(r *toy) {
	m := &pb.Outputs{Epoch: r.epoch}
	for i := r.base + r.reported; i < len(r.state); i++ {
		d := make([]byte, 16)
		binary.LittleEndian.PutUint64(d, r.state[i])
		d[15] = 1
		r.reported++
		m.Outputs = append(m.Outputs, &pb.Output{Id: uint64(r.reported), Kind: pb.OutputKind_OUTPUT_KIND_DATAGRAM, Flow: 1, End: uint64(r.reported), Digest: d})
	}
	if len(m.Outputs) > 0 {
		w.tell(r, &pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: m}})
	}
}

// synchronize moves the active's copy to the standby.
func (w *cluster) synchronize(r *toy) {
	if r.role != pb.Role_ROLE_ACTIVE || r.syncTo == 0 {
		return
	}
	s := w.byID(r.peer)
	switch {
	case !r.stageAt.IsZero() && !w.now.Before(r.stageAt):
		if s == nil || s.role != pb.Role_ROLE_STANDBY || s.peer != r.id || r.syncTo == 1 && (s.term != r.term || s.epoch != 0) || w.faults && w.chance(5) {
			w.syncFailed(r)
			return
		}
		r.stageAt, r.seeAt, r.paused, r.holding = time.Time{}, w.after(60), true, r.syncTo == 1
		s.state, s.life, s.emitted = append([]uint64(nil), r.state...), r.life, 0
		s.inbox, s.epoch, s.base, s.reported = nil, r.syncTo, len(r.state), 0
		w.say("%s staged epoch %d of %s", s.id, s.epoch, r.id)
		w.tell(s, started(s.epoch))
	case !r.seeAt.IsZero() && !w.now.Before(r.seeAt):
		r.seeAt, r.paused = time.Time{}, false
		r.epoch, r.base, r.reported, r.syncTo = r.syncTo, len(r.state), 0, 0
		if r.mode == pb.Mode_MODE_PROTECTED {
			w.emitUpTo(r, r.base)
		}
		w.tell(r, started(r.epoch))
	}
}

func started(epoch uint64) *pb.FromReplica {
	return &pb.FromReplica{Body: &pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: epoch, Stats: &pb.SyncStats{PauseUs: 1000}}}}
}

package sim

import "time"

// moment is a step of the protocol at which a process may be lost.
type moment string

// The steps of a checkpoint, of a first copy and of a fail-over.
const (
	dialling         moment = "the feed is dialled"
	copying          moment = "the first copy begins"
	copyingAhead     moment = "a resynchronization is copied ahead"
	pausing          moment = "a guest is to pause"
	checkpointSent   moment = "a checkpoint is sent"
	checkpointBegins moment = "a checkpoint begins to arrive"
	bulkArrives      moment = "a part of a checkpoint arrives"
	stagedSent       moment = "the stage is confirmed"
	applying         moment = "the stage is to be applied"
	applied          moment = "the stage is applied"
	resuming         moment = "a guest is to go on"
	emitted          moment = "an output leaves on a release"
	committing       moment = "a record is to be changed"
	committed        moment = "a record has changed"
	assigned         moment = "a part is assigned"
	tookOver         moment = "a standby goes live"
	claiming         moment = "a replica takes the VM by itself"
	stamping         moment = "a disk's stamp is to be written"
	stamped          moment = "a disk's stamp is written"
	flushing         moment = "a guest flushes its disk"
	flushed          moment = "a guest's disk is flushed"
	blocksWritten    moment = "blocks of a stage are written"
	// synReleased is for a test of its own.
	synReleased moment = "a SYN leaves on a release"
)

var moments = []moment{dialling, copying, copyingAhead, pausing, checkpointSent, checkpointBegins, bulkArrives, stagedSent, applying,
	applied, resuming, emitted, committing, committed, assigned, tookOver, claiming}

// diskMoments come only where guests have disks.
var diskMoments = []moment{stamping, stamped, flushing, flushed, blocksWritten}

// trap is a fault that waits for its moment.
type trap struct {
	v      *vm
	at     moment
	victim string
	silent bool
	skip   int // that many times
}

var victims = []string{"active", "standby", "owner"}

func (w *world) setTrap(v *vm) bool {
	if w.trap != nil {
		return false
	}
	at := moments
	if v.disks && w.chance(0.4) {
		at = diskMoments
	}
	w.trap = &trap{v: v, at: at[w.rng.IntN(len(at))], victim: victims[w.rng.IntN(len(victims))],
		silent: w.chance(0.5), skip: w.rng.IntN(3)}
	if w.opt.cold > 0 && w.chance(0.4) {
		w.trap.victim = "everything"
	}
	return true
}

// hit says that a moment has come.
func (w *world) hit(at moment, v *vm) {
	t := w.trap
	if t == nil || t.at != at || t.v != v || w.calm {
		return
	}
	if t.skip > 0 {
		t.skip--
		return
	}
	var delay time.Duration
	if w.chance(0.5) {
		delay = w.between(0, time.Millisecond)
	}
	w.schedule(w.now+delay, func() {
		if w.trap == t && t.spring() {
			w.trap = nil
			w.faults[t.victim+" lost when "+string(at)]++
		}
	})
}

// spring carries the fault out, if it can be survived now.
func (t *trap) spring() bool {
	v, rec := t.v, t.v.record()
	switch t.victim {
	case "everything":
		return v.coldRestart()
	case "active":
		return v.crash(rec.GetActive().GetId(), t.silent)
	case "standby":
		r := v.host(rec.GetStandby().GetId())
		if r == nil || r.dead || !v.survivable() && !v.alone() {
			return false
		}
		v.lose(r, t.silent)
		return true
	}
	a := v.entry.owner
	if a == nil || a.dead {
		return false
	}
	v.w.loseArbiter(a, t.silent)
	return true
}

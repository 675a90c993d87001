package sim

import (
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/role"
	"github.com/understudy-ft/understudy/services/session"
)

// Mutation is a deliberate defect, put into the shells around the production
// cores, by which the checkers prove that they would see one like it.
type Mutation string

// The mutations.
const (
	// NoComparison: the arbiter releases what the active reports, whatever the
	// standby does.
	NoComparison Mutation = "released before the standby made it"
	// NoDigests: every digest is the same.
	NoDigests Mutation = "digests not compared"
	// NoAckRule: the standby seems to have acknowledged everything.
	NoAckRule Mutation = "acknowledged before the standby has"
	// NoEpochs: releases count whatever their epoch is.
	NoEpochs Mutation = "epochs not checked"
	// EternalLease: a replica believes its lease to be valid for ever.
	EternalLease Mutation = "leases do not run out"
	// NoLeaseConditions: records change whoever holds a lease.
	NoLeaseConditions Mutation = "records change without their conditions"
	// NoRevisions: records change whatever etcd holds.
	NoRevisions Mutation = "records change against any revision"
	// EarlyStaged: the active takes a checkpoint for staged when it has sent it.
	EarlyStaged Mutation = "outputs leave before the stage is whole"
	// StageInPlace: a part of a checkpoint changes the standby's machine.
	StageInPlace Mutation = "a stage is applied in parts"
	// NoParking: a take-over does not wait for the stage that is being applied.
	NoParking Mutation = "a take-over does not wait for the stage"
	// LeakyPause: what the guest sends after the pause of a first copy leaves.
	LeakyPause Mutation = "outputs leave after the pause of a first copy"
	// LostInputs, SwappedInputs: the standby is not given what the feed brings.
	LostInputs    Mutation = "an input is lost at the standby"
	SwappedInputs Mutation = "inputs change places at the standby"
	// NoRefeed: inputs right behind a checkpoint's begin are lost.
	NoRefeed Mutation = "inputs behind a checkpoint's begin are lost"
	// WrongISN: the standby learns wrong numbers; LateISN: the right ones only
	// some time later.
	WrongISN Mutation = "initial sequence numbers not told"
	LateISN  Mutation = "initial sequence numbers told too late"
	// ClaimOwned: a replica takes the VM by itself although an arbiter owns it.
	ClaimOwned Mutation = "a replica helps itself under an owner"
	// StaleFlows: a checkpoint brings the flow table of the one before it.
	StaleFlows Mutation = "a checkpoint holds an old flow table"
	// SpeakingStandby: what the standby's guest sends leaves, once in a while.
	SpeakingStandby Mutation = "a standby speaks"
	// EarlyProtected: a first copy counts when the standby has taken its part.
	EarlyProtected Mutation = "protected before the first copy is whole"
	// RepeatedInputs: the standby is given an input twice.
	RepeatedInputs Mutation = "an input comes twice at the standby"
	// StaleStage: a checkpoint brings what the one before it brought.
	StaleStage Mutation = "a checkpoint holds an old state"
	// NoSync: the guest's flush is answered, though nothing was made durable.
	NoSync Mutation = "a flush does not make writes durable"
	// NoBootFlush: a guest begins on what a killed process has left with the
	// host's kernel.
	NoBootFlush Mutation = "a guest boots from writes that are not durable"
	// NoHold: the stamp does not say that a stage is about to be written.
	NoHold Mutation = "a stage is confirmed before the stamp says so"
	// EarlyRelease: the stamp calls an image whole while the stage is written.
	EarlyRelease Mutation = "a disk counts as whole while a stage is applied"
	// StaleBoots: the arbiter does not see which image a candidate has.
	StaleBoots Mutation = "any disk is booted from"
	// LostRepairs: blocks that only the standby wrote stay as they are.
	LostRepairs Mutation = "blocks that only the standby wrote are not repaired"
	// OutlivedRule: what was exempt once leaves uncompared for ever.
	OutlivedRule Mutation = "an exemption outlives its rule"
	// LostRules: an order to resynchronize brings no flow rules.
	LostRules Mutation = "flow rules do not change with an epoch"
)

// Mutations are all of them.
var Mutations = []Mutation{NoComparison, NoDigests, NoAckRule, NoEpochs, EternalLease, NoLeaseConditions,
	ClaimOwned, StaleFlows, SpeakingStandby, EarlyProtected, RepeatedInputs, NoRevisions, EarlyStaged, StageInPlace, NoParking, LeakyPause, LostInputs, SwappedInputs, NoRefeed, WrongISN, LateISN, StaleStage,
	NoSync, NoBootFlush, NoHold, EarlyRelease, StaleBoots, LostRepairs, OutlivedRule, LostRules}

// mutant is what a defective replica remembers.
type mutant struct {
	first   bool        // the checkpoint of a first copy was sent
	begun   bool        // a checkpoint has just begun to arrive
	kept    []byte      // an input out of its place
	earlier *guestState // of the checkpoint before
	flows   []byte      // likewise
}

func (w *world) mutated(m Mutation) bool { return w.mutation == m }

// mutate changes what an arbiter receives.
func (t *seat) mutate(conn session.Conn, m *pb.FromReplica) {
	w, rec := t.v.w, t.v.record()
	from := t.streams[conn]
	if from == nil {
		return
	}
	r := t.v.of(from.other().p)
	if r != nil && w.mutated(EarlyProtected) && rec.GetMode() == pb.Mode_MODE_SYNCING && r.id == rec.GetStandby().GetId() && m.GetHeartbeat() != nil {
		m.GetHeartbeat().Epoch = 1
	}
	if b, ok := m.GetBody().(*pb.FromReplica_ProbeReply); ok && w.mutated(NoDigests) {
		b.ProbeReply.Digest = sameDigest
	}
	outputs := m.GetOutputs()
	if outputs == nil || r == nil {
		return
	}
	release := &pb.Release{Epoch: outputs.GetEpoch()}
	for _, o := range outputs.GetOutputs() {
		release.Outputs = append(release.Outputs, &pb.Released{Id: o.GetId()})
		if w.mutated(OutlivedRule) && strings.Contains(o.GetName(), guestDice) {
			t.dice = map[uint64]bool{o.GetFlow(): true}
		}
		if t.dice[o.GetFlow()] {
			o.Kind = pb.OutputKind_OUTPUT_KIND_PASS
		}
		if w.mutated(NoDigests) && len(o.GetDigest()) > 0 {
			o.Digest = sameDigest
		}
		if w.mutated(NoAckRule) && r.id == rec.GetStandby().GetId() && o.GetKind() == pb.OutputKind_OUTPUT_KIND_STREAM {
			o.Ack, o.Edge = 1<<50, 1<<51
		}
	}
	if w.mutated(NoComparison) && r.id == rec.GetActive().GetId() && t.owns {
		from.send(&pb.ToReplica{Term: rec.GetTerm(), Body: &pb.ToReplica_Release{Release: release}})
	}
}

// guestDice is in the name of the flow of the dice.
const guestDice = "10.0.0.1:37 "

var sameDigest = []byte("sixteen bytes, 1")

// of is the replica of a process.
func (v *vm) of(p *process) *replica {
	for _, r := range v.hosts {
		if r.process == p {
			return r
		}
	}
	return nil
}

// mutateOrder changes what a replica hears from the arbiter.
func (r *replica) mutateOrder(m *pb.ToReplica) {
	switch b := m.GetBody().(type) {
	case *pb.ToReplica_Release:
		if r.w.mutated(NoEpochs) {
			b.Release.Epoch = r.core.Epoch()
		}
	case *pb.ToReplica_Resync:
		if p := b.Resync.GetPolicy(); p != nil && r.w.mutated(LostRules) {
			p.FlowRules = nil
		}
	case *pb.ToReplica_Assignment:
		if r.w.mutated(NoParking) && r.staged != nil && b.Assignment.GetRecord().GetActive().GetId() == r.id {
			r.staged = nil
			r.do(func() { r.core.Applied(r.clock(), nil) })
		}
		return
	}
}

// mutateOutput follows a frame that the guest has sent.
func (r *replica) mutateOutput(frame []byte) {
	if r.w.mutated(SpeakingStandby) && r.core.Role() == pb.Role_ROLE_STANDBY && r.core.Epoch() > 0 && r.w.chance(0.01) {
		r.muted = false
		r.Emit(slices.Clone(frame), false)
		r.muted = true
	}
	if r.w.mutated(LeakyPause) && r.mutant.first && r.core.Role() == pb.Role_ROLE_ACTIVE && r.core.Mode() == pb.Mode_MODE_SYNCING {
		r.Emit(slices.Clone(frame), true)
	}
}

// mutateSent follows a checkpoint that the active has begun to send.
func (r *replica) mutateSent(ck *role.Checkpoint) {
	r.mutant.first = ck.First
	if r.w.mutated(EarlyStaged) {
		r.after(0, func() {
			r.do(func() {
				r.core.FromStandby(r.clock(), &pb.FromStandby{Body: &pb.FromStandby_Staged{Staged: &pb.Staged{Epoch: ck.Epoch}}})
			})
		})
	}
}

// mutateState changes the machine's state in a checkpoint.
func (r *replica) mutateState(s guestState) guestState {
	if !r.w.mutated(StaleStage) {
		return s
	}
	if old := r.mutant.earlier; old != nil && r.w.chance(0.2) {
		return old.clone()
	}
	kept := s.clone()
	r.mutant.earlier = &kept
	return s
}

// mutateFlows changes the flow table in a checkpoint.
func (r *replica) mutateFlows(flows []byte) []byte {
	if !r.w.mutated(StaleFlows) {
		return flows
	}
	old := r.mutant.flows
	r.mutant.flows = flows
	if old != nil && r.w.chance(0.3) {
		return old
	}
	return flows
}

// mutateBulk follows a part of a checkpoint that has arrived.
func (r *replica) mutateBulk(b *bulk) {
	if r.w.mutated(StageInPlace) && b.part == 1 && r.guest != nil && r.guest.paused {
		c := b.guest.clone()
		r.guest.state.conns, r.guest.state.latest, r.guest.state.live = c.conns, c.latest, c.live
	}
}

// mutateFeed changes what the feed brings.
func (r *replica) mutateFeed(m *pb.FromActive) *pb.FromActive {
	begun := r.mutant.begun
	r.mutant.begun = m.GetCheckpointBegin() != nil || begun && m.GetInputs() == nil
	switch {
	case r.w.mutated(NoRefeed) && begun && m.GetInputs() != nil:
		m = proto.CloneOf(m)
		for i := range m.GetInputs().GetFrames() {
			m.GetInputs().Frames[i] = make([]byte, 60)
		}
	case (r.w.mutated(WrongISN) || r.w.mutated(LateISN)) && m.GetFlowOpened() != nil:
		wrong := proto.CloneOf(m)
		wrong.GetFlowOpened().Isn += 77777
		if feed := r.following; r.w.mutated(LateISN) {
			r.after(100*time.Millisecond, func() {
				if r.following == feed {
					r.do(func() { r.core.FromActive(r.clock(), m) })
				}
			})
		}
		m = wrong
	}
	return m
}

// mutateInput changes what the standby's guest is given.
func (r *replica) mutateInput(frame []byte) [][]byte {
	lost, swapped, twice := r.w.mutated(LostInputs), r.w.mutated(SwappedInputs), r.w.mutated(RepeatedInputs)
	if !lost && !swapped && !twice || r.core.Role() != pb.Role_ROLE_STANDBY {
		return [][]byte{frame}
	}
	if kept := r.mutant.kept; kept != nil {
		r.mutant.kept = nil
		return [][]byte{frame, kept}
	}
	if r.w.chance(0.02) {
		if twice {
			return [][]byte{frame, slices.Clone(frame)}
		}
		if swapped {
			r.mutant.kept = slices.Clone(frame)
		}
		return nil
	}
	return [][]byte{frame}
}

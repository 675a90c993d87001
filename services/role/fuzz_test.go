package role

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
)

// Steps of FuzzCore. Those from stepArbiter on are followed by a message: two
// bytes of length and its encoding.
const (
	stepTick = iota
	stepArbiterUp
	stepArbiterDown
	stepLease
	stepAcceptFeed
	stepFeedEnds
	stepAnswer
	stepFail
	stepInput
	stepGuestEvent
	stepArbiter
	stepActive
	stepStandby
	stepStage
	stepOutput
	steps
)

// FuzzCore gives a Core whatever peers could send at any time: an arbiter, an
// active and a standby that break every rule, over transports and a machine
// that keep theirs. It must not panic, and must emit only as the active.
func FuzzCore(f *testing.F) {
	self, other := &pb.ReplicaRef{Id: "a", Address: "a:1"}, &pb.ReplicaRef{Id: "b", Address: "b:1"}
	assign := func(term uint64, mode pb.Mode, active, standby *pb.ReplicaRef) []byte {
		return step(stepArbiter, &pb.ToReplica{Term: term, Body: &pb.ToReplica_Assignment{Assignment: &pb.Assignment{
			LeaseId: 1, Record: &pb.Record{Vm: "vm", Term: term, Mode: mode, Active: active, Standby: standby, Reason: pb.Reason_REASON_BOOT},
		}}})
	}
	fromActive := func(m *pb.FromActive) []byte { m.Term = 2; return step(stepActive, m) }
	begun := []byte{0, stepLease, stepArbiterUp}
	f.Add(join(begun, assign(2, pb.Mode_MODE_SYNCING, other, self), []byte{stepAcceptFeed},
		fromActive(&pb.FromActive{Body: &pb.FromActive_Inputs{Inputs: &pb.Inputs{First: 1, Frames: [][]byte{[]byte("in")}}}}),
		fromActive(&pb.FromActive{Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: &pb.CheckpointBegin{Epoch: 1, ThroughInput: 1}}}),
		[]byte{stepAnswer}, step(stepStage, &pb.Checkpoint{Version: 1, Epoch: 1, ThroughInput: 1, Machine: &pb.MachineState{}}),
		[]byte{stepAnswer, stepAnswer}, assign(3, pb.Mode_MODE_PROTECTED, other, self),
		fromActive(&pb.FromActive{Body: &pb.FromActive_Emitted{Emitted: &pb.Emitted{Epoch: 1, Flows: []*pb.EmittedFlow{{Flow: 1, End: ^uint64(0)}}}}}),
		fromActive(&pb.FromActive{Body: &pb.FromActive_FlowOpened{FlowOpened: &pb.FlowOpened{Flow: 1, Isn: 7}}}),
		step(stepOutput, &pb.HeldOutput{Frame: datagram("out")}), []byte{stepFeedEnds}, assign(4, pb.Mode_MODE_SOLO, self, nil)))
	f.Add(join([]byte{1}, begun[1:], assign(1, pb.Mode_MODE_SOLO, self, nil), []byte{stepAnswer}, step(stepOutput, &pb.HeldOutput{Frame: datagram("out")}),
		assign(2, pb.Mode_MODE_SYNCING, self, other), []byte{stepAnswer, stepAnswer, stepAnswer, stepAnswer},
		step(stepStandby, &pb.FromStandby{Term: 2, Body: &pb.FromStandby_Staged{Staged: &pb.Staged{Epoch: 1}}}),
		assign(3, pb.Mode_MODE_PROTECTED, self, other), step(stepOutput, &pb.HeldOutput{Frame: datagram("more")}),
		step(stepArbiter, &pb.ToReplica{Term: 3, Body: &pb.ToReplica_Release{Release: &pb.Release{Epoch: 1, Outputs: []*pb.Released{{Id: 1}, {Id: 1}, {Id: 9}}}}}),
		step(stepArbiter, &pb.ToReplica{Term: 3, Body: &pb.ToReplica_Probes{Probes: &pb.Probes{Epoch: 1, Probes: []*pb.Probe{{Flow: 1, Offset: ^uint64(0)}}}}}),
		step(stepArbiter, &pb.ToReplica{Term: 3, Body: &pb.ToReplica_Resync{Resync: &pb.Resync{Epoch: ^uint64(0)}}}),
		step(stepStandby, &pb.FromStandby{Term: 3, Body: &pb.FromStandby_Staged{Staged: &pb.Staged{Epoch: ^uint64(0)}}})))
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) == 0 || len(data) > 1<<16 {
			return
		}
		h := &fuzzHost{t: t, now: time.Second}
		h.core = New(Config{VM: "vm", Self: self, Candidate: data[0]&1 != 0, FlowSeed: 1, SoloAfter: 20 * time.Millisecond}, h)
		data = data[1:]
		for len(data) > 0 {
			data = h.step(data)
			h.now += 3 * time.Millisecond
			h.core.Flush(h.now)
		}
	})
}

// step is a step with its message.
func step(what byte, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return append(binary.BigEndian.AppendUint16([]byte{what}, uint16(len(b))), b...)
}

func join(parts ...[]byte) (all []byte) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// fuzzHost is a machine and transports that do as they are told. What answers
// wait is a queue.
type fuzzHost struct {
	t       *testing.T
	core    *Core
	now     time.Duration
	feed    bool
	active  bool // the feed's other end is the active
	answers []func(ok bool)
}

var errFuzz = errors.New("it failed")

func (h *fuzzHost) step(data []byte) []byte {
	c, what := h.core, data[0]%steps
	data = data[1:]
	var message []byte
	if what >= stepArbiter {
		if len(data) < 2 {
			return nil
		}
		n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
		message, data = data[2:2+n], data[2+n:]
	}
	switch what {
	case stepTick:
		c.Tick(h.now)
	case stepArbiterUp:
		c.ArbiterUp(h.now)
	case stepArbiterDown:
		c.ArbiterDown(h.now)
	case stepLease:
		c.Lease(h.now, 1, h.now+time.Second)
	case stepAcceptFeed:
		hello := &pb.FeedHello{Protocol: Protocol, Vm: "vm", ActiveId: "b", StandbyId: "a"}
		if h.feed {
			break
		}
		if speaks, err := c.AcceptFeed(h.now, c.Term(), hello); err == nil {
			h.feed, h.active = true, true
			c.FeedUp(h.now, speaks)
		}
	case stepFeedEnds:
		if h.feed {
			h.feed = false
			c.FeedDown(h.now, errFuzz)
		}
	case stepAnswer, stepFail:
		if len(h.answers) > 0 {
			answer := h.answers[0]
			h.answers = h.answers[1:]
			answer(what == stepAnswer)
		}
	case stepInput:
		c.Input(h.now, datagram("in"))
	case stepGuestEvent:
		c.GuestEvent(h.now, pb.GuestEvent_GUEST_EVENT_REBOOT, "")
	case stepArbiter:
		if m := new(pb.ToReplica); proto.Unmarshal(message, m) == nil && m.Body != nil {
			c.FromArbiter(h.now, m)
		}
	case stepActive:
		if m := new(pb.FromActive); h.feed && h.active && proto.Unmarshal(message, m) == nil && m.Body != nil {
			m.Term = c.Term() // the feed takes no other
			c.FromActive(h.now, m)
		}
	case stepStandby:
		if m := new(pb.FromStandby); h.feed && !h.active && proto.Unmarshal(message, m) == nil && m.Body != nil {
			c.FromStandby(h.now, m)
		}
	case stepStage:
		if m := new(pb.Checkpoint); h.feed && h.active && proto.Unmarshal(message, m) == nil {
			c.StageReady(h.now, m)
		}
	case stepOutput:
		if m := new(pb.HeldOutput); proto.Unmarshal(message, m) == nil {
			c.Output(h.now, m.GetFrame())
		}
	}
	return data
}

// later queues an answer to what the Core asked for.
func (h *fuzzHost) later(answer func(ok bool)) {
	if len(h.answers) < 64 {
		h.answers = append(h.answers, answer)
	}
}

func (h *fuzzHost) Emit([]byte, bool) {
	if r := h.core.Role(); r != pb.Role_ROLE_ACTIVE {
		h.t.Fatalf("emits as %v", r)
	}
}

func (h *fuzzHost) DialFeed(*pb.ReplicaRef) {
	h.later(func(ok bool) {
		if h.feed {
			return
		}
		if h.feed, h.active = ok, false; ok {
			h.core.FeedUp(h.now, Protocol)
		} else {
			h.core.FeedDown(h.now, errFuzz)
		}
	})
}

func (h *fuzzHost) CloseFeed() { h.feed = false }

func (h *fuzzHost) Pause() { h.later(func(bool) { h.core.Paused(h.now) }) }

func (h *fuzzHost) CopyLive() {
	h.later(func(ok bool) {
		if ok {
			h.core.CopyConverged(h.now)
		} else {
			h.core.SyncFailed(h.now, pb.Reason_REASON_LOST_FEED, errFuzz)
		}
	})
}

func (h *fuzzHost) CopyAhead(uint64, pb.Reason) { h.CopyLive() }

func (h *fuzzHost) SendCheckpoint(*Checkpoint) {
	h.later(func(ok bool) {
		if ok {
			h.core.Checkpointed(h.now, &pb.SyncStats{})
		} else {
			h.core.SyncFailed(h.now, pb.Reason_REASON_LOST_FEED, errFuzz)
		}
	})
}

func (h *fuzzHost) ApplyStage(*pb.Checkpoint) {
	h.later(func(ok bool) {
		if ok {
			h.core.Applied(h.now, nil)
		} else {
			h.core.Applied(h.now, errFuzz)
		}
	})
}

func (h *fuzzHost) ReadRecord() {
	h.later(func(ok bool) {
		r := &pb.Record{Vm: "vm", Term: h.core.Term(), Mode: h.core.Mode(), Active: &pb.ReplicaRef{Id: "a"}, Standby: &pb.ReplicaRef{Id: "b"}}
		if !ok {
			r.Active, r.Standby = r.Standby, r.Active
		}
		h.core.RecordRead(h.now, r, 1)
	})
}

func (h *fuzzHost) Claim(Claim) { h.later(func(ok bool) { h.core.Claimed(h.now, ok) }) }

func (h *fuzzHost) ToArbiter(*pb.FromReplica)             {}
func (h *fuzzHost) ToStandby(*pb.FromActive)              {}
func (h *fuzzHost) ToActive(*pb.FromStandby)              {}
func (h *fuzzHost) Room() int                             { return 2 }
func (h *fuzzHost) Deliver(frames [][]byte) int           { return len(frames) }
func (h *fuzzHost) Idle() time.Duration                   { return h.now % (4 * time.Millisecond) }
func (h *fuzzHost) Boot()                                 {}
func (h *fuzzHost) Resume()                               {}
func (h *fuzzHost) AbortSync()                            {}
func (h *fuzzHost) AnswerDirty(uint64)                    {}
func (h *fuzzHost) DropStage()                            {}
func (h *fuzzHost) Mute(bool)                             {}
func (h *fuzzHost) GoLive([]packet.Announcement) [][]byte { return nil }
func (h *fuzzHost) Reattach()                             {}
func (h *fuzzHost) Discard(string)                        {}
func (h *fuzzHost) Exit(error)                            {}
func (h *fuzzHost) Report(Event)                          {}

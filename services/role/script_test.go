package role

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
)

// TestScripts walks the scripts in testdata: each command is something that
// happens to a replica, its expected output all that the replica does. Run with
// -rewrite to accept what it does now.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *script
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "new" {
				s = newScript(t, d)
				return "ok\n"
			}
			return s.run(t, d)
		})
	})
}

// script is a Core whose Host writes down every call.
type script struct {
	core  *Core
	now   time.Duration
	out   strings.Builder
	full  bool
	idle  time.Duration
	heard [][]byte
}

func newScript(t *testing.T, d *datadriven.TestData) *script {
	s := &script{}
	var id string
	d.ScanArgs(t, "id", &id)
	s.core = New(Config{VM: "vm", Self: &pb.ReplicaRef{Id: id, Address: id + ":1"}, Candidate: d.HasArg("candidate"),
		CanBoot: d.HasArg("bootable"), FlowSeed: 1, SoloAfter: 6 * time.Second}, s)
	return s
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	s.out.Reset()
	c := s.core
	num := func(name string) (n uint64) { d.MaybeScanArgs(t, name, &n); return n }
	if us := num("us"); us > 0 {
		s.now += time.Duration(us) * time.Microsecond
	} else {
		s.now += time.Millisecond
	}
	// The lines below an assignment or an order to resynchronize are flow rules.
	policy := func() *pb.Policy {
		return &pb.Policy{FlowRules: strings.FieldsFunc(d.Input, func(r rune) bool { return r == '\n' })}
	}
	text := func(name string) (v string) { d.MaybeScanArgs(t, name, &v); return v }
	switch d.Cmd {
	case "arbiter":
		if d.HasArg("up") {
			c.ArbiterUp(s.now)
		} else {
			c.ArbiterDown(s.now)
		}
	case "lease":
		c.Lease(s.now, int64(num("id")), s.now+time.Duration(num("ms"))*time.Millisecond)
	case "hello":
		h := c.Hello()
		fmt.Fprintf(&s.out, "term %d %s %s epoch %d", h.GetTerm(), h.GetHello().GetRole(), h.GetHello().GetMode(), h.GetHello().GetEpoch())
		if h.GetHello().GetCanBoot() {
			s.out.WriteString(" can boot")
		}
		s.out.WriteString("\n")
	case "assign":
		r := record(text)
		r.Term = num("term")
		if d.HasArg("boot") {
			r.Reason = pb.Reason_REASON_BOOT
		}
		c.FromArbiter(s.now, &pb.ToReplica{Term: r.Term, Body: &pb.ToReplica_Assignment{Assignment: &pb.Assignment{
			Record: r, LeaseId: int64(num("lease")), Policy: policy()}}})
	case "record": // what etcd holds
		r := record(text)
		r.Term, r.ActiveDisk, r.StandbyDisk = num("term"), text("adisk"), text("sdisk")
		if d.HasArg("none") {
			r = nil
		}
		c.RecordRead(s.now, r, int64(num("revision")))
	case "claimed":
		c.Claimed(s.now, !d.HasArg("not"))
	case "release":
		m := &pb.Release{Epoch: num("epoch")}
		for _, line := range strings.Fields(d.Input) {
			var id uint64
			fmt.Sscan(line, &id)
			m.Outputs = append(m.Outputs, &pb.Released{Id: id})
		}
		c.FromArbiter(s.now, &pb.ToReplica{Term: num("term"), Body: &pb.ToReplica_Release{Release: m}})
	case "resync":
		reason := pb.Reason_REASON_MISMATCH
		if d.HasArg("periodic") {
			reason = pb.Reason_REASON_PERIODIC
		}
		c.FromArbiter(s.now, &pb.ToReplica{Term: num("term"), Body: &pb.ToReplica_Resync{
			Resync: &pb.Resync{Epoch: num("epoch"), Reason: reason, Policy: policy()}}})
	case "refuse":
		a := pb.Refusal_Action(pb.Refusal_Action_value["ACTION_"+strings.ToUpper(text("action"))])
		c.FromArbiter(s.now, &pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: &pb.Refusal{Action: a, Detail: "because"}}})
	case "output":
		c.Output(s.now, datagram(text("say")))
	case "guest":
		c.GuestEvent(s.now, pb.GuestEvent(pb.GuestEvent_value["GUEST_EVENT_"+strings.ToUpper(text("event"))]), "")
	case "input":
		c.Input(s.now, []byte(text("say")))
	case "inputs": // one batch of what the uplink heard
		for _, say := range strings.Fields(d.Input) {
			c.Input(s.now, []byte(say))
		}
	case "rests":
		s.idle = time.Duration(num("idle")) * time.Microsecond
	case "full":
		s.full = true
	case "room":
		s.full = false
	case "heard":
		s.heard = append(s.heard, []byte(text("say")))
	case "feed":
		switch {
		case d.HasArg("up"):
			c.FeedUp(s.now, Protocol)
		case d.HasArg("down"):
			c.FeedDown(s.now, errors.New("broken"))
		default:
			_, err := c.AcceptFeed(s.now, num("term"), &pb.FeedHello{Protocol: Protocol, Vm: "vm", ActiveId: text("active"), StandbyId: text("standby")})
			fmt.Fprintf(&s.out, "accept: %v\n", err)
		}
	case "converged":
		c.CopyConverged(s.now)
	case "paused":
		c.Paused(s.now)
	case "checkpointed":
		c.Checkpointed(s.now, &pb.SyncStats{PagesCompared: 7, PagesSent: 3})
	case "staged":
		c.FromStandby(s.now, &pb.FromStandby{Body: &pb.FromStandby_Staged{Staged: &pb.Staged{Epoch: num("epoch")}}})
	case "fed": // inputs of the feed
		m := &pb.Inputs{First: num("first"), Together: d.HasArg("together")}
		for _, say := range strings.Fields(text("say") + " " + d.Input) {
			m.Frames = append(m.Frames, []byte(say))
		}
		c.FromActive(s.now, &pb.FromActive{Term: num("term"), Body: &pb.FromActive_Inputs{Inputs: m}})
	case "emitted":
		m := &pb.Emitted{Epoch: num("epoch"), Carried: d.HasArg("carried")}
		if text("like") != "" {
			o := newFlowOf(text("like"))
			m.Flows = append(m.Flows, &pb.EmittedFlow{Flow: o, End: num("count")})
		}
		c.FromActive(s.now, &pb.FromActive{Term: num("term"), Body: &pb.FromActive_Emitted{Emitted: m}})
	case "begin":
		c.FromActive(s.now, &pb.FromActive{Term: num("term"), Body: &pb.FromActive_CheckpointBegin{
			CheckpointBegin: &pb.CheckpointBegin{Epoch: num("epoch"), ThroughInput: num("through")}}})
	case "stage":
		ck := &pb.Checkpoint{Epoch: num("epoch"), ThroughInput: num("through"), Flows: New(Config{FlowSeed: 1}, nil).flows.Save()}
		for _, say := range strings.Fields(d.Input) {
			ck.Held = append(ck.Held, &pb.HeldOutput{Output: &pb.Output{Kind: pb.OutputKind_OUTPUT_KIND_DATAGRAM}, Frame: datagram(say)})
		}
		c.StageReady(s.now, ck)
	case "applied":
		c.Applied(s.now, nil)
	case "tick":
		s.now += time.Duration(num("ms")) * time.Millisecond
		c.Tick(s.now)
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	c.Flush(s.now)
	if at := c.Due(); at != 0 && d.HasArg("us") {
		s.say("due in %v", at-s.now)
	}
	if s.out.Len() == 0 {
		return "-\n"
	}
	return s.out.String()
}

// record is the record that a command's arguments describe.
func record(text func(string) string) *pb.Record {
	r := &pb.Record{Vm: "vm", Mode: pb.Mode(pb.Mode_value["MODE_"+strings.ToUpper(text("mode"))])}
	if id := text("active"); id != "" {
		r.Active = &pb.ReplicaRef{Id: id, Address: id + ":1"}
	}
	if id := text("standby"); id != "" {
		r.Standby = &pb.ReplicaRef{Id: id, Address: id + ":1"}
	}
	return r
}

// datagram is a UDP frame of the guest with this payload.
func datagram(say string) []byte {
	b := make([]byte, 42, 42+len(say))
	copy(b, []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0, 0x45})
	binary.BigEndian.PutUint16(b[16:], uint16(28+len(say)))
	b[22], b[23] = 64, 17
	copy(b[26:], []byte{10, 0, 0, 1, 10, 0, 0, 2})
	binary.BigEndian.PutUint16(b[34:], 53)
	binary.BigEndian.PutUint16(b[36:], 99)
	binary.BigEndian.PutUint16(b[38:], uint16(8+len(say)))
	return append(b, say...)
}

func newFlowOf(say string) uint64 {
	return uint64(New(Config{FlowSeed: 1}, nil).flows.Out(datagram(say)).Flow)
}

func payload(frame []byte) string {
	if len(frame) >= 42 {
		return string(frame[42:])
	}
	return string(frame)
}

func (s *script) say(format string, args ...any) { fmt.Fprintf(&s.out, format+"\n", args...) }

func (s *script) ToArbiter(m *pb.FromReplica) {
	switch b := m.GetBody().(type) {
	case *pb.FromReplica_Outputs:
		for _, o := range b.Outputs.GetOutputs() {
			s.say("arbiter <- term %d epoch %d output %d %s end %d after %d %s", m.GetTerm(), b.Outputs.GetEpoch(), o.GetId(),
				strings.TrimPrefix(o.GetKind().String(), "OUTPUT_KIND_"), o.GetEnd(), o.GetAfterInput(), o.GetName())
		}
	case *pb.FromReplica_EpochStarted:
		s.say("arbiter <- term %d epoch %d started", m.GetTerm(), b.EpochStarted.GetEpoch())
	case *pb.FromReplica_SyncFailed:
		s.say("arbiter <- term %d sync failed %s: %s", m.GetTerm(), b.SyncFailed.GetReason(), b.SyncFailed.GetDetail())
	case *pb.FromReplica_Heartbeat:
		s.say("arbiter <- heartbeat delivered %d held %d", b.Heartbeat.GetDeliveredInput(), b.Heartbeat.GetHeld())
	default:
		s.say("arbiter <- %T", b)
	}
}

func (s *script) ToStandby(m *pb.FromActive) {
	switch b := m.GetBody().(type) {
	case *pb.FromActive_Inputs:
		var frames []string
		for _, f := range b.Inputs.GetFrames() {
			frames = append(frames, string(f))
		}
		together := ""
		if b.Inputs.GetTogether() {
			together = " together"
		}
		s.say("standby <- inputs from %d: %s%s", b.Inputs.GetFirst(), strings.Join(frames, " "), together)
	case *pb.FromActive_Emitted:
		s.say("standby <- emitted epoch %d: %d flows carried %v", b.Emitted.GetEpoch(), len(b.Emitted.GetFlows()), b.Emitted.GetCarried())
	default:
		s.say("standby <- %T", b)
	}
}

func (s *script) ToActive(m *pb.FromStandby) {
	switch b := m.GetBody().(type) {
	case *pb.FromStandby_Staged:
		s.say("active <- staged epoch %d", b.Staged.GetEpoch())
	}
}

func (s *script) Emit(frame []byte, leased bool) { s.say("EMIT %s leased %v", payload(frame), leased) }
func (s *script) Room() int {
	if s.full {
		return 0
	}
	return 100
}
func (s *script) Deliver(frames [][]byte) int {
	s.say("guest <- %s", bytes.Join(frames, []byte(" ")))
	return len(frames)
}
func (s *script) Idle() time.Duration        { return s.idle }
func (s *script) Boot()                      { s.say("boot") }
func (s *script) Pause()                     { s.say("pause") }
func (s *script) Resume()                    { s.say("resume") }
func (s *script) DialFeed(to *pb.ReplicaRef) { s.say("dial feed to %s", to.GetId()) }
func (s *script) CloseFeed()                 { s.say("close feed") }
func (s *script) CopyLive()                  { s.say("copy live") }
func (s *script) CopyAhead(epoch uint64, _ pb.Reason) {
	s.say("copy ahead of epoch %d", epoch)
}
func (s *script) AbortSync()                  { s.say("abort sync") }
func (s *script) AnswerDirty(epoch uint64)    { s.say("answer dirty of epoch %d", epoch) }
func (s *script) ApplyStage(c *pb.Checkpoint) { s.say("apply stage of epoch %d", c.GetEpoch()) }
func (s *script) DropStage()                  { s.say("drop stage") }
func (s *script) Mute(m bool)                 { s.say("mute %v", m) }
func (s *script) Reattach()                   { s.say("reattach") }
func (s *script) Discard(string)              { s.say("discard") }
func (s *script) Exit(err error)              { s.say("exit: %v", err) }
func (s *script) Report(e Event)              { s.say("report: %s term %d epoch %d", e.What, e.Term, e.Epoch) }

func (s *script) ReadRecord() { s.say("read the record") }
func (s *script) Claim(c Claim) {
	r := c.Record
	s.say("claim term %d %s active %s disk %q if revision %d, lease %d, gone %q", r.GetTerm(), r.GetMode(), r.GetActive().GetId(),
		r.GetActiveDisk(), c.Expected, c.LeaseID, c.Gone)
}

func (s *script) GoLive([]packet.Announcement) [][]byte {
	s.say("announce")
	return s.heard
}

func (s *script) SendCheckpoint(ck *Checkpoint) {
	var held []string
	for _, h := range ck.Held {
		held = append(held, payload(h.GetFrame()))
	}
	s.say("send checkpoint of epoch %d through input %d first %v held [%s]", ck.Epoch, ck.ThroughInput, ck.First, strings.Join(held, " "))
}

// A checkpoint survives its encoding.
func TestHeldOutputSurvivesMessages(t *testing.T) {
	c := New(Config{FlowSeed: 1}, nil)
	f := datagram("x")
	o := output{Output: c.flows.Out(f), id: 3, after: 9, frame: f}
	b, err := proto.Marshal(o.held())
	if err != nil {
		t.Fatal(err)
	}
	var m pb.HeldOutput
	if err := proto.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	if got := fromMessage(&m); got.Output != o.Output || got.id != o.id || got.after != o.after || string(got.frame) != string(f) {
		t.Fatalf("got %+v, want %+v", got, o)
	}
}

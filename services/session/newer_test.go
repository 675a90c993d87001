package session

import (
	"bytes"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// A record may have fields of a newer release: whatever becomes of the VM under
// this one, they stay, as what operators have set does.
func TestRecordKeepsWhatANewerReleaseHas(t *testing.T) {
	unknown := protowire.AppendVarint(protowire.AppendTag(nil, 500, protowire.VarintType), 7)
	record := &pb.Record{Vm: "web", Term: 3, Mode: pb.Mode_MODE_PROTECTED, Active: ref("r-1"), Standby: ref("r-2"),
		Suspended: true, Policy: &pb.Policy{CompareMaxMs: 900}, Drained: []*pb.Drained{{Process: "p", SinceUnixMs: time.Now().UnixMilli()}}}
	record.ProtoReflect().SetUnknown(unknown)
	c := New(Config{VM: "web"})
	now := time.Now()
	c.Step(now, Owned{Record: record, Revision: 5})
	hello := &pb.Hello{Protocol: ProtocolVersion, Vm: "web", Replica: ref("r-2"), Role: pb.Role_ROLE_STANDBY, Mode: pb.Mode_MODE_PROTECTED, Epoch: 1, LeaseId: 102}
	var committed []*pb.Record
	step := func(in Input) {
		for _, e := range c.Step(now, in) {
			if e, ok := e.(Commit); ok {
				committed = append(committed, e.Record)
			}
		}
	}
	step(Attached{Conn: 1, Term: 3, Hello: hello})
	for range 100 { // the active does not come: the standby takes over
		now = now.Add(50 * time.Millisecond)
		step(Received{Conn: 1, Msg: &pb.FromReplica{Term: 3, Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: 1, LeaseId: 102}}}})
		step(Tick{})
	}
	step(Committed{Revision: 6})
	step(SetPolicy{Token: 1, Policy: &pb.Policy{CompareMaxMs: 800}, Fields: []string{"compare_max_ms"}})
	if len(committed) != 2 {
		t.Fatalf("committed %v", committed)
	}
	for i, r := range committed {
		if !bytes.Equal(r.ProtoReflect().GetUnknown(), unknown) || !r.GetSuspended() || len(r.GetDrained()) != 1 {
			t.Errorf("commit %d has lost something: %v", i, r)
		}
	}
	if got := committed[0]; got.GetTerm() != 4 || got.GetActive().GetId() != "r-2" || got.GetStandby() != nil || !proto.Equal(got.GetPolicy(), record.GetPolicy()) {
		t.Errorf("the take-over's record is %v", got)
	}
}

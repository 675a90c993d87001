package role

import (
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// laggard is the Host of a standby whose guest takes no inputs.
type laggard struct {
	silentHost
	closed bool
	failed *pb.SyncFailed
}

func (h *laggard) Room() int  { return 0 }
func (h *laggard) CloseFeed() { h.closed = true }
func (h *laggard) ToArbiter(m *pb.FromReplica) {
	if f := m.GetSyncFailed(); f != nil {
		h.failed = f
	}
}

// What a feed brings waits for the standby's guest in bounded memory, whatever
// the standby is at: beyond it the standby gives the feed up, says so, and goes
// on from what it has.
func TestStandbyThatLagsGivesTheFeedUp(t *testing.T) {
	begin := func(c *Core) {
		c.FromActive(time.Second, &pb.FromActive{Term: 3, Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: &pb.CheckpointBegin{Epoch: 5}}})
		c.Paused(time.Second)
	}
	for name, prepare := range map[string]func(c *Core){
		"guest runs, small frames":     func(*Core) {},
		"guest runs":                   func(*Core) {},
		"checkpoint is being received": begin,
		"stage is being applied": func(c *Core) {
			begin(c)
			c.StageReady(time.Second, &pb.Checkpoint{Epoch: 5, Flows: c.flows.Save()})
		},
	} {
		bytes := 60_000
		if strings.Contains(name, "small") {
			bytes = 60
		}
		h := &laggard{}
		c := New(Config{VM: "vm", Self: &pb.ReplicaRef{Id: "b"}, FlowSeed: 1}, h)
		c.role, c.mode, c.term, c.epoch, c.peer = pb.Role_ROLE_STANDBY, pb.Mode_MODE_PROTECTED, 3, 4, &pb.ReplicaRef{Id: "a"}
		c.feedUp, c.arbiterUp = true, true
		prepare(c)
		kept := 0
		for n := uint64(1); !h.closed; n += inputsPerMessage {
			if kept > 2*maxWaitingBytes {
				t.Fatalf("%s: %d bytes wait", name, kept)
			}
			m := &pb.Inputs{First: n}
			for range inputsPerMessage {
				m.Frames = append(m.Frames, make([]byte, bytes))
			}
			c.FromActive(time.Second, &pb.FromActive{Term: 3, Body: &pb.FromActive_Inputs{Inputs: m}})
			kept += bytes * inputsPerMessage
		}
		if kept < maxWaitingBytes/3 {
			t.Errorf("%s: gave up with %d bytes", name, kept)
		}
		if h.failed.GetReason() != pb.Reason_REASON_LAGGING || !strings.Contains(h.failed.GetDetail(), "64 MiB") {
			t.Errorf("%s: told the arbiter %v", name, h.failed)
		}
		late := len(c.late)
		c.FromActive(time.Second, &pb.FromActive{Term: 3, Body: &pb.FromActive_Inputs{Inputs: &pb.Inputs{First: 1, Frames: [][]byte{{1}}}}})
		if len(c.late) != late {
			t.Errorf("%s: takes more after the end", name)
		}
		switch {
		case late > 0:
			c.Applied(time.Second, nil)
			if c.Epoch() != 5 || c.in.waiting() == 0 {
				t.Errorf("%s: epoch %d with %d inputs", name, c.Epoch(), c.in.waiting())
			}
		case c.Epoch() != 4 || c.in.waiting() == 0:
			t.Errorf("%s: epoch %d with %d inputs", name, c.Epoch(), c.in.waiting())
		}
		if c.paused {
			t.Errorf("%s: the guest does not go on", name)
		}
	}
}

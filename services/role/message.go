package role

import (
	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// toArbiter, toStandby and toActive put a body into a message of this term.
func (c *Core) toArbiter(body any) {
	m := &pb.FromReplica{Term: c.term}
	switch b := body.(type) {
	case *pb.FromReplica_Heartbeat:
		m.Body = b
	case *pb.FromReplica_Outputs:
		m.Body = b
	case *pb.FromReplica_ProbeReply:
		m.Body = b
	case *pb.FromReplica_EpochStarted:
		m.Body = b
	case *pb.FromReplica_SyncFailed:
		m.Body = b
	case *pb.FromReplica_Left:
		m.Body = b
	}
	c.host.ToArbiter(m)
}

func (c *Core) toStandby(body any) {
	m := &pb.FromActive{Term: c.term}
	switch b := body.(type) {
	case *pb.FromActive_Inputs:
		m.Body = b
	case *pb.FromActive_FlowOpened:
		m.Body = b
	case *pb.FromActive_Emitted:
		m.Body = b
	}
	c.host.ToStandby(m)
}

func (c *Core) toActive(b *pb.FromStandby_Staged) {
	c.host.ToActive(&pb.FromStandby{Term: c.term, Body: b})
}

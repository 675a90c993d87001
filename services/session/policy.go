package session

import (
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// policy is what holds for the VM: what an operator has set for it, and the
// arbiter's where he has set nothing.
func (c *Core) policy() *pb.Policy {
	p := proto.CloneOf(c.cfg.Policy)
	set := c.record.GetPolicy()
	p.CompareIdleMs = either(set.GetCompareIdleMs(), p.CompareIdleMs)
	p.CompareMaxMs = either(set.GetCompareMaxMs(), p.CompareMaxMs)
	p.HeartbeatTimeoutMs = either(set.GetHeartbeatTimeoutMs(), p.HeartbeatTimeoutMs)
	p.SyncTimeoutMs = either(set.GetSyncTimeoutMs(), p.SyncTimeoutMs)
	p.EpochMaxMs = either(set.GetEpochMaxMs(), p.EpochMaxMs)
	if rules := set.GetFlowRules(); len(rules) > 0 {
		p.FlowRules = append([]string(nil), rules...)
	}
	return p
}

// either returns what was set, or else the default.
func either(set, other uint32) uint32 {
	if set != 0 {
		return set
	}
	return other
}

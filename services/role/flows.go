package role

import (
	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
)

// opening is the flow package's form of a message.
func opening(m *pb.FlowOpened) flow.Opening {
	return flow.Opening{Flow: flow.ID(m.GetFlow()), ISN: m.GetIsn(), TSval: m.GetTsval(), HasTS: m.GetHasTs()}
}

// setRules takes the flow rules of a policy, which hold from the next epoch on;
// the standby has them from its checkpoint. It is called between the
// arbiter's order of an epoch and its pause, so that no epoch's rules change
// under way.
func (c *Core) setRules(p *pb.Policy) {
	rules, err := flow.ParseRules(p.GetFlowRules())
	if err != nil {
		// Of a newer release, or not of an arbiter: the rules stay as they are.
		c.event("flow rules not taken", pb.Reason_REASON_POLICY, err.Error())
		return
	}
	c.flows.SetRules(rules)
}

// confirm tells the standby what has left since the last time.
func (c *Core) confirm() {
	c.left = c.marks.Take(c.left[:0])
	if len(c.left) == 0 {
		return
	}
	m := &pb.Emitted{Epoch: c.epoch, Flows: make([]*pb.EmittedFlow, len(c.left))}
	for i, f := range c.left {
		m.Flows[i] = &pb.EmittedFlow{Flow: uint64(f.Flow), End: f.End, Ack: f.Ack, Flags: uint32(f.Flags)}
	}
	c.toStandby(&pb.FromActive_Emitted{Emitted: m})
}

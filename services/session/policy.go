package session

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
)

// ErrPolicy is wrapped where a policy cannot be set as it is.
var ErrPolicy = errors.New("not a policy")

// Bounds of a policy's time-outs, in milliseconds.
const (
	policyMinMs = 20
	policyMaxMs = 3_600_000
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

// orderPolicy sets fields of the VM's policy.
func (c *Core) orderPolicy(in SetPolicy) {
	err := c.canChange()
	switch {
	case err != nil:
	case c.record == nil:
		err = ErrNeverStarted
	default:
		var set *pb.Policy
		if set, err = c.withFields(in.Policy, in.Fields); err != nil {
			break
		}
		detail := strings.Join(in.Fields, ", ") + " set by " + giver(in.By)
		c.change(in.Token, pb.EventType_EVENT_TYPE_POLICY, detail, func(r *pb.Record) { r.Policy = set })
		return
	}
	c.do(Reply{Token: in.Token, Err: err})
}

// withFields returns the policy that is set, with fields taken from p.
func (c *Core) withFields(p *pb.Policy, fields []string) (*pb.Policy, error) {
	set := &pb.Policy{}
	if old := c.record.GetPolicy(); old != nil {
		set = proto.CloneOf(old)
	}
	known := set.ProtoReflect().Descriptor().Fields()
	if len(fields) == 0 {
		return nil, fmt.Errorf("%w: name the fields to set, of: %s", ErrPolicy, fieldNames(known))
	}
	p = proto.CloneOf(p)
	for _, name := range fields {
		fd := known.ByName(protoreflect.Name(name))
		if fd == nil {
			return nil, fmt.Errorf("%w: it has no field %q, but: %s", ErrPolicy, clip(name), fieldNames(known))
		}
		if p == nil || !p.ProtoReflect().Has(fd) {
			set.ProtoReflect().Clear(fd)
			continue
		}
		set.ProtoReflect().Set(fd, p.ProtoReflect().Get(fd))
	}
	rules, err := flow.ParseRules(set.FlowRules)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	set.FlowRules = rules.Texts()
	for name, ms := range map[string]uint32{
		"compare_idle_ms": set.CompareIdleMs, "compare_max_ms": set.CompareMaxMs,
		"sync_timeout_ms": set.SyncTimeoutMs, "epoch_max_ms": set.EpochMaxMs, "heartbeat_timeout_ms": set.HeartbeatTimeoutMs,
	} {
		least, most := uint32(policyMinMs), uint32(policyMaxMs)
		if name == "heartbeat_timeout_ms" {
			least = uint32(3 * c.cfg.Heartbeat.Milliseconds()) // fewer are lost by chance
			most = uint32(MaxHeartbeatTimeout.Milliseconds())
		}
		if ms != 0 && (ms < least || ms > most) {
			return nil, fmt.Errorf("%w: %s is %d: must be %d to %d, or 0 for the arbiter's", ErrPolicy, name, ms, least, most)
		}
	}
	return set, nil
}

func fieldNames(fields protoreflect.FieldDescriptors) string {
	var names []string
	for i := range fields.Len() {
		names = append(names, string(fields.Get(i).Name()))
	}
	return strings.Join(names, ", ")
}

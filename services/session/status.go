package session

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/match"
)

// Status returns what is known about the VM at the time of the last Step, for
// people. The message is the caller's.
func (c *Core) Status() *pb.VMStatus {
	s := &pb.VMStatus{
		Record:   proto.CloneOf(c.record),
		Epoch:    c.pair.epoch,
		Counters: proto.CloneOf(&c.counts),
		Policy:   c.policy(),
		Summary:  c.summary(),
	}
	m := c.matchCounters()
	s.Counters.OutputsCompared, s.Counters.OutputsReleased, s.Counters.OutputsPassed = m.Compared, m.Released, m.Passed
	s.Counters.Probes, s.Counters.Mismatches, s.Counters.CompareTimeouts = m.Probes, m.Mismatches, m.Timeouts
	for _, r := range c.replicas {
		s.Replicas = append(s.Replicas, &pb.ReplicaStatus{
			Replica: proto.CloneOf(r.ref), Role: r.role, DeliveredInput: r.beat.GetDeliveredInput(), Held: r.beat.GetHeld(),
			FeedLag: r.beat.GetFeedLag(), Bypassed: r.beat.GetBypassed(), SilentMs: uint64(c.now.Sub(r.heard).Milliseconds()),
			Vm: c.cfg.VM, Version: r.version, Protocol: r.protocol, FeedProtocol: r.beat.GetFeedProtocol(), Process: r.process, Drained: c.drained(r), Disk: proto.CloneOf(r.disk), CanBoot: r.canBoot, Unfit: c.unfit(r),
		})
	}
	return s
}

// Counters returns counts that VMStatus has no place for.
func (c *Core) Counters() Counters { return c.counters }

// matchCounters sums what all pairs so far have counted.
func (c *Core) matchCounters() match.Counters {
	m := c.matched
	if c.pair.matcher != nil {
		n := c.pair.matcher.Counters()
		m.Compared += n.Compared
		m.Released += n.Released
		m.Passed += n.Passed
		m.Probes += n.Probes
		m.Mismatches += n.Mismatches
		m.Timeouts += n.Timeouts
		m.Overflows += n.Overflows
	}
	return m
}

func (c *Core) addStats(s *pb.SyncStats) {
	if s == nil {
		return
	}
	c.counts.PagesCompared += s.GetPagesCompared()
	c.counts.PagesSent += s.GetPagesSent()
	if len(c.counts.RecentPausesUs) >= pausesMax {
		c.counts.RecentPausesUs = append(c.counts.RecentPausesUs[:0], c.counts.RecentPausesUs[1:]...)
	}
	c.counts.RecentPausesUs = append(c.counts.RecentPausesUs, s.GetPauseUs())
}

func (c *Core) summary() string {
	r := c.record
	if !c.owned {
		return "not owned by this arbiter"
	}
	since := " since " + time.UnixMilli(r.GetSinceUnixMs()).UTC().Format("2006-01-02 15:04:05 UTC")
	active, standby := r.GetActive().GetId(), r.GetStandby().GetId()
	lost := ""
	if c.active() == nil {
		lost = "; " + active + " is not attached"
	}
	switch r.GetMode() {
	case pb.Mode_MODE_SOLO:
		undrained := func(r *replica) bool { return !c.drained(r) }
		switch {
		case r.GetSuspended():
			lost = "; protection is suspended by an operator" + lost
		case lost != "":
		case c.first(pb.Role_ROLE_SPARE, nil) == nil:
			lost = "; no spare is attached"
		case c.first(pb.Role_ROLE_SPARE, undrained) == nil:
			lost = "; every spare is drained"
		case c.first(pb.Role_ROLE_SPARE, func(r *replica) bool { return undrained(r) && c.unfit(r) == "" }) == nil:
			lost = "; no spare can protect it: " + c.unfit(c.first(pb.Role_ROLE_SPARE, undrained))
		}
		return "not protected: runs on " + active + " alone" + since + lost
	case pb.Mode_MODE_SYNCING:
		return fmt.Sprintf("not protected yet: %s runs alone and is being copied to %s%s%s", active, standby, since, lost)
	case pb.Mode_MODE_PROTECTED:
		if c.standby() == nil {
			lost += "; " + standby + " is not attached"
		}
		if c.pair.resync != nil {
			lost += "; resynchronizing: " + c.pair.resync.detail
		}
		return fmt.Sprintf("%s is protected by %s%s%s", active, standby, since, lost)
	case pb.Mode_MODE_ENDED:
		return "ended" + since + ": " + reasonWord(r.GetReason())
	}
	return "never started"
}

// who says in words who runs the VM.
func who(r *pb.Record) string {
	s := r.GetStandby().GetId()
	switch r.GetMode() {
	case pb.Mode_MODE_SOLO:
		return r.GetActive().GetId() + " active alone"
	case pb.Mode_MODE_SYNCING:
		return r.GetActive().GetId() + " active and " + s + " receiving a copy"
	case pb.Mode_MODE_PROTECTED:
		return r.GetActive().GetId() + " active and " + s + " standing by"
	case pb.Mode_MODE_ENDED:
		return "its guest ended"
	}
	return "nobody active"
}

// part says in words what a replica is to the VM.
func (c *Core) part(r *replica) string {
	switch {
	case r.hasCopy() && r.id() == c.record.GetActive().GetId():
		return "active"
	case r.hasCopy() && r.id() == c.record.GetStandby().GetId():
		return "standby"
	}
	return roleWord(r.role)
}

func roleWord(r pb.Role) string {
	switch r {
	case pb.Role_ROLE_SPARE:
		return "spare"
	case pb.Role_ROLE_STANDBY:
		return "standby"
	case pb.Role_ROLE_ACTIVE:
		return "active"
	case pb.Role_ROLE_CANDIDATE:
		return "candidate"
	}
	return "unknown"
}

func reasonWord(r pb.Reason) string {
	switch r {
	case pb.Reason_REASON_GUEST_POWEROFF:
		return "the guest powered itself off"
	case pb.Reason_REASON_GUEST_FAULT:
		return "the guest cannot go on"
	}
	return "unknown reason"
}

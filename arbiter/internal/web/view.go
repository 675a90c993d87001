package web

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// view is what the live part of the page shows, in words.
type view struct {
	Problems []string
	VMs      []vmView
	Events   []eventView
}

type vmView struct {
	Name string
	// Level is good, warn, bad or idle: the colour of State.
	Level, State, Summary string
	Active, Standby       string
	Term, Epoch           uint64
	Since                 string
	Replicas              []replicaView
	Counters              []counter
}

type replicaView struct {
	ID, Address, Role string
	Held, Lag         uint32
	Input             uint64
	Silent            string
}

type counter struct {
	Name  string
	Value string
}

type eventView struct {
	Time, VM, What, Detail string
	Term, Epoch            uint64
	Level                  string
}

func newView(vms []*pb.VMStatus, events []*pb.Event) view {
	v := view{}
	for _, s := range vms {
		v.VMs = append(v.VMs, newVMView(s))
	}
	for _, e := range events {
		v.Events = append(v.Events, newEventView(e))
	}
	return v
}

// state says what a mode means for who depends on the VM.
func state(m pb.Mode) (level, text string) {
	switch m {
	case pb.Mode_MODE_PROTECTED:
		return "good", "protected"
	case pb.Mode_MODE_SYNCING:
		return "warn", "running unprotected, copying to a standby"
	case pb.Mode_MODE_SOLO:
		return "bad", "running unprotected"
	case pb.Mode_MODE_ENDED:
		return "idle", "powered off by its guest"
	}
	return "idle", "not started"
}

func newVMView(s *pb.VMStatus) vmView {
	r := s.Record
	v := vmView{
		Name: r.GetVm(), Summary: s.Summary, Term: r.GetTerm(), Epoch: s.Epoch,
		Active: r.GetActive().GetId(), Standby: r.GetStandby().GetId(),
	}
	v.Level, v.State = state(r.GetMode())
	if r.GetSinceUnixMs() != 0 {
		v.Since = time.UnixMilli(r.SinceUnixMs).Format(time.DateTime)
	}
	for _, p := range s.Replicas {
		silent := ""
		if p.SilentMs >= 200 {
			silent = fmt.Sprintf("silent for %d ms", p.SilentMs)
		}
		role := ""
		if p.Role != pb.Role_ROLE_UNSPECIFIED {
			role = sessions.Words(p.Role)
		}
		v.Replicas = append(v.Replicas, replicaView{
			ID: p.Replica.GetId(), Address: p.Replica.GetAddress(), Role: role,
			Held: p.Held, Lag: p.FeedLag, Input: p.DeliveredInput, Silent: silent,
		})
	}
	if c := s.Counters; c != nil {
		add := func(name string, n uint64) {
			v.Counters = append(v.Counters, counter{name, fmt.Sprint(n)})
		}
		add("outputs released", c.OutputsReleased)
		add("compared", c.OutputsCompared)
		add("passed uncompared", c.OutputsPassed)
		add("probes", c.Probes)
		add("mismatches", c.Mismatches)
		add("compare time-outs", c.CompareTimeouts)
		add("resynchronizations", c.Resyncs)
		add("fail-overs", c.Failovers)
		add("pages compared", c.PagesCompared)
		add("pages sent", c.PagesSent)
		if n := len(c.RecentPausesUs); n > 0 {
			pause := time.Duration(c.RecentPausesUs[n-1]) * time.Microsecond
			v.Counters = append(v.Counters, counter{"last pause", pause.Round(100 * time.Microsecond).String()})
		}
	}
	return v
}

func newEventView(e *pb.Event) eventView {
	v := eventView{
		Time: time.UnixMilli(e.UnixMs).Format("15:04:05.000"), VM: e.Vm,
		What: sessions.Words(e.Type), Detail: e.Detail, Term: e.Term, Epoch: e.Epoch,
	}
	if e.Reason != pb.Reason_REASON_UNSPECIFIED {
		v.What += ": " + sessions.Words(e.Reason)
	}
	switch e.Type {
	case pb.EventType_EVENT_TYPE_PROTECTED, pb.EventType_EVENT_TYPE_RESYNC_DONE:
		v.Level = "good"
	case pb.EventType_EVENT_TYPE_FAILOVER, pb.EventType_EVENT_TYPE_REPLICA_LOST, pb.EventType_EVENT_TYPE_SOLO:
		v.Level = "bad"
	case pb.EventType_EVENT_TYPE_RESYNC_STARTED, pb.EventType_EVENT_TYPE_SYNCING, pb.EventType_EVENT_TYPE_REFUSED:
		v.Level = "warn"
	default:
		v.Level = "idle"
	}
	return v
}

package web

import (
	"fmt"
	"net/url"
	"runtime"
	"runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// view is what the pages show, in words.
type view struct {
	Problems []string
	VMs      []vmView
	Events   []eventView
	Self     selfView
	Others   []arbiterView
	// Protected counts the VMs that are.
	Protected int
}

type vmView struct {
	Name string
	// Level is good, warn, bad or idle: the colour of State. Why says what the
	// state means and what ends it.
	Level, State, Why string
	Since             moment
	Active, Standby   string
	Term, Epoch       uint64
	// Here: it runs on this arbiter, so that more is known. Charted: the first
	// page has charts of it.
	Here, Charted bool
	Owner         *arbiterView
	Failover      *eventView
	// Holes are the flow rules that exempt flows from comparison.
	Holes    []string
	Replicas []replicaView
	Counters []counter
	Events   []eventView
}

type arbiterView struct {
	ID, Address string
	Page        string // an http URL, or empty
	VMs         int
}

type replicaView struct {
	ID, Address, Role string
	// Version is the release that it runs.
	Version   string
	Held, Lag uint32
	Input     uint64
	Silent    string
}

type counter struct{ Name, Value string }

// selfView is this arbiter.
type selfView struct {
	ID, Version, Problem string
	Lease                string
	Started              moment
	VMs, Goroutines      int
	Memory               string
}

// moment is a time as a page shows it: the script puts it into the reader's own
// time zone.
type moment struct{ Machine, Words string }

func momentOf(unixMs int64) moment {
	if unixMs == 0 {
		return moment{}
	}
	t := time.UnixMilli(unixMs).UTC()
	return moment{t.Format("2006-01-02T15:04:05.000Z"), t.Format("15:04:05 UTC")}
}

// newView puts the samples into words. here names those that run on this
// arbiter; events come newest first.
func newView(samples []sessions.Sample, here map[string]bool, events []*pb.Event) *view {
	v := &view{Events: timeline(events, "")}
	slices.SortFunc(samples, func(a, b sessions.Sample) int {
		return strings.Compare(a.Status.Record.GetVm(), b.Status.Record.GetVm())
	})
	owners := map[string]*arbiterView{}
	charted := 0
	for _, s := range samples {
		x := newVMView(s, here[s.Status.Record.GetVm()])
		if x.Charted = x.Here && charted < chartsMax; x.Charted {
			charted++
		}
		x.Events = timeline(events, x.Name)
		if m := s.Status.Record.GetMode(); x.Here && (m == pb.Mode_MODE_SOLO || m == pb.Mode_MODE_SYNCING) {
			x.Since = momentOf(aloneSince(events, x.Name, s.Status.Record.GetSinceUnixMs()))
		}
		if x.Level == "good" {
			v.Protected++
		}
		if o := x.Owner; o != nil && !x.Here {
			if owners[o.ID] == nil {
				owners[o.ID] = &arbiterView{ID: o.ID, Address: o.Address, Page: o.Page}
			}
			owners[o.ID].VMs++
		}
		v.VMs = append(v.VMs, x)
	}
	for _, o := range owners {
		v.Others = append(v.Others, *o)
	}
	slices.SortFunc(v.Others, func(a, b arbiterView) int { return strings.Compare(a.ID, b.ID) })
	return v
}

// addOthers adds the living arbiters that own none of the VMs.
func (v *view) addOthers(arbiters []*pb.ArbiterStatus, self string) {
	for _, a := range arbiters {
		id := a.Arbiter.GetId()
		if id == self || slices.ContainsFunc(v.Others, func(o arbiterView) bool { return o.ID == id }) {
			continue
		}
		v.Others = append(v.Others, arbiterView{ID: id, Address: a.Arbiter.GetAddress(), Page: httpURL(a.Arbiter.GetPage())})
	}
	slices.SortFunc(v.Others, func(a, b arbiterView) int { return strings.Compare(a.ID, b.ID) })
}

// aloneSince is when the VM began to run alone, in Unix milliseconds: copies that
// begin and fail have terms of their own, and leave it unprotected all the same.
// Where events, newest first, do not reach back so far, it is their oldest.
func aloneSince(events []*pb.Event, vm string, term int64) int64 {
	for _, e := range events {
		if e.Vm != vm {
			continue
		}
		switch e.Type {
		case pb.EventType_EVENT_TYPE_PROTECTED, pb.EventType_EVENT_TYPE_ENDED:
			return term
		case pb.EventType_EVENT_TYPE_FAILOVER, pb.EventType_EVENT_TYPE_SOLO, pb.EventType_EVENT_TYPE_SYNCING:
			term = min(term, e.UnixMs)
		}
	}
	return term
}

// of returns what the page about a subject shows, and whether there is any.
func (v *view) of(about subject) (any, bool) {
	if about.Kind != "vm" {
		return v, true
	}
	part := struct {
		Problems []string
		Name     string
		VM       *vmView
	}{v.Problems, about.VM, nil}
	for i := range v.VMs {
		if v.VMs[i].Name == about.VM {
			part.VM = &v.VMs[i]
			return part, true
		}
	}
	return part, false
}

func newVMView(s sessions.Sample, here bool) vmView {
	r := s.Status.Record
	v := vmView{
		Name: r.GetVm(), Term: r.GetTerm(), Epoch: s.Status.Epoch, Here: here,
		Active: r.GetActive().GetId(), Standby: r.GetStandby().GetId(), Since: momentOf(r.GetSinceUnixMs()),
	}
	v.Level, v.State, v.Why = state(s, here)
	if o := s.Status.Owner; o != nil {
		v.Owner = &arbiterView{ID: o.Id, Address: o.Address, Page: httpURL(o.Page)}
	}
	if e := s.Stats.LastFailover; e != nil {
		f := newEventView(e)
		v.Failover = &f
	}
	for _, rule := range r.GetPolicy().GetFlowRules() {
		if !strings.HasSuffix(rule, ": compare") {
			v.Holes = append(v.Holes, rule)
		}
	}
	for _, p := range s.Status.Replicas {
		v.Replicas = append(v.Replicas, newReplicaView(p))
	}
	if here {
		v.Counters = counters(s)
	}
	return v
}

// httpURL returns a page's address where it is one that may be linked to.
func httpURL(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return ""
	}
	return u.String()
}

// state says in plain words how a VM is, and why.
func state(s sessions.Sample, here bool) (level, text, why string) {
	r := s.Status.Record
	level, text, why = recorded(r)
	if !here {
		switch o := s.Status.Owner; {
		case r.GetMode() == pb.Mode_MODE_ENDED || r.GetTerm() == 0:
		case o == nil:
			why = "This is what was recorded last. No arbiter owns the VM now: its replicas have not found one yet, or have all ended."
		default:
			why = "This is what is recorded. Another arbiter owns the VM and knows more."
		}
		return level, text, why
	}
	attached := func(id string) bool {
		return slices.ContainsFunc(s.Status.Replicas, func(p *pb.ReplicaStatus) bool { return p.Replica.GetId() == id })
	}
	spare := slices.ContainsFunc(s.Status.Replicas, func(p *pb.ReplicaStatus) bool { return p.Role == pb.Role_ROLE_SPARE && !p.Drained && p.Unfit == "" })
	switch r.GetMode() {
	case pb.Mode_MODE_SOLO:
		switch {
		case r.GetSuspended():
			level, text = "warn", "Protection suspended"
			why = fmt.Sprintf("%s runs alone, because an operator has suspended protection. It returns when an operator resumes it.", r.GetActive().GetId())
		case !attached(r.GetActive().GetId()):
			why = fmt.Sprintf("%s runs alone and is not attached to this arbiter at the moment.", r.GetActive().GetId())
		case spare:
			why = fmt.Sprintf("%s runs alone. A spare is attached and becomes the standby next.", r.GetActive().GetId())
		default:
			level, text = "bad", "Needs a secondary"
			why = fmt.Sprintf("%s runs alone and no spare is attached that can protect it: start a secondary for this VM.", r.GetActive().GetId())
		}
	case pb.Mode_MODE_PROTECTED:
		if e := s.Stats.Resyncing; e != nil {
			level, text = "warn", "Resynchronizing"
			why = "The standby is being made equal to the active"
			if e.Reason != pb.Reason_REASON_UNSPECIFIED {
				why += " (" + sessions.Words(e.Reason) + ")"
			}
			why += "; protection goes on."
		}
	}
	return level, text, why
}

// recorded says what a record means.
func recorded(r *pb.Record) (level, text, why string) {
	active, standby := r.GetActive().GetId(), r.GetStandby().GetId()
	switch r.GetMode() {
	case pb.Mode_MODE_PROTECTED:
		return "good", "Protected", fmt.Sprintf("%s runs it, and %s takes over at once if that is lost.", active, standby)
	case pb.Mode_MODE_SYNCING:
		return "warn", "Unprotected", fmt.Sprintf("%s runs alone while it is being copied to %s. Protection returns when that is done.", active, standby)
	case pb.Mode_MODE_SOLO:
		return "warn", "Unprotected", active + " runs alone."
	case pb.Mode_MODE_ENDED:
		return "idle", "Ended", "Reason: " + sessions.Words(r.GetReason()) + "."
	}
	return "idle", "Not started", "No primary has booted it yet."
}

func newReplicaView(p *pb.ReplicaStatus) replicaView {
	v := replicaView{
		ID: p.Replica.GetId(), Address: p.Replica.GetAddress(), Version: release(p.Version), Held: p.Held, Lag: p.FeedLag, Input: p.DeliveredInput,
	}
	if p.Role != pb.Role_ROLE_UNSPECIFIED {
		v.Role = sessions.Words(p.Role)
	}
	if p.Drained {
		v.Role += ", drained"
	}
	if p.Unfit != "" {
		v.Role += ", cannot take a copy: " + p.Unfit
	}
	if p.SilentMs >= 200 {
		v.Silent = fmt.Sprintf("silent for %s s", strconv.FormatFloat(float64(p.SilentMs)/1000, 'f', 1, 64))
	}
	return v
}

// release is a software version without what it was built with.
func release(version string) string {
	release, _, _ := strings.Cut(version, " ")
	return release
}

func counters(s sessions.Sample) []counter {
	c := s.Status.Counters
	var out []counter
	add := func(name string, n uint64) { out = append(out, counter{name, grouped(n)}) }
	add("Outputs released", c.GetOutputsReleased())
	add("Compared", c.GetOutputsCompared())
	add("Passed uncompared", c.GetOutputsPassed())
	var bypassed uint64
	for _, p := range s.Status.Replicas {
		bypassed += p.Bypassed
	}
	add("Left past the arbiter", bypassed)
	add("Probes", c.GetProbes())
	add("Mismatches", c.GetMismatches())
	add("Missing outputs", c.GetCompareTimeouts())
	add("Resynchronizations", c.GetResyncs())
	add("Fail-overs", c.GetFailovers())
	add("Pages compared", s.Stats.PagesCompared)
	add("Pages sent", s.Stats.PagesSent)
	add("Disk blocks sent", s.Stats.BlocksSent)
	if p := c.GetRecentPausesUs(); len(p) > 0 {
		out = append(out, counter{"Last pause", millis(p[len(p)-1])})
	}
	return out
}

func millis(us uint64) string { return fmt.Sprintf("%.1f ms", float64(us)/1000) }

// grouped writes a number in groups of three digits, with thin spaces.
func grouped(n uint64) string {
	s := strconv.FormatUint(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// self describes this arbiter, on which so many VMs run.
func (s *Server) self(vms int) selfView {
	v := selfView{
		ID: s.cfg.ArbiterID, Version: s.cfg.Version, VMs: vms, Started: momentOf(s.started.UnixMilli()),
		Goroutines: runtime.NumGoroutine(), Lease: "none",
	}
	memory := []metrics.Sample{{Name: "/memory/classes/total:bytes"}}
	metrics.Read(memory) // unlike ReadMemStats, it stops nobody
	v.Memory = fmt.Sprintf("%d MiB", memory[0].Value.Uint64()>>20)
	if err := s.cfg.Ready(); err != nil {
		v.Problem = err.Error()
	}
	if left := s.cfg.LeaseLeft(); left > 0 {
		v.Lease = fmt.Sprintf("%.1f s left, renewed", left.Seconds())
	}
	return v
}

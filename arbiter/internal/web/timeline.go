package web

import (
	"fmt"
	"strings"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

const (
	// eventsRead is how many of the last events a timeline is made of, eventsMax
	// how many entries it has; that of all VMs together is shorter.
	eventsRead = 500
	eventsMax  = 40
	eventsAll  = 15
)

// eventView is one entry of a timeline.
type eventView struct {
	Time                  moment
	VM, What, Why, Detail string
	Term, Epoch           uint64
	Level                 string // good, warn, bad or idle
}

// eventWords are what events are called, and the colours of those that change
// how safe a VM is.
var eventWords = map[pb.EventType]struct{ what, level string }{
	pb.EventType_EVENT_TYPE_REPLICA_ATTACHED: {"Replica attached", "idle"},
	pb.EventType_EVENT_TYPE_REPLICA_LOST:     {"Replica lost", "bad"},
	pb.EventType_EVENT_TYPE_SOLO:             {"Unprotected", "warn"},
	pb.EventType_EVENT_TYPE_SYNCING:          {"Copying to a standby", "warn"},
	pb.EventType_EVENT_TYPE_PROTECTED:        {"Protected", "good"},
	pb.EventType_EVENT_TYPE_RESYNC_STARTED:   {"Resynchronizing", "warn"},
	pb.EventType_EVENT_TYPE_RESYNC_DONE:      {"Resynchronized", "idle"},
	pb.EventType_EVENT_TYPE_FAILOVER:         {"Fail-over", "bad"},
	pb.EventType_EVENT_TYPE_ENDED:            {"Ended", "idle"},
	pb.EventType_EVENT_TYPE_REBOOTED:         {"Guest rebooted", "idle"},
	pb.EventType_EVENT_TYPE_REFUSED:          {"Replica refused", "warn"},
	pb.EventType_EVENT_TYPE_OWNED:            {"Owned by this arbiter", "idle"},
	pb.EventType_EVENT_TYPE_ORDER:            {"Operator’s order", "idle"},
	pb.EventType_EVENT_TYPE_SETTINGS:         {"Settings changed", "idle"},
	pb.EventType_EVENT_TYPE_TESTED:           {"Fail-over tested", "idle"},
	pb.EventType_EVENT_TYPE_POLICY:           {"Policy set", "idle"},
}

func newEventView(e *pb.Event) eventView {
	v := eventView{Time: momentOf(e.UnixMs), VM: e.Vm, Detail: e.Detail, Term: e.Term, Epoch: e.Epoch}
	w, ok := eventWords[e.Type]
	if !ok {
		text := sessions.Words(e.Type)
		w.what, w.level = strings.ToUpper(text[:1])+text[1:], "idle"
	}
	v.What, v.Level = w.what, w.level
	switch e.Type {
	case pb.EventType_EVENT_TYPE_ORDER, pb.EventType_EVENT_TYPE_SETTINGS, pb.EventType_EVENT_TYPE_TESTED,
		pb.EventType_EVENT_TYPE_SYNCING, pb.EventType_EVENT_TYPE_PROTECTED, pb.EventType_EVENT_TYPE_REPLICA_LOST:
		// There is one reason, which the word itself says.
	default:
		v.Why = because(e.Reason)
	}
	if s := e.Stats; s != nil {
		took := fmt.Sprintf("paused %s, %s pages sent", millis(s.PauseUs), grouped(s.PagesSent))
		if v.Detail != "" {
			took = v.Detail + "; " + took
		}
		v.Detail = took
	}
	return v
}

// because is a reason in words, or nothing.
func because(r pb.Reason) string {
	if r == pb.Reason_REASON_UNSPECIFIED {
		return ""
	}
	return sessions.Words(r)
}

// timeline makes a list of the events of a VM, or of every VM where vm is
// empty, newest first. Resynchronizations may be many: one is one entry, and
// those of one VM that follow each other for the same reason are one, too.
func timeline(events []*pb.Event, vm string) []eventView {
	var out []eventView
	var group *pb.Event // the newest of the resynchronizations of the last entry
	ended := map[string]bool{}
	most := eventsMax
	if vm == "" {
		most = eventsAll
	}
	n := 0
	for _, e := range events {
		if vm != "" && e.Vm != vm {
			continue
		}
		if e.Type == pb.EventType_EVENT_TYPE_RESYNC_STARTED && ended[e.Vm] {
			continue // its end says it all
		}
		ended[e.Vm] = true // what was under way before has ended with this
		if e.Type != pb.EventType_EVENT_TYPE_RESYNC_DONE {
			group = nil
		} else {
			if group != nil && group.Vm == e.Vm && group.Reason == e.Reason {
				n++
				if n == 2 && out[len(out)-1].Detail != "" {
					out[len(out)-1].Detail = "the last: " + out[len(out)-1].Detail
				}
				out[len(out)-1].What = fmt.Sprintf("Resynchronized %d times", n)
				continue
			}
			group, n = e, 1
		}
		if len(out) == most {
			break
		}
		x := newEventView(e)
		if vm != "" {
			x.VM = "" // the whole list is about it
		}
		out = append(out, x)
	}
	return out
}

package sessions

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/histogram"
)

// kinds is one more than the greatest kind of output.
const kinds = pb.OutputKind_OUTPUT_KIND_EVENT + 1

// Stats counts, since this arbiter began to run the VM, what VMStatus has no
// place for.
type Stats struct {
	// Latency is the delay that the comparison adds to an output: from the
	// arrival of the active's report to the moment at which its release is handed
	// to the active's stream. The way there and back is not in it.
	Latency histogram.Histogram
	// Pauses are those of resynchronizations and of first copies' ends.
	Pauses histogram.Histogram
	// Outputs that the active reported, by kind.
	Outputs [kinds]uint64
	// Resyncs that were begun, by reason.
	Resyncs map[pb.Reason]uint64
	// What synchronizations compared and sent.
	PagesCompared, PagesSent, BlocksCompared, BlocksSent, BytesSent uint64
	// LastFailover is the event of the last fail-over, Resyncing that with which
	// the resynchronization that is under way began; nil: none.
	LastFailover, Resyncing *pb.Event
}

// Sample is the state of one VM that runs here.
type Sample struct {
	Status *pb.VMStatus
	Stats  Stats
}

// Sample returns the state of every VM that runs here, by name. A VM that does
// not answer before the context ends is left out.
func (r *Registry) Sample(ctx context.Context) []Sample {
	vms := r.all()
	slices.SortFunc(vms, func(a, b *vm) int { return strings.Compare(a.name, b.name) })
	out := make([]Sample, 0, len(vms))
	for _, v := range vms {
		if s, err := v.sample(ctx); err == nil {
			out = append(out, s)
		}
	}
	return out
}

func (v *vm) sample(ctx context.Context) (Sample, error) {
	var s Sample
	err := v.do(ctx, func() {
		s = Sample{Status: v.coreStatus(), Stats: v.stats}
		s.Stats.Resyncs = maps.Clone(v.stats.Resyncs)
		s.Stats.LastFailover, s.Stats.Resyncing = proto.CloneOf(v.stats.LastFailover), proto.CloneOf(v.stats.Resyncing)
	})
	if err != nil {
		return Sample{}, err
	}
	return s, nil
}

func newStats() Stats {
	return Stats{Resyncs: map[pb.Reason]uint64{}}
}

// event counts what an event tells.
func (s *Stats) event(e *pb.Event) {
	switch e.Type {
	case pb.EventType_EVENT_TYPE_RESYNC_STARTED:
		s.Resyncs[e.Reason]++
		s.Resyncing = proto.CloneOf(e)
	case pb.EventType_EVENT_TYPE_FAILOVER:
		s.LastFailover, s.Resyncing = proto.CloneOf(e), nil
	case pb.EventType_EVENT_TYPE_RESYNC_DONE, pb.EventType_EVENT_TYPE_PROTECTED, pb.EventType_EVENT_TYPE_SOLO,
		pb.EventType_EVENT_TYPE_SYNCING, pb.EventType_EVENT_TYPE_ENDED, pb.EventType_EVENT_TYPE_OWNED:
		s.Resyncing = nil
	}
	if e.Stats != nil {
		s.Pauses.Observe(time.Duration(min(e.Stats.PauseUs, 1<<40)) * time.Microsecond)
		s.PagesCompared += e.Stats.PagesCompared
		s.PagesSent += e.Stats.PagesSent
		s.BlocksCompared += e.Stats.BlocksCompared
		s.BlocksSent += e.Stats.BlocksSent
		s.BytesSent += e.Stats.BytesSent
	}
}

// waitingMax bounds the outputs of an active whose reports' times are known. Of
// more that wait, the oldest are not measured.
const waitingMax = 4096

// waiting keeps when the active's outputs were reported, by their numbers.
type waiting [waitingMax]struct {
	epoch, id uint64
	at        time.Duration // since start; 0: not waiting
}

// start is before all times that are measured.
var start = time.Now().Add(-time.Hour)

// reported notes the outputs that the active's stream has brought.
func (s *Stats) reported(w *waiting, m *pb.Outputs, at time.Time) {
	epoch, since := m.GetEpoch(), at.Sub(start)
	for _, o := range m.GetOutputs() {
		if o.GetKind() >= kinds || o.GetKind() < 0 {
			continue // a peer of no known release sends it: not a label for it
		}
		s.Outputs[o.GetKind()]++
		slot := &w[o.GetId()%waitingMax]
		slot.epoch, slot.id, slot.at = epoch, o.GetId(), since
	}
}

// released measures how long the outputs of a release have waited.
func (s *Stats) released(w *waiting, m *pb.Release, at time.Time) {
	epoch, since := m.GetEpoch(), at.Sub(start)
	for _, o := range m.GetOutputs() {
		slot := &w[o.GetId()%waitingMax]
		if slot.id == o.GetId() && slot.epoch == epoch && slot.at != 0 {
			s.Latency.Observe(since - slot.at)
			slot.at = 0
		}
	}
}

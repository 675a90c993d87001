package sessions

import (
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func outputs(epoch uint64, kind pb.OutputKind, ids ...uint64) *pb.Outputs {
	m := &pb.Outputs{Epoch: epoch}
	for _, id := range ids {
		m.Outputs = append(m.Outputs, &pb.Output{Id: id, Kind: kind})
	}
	return m
}

func releaseOf(epoch uint64, ids ...uint64) *pb.Release {
	m := &pb.Release{Epoch: epoch}
	for _, id := range ids {
		m.Outputs = append(m.Outputs, &pb.Released{Id: id})
	}
	return m
}

func TestLatencyIsFromReportToRelease(t *testing.T) {
	s, w := newStats(), new(waiting)
	at := func(ms int) time.Time { return start.Add(time.Second + time.Duration(ms)*time.Millisecond) }
	s.reported(w, outputs(1, pb.OutputKind_OUTPUT_KIND_STREAM, 1, 2, 3), at(0))
	s.reported(w, outputs(1, pb.OutputKind_OUTPUT_KIND_PASS, 4), at(10))
	s.released(w, releaseOf(1, 3, 1), at(8)) // in any order
	if s.Latency.Count != 2 || s.Latency.SumUs != 16_000 {
		t.Fatalf("two outputs: %d, %d µs", s.Latency.Count, s.Latency.SumUs)
	}
	s.released(w, releaseOf(1, 1, 77), at(9)) // once each, and only what was reported
	s.released(w, releaseOf(2, 4), at(11))    // of another epoch
	if s.Latency.Count != 2 {
		t.Errorf("%d outputs are measured", s.Latency.Count)
	}
	s.reported(w, outputs(2, pb.OutputKind_OUTPUT_KIND_STREAM, 2), at(20)) // the new epoch counts anew
	s.released(w, releaseOf(2, 2), at(21))
	s.reported(w, outputs(2, 99, 5), at(30)) // of no kind that there is
	if s.Latency.Count != 3 || s.Latency.SumUs != 17_000 {
		t.Errorf("three outputs: %d, %d µs", s.Latency.Count, s.Latency.SumUs)
	}
	if n := s.Outputs; n[pb.OutputKind_OUTPUT_KIND_STREAM] != 4 || n[pb.OutputKind_OUTPUT_KIND_PASS] != 1 || n[0] != 0 {
		t.Errorf("by kind: %v", n)
	}
}

func TestEventsAreCounted(t *testing.T) {
	s := newStats()
	event := func(typ pb.EventType, r pb.Reason, stats *pb.SyncStats) {
		s.event(&pb.Event{Type: typ, Reason: r, Stats: stats})
	}
	event(pb.EventType_EVENT_TYPE_PROTECTED, pb.Reason_REASON_NEW_STANDBY, &pb.SyncStats{PauseUs: 4000, PagesSent: 100, BlocksSent: 3})
	event(pb.EventType_EVENT_TYPE_RESYNC_STARTED, pb.Reason_REASON_MISMATCH, nil)
	if s.Resyncing == nil {
		t.Error("no resynchronization is under way")
	}
	event(pb.EventType_EVENT_TYPE_RESYNC_DONE, pb.Reason_REASON_MISMATCH, &pb.SyncStats{PauseUs: 1 << 63, PagesSent: 5, PagesCompared: 9})
	if s.Resyncing != nil || s.LastFailover != nil {
		t.Errorf("under way %v, fail-over %v", s.Resyncing, s.LastFailover)
	}
	event(pb.EventType_EVENT_TYPE_RESYNC_STARTED, pb.Reason_REASON_OPERATOR, nil)
	event(pb.EventType_EVENT_TYPE_FAILOVER, pb.Reason_REASON_LOST_REPLICA, nil)
	if s.Resyncing != nil || s.LastFailover.GetReason() != pb.Reason_REASON_LOST_REPLICA {
		t.Errorf("under way %v, fail-over %v", s.Resyncing, s.LastFailover)
	}
	if s.PagesSent != 105 || s.PagesCompared != 9 || s.BlocksSent != 3 || s.Pauses.Count != 2 ||
		s.Resyncs[pb.Reason_REASON_MISMATCH] != 1 || s.Resyncs[pb.Reason_REASON_OPERATOR] != 1 {
		t.Errorf("%+v", s)
	}
}

// What measuring costs each output.
func BenchmarkMeasureOutput(b *testing.B) {
	s, w := newStats(), new(waiting)
	at := time.Now()
	o, r := outputs(1, pb.OutputKind_OUTPUT_KIND_STREAM, 1), releaseOf(1, 1)
	for i := range b.N {
		o.Outputs[0].Id, r.Outputs[0].Id = uint64(i+1), uint64(i+1)
		s.reported(w, o, at)
		s.released(w, r, at.Add(time.Millisecond))
	}
	if s.Latency.Count != uint64(b.N) {
		b.Fatal(s.Latency.Count)
	}
}

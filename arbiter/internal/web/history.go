package web

import (
	"context"
	"slices"
	"sync"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

const (
	// sampleEvery is the distance between two points of a chart, pointsKept what
	// a chart shows of them.
	sampleEvery = time.Second
	pointsKept  = 300
)

// point is what the charts show of one VM at one time.
type point struct {
	UnixMs int64 `json:"t"`
	// Outputs released per second since the point before.
	Outputs float64 `json:"o"`
	// Alone: the VM runs alone and its outputs leave without this arbiter, so
	// that Outputs says nothing about them.
	Alone bool `json:"alone,omitempty"`
	// Median and 99th percentile, in milliseconds, of the delay of the outputs
	// that were released since the point before; 0: there were none.
	P50 float64 `json:"p50,omitempty"`
	P99 float64 `json:"p99,omitempty"`
	// Inputs that the standby has received and not delivered.
	Lag uint32 `json:"lag"`
	// Dirty pages sent, and the longest pause in milliseconds, since the point
	// before.
	Pages uint64  `json:"pages"`
	Pause float64 `json:"pause,omitempty"`
	// Resynchronizations begun since the point before, by reason in words.
	Resyncs map[string]uint64 `json:"r,omitempty"`
}

// newPoint compares two samples of one VM.
func newPoint(before, now sessions.Sample, took time.Duration, at time.Time) point {
	p := point{UnixMs: at.UnixMilli()}
	was, is := before.Status.GetCounters(), now.Status.GetCounters()
	p.Outputs = float64(grown(was.GetOutputsReleased(), is.GetOutputsReleased())) / max(took.Seconds(), 0.001)
	p.Alone = p.Outputs == 0 && now.Status.GetRecord().GetMode() != pb.Mode_MODE_PROTECTED
	if latency := now.Stats.Latency.Since(before.Stats.Latency); latency.Count > 0 {
		p.P50, p.P99 = ms(latency.Quantile(0.5)), ms(latency.Quantile(0.99))
	}
	for _, r := range now.Status.GetReplicas() {
		if r.Role == pb.Role_ROLE_STANDBY {
			p.Lag = max(p.Lag, r.FeedLag)
		}
	}
	p.Pages = grown(before.Stats.PagesSent, now.Stats.PagesSent)
	pauses := is.GetRecentPausesUs()
	fresh := min(grown(before.Stats.Pauses.Count, now.Stats.Pauses.Count), uint64(len(pauses)))
	for _, us := range pauses[uint64(len(pauses))-fresh:] {
		p.Pause = max(p.Pause, float64(us)/1000)
	}
	for reason, n := range now.Stats.Resyncs {
		if n := grown(before.Stats.Resyncs[reason], n); n > 0 {
			if p.Resyncs == nil {
				p.Resyncs = map[string]uint64{}
			}
			p.Resyncs[sessions.Words(reason)] += n
		}
	}
	return p
}

// grown is by how much a counter has grown; one that began anew by all it has.
func grown(before, now uint64) uint64 {
	if now < before {
		return now
	}
	return now - before
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// history keeps the points of the VMs that run here. Methods may be called from
// any goroutine.
type history struct {
	mu     sync.Mutex
	vms    map[string]*track
	more   chan struct{} // closed with the next points
	before time.Time
}

type track struct {
	last   sessions.Sample
	points []point // oldest first
}

func newHistory() *history {
	return &history{vms: map[string]*track{}, more: make(chan struct{})}
}

// run samples until the context ends.
func (h *history) run(ctx context.Context, vms VMs) {
	ticker := time.NewTicker(sampleEvery)
	defer ticker.Stop()
	for {
		limit, cancel := context.WithTimeout(ctx, sampleEvery)
		samples := vms.Sample(limit)
		cancel()
		h.add(samples, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// add takes the samples of all VMs that run here. What is known of others, which
// have gone to another arbiter, is forgotten.
func (h *history) add(samples []sessions.Sample, at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	vms := make(map[string]*track, len(samples))
	for _, s := range samples {
		name := s.Status.GetRecord().GetVm()
		t := h.vms[name]
		if t == nil {
			t = &track{}
		} else {
			t.points = append(t.points, newPoint(t.last, s, at.Sub(h.before), at))
			if extra := len(t.points) - pointsKept; extra > 0 {
				t.points = slices.Delete(t.points, 0, extra)
			}
		}
		t.last = s
		vms[name] = t
	}
	h.vms, h.before = vms, at
	close(h.more)
	h.more = make(chan struct{})
}

// after returns the points of a VM that are younger than a time in Unix
// milliseconds.
func (h *history) after(vm string, unixMs int64) []point {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.vms[vm]
	if t == nil {
		return nil
	}
	i := len(t.points)
	for i > 0 && t.points[i-1].UnixMs > unixMs {
		i--
	}
	return slices.Clone(t.points[i:])
}

// changed is closed when there are more points.
func (h *history) changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.more
}

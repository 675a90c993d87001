package story

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/load"
)

// Result is what a story came to, and its last line. Numbers of resynchronizations,
// pages and outputs are the arbiter's, which begins anew when it had to take the VM
// again.
type Result struct {
	Ok                bool    `json:"ok"`
	Acked             int64   `json:"acked"`
	Reads             int64   `json:"reads"`
	Lost              int64   `json:"lost"`
	Wrong             int64   `json:"wrong"`
	Connections       int     `json:"connections"`
	ConnectionsLost   int     `json:"connections_lost"`
	FailoverGapMs     []int64 `json:"failover_gap_ms"`
	Resyncs           uint64  `json:"resyncs"`
	ResyncPauseP50Ms  float64 `json:"resync_pause_ms_p50"`
	ResyncPauseP99Ms  float64 `json:"resync_pause_ms_p99"`
	PagesSent         uint64  `json:"pages_sent"`
	PagesCompared     uint64  `json:"pages_compared"`
	ProtectedAfterMs  []int64 `json:"protected_after_ms"`
	OutputsReleased   uint64  `json:"outputs_released"`
	FailoversObserved uint64  `json:"failovers"`
	ClockAsked        int     `json:"clock_asked"`
	ClockBackwards    int     `json:"clock_backwards"`
	// ClockAheadMs says after each take-over how far the guest's clock was ahead of
	// the clients' since the boot: at least, at most. Negative is behind.
	ClockAheadMs [][2]float64 `json:"clock_ahead_ms"`
	Problem      string       `json:"problem,omitempty"`
	Error        string       `json:"error,omitempty"`

	behind time.Duration // how far the guest's clock was behind at some time, at least
}

// ClockBound is how far the guest's clock may fall behind the clients' in a
// story. One that stands still while the guest is paused, moved or taken over
// exceeds it.
const ClockBound = time.Second

// Clock is what came of the questions for the guest's time, as a sentence.
func (r *Result) Clock() string {
	var b strings.Builder
	fmt.Fprintf(&b, "the guest's clock, asked %d times, ran backwards %d times", r.ClockAsked, r.ClockBackwards)
	for i, d := range r.ClockAheadMs {
		fmt.Fprintf(&b, "%s %.0f to %.0f ms", []string{", and was ahead of the clients' after the take-overs by", " and"}[min(i, 1)], d[0], d[1])
	}
	return b.String()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func (r *Result) finish(n *pb.VMCounters, seen load.Result, lost int64) {
	r.Acked, r.Reads, r.Lost, r.Wrong = seen.Acked, seen.Reads, lost, seen.Wrong
	r.Connections, r.ConnectionsLost = seen.Connections, seen.ConnectionsLost
	r.Resyncs, r.PagesSent, r.PagesCompared = n.GetResyncs(), n.GetPagesSent(), n.GetPagesCompared()
	r.OutputsReleased = n.GetOutputsReleased()
	pauses := slices.Sorted(slices.Values(n.GetRecentPausesUs()))
	r.ResyncPauseP50Ms, r.ResyncPauseP99Ms = percentile(pauses, 50), percentile(pauses, 99)
	r.Ok = lost == 0 && seen.Wrong == 0 && seen.ConnectionsLost == 0 && seen.Acked > 0 &&
		r.ClockBackwards == 0 && r.behind <= ClockBound
	r.Problem = seen.Problem
	switch {
	case lost > 0:
		r.Problem = fmt.Sprintf("%d acknowledged writes are gone", lost)
	case r.ClockBackwards > 0:
		r.Problem = "the guest's clock ran backwards"
	case r.behind > ClockBound:
		r.Problem = fmt.Sprintf("the guest's clock was at least %v behind the clients', which is more than %v", r.behind, ClockBound)
	}
}

// percentile returns a percentile of sorted microseconds in milliseconds.
func percentile(sorted []uint64, p int) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[min(len(sorted)-1, len(sorted)*p/100)]) / 1000
}

// Conclude prints the result of a story as a line of JSON, and returns err or
// what says that the promise was not kept.
func Conclude(out io.Writer, r Result, err error) error {
	if err != nil {
		r.Ok, r.Error = false, err.Error()
	}
	line, e := json.Marshal(r)
	if e != nil {
		return e
	}
	fmt.Fprintln(out, string(line))
	if err == nil && !r.Ok {
		err = fmt.Errorf("the promise was not kept: %s", r.Problem)
	}
	return err
}

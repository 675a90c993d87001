// Package histogram counts durations in buckets that are fine enough for
// percentiles and cheap enough for every output.
package histogram

import (
	"math/bits"
	"time"
)

const (
	// Four buckets to each power of two of microseconds: a percentile is right
	// within 25 %.
	perPower = 4
	topPower = 24 // the last bucket takes 16.8 s and all that is longer
	buckets  = perPower * topPower
)

// Histogram counts durations. The zero value is empty. It is plain data: copies
// are snapshots. It is not safe for use by several goroutines at once.
type Histogram struct {
	counts [buckets]uint64
	// Count is the number of durations, SumUs their sum in microseconds.
	Count, SumUs uint64
}

// index of the bucket that takes a duration of us microseconds.
func index(us uint64) int {
	if us < perPower {
		return int(us)
	}
	power := bits.Len64(us) - 1
	return min(perPower*(power-1)+int(us>>(power-2))&(perPower-1), buckets-1)
}

// below is the lowest duration, in microseconds, that bucket i does not take.
func below(i int) uint64 {
	if i < perPower {
		return uint64(i) + 1
	}
	return uint64(perPower+i%perPower+1) << (i/perPower - 1)
}

// Observe counts a duration; a negative one counts as 0.
func (h *Histogram) Observe(d time.Duration) {
	us := uint64(max(0, d.Microseconds()))
	h.counts[index(us)]++
	h.Count++
	h.SumUs += us
}

// Since returns what was counted since an earlier snapshot of the same
// histogram. Where before is of another, longer one, everything is new.
func (h Histogram) Since(before Histogram) Histogram {
	if before.Count > h.Count {
		return h
	}
	h.Count -= before.Count
	h.SumUs -= before.SumUs
	for i := range h.counts {
		h.counts[i] -= before.counts[i]
	}
	return h
}

// Quantile estimates the duration that the share q (0 to 1) of all durations
// does not exceed, within its bucket; 0 where nothing was counted.
func (h *Histogram) Quantile(q float64) time.Duration {
	rank := q * float64(h.Count)
	seen := 0.0
	for i, n := range h.counts {
		if n == 0 {
			continue
		}
		if seen+float64(n) >= rank {
			from := 0.0
			if i > 0 {
				from = float64(below(i - 1))
			}
			us := from + (float64(below(i))-from)*(rank-seen)/float64(n)
			return time.Duration(us * float64(time.Microsecond))
		}
		seen += float64(n)
	}
	return 0
}

// Cumulative returns, for each power of two of microseconds from 64 µs to 16.8 s,
// in seconds, how many durations are shorter: what Prometheus asks for.
func (h *Histogram) Cumulative() map[float64]uint64 {
	const first = 6 // 64 µs
	out := make(map[float64]uint64, topPower-first+1)
	sum := uint64(0)
	for i, n := range h.counts[:buckets-1] {
		sum += n
		if b := below(i); b&(b-1) == 0 && b >= 1<<first {
			out[float64(b)/1e6] = sum
		}
	}
	return out
}

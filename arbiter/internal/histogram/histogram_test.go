package histogram

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestBucketsAreContiguous(t *testing.T) {
	for i := range buckets - 1 {
		if last, next := index(below(i)-1), index(below(i)); last != i || next != i+1 {
			t.Errorf("bucket %d ends at %d: %d and %d", i, below(i), last, next)
		}
	}
	if i := index(1 << 63); i != buckets-1 {
		t.Errorf("the longest durations are in bucket %d", i)
	}
}

func TestQuantilesAreWithinABucket(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.SliceOfN(rapid.Int64Range(0, 10_000_000), 1, 200).Draw(t, "µs")
		q := rapid.Float64Range(0, 1).Draw(t, "q")
		var before, h Histogram
		h.Observe(time.Hour)
		before = h
		for _, u := range us {
			h.Observe(time.Duration(u) * time.Microsecond)
		}
		h = h.Since(before)
		if h.Count != uint64(len(us)) {
			t.Fatalf("%d durations, want %d", h.Count, len(us))
		}
		slices.Sort(us)
		rank := min(len(us)-1, max(0, int(q*float64(len(us))+0.999999)-1))
		want, got := float64(us[rank]), float64(h.Quantile(q).Microseconds())
		if got < want*0.79-1 || got > want*1.26+1 {
			t.Fatalf("quantile %v of %v is %v, want about %v", q, us, got, want)
		}
		for bound, n := range h.Cumulative() {
			shorter := uint64(0)
			for _, u := range us {
				if float64(u) < bound*1e6 {
					shorter++
				}
			}
			if n != shorter {
				t.Fatalf("%d below %v, want %d", n, bound, shorter)
			}
		}
	})
}

func TestEmptyAndForeign(t *testing.T) {
	var h, longer Histogram
	if q := h.Quantile(0.5); q != 0 {
		t.Errorf("quantile of nothing is %v", q)
	}
	h.Observe(-time.Second)
	longer.Observe(time.Second)
	longer.Observe(time.Second)
	if s := h.Since(longer); s.Count != 1 {
		t.Errorf("got %+v", s)
	}
}

func BenchmarkObserve(b *testing.B) {
	var h Histogram
	for i := range b.N {
		h.Observe(time.Duration(i) * time.Microsecond)
	}
}

package feed

import (
	"math"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The bounds hold for any delays and any drift that hosts have.
func TestClockBoundsHold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// The active's guest time as a line over the standby's instants.
		offset := rapid.Int64Range(0, 1<<50).Draw(t, "offset")
		ppm := rapid.Int64Range(-100, 100).Draw(t, "ppm")
		guestAt := func(at int64) int64 { return offset + at + at*ppm/1_000_000 }
		delay := func(name string) int64 { return rapid.Int64Range(0, int64(300*time.Millisecond)).Draw(t, name) }
		var c clock
		at := int64(time.Hour)
		for range rapid.IntRange(1, 100).Draw(t, "pings") {
			pong, held, ping := delay("pong"), delay("held"), delay("ping")
			arrives := at + pong + held + ping
			// held is by the active's clock.
			c.add(arrives, uint64(guestAt(at+pong+held)), arrives-at-(held+held*ppm/1_000_000), held)
			for _, later := range []int64{0, delay("later"), int64(time.Minute)} {
				low, high, ok := c.bounds(arrives + later)
				truth := guestAt(arrives + later)
				const rounding = 2 // ns
				if !ok || truth < low-rounding || truth > high+rounding {
					t.Fatalf("guest time %d not in [%d, %d]", truth, low, high)
				}
			}
			at = arrives
		}
	})
}

func TestClockThatWasSetForgets(t *testing.T) {
	var c clock
	c.add(1000, 5_000_000, 10, 0)
	c.add(2000, 9_000_000_000, 10, 0)
	if low, high, _ := c.bounds(2000); low != 9_000_000_000 || high != low+11 {
		t.Errorf("%d to %d", low, high)
	}
	c.add(3000, 7, 10, 0)
	if low, high, _ := c.bounds(3000); low != 7 || high != 18 {
		t.Errorf("%d to %d", low, high)
	}
}

func TestClockDisbelievesNonsense(t *testing.T) {
	var c clock
	c.add(1000, math.MaxUint64, 10, 0)
	c.add(1000, 10, -2, 0)
	c.add(1000, 10, math.MaxInt64, 0)
	c.add(1000, 10, 0, -1)
	c.add(1000, 10, 0, math.MaxInt64)
	if _, _, ok := c.bounds(1000); ok {
		t.Error("believed")
	}
}

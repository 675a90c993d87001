package role

import (
	"testing"
	"time"
)

// Batches begin where the copies disagree often, last longer the sooner they
// are needed again, and end early where they do not help.
func TestWhenInputsAreGathered(t *testing.T) {
	var g gather
	now := time.Hour
	disagree := func(n int, every time.Duration) {
		for range n {
			now += every
			g.disagreed(now)
		}
	}
	check := func(on bool, what string) {
		t.Helper()
		if g.on(now) != on {
			t.Fatalf("%s: gathers: %v", what, !on)
		}
	}
	disagree(20, 6*time.Second)
	check(false, "seldom")
	disagree(3, 100*time.Millisecond)
	check(true, "often")
	now += 59 * time.Second
	check(true, "a minute is not over")
	now += 2 * time.Second
	check(false, "a minute is over")
	disagree(1, 100*time.Millisecond)
	check(true, "again, soon after it")
	now += 119 * time.Second
	check(true, "two minutes are not over")
	now += 2 * time.Second
	check(false, "two minutes are over")
	now += 2 * time.Minute
	disagree(2, 100*time.Millisecond)
	check(false, "it was right without for as long")
	disagree(1, 100*time.Millisecond)
	check(true, "often again")
	disagree(50, time.Second)
	check(true, "not nearly as often with it")

	disagree(3, 200*time.Millisecond)
	check(false, "nearly as often with it")
	disagree(30, time.Second)
	check(false, "left for a minute")
	now += time.Minute
	disagree(3, 100*time.Millisecond)
	check(true, "tried again")
	disagree(3, 100*time.Millisecond)
	now += time.Minute
	disagree(3, 100*time.Millisecond)
	check(false, "left for two minutes")
}

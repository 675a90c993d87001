package sim

import (
	"os"
	"strconv"
	"testing"
)

// TestSeeds runs seeds from 1 on; SEEDS says how many, SEED runs one and tells
// its story.
func TestSeeds(t *testing.T) {
	if s := os.Getenv("SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		r := Run(seed)
		t.Logf("seed %d: %d answers, %d take-overs, faults %v\n%s", seed, r.Answers, r.Takeovers, r.Faults, r.Story)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return
	}
	seeds := uint64(300)
	if s := os.Getenv("SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = n
	}
	faults := map[string]int{}
	var answers, takeovers, bad int
	for seed := uint64(1); seed <= seeds; seed++ {
		r := Run(seed)
		answers += r.Answers
		takeovers += r.Takeovers
		for k, n := range r.Faults {
			faults[k] += n
		}
		if r.Err != nil {
			t.Errorf("SEED=%d: %v", seed, r.Err)
			if bad++; bad >= 10 {
				t.Fatal("too many failures")
			}
		}
	}
	t.Logf("%d seeds, %d answers, %d take-overs, faults %v", seeds, answers, takeovers, faults)
}

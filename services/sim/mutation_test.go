package sim

import (
	"os"
	"strings"
	"testing"
)

// caughtBy is a seed that is known to catch a mutation that few seeds do.
var caughtBy = map[Mutation]uint64{EarlyRelease: 19, StaleFlows: 52, NoEpochs: 58, NoRevisions: 65, NoBootFlush: 106,
	ClaimOwned: 121, EternalLease: 121, NoLeaseConditions: 121, StageInPlace: 487}

// mutationSeeds bounds the seeds within which each mutation must be caught.
const mutationSeeds = 1000

// TestMutations shows that the checks can fail: each deliberate defect breaks a
// rule within a bounded number of seeds.
func TestMutations(t *testing.T) {
	if raceDetector {
		t.Skip("a run is one goroutine")
	}
	for _, m := range Mutations {
		if only := os.Getenv("MUTATION"); only != "" && only != string(m) {
			continue
		}
		t.Run(strings.ReplaceAll(string(m), " ", "-"), func(t *testing.T) {
			t.Parallel()
			if seed := caughtBy[m]; seed != 0 && caught(t, m, seed) {
				return
			}
			for seed := uint64(1); seed <= mutationSeeds; seed++ {
				if caught(t, m, seed) {
					return
				}
			}
			t.Errorf("not caught by %d seeds", mutationSeeds)
		})
	}
}

func caught(t *testing.T, m Mutation, seed uint64) bool {
	r := RunMutated(seed, m)
	if r.Err == nil {
		return false
	}
	if sound := Run(seed); sound.Err != nil {
		t.Errorf("seed %d fails without a defect, too: %v", seed, sound.Err)
	}
	t.Logf("caught by seed %d: %.200v", seed, r.Err)
	return true
}

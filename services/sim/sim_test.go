package sim

import (
	"os"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A run makes much garbage and keeps little.
func TestMain(m *testing.M) {
	debug.SetGCPercent(800)
	os.Exit(m.Run())
}

// seedCount is the number that SEEDS names, or the default.
func seedCount(t *testing.T) uint64 {
	if s := os.Getenv("SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	if raceDetector {
		return 20
	}
	if testing.Short() {
		return 100
	}
	return 2000
}

// TestSeeds runs seeds from 1 on; SEEDS says how many, SEED runs one and tells
// its story.
func TestSeeds(t *testing.T) {
	if s := os.Getenv("SEED"); s != "" {
		seed, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		r := Tell(seed, Mutation(os.Getenv("MUTATION")))
		t.Logf("seed %d: %d answers, %d take-overs, faults %v\n%s", seed, r.Answers, r.Takeovers, r.Faults, r.Story)
		if r.Err != nil {
			t.Fatal(r.Err)
		}
		return
	}
	var tot totals
	each(t, seedCount(t), func(seed uint64) { tot.add(t, Run(seed)) })
	tot.log(t)
}

// each runs fn for seeds from 1 on, several at once, until too many failed.
func each(t *testing.T, seeds uint64, fn func(seed uint64)) {
	t.Helper()
	var next atomic.Uint64
	var wait sync.WaitGroup
	for range 2 {
		wait.Go(func() {
			for !t.Failed() {
				seed := next.Add(1)
				if seed > seeds {
					return
				}
				fn(seed)
			}
		})
	}
	wait.Wait()
}

// totals sums runs up.
type totals struct {
	sync.Mutex
	runs, answers, emitted, takeovers, violations int
	events                                        uint64
	faults, happened                              map[string]int
	worst, healed                                 time.Duration
}

func (s *totals) add(t *testing.T, r Result) {
	s.Lock()
	defer s.Unlock()
	if s.faults == nil {
		s.faults, s.happened = map[string]int{}, map[string]int{}
	}
	s.runs++
	s.answers += r.Answers
	s.emitted += r.Emitted
	s.takeovers += r.Takeovers
	s.events += r.Events
	s.worst, s.healed = max(s.worst, r.Worst), max(s.healed, r.Healed)
	for k, n := range r.Faults {
		s.faults[k] += n
	}
	for k, n := range r.Happened {
		s.happened[k] += n
	}
	if r.Err != nil {
		s.violations++
		t.Errorf("SEED=%d: %v", r.Seed, r.Err)
	}
}

func (s *totals) log(t *testing.T) {
	faults, n := listed(s.faults)
	followed, _ := listed(s.happened)
	t.Logf("%d seeds, %d violations; %d events, %d outputs, %d answers, %d take-overs, longest wait %v, longest healing %v; %d faults: %s; what followed: %s",
		s.runs, s.violations, s.events, s.emitted, s.answers, s.takeovers, s.worst, s.healed, n, faults, followed)
}

// listed names counts in the order of their names, and sums them.
func listed(counts map[string]int) (text string, sum int) {
	var kinds []string
	for k, n := range counts {
		kinds = append(kinds, k+" "+strconv.Itoa(n))
		sum += n
	}
	slices.Sort(kinds)
	return strings.Join(kinds, ", "), sum
}

// TestKeptSeeds runs the seeds of testdata/seeds.txt.
func TestKeptSeeds(t *testing.T) {
	b, err := os.ReadFile("testdata/seeds.txt")
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(b)) {
		number, why, ok := strings.Cut(strings.TrimSpace(l), " ")
		if !ok || number == "#" {
			continue
		}
		seed, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if r := Run(seed); r.Err != nil {
			t.Errorf("SEED=%d (%s): %v", seed, why, r.Err)
		}
	}
}

// TestDeterminism: one seed decides everything.
func TestDeterminism(t *testing.T) {
	for seed := uint64(1); seed <= 10; seed++ {
		a, b := Run(seed), Run(seed)
		if a.Events != b.Events || a.Story != b.Story || a.Answers != b.Answers {
			t.Errorf("seed %d ran otherwise the second time: %d and %d events", seed, a.Events, b.Events)
		}
	}
}

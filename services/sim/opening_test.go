package sim

import "testing"

// The outside learns a connection's numbers when the active's SYN leaves. Even
// if the active's host is lost in that moment, with all that is on its way from
// it, the standby must know them: else the connection would break.
func TestOpeningSurvivesTheHost(t *testing.T) {
	if raceDetector {
		t.Skip("a run is one goroutine")
	}
	lost := 0
	for seed := uint64(1); seed <= 100; seed++ {
		r := run(seed, "", func(w *world) {
			w.takesAlong = true
			w.trap = &trap{v: w.vms[0], at: synReleased, victim: "active", silent: true, skip: int(seed % 7)}
		})
		if r.Err != nil {
			t.Errorf("SEED=%d: %v", seed, r.Err)
		}
		lost += r.Faults["active lost when "+string(synReleased)]
	}
	if lost < 20 {
		t.Errorf("only %d actives were lost in that moment", lost)
	}
	t.Logf("%d actives lost", lost)
}

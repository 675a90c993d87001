package vmmtest

import (
	"testing"
	"time"
)

// ticks converts a duration to what the program "ticker" logs.
func (m *machine) ticks(d time.Duration) uint64 {
	return uint64(float64(d) / 1e9 * float64(m.target.TickHz(m.Engine)))
}

// monotonic checks that no logged time was before the one before it.
func (m *machine) monotonic() {
	m.t.Helper()
	m.device.mu.Lock()
	defer m.device.mu.Unlock()
	if m.device.backwards > 0 {
		m.t.Errorf("time ran backwards %d times of %d", m.device.backwards, m.device.logged)
	}
}

// awaitMore returns the last number logged once n more were.
func (m *machine) awaitMore(n int) uint64 {
	m.t.Helper()
	logged, _ := m.device.Logged()
	m.device.Await(m.t, logged+n)
	_, last := m.device.Logged()
	return last
}

const period = 5 * time.Millisecond

func timer(t *testing.T, x *Target) {
	m := x.machine(t, NewDevice(x.Device))
	m.begin(x.Program("ticker"), m.ticks(period))
	start := time.Now()
	m.Resume()
	const n = 21
	log := m.device.Await(t, n)
	took := time.Since(start)
	m.Pause()
	for i := 1; i < n; i++ {
		if log[i]-log[i-1] < m.ticks(period) {
			t.Fatalf("timer %d after %d ticks instead of %d", i, log[i]-log[i-1], m.ticks(period))
		}
	}
	if took < (n-1)*period {
		t.Errorf("%d timers of %v took %v", n-1, period, took)
	}
	if took > 10*n*period {
		t.Errorf("%d timers of %v took as long as %v", n-1, period, took)
	}
	if passed := log[n-1] - log[0]; passed > m.ticks(took+period) {
		t.Errorf("the guest saw %d ticks in %v, at most %d are right", passed, took, m.ticks(took))
	}
}

// timerSurvivesMoves moves a guest that sleeps: its timer wakes it, also when it
// fell due on the way.
func timerSurvivesMoves(t *testing.T, x *Target) {
	m := x.machine(t, NewDevice(x.Device))
	m.begin(x.Program("ticker"), m.ticks(period))
	m.Resume()
	for i := range 6 {
		m.awaitMore(2)
		m.Pause()
		if i%2 == 1 {
			time.Sleep(2 * period)
		}
		m = m.move()
		if i%3 == 1 {
			time.Sleep(2 * period)
		}
		m.Resume()
	}
	m.awaitMore(2)
	m.Pause()
	m.monotonic()
}

// timePassesInPauses: guest time does not stand still while the guest does, nor
// while it is on its way to another engine.
func timePassesInPauses(t *testing.T, x *Target) {
	m := x.machine(t, NewDevice(x.Device))
	m.begin(x.Program("ticker"), m.ticks(100*time.Microsecond))
	m.Resume()
	for _, move := range []bool{false, true} {
		m.awaitMore(10)
		m.Pause()
		from, n := m.clock.Now(), len(m.device.Log())
		const pause = 50 * time.Millisecond
		time.Sleep(pause)
		if move {
			m = m.move()
		}
		m.Resume()
		log := m.device.Await(t, n+1)
		to := m.clock.Now()
		passed := log[n] - log[n-1]
		if passed < m.ticks(pause) {
			t.Errorf("move %v: %d ticks in a pause of %v, at least %d are right", move, passed, pause, m.ticks(pause))
		}
		if most := m.ticks(time.Duration(to-from) + 20*time.Millisecond); passed > most {
			t.Errorf("move %v: %d ticks in a pause, at most %d are right", move, passed, most)
		}
		m.Pause()
		m.Resume()
	}
	m.Pause()
}

// timeNeverRunsBackwards moves a guest that does nothing but read the time, and
// compares its time with Clock.
func timeNeverRunsBackwards(t *testing.T, x *Target) {
	m := x.boot(t, "ticker", 0)
	began := m.clock.Now()
	m.Resume()
	first := m.device.Await(t, 1)[0]
	from := m.clock.Now()
	for range 15 {
		m.awaitMore(20)
		time.Sleep(moment(3 * time.Millisecond)) // anywhere in its loop
		m = m.move()
		m.Resume()
	}
	to := m.clock.Now()
	last := m.awaitMore(2) // the second of them was read after to
	m.Pause()
	m.monotonic()
	// Bounds that hold however long this test waits for the processor.
	passed, slack := last-first, m.ticks(time.Millisecond)
	least, most := m.ticks(time.Duration(to-from)), m.ticks(time.Duration(m.clock.Now()-began))
	if passed+slack < least || passed > most+slack {
		t.Errorf("the guest saw %d ticks where %d to %d passed", passed, least, most)
	}
}

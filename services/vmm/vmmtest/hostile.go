package vmmtest

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/vmm"
)

// hostileAccesses touches what is not there. The engine and the guest survive.
func hostileAccesses(t *testing.T, x *Target) {
	m := x.boot(t, "hostile")
	m.Resume()
	if log := m.device.Await(t, 1); log[0] != 1 {
		t.Errorf("the guest logs %v", log)
	}
	m = m.move() // and has a state
	m.Resume()
	m.Pause()
}

// hostileCode runs random bytes as code. Whatever it does, the engine pauses and
// has a state that it takes back.
func hostileCode(t *testing.T, x *Target) {
	const seeds = 60
	stops := map[vmm.StopCause]int{}
	m := x.machine(t, NewDevice(x.Device))
	m.onStop = func(s vmm.Stop) {
		select {
		case m.stopped <- s:
		default:
		}
	}
	code := make([]byte, 4096)
	for seed := range uint64(seeds) {
		r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
		_, _ = r.Read(code) // never fails
		m.begin(code)
		m.Resume()
		select {
		case s := <-m.stopped:
			stops[s.Cause]++
		case <-time.After(time.Millisecond):
		}
		m.Pause()
		state, err := m.Save()
		if err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if err := m.Load(state); err != nil {
			t.Fatalf("seed %d: refuses its own state: %v", seed, err)
		}
		m.Resume()
		m.Pause()
		select {
		case <-m.stopped:
		default:
		}
	}
	t.Logf("%d seeds, own stops: %v", seeds, stops)
}

// refusesStates loads what is no state, and goes on with a good one.
func refusesStates(t *testing.T, x *Target) {
	m := x.boot(t, "mix", 1000)
	good, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range [][]byte{nil, {}, {0xff}, good[:len(good)/2], good[:len(good)-1]} {
		if err := m.Load(bad); err == nil {
			t.Errorf("a state of %d bytes is accepted", len(bad))
		}
	}
	if err := m.Load(good); err != nil {
		t.Fatal(err)
	}
	m.Resume()
	if s := m.wait(); s.Cause != vmm.PowerOff {
		t.Errorf("stop %v: %s", s.Cause, s.Detail)
	}
}

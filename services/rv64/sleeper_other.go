//go:build !linux

package rv64

import "time"

// A sleeper lets one goroutine wait until woken or for a time.
type sleeper struct{ token chan struct{} }

func newSleeper() (*sleeper, error) { return &sleeper{make(chan struct{}, 1)}, nil }

// wake ends the present sleep, or the next one.
func (s *sleeper) wake() {
	select {
	case s.token <- struct{}{}:
	default:
	}
}

// sleep returns when woken, after d, or early.
func (s *sleeper) sleep(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.token:
	case <-t.C:
	}
}

func (s *sleeper) close() error { return nil }

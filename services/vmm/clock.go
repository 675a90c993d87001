package vmm

import (
	"sync/atomic"
	"time"
)

// Clock is guest time: nanoseconds since the guest's first start. It follows
// the host's monotonic clock, also while the guest is paused, so that a pause
// does not make the guest's time fall behind. Both copies share the time of a
// checkpoint as their common base. All methods may be called from any
// goroutine.
type Clock struct {
	// offset is guest time minus the host's monotonic clock.
	offset atomic.Int64
}

var hostStart = time.Now()

// hostNow is the host's monotonic clock in nanoseconds since this process
// started. time.Since reads it through the vDSO, without a system call: guests
// read their clock often.
func hostNow() int64 { return int64(time.Since(hostStart)) }

// NewClock returns a clock that reads 0 now.
func NewClock() *Clock {
	c := &Clock{}
	c.Set(0)
	return c
}

// Now returns the guest time in nanoseconds.
func (c *Clock) Now() uint64 { return uint64(hostNow() + c.offset.Load()) }

// Set makes the clock read ns now.
func (c *Clock) Set(ns uint64) { c.offset.Store(int64(ns) - hostNow()) }

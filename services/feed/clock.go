package feed

import "time"

// ClockSample says that at instant At the active's guest time was at least
// GuestNs and at most GuestNs + Uncertainty, in nanoseconds.
type ClockSample struct {
	At          time.Time
	GuestNs     uint64
	Uncertainty time.Duration
}

// clock bounds the active's guest time from pings.
//
// The standby sends a pong at s0 and the active gets it at a0; the active
// sends a ping at a1 with its guest time, and with a1 - a0, and the standby
// gets it at s1. What both were under way is s1 - s0 - (a1 - a0), by two
// clocks each of which is only compared with itself. The ping took between
// nothing and all of that: so at s1 the guest time is between what the ping
// says and that much more.
//
// Instants are nanoseconds of a monotonic clock.
type clock struct {
	samples [64]clockSample
	n       int // samples ever taken
}

type clockSample struct {
	at    int64
	guest uint64
	way   int64
}

const (
	// maxDrift is a bound on how fast the clocks of two hosts drift apart, as a
	// divisor of time: 200 ppm, twice what a bad crystal does.
	maxDrift = 5000
	// maxWay and maxGuest bound what a ping is believed.
	maxWay   = int64(time.Minute)
	maxGuest = uint64(1) << 62
)

// add takes a ping that arrived at instant at: pong and ping together were way
// nanoseconds under way, after the active had held the pong for held.
func (c *clock) add(at int64, guest uint64, way, held int64) {
	if way > maxWay || held < 0 || held > maxWay || guest > maxGuest {
		return
	}
	drift := held/maxDrift + 1
	if way < -drift {
		return
	}
	way = max(way, 0)
	way += way/maxDrift + drift
	s := clockSample{at: at, guest: guest, way: way}
	if low, high, ok := c.bounds(at); ok && (int64(guest) > high || int64(guest)+way < low) {
		// The active's guest clock was set: what was known is void.
		c.n = 0
	}
	c.samples[c.n%len(c.samples)] = s
	c.n++
}

// bounds returns what the recent pings say together about the guest time at
// the instant.
func (c *clock) bounds(at int64) (low, high int64, ok bool) {
	for i := range min(c.n, len(c.samples)) {
		s := &c.samples[i]
		age := at - s.at
		drift := age / maxDrift
		l, h := int64(s.guest)+age-drift, int64(s.guest)+s.way+age+drift
		if i == 0 || l > low {
			low = l
		}
		if i == 0 || h < high {
			high = h
		}
		ok = true
	}
	return low, max(low, high), ok
}

package fence

import "time"

// step is what the holder of a lease has to do next.
type step int

const (
	stepGrant step = iota + 1 // ask for a lease
	stepPut                   // put the key under the lease
	stepRenew                 // keep the lease alive
)

// timing is the pure part of a Lease: what to do when, and until when the lease
// is provably valid. All times are Now's.
type timing struct {
	ttl    time.Duration // asked for
	margin time.Duration

	id      int64         // 0: no lease
	held    bool          // the key is attached to the lease
	granted time.Duration // TTL by the server's word
	sent    time.Duration // when the last successful grant or keep-alive was sent
	due     time.Duration // when to do the next step
}

// next returns the step to do and the time for it.
func (t *timing) next() (step, time.Duration) {
	switch {
	case t.id == 0:
		return stepGrant, t.due
	case !t.held:
		return stepPut, t.due
	}
	return stepRenew, t.due
}

// grantedAt notes a lease granted for ttl, asked for at sent.
func (t *timing) grantedAt(id int64, ttl, sent time.Duration) {
	t.id, t.held, t.granted, t.sent, t.due = id, false, ttl, sent, sent
}

// putDone notes that the key is attached to the lease.
func (t *timing) putDone() {
	t.held = true
	t.due = t.sent + t.interval()
}

// renewedAt notes a keep-alive that was sent at sent and succeeded. A TTL
// without a second left means that the lease is gone.
func (t *timing) renewedAt(ttl, sent time.Duration) {
	if ttl <= 0 {
		t.gone(sent)
		return
	}
	t.granted = ttl
	t.sent = max(t.sent, sent)
	t.due = t.sent + t.interval()
}

// gone notes that the server does not know the lease any more.
func (t *timing) gone(now time.Duration) {
	t.id, t.held, t.granted, t.sent = 0, false, 0, 0
	t.due = now
}

// failed notes that the step had no answer: it is repeated soon. Validity runs
// on from the last success.
func (t *timing) failed(now time.Duration) { t.due = now + t.interval()/2 }

// interval is the time between keep-alives.
func (t *timing) interval() time.Duration {
	if t.granted > 0 {
		return t.granted / 6
	}
	return t.ttl / 6
}

// attempt bounds one call: several fit into the TTL.
func (t *timing) attempt() time.Duration { return t.ttl / 4 }

// grant is what the holder may rely on.
func (t *timing) grant() Grant {
	if !t.held {
		return Grant{}
	}
	return Grant{ID: t.id, Until: t.sent + t.granted - t.margin}
}

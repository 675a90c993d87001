package sim

import (
	"fmt"
	"slices"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// checker holds the one canonical history and checks DESIGN section 3 against
// it.
type checker struct {
	w *world
	// said is everything that ever left, by client and question.
	said map[[2]int]string
	// boots counts guests that began anew: there may be one.
	boots int

	history  []operation
	emits    int
	takeover int
}

type operation struct {
	value      int
	start, end time.Duration
}

// emitted checks an output at the moment at which it leaves.
func (c *checker) emitted(r *replica, text string, leased bool) {
	w := c.w
	c.emits++
	rec := w.etcd.record
	named := rec.GetActive().GetId() == r.id
	if leased && (!named || rec.GetMode() != pb.Mode_MODE_SOLO && rec.GetMode() != pb.Mode_MODE_SYNCING) {
		w.fail("rule 2: %s emits %q by its lease while the record says term %d %s active %s", r.id, text,
			rec.GetTerm(), rec.GetMode(), rec.GetActive().GetId())
	}
	// Rule 1 and 2: what leaves is part of the history of every copy that may
	// speak from now on.
	for _, ref := range []*pb.ReplicaRef{rec.GetActive(), rec.GetStandby()} {
		if ref == rec.GetStandby() && rec.GetMode() != pb.Mode_MODE_PROTECTED {
			continue // it has no copy yet
		}
		for _, h := range w.hosts {
			if h.id != ref.GetId() || h.dead {
				continue
			}
			// The active's own state may have been taken over from a stage.
			if s := h.copyOf(); s == nil || !s.has(text) && !(h.guest != nil && h == r && h.guest.state.has(text)) {
				w.fail("rule 1: %s emits %q (leased %v), which %s has not made (term %d %s)", r.id, text, leased, h.id, rec.GetTerm(), rec.GetMode())
			}
		}
	}
	var client, n, value int
	if _, err := fmt.Sscanf(text, "%d %d %d", &client, &n, &value); err != nil {
		w.fail("%s emits %q", r.id, text)
		return
	}
	key := [2]int{client, n}
	if old, ok := c.said[key]; ok && old != text {
		w.fail("rule 2: %s emits %q, but %q has left before", r.id, text, old)
	}
	c.said[key] = text
}

// unmuted checks a copy that begins to speak: its history must hold all that
// was ever said.
func (c *checker) unmuted(r *replica) {
	s := r.copyOf()
	if s == nil {
		return // it boots
	}
	c.takeover++
	for _, text := range c.said {
		if !s.has(text) {
			c.w.fail("rule 3: %s takes over without having said %q", r.id, text)
		}
	}
}

func (c *checker) booted(r *replica) {
	if c.boots++; c.boots > 1 {
		c.w.fail("%s boots although the guest was running elsewhere", r.id)
	}
}

func (c *checker) answered(_, _, value int, start, end time.Duration) {
	c.history = append(c.history, operation{value, start, end})
}

// linearizable checks the clients' history. Each question adds at least one to
// one counter and is answered with the sum: the answers are all different, and
// a question that was asked after another was answered has the greater one.
func (c *checker) linearizable() {
	slices.SortFunc(c.history, func(a, b operation) int { return a.value - b.value })
	var latest time.Duration // the latest start among smaller values
	for i, op := range c.history {
		if i > 0 && op.value == c.history[i-1].value {
			c.w.fail("two questions were answered with %d", op.value)
		}
		if op.end < latest {
			c.w.fail("the answer %d came before a question with a smaller one was asked", op.value)
		}
		latest = max(latest, op.start)
	}
}

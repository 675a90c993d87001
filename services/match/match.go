package match

import (
	"fmt"
	"time"

	"github.com/understudy-ft/understudy/services/flow"
)

// Side is one of the two copies.
type Side uint8

// The two sides.
const (
	Active Side = iota
	Standby
)

func (s Side) String() string {
	if s == Active {
		return "active"
	}
	return "standby"
}

func (s Side) other() Side { return 1 - s }

// Config holds the time-outs and bounds. Fields that are zero take their
// defaults.
type Config struct {
	// CompareIdle is how long a side must have been idle, with all inputs
	// consumed, before its silence counts (300 ms: above Linux's longest
	// delayed-ACK timer, 200 ms).
	CompareIdle time.Duration
	// CompareMax is the upper bound of the wait for a counterpart (2 s).
	CompareMax time.Duration
	Limits     Limits
}

// Limits bound memory. Fields that are zero take their defaults.
type Limits struct {
	// Flows that are known at once (16384).
	Flows int
	// PerFlow bounds the unmatched outputs of one side in one flow (8192).
	PerFlow int
	// Waiting bounds all unmatched outputs and points together (65536).
	Waiting int
}

func (c Config) withDefaults() Config {
	def(&c.CompareIdle, 300*time.Millisecond)
	def(&c.CompareMax, 2*time.Second)
	def(&c.Limits.Flows, 16384)
	def(&c.Limits.PerFlow, 8192)
	def(&c.Limits.Waiting, 65536)
	return c
}

func def[T int | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Release lets one output of the active go.
type Release struct {
	ID uint64
	// EdgeMax is the right edge that the released window must not exceed;
	// 0: no limit.
	EdgeMax uint64
	// Kind is the output's; Digest that of an Event, else zero.
	Kind   flow.Kind
	Digest flow.Digest
}

// Probe asks the standby for its cumulative digest at an offset of a stream.
type Probe struct {
	Flow   flow.ID
	Offset uint64
}

// Kind says what a disagreement is.
type Kind uint8

// Kinds of disagreement.
const (
	// Mismatch: the copies sent something different.
	Mismatch Kind = iota + 1
	// Timeout: one copy has not sent what the other has.
	Timeout
	// Overflow: more is unmatched than the limits allow.
	Overflow
)

func (k Kind) String() string {
	switch k {
	case Mismatch:
		return "mismatch"
	case Timeout:
		return "timeout"
	case Overflow:
		return "overflow"
	}
	return "none"
}

// Disagreement says what the copies do not agree on.
type Disagreement struct {
	Kind   Kind
	Flow   flow.ID
	Name   string
	Detail string
}

func (d Disagreement) String() string {
	name := d.Name
	if name == "" {
		name = fmt.Sprintf("flow %x", uint64(d.Flow))
	}
	return name + ": " + d.Detail
}

// Counters count since New.
type Counters struct {
	// Compared counts outputs of the active that needed comparison, Released
	// all releases, Passed those without comparison, Probes the probes sent.
	Compared, Released, Passed, Probes uint64
	Mismatches, Timeouts, Overflows    uint64
}

// Core compares the outputs of two copies within one epoch. It is not safe for
// use by several goroutines at once.
type Core struct {
	cfg      Config
	epoch    uint64
	flows    table
	waiting  int
	counters Counters
	// due is before when a Tick has nothing to do.
	due time.Duration

	releases     []Release
	probes       []Probe
	disagreed    bool
	disagreement Disagreement
}

// New returns a Core in epoch 0 that knows nothing of any flow.
func New(cfg Config) *Core {
	cfg = cfg.withDefaults()
	return &Core{cfg: cfg, flows: newTable(cfg.Limits.Flows)}
}

// Reset begins an epoch: both copies are in the state that the active had.
func (c *Core) Reset(epoch uint64) {
	c.epoch = epoch
	c.waiting, c.due = 0, 0
	c.disagreed, c.disagreement = false, Disagreement{}
	c.flows.rebase()
	c.Clear()
}

// SetTimes changes the time-outs (see Config), which must be above 0.
func (c *Core) SetTimes(compareIdle, compareMax time.Duration) {
	c.cfg.CompareIdle, c.cfg.CompareMax, c.due = compareIdle, compareMax, 0
}

// Epoch returns the number that the last Reset gave.
func (c *Core) Epoch() uint64 { return c.epoch }

// Releases, Probes and Disagreement are the effects since the last Clear;
// Disagreement is nil where there is none. At most one disagreement is told
// per epoch.
func (c *Core) Releases() []Release { return c.releases }

// Probes returns the probes to send to the standby.
func (c *Core) Probes() []Probe { return c.probes }

// Disagreement returns what the copies disagree on, or nil.
func (c *Core) Disagreement() *Disagreement {
	if c.disagreement.Kind == 0 {
		return nil
	}
	return &c.disagreement
}

// Clear forgets the effects that were read.
func (c *Core) Clear() {
	c.releases = c.releases[:0]
	c.probes = c.probes[:0]
	c.disagreement = Disagreement{}
}

// Waiting returns how many outputs and points are unmatched.
func (c *Core) Waiting() int { return c.waiting }

// Counters returns what was counted.
func (c *Core) Counters() Counters { return c.counters }

// Report takes one output that a side's guest has made. afterInput is the
// number of the last input that the guest had been given then.
func (c *Core) Report(side Side, id, afterInput uint64, out flow.Output, now time.Duration) {
	if side == Active && out.Kind != flow.Pass {
		c.counters.Compared++
	}
	switch out.Kind {
	case flow.Pass:
		if side == Active {
			c.counters.Passed++
			c.release(Release{ID: id, Kind: flow.Pass})
		}
		return
	case flow.Stream, flow.Datagram, flow.Event:
	default:
		c.disagree(Mismatch, nil, "%v reported an output of unknown kind %d", side, out.Kind)
		return
	}
	f := c.flows.find(out.Flow)
	if f == nil {
		if c.disagreed {
			return
		}
		if f = c.flows.add(out.Flow, out.Kind); f == nil {
			c.disagree(Overflow, nil, "more than %d flows have unmatched outputs", c.cfg.Limits.Flows)
			return
		}
	}
	if out.Name != "" {
		f.setName(out.Name)
	}
	if f.kind != out.Kind {
		c.disagree(Mismatch, f, "%v reported it as another kind of flow", side)
		return
	}
	m := mark{after: afterInput, at: now}
	if f.kind == flow.Stream {
		c.stream(f, side, id, &out, m)
	} else if !c.disagreed {
		c.sequence(f, side, id, &out, m)
	}
	c.flows.place(f)
}

// Progress takes what a side says of itself: the number of the last input that
// its guest was given, and how long the guest has been idle with all of them
// consumed.
func (c *Core) Progress(side Side, delivered uint64, idle, now time.Duration) {
	c.expire(side.other(), now, delivered, idle)
}

// Tick lets time pass.
func (c *Core) Tick(now time.Duration) {
	// What is reported from here on has its time after all that is there now.
	first := min(now, c.expire(Active, now, 0, 0), c.expire(Standby, now, 0, 0))
	c.due = first + c.cfg.CompareMax
}

// Due returns the time before which a Tick has nothing to do: every output that
// waits has time left until its CompareMax.
func (c *Core) Due() time.Duration { return c.due }

// expire looks for outputs of a side whose counterpart does not come. The other
// side has just said that it was given inputs up to delivered and is idle for
// that long; by older news nothing is judged. It returns since when the first
// waits, at most now.
func (c *Core) expire(of Side, now time.Duration, delivered uint64, idle time.Duration) (first time.Duration) {
	first = now
	// Backwards, because a flow that comes to rest leaves the list.
	for i := len(c.flows.busy) - 1; i >= 0 && !c.disagreed; i-- {
		f := c.flows.busy[i]
		m, v := c.oldest(f, of, now)
		if v != leave {
			first = min(first, m.at)
		}
		switch age := now - m.at; {
		case v != wait:
		case age >= c.cfg.CompareMax:
			c.disagree(Timeout, f, "only the %v sent %s, %v ago", of, f.describeOldest(of), age)
		case delivered >= m.after && min(idle, age) >= c.cfg.CompareIdle:
			c.disagree(Timeout, f, "only the %v sent %s, %v ago after input %d; the %v has been given input %d and been idle for %v",
				of, f.describeOldest(of), age, m.after, of.other(), delivered, idle)
		}
		c.flows.place(f)
	}
	return first
}

// oldest returns since when what a side has made longest ago is without a
// counterpart, and whether that is a disagreement one day (wait) or not (idle);
// leave where there is nothing.
func (c *Core) oldest(f *state, of Side, now time.Duration) (m mark, v verdict) {
	if of == Standby {
		if _, m, ok := f.oldestOfStandby(); ok {
			return m, wait
		}
		return mark{}, leave
	}
	if f.kind == flow.Stream {
		c.releaseStream(f, now)
	}
	if f.pending.len() == 0 {
		return mark{}, leave
	}
	p := f.pending.at(0)
	if f.kind == flow.Stream {
		if v, _ := c.judge(f, p, now); v == idle {
			return p.mark, idle
		}
	}
	return p.mark, wait
}

func (c *Core) release(r Release) {
	c.counters.Released++
	c.releases = append(c.releases, r)
}

func (c *Core) disagree(k Kind, f *state, format string, args ...any) {
	if c.disagreed {
		return
	}
	c.disagreed = true
	switch k {
	case Mismatch:
		c.counters.Mismatches++
	case Timeout:
		c.counters.Timeouts++
	case Overflow:
		c.counters.Overflows++
	}
	c.disagreement = Disagreement{Kind: k, Detail: fmt.Sprintf(format, args...)}
	if f != nil {
		c.disagreement.Flow, c.disagreement.Name = f.id, f.name
	}
}

// room tells whether one more may be kept in a queue of n.
func (c *Core) room(f *state, n int) bool {
	if n >= c.cfg.Limits.PerFlow {
		c.disagree(Overflow, f, "more than %d unmatched outputs in the flow", c.cfg.Limits.PerFlow)
		return false
	}
	if c.waiting >= c.cfg.Limits.Waiting {
		c.disagree(Overflow, f, "more than %d unmatched outputs", c.cfg.Limits.Waiting)
		return false
	}
	c.waiting++
	return true
}

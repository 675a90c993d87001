package sim

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"
)

// world is one run: its time, its random source, and everything that exists.
type world struct {
	opt    options
	rng    *rand.Rand
	now    time.Duration // true time
	events eventQueue
	seq    uint64

	etcd     *etcd
	arbiters []*arbiter
	vms      []*vm
	cuts     map[[2]*process]int // by sender and receiver
	slow     map[[2]*process]time.Duration
	trap     *trap
	inodes   uint64 // of disk images, and names of disks
	// disturbed is when a replica last stood still or was cut off.
	disturbed time.Duration
	mutation  Mutation

	calm   bool // the second phase
	faults map[string]int
	// happened counts what the cores did that is worth counting.
	happened map[string]int
	trace    []line
	failed   error
	// over: a VM was lost as it may be, and its history with it.
	over bool
	tell bool // keep the whole story
	// takesAlong: a process that is lost takes along what is on its way from it.
	takesAlong bool
}

// process is what can crash, stand still, and have a clock of its own.
type process struct {
	w    *world
	name string
	// life counts restarts: what was scheduled in an earlier life is void.
	life int
	dead bool
	// stopped until that time (SIGSTOP); what happens meanwhile waits.
	stopped time.Duration
	// resumed is when it went on last.
	resumed time.Duration
	offset  time.Duration
	rate    float64
}

func (w *world) newProcess(name string) *process {
	return &process{w: w, name: name, rate: 1 + (w.rng.Float64()*2-1)*w.opt.drift,
		offset: time.Duration(w.rng.Int64N(int64(time.Hour)))}
}

// clock is the process's own time.
func (p *process) clock() time.Duration {
	return p.offset + time.Duration(float64(p.w.now)*p.rate)
}

// after calls fn in the process after d of true time, unless it has died by
// then. While the process stands still, its calls wait, in order.
func (p *process) after(d time.Duration, fn func()) {
	life := p.life
	p.w.schedule(p.w.now+d, func() { p.enter(life, fn) })
}

func (p *process) enter(life int, fn func()) {
	switch {
	case p.dead || p.life != life:
	case p.stopped > p.w.now:
		p.w.schedule(p.stopped, func() { p.enter(life, fn) })
	default:
		fn()
	}
}

type scheduled struct {
	at  time.Duration
	seq uint64
	fn  func()
}

// eventQueue is a binary heap by time and order of scheduling.
type eventQueue []scheduled

func (q eventQueue) before(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}

func (q *eventQueue) push(e scheduled) {
	h := append(*q, e)
	*q = h
	for i := len(h) - 1; i > 0; {
		up := (i - 1) / 2
		if !h.before(i, up) {
			return
		}
		h[i], h[up] = h[up], h[i]
		i = up
	}
}

func (q *eventQueue) pop() scheduled {
	h := *q
	top, last := h[0], len(h)-1
	h[0], h[last] = h[last], scheduled{}
	h = h[:last]
	*q = h
	for i := 0; ; {
		least := i
		for down := 2*i + 1; down <= 2*i+2 && down < last; down++ {
			if h.before(down, least) {
				least = down
			}
		}
		if least == i {
			return top
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

func (w *world) schedule(at time.Duration, fn func()) {
	w.seq++
	w.events.push(scheduled{at, w.seq, fn})
}

// run handles events until the time, a failure, or ok.
func (w *world) run(until time.Duration, ok func() bool) bool {
	for len(w.events) > 0 && w.failed == nil && !w.over {
		if w.events[0].at > until {
			w.now = until
			break
		}
		e := w.events.pop()
		w.now = e.at
		e.fn()
		if ok != nil && ok() {
			return true
		}
	}
	return false
}

// between returns a random duration of the range.
func (w *world) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// line is one of the story, put into words only if somebody reads it.
type line struct {
	at     time.Duration
	format string
	args   []any
}

// log keeps the last lines for the report of a failure.
func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, line{w.now, format, args})
	if len(w.trace) > 4*traceLines && !w.tell {
		w.trace = append(w.trace[:0], w.trace[3*traceLines:]...)
	}
}

const traceLines = 120

func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf("at %v: "+format, append([]any{w.now}, args...)...)
	}
}

func (w *world) story() string {
	var b strings.Builder
	last := w.trace
	if !w.tell {
		last = last[max(0, len(last)-traceLines):]
	}
	for _, l := range last {
		fmt.Fprintf(&b, "%10.3fms %s\n", float64(l.at.Microseconds())/1000, fmt.Sprintf(l.format, l.args...))
	}
	return b.String()
}

// cut tells whether nothing goes from one process to another.
func (w *world) cut(from, to *process) bool { return w.cuts[[2]*process{from, to}] > 0 }

// reach tells whether two processes can open a stream.
func (w *world) reach(a, b *process) bool { return !w.cut(a, b) && !w.cut(b, a) }

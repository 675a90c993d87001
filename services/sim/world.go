package sim

import (
	"container/heap"
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
	trap     *trap
	// disturbed is when a replica last stood still or was cut off.
	disturbed time.Duration
	mutation  Mutation

	calm   bool // the second phase
	faults map[string]int
	trace  []string
	failed error
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

type eventQueue []scheduled

func (q eventQueue) Len() int { return len(q) }
func (q eventQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q eventQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *eventQueue) Push(x any)   { *q = append(*q, x.(scheduled)) }
func (q *eventQueue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

func (w *world) schedule(at time.Duration, fn func()) {
	w.seq++
	heap.Push(&w.events, scheduled{at, w.seq, fn})
}

// run handles events until the time, a failure, or ok.
func (w *world) run(until time.Duration, ok func() bool) bool {
	for len(w.events) > 0 && w.failed == nil {
		if w.events[0].at > until {
			w.now = until
			break
		}
		e := heap.Pop(&w.events).(scheduled)
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

// log keeps the last lines for the report of a failure.
func (w *world) log(format string, args ...any) {
	w.trace = append(w.trace, fmt.Sprintf("%10.3fms ", float64(w.now.Microseconds())/1000)+fmt.Sprintf(format, args...))
	if len(w.trace) > 4*traceLines {
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
	return strings.Join(w.trace[max(0, len(w.trace)-traceLines):], "\n")
}

// cut tells whether nothing goes from one process to another.
func (w *world) cut(from, to *process) bool { return w.cuts[[2]*process{from, to}] > 0 }

// reach tells whether two processes can open a stream.
func (w *world) reach(a, b *process) bool { return !w.cut(a, b) && !w.cut(b, a) }

//go:build linux && amd64

package kvm

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// wakeBound is how long an interrupt that a vCPU was told of counts as about to
// wake it. Longer means that the guest's priorities keep it back.
const wakeBound = 100 * time.Millisecond

// idleness finds out since when all vCPUs have been sleeping. A vCPU that
// executed HLT, or waits for its start-up, sleeps in the kernel inside KVM_RUN,
// where no ioctl reaches it. What can be read at any time are KVM's statistics:
// whether it sleeps now, and how often it left the guest, which says whether it
// slept all the time between two looks. On kernels without them its thread's
// state and CPU time say the same.
//
// The time counts from the first look that found the sleep: it is a lower
// bound, and grows with each call.
type idleness struct {
	mu     sync.Mutex
	vcpus  []sleeper
	counts []uint64
	since  time.Time // zero: some vCPU was awake at the last look
	toldAt time.Time // zero: no interrupt is about to wake a vCPU
}

// sleeper tells whether a vCPU sleeps, and a number that changes if it does
// anything else.
type sleeper interface {
	read() (sleeps bool, count uint64)
}

// watch names the vCPUs to look at.
func (i *idleness) watch(vcpus []*vcpu, v *vm) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.vcpus, i.counts, i.since, i.toldAt = nil, nil, time.Time{}, time.Time{}
	for n, c := range vcpus {
		if s := v.vcpus[n].stats; s != nil {
			i.vcpus = append(i.vcpus, s)
		} else {
			i.vcpus = append(i.vcpus, threadSleep{c})
		}
	}
	i.counts = make([]uint64, len(i.vcpus))
}

// told says that a vCPU was told of an interrupt.
func (i *idleness) told() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.look()
	i.since, i.toldAt = time.Time{}, time.Now()
}

// look reads all vCPUs. same: each did nothing since the last look.
func (i *idleness) look() (sleep, same bool) {
	sleep, same = len(i.vcpus) > 0, true
	for n, v := range i.vcpus {
		s, count := v.read()
		sleep = sleep && s
		same = same && count == i.counts[n]
		i.counts[n] = count
	}
	return sleep, same
}

func (i *idleness) now() time.Duration {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := time.Now()
	sleep, same := i.look()
	if !same || now.Sub(i.toldAt) > wakeBound {
		i.toldAt = time.Time{}
	}
	switch {
	case !sleep || !i.toldAt.IsZero():
		i.since = time.Time{}
		return 0
	case !same || i.since.IsZero():
		i.since = now
	}
	return now.Sub(i.since)
}

// Idle returns for how long all vCPUs have been asleep with no interrupt about
// to wake them, as far as calls to Idle saw it: 0 at the first call, and while
// the engine is paused.
func (e *Engine) Idle() time.Duration {
	e.mu.Lock()
	runs := e.holds == 0 && !e.stopped && !e.closed
	e.mu.Unlock()
	if !runs {
		return 0
	}
	return e.idle.now()
}

// threadSleep looks at the vCPU's thread.
type threadSleep struct{ c *vcpu }

// read takes a thread's CPU time as the count, which includes its time in the
// guest.
func (t threadSleep) read() (bool, uint64) {
	tid := t.c.tid.Load()
	var ts unix.Timespec
	const perThread, scheduled = 4, 2 // CPUCLOCK_PERTHREAD_MASK, CPUCLOCK_SCHED
	if err := unix.ClockGettime(int32(^tid<<3|perThread|scheduled), &ts); err != nil {
		return false, 0
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/stat", tid))
	if err != nil {
		return false, 0
	}
	s := string(b) // pid (name) state …
	s = strings.TrimLeft(s[strings.LastIndexByte(s, ')')+1:], " ")
	return strings.HasPrefix(s, "S"), uint64(ts.Nano())
}

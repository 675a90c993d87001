package sched

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// prompt asks for short slices for all threads of this process, and so for
// those that they start.
func prompt() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return fmt.Errorf("list the threads of this process: %w", err)
	}
	for _, t := range tasks {
		tid, err := strconv.Atoi(t.Name())
		if err != nil {
			continue
		}
		if err := slice(tid, promptSlice); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// Steady gives the calling thread, a hart's, the kernel's own slices again, and
// timers as they are without Coarse: it sleeps until the guest's. The caller must
// have locked its goroutine to the thread.
func Steady() error { return errors.Join(slice(0, 0), setSlack(kernelSlack)) }

// slice sets a thread's slice; tid 0 is the calling thread, length 0 the
// kernel's own slice.
func slice(tid int, length time.Duration) error {
	attr, err := unix.SchedGetAttr(tid, 0)
	if err != nil {
		return fmt.Errorf("read a thread's scheduling: %w", err)
	}
	if attr.Policy != unix.SCHED_NORMAL && attr.Policy != unix.SCHED_BATCH {
		return nil // an operator chose another policy, for which this means nothing
	}
	attr.Runtime = uint64(length)
	if err := unix.SchedSetAttr(tid, attr, 0); err != nil {
		return fmt.Errorf("set a thread's time slice: %w", err)
	}
	return nil
}

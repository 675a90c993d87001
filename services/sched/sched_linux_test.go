package sched

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// ofThread is the slice of the calling thread.
func ofThread(t *testing.T) time.Duration {
	attr, err := unix.SchedGetAttr(0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(attr.Runtime)
}

func TestNewThreadsArePromptAndHartsSteady(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	usual := ofThread(t)
	if err := prompt(); err != nil {
		t.Fatal(err)
	}
	if ofThread(t) == usual {
		t.Skip("this kernel has no slices of a thread's own (before Linux 6.12)")
	}
	slices := make(chan [2]time.Duration)
	go func() {
		// Locked and not unlocked: the thread ends here, and nobody gets it as it is.
		runtime.LockOSThread()
		inherited := ofThread(t)
		if err := Steady(); err != nil {
			t.Error(err)
		}
		slices <- [2]time.Duration{inherited, ofThread(t)}
	}()
	if got := <-slices; got != [2]time.Duration{promptSlice, usual} {
		t.Errorf("a new thread had %v, after Steady %v; want %v, then %v", got[0], got[1], promptSlice, usual)
	}
}

package sched

import (
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// kernelSlack is the slack of timers that the kernel gives a thread by itself.
	kernelSlack = 50 * time.Microsecond
	// coarseSlack is that of a program's threads after Coarse.
	coarseSlack = 500 * time.Microsecond
)

func coarse() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// Another slack than the kernel's is an operator's choice (systemd's
	// TimerSlackNSec=, for example), or of the program that has become this one.
	if s, err := slack(); err != nil || s != kernelSlack {
		return
	}
	if setSlack(coarseSlack) != nil {
		return // this kernel has no slack; timers stay fine
	}
	// Threads get the slack of the thread that starts them, and those that the
	// runtime has started have theirs already: only a new program has none.
	if path, err := os.Executable(); err == nil { // by its name, which ps shows
		_ = unix.Exec(path, os.Args, os.Environ())
	}
	_ = setSlack(kernelSlack) // as it was, where the program is not there any more
}

// slack is by how much the calling thread's timers may be late.
func slack() (time.Duration, error) {
	ns, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	return time.Duration(ns), err
}

func setSlack(d time.Duration) error { return unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(d), 0, 0, 0) }

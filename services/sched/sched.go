// Package sched tells the kernel which of a process's threads are to run at
// once when they wake, and which may be interrupted for them.
//
// A guest's CPU wants all the time there is. What carries its outputs out (the
// replica's loop, its streams, the arbiter, the gateway) wants little, but soon:
// on a host whose CPUs are all busy with guests a woken thread otherwise waits
// until the guest's time slice ends, which is some milliseconds. Linux 6.12 and
// later let a thread ask for shorter slices, without any privilege and without a
// larger share of the CPU: it then preempts one with longer slices when it wakes
// (EEVDF, PREEMPT_SHORT). Older kernels ignore the wish.
package sched

import "time"

// promptSlice is the slice that threads ask for which carry messages. The
// kernel's shortest is 100 µs.
const promptSlice = 100 * time.Microsecond

// Package sched says which of a program's threads run at once when they wake, and
// how many of them there are.
//
// A guest's CPU wants all the time there is. What carries its outputs out (the
// replica's loop, its streams, the arbiter, the gateway) wants little, but soon:
// on a host whose CPUs are all busy with guests a woken thread otherwise waits
// until the guest's time slice ends, which is some milliseconds. Linux 6.12 and
// later let a thread ask for shorter slices, without any privilege and without a
// larger share of the CPU: it then preempts one with longer slices when it wakes
// (EEVDF, PREEMPT_SHORT). Older kernels ignore the wish.
//
// An output passes a dozen goroutines on its way. On one of Go's processors each
// hands it to the next; with idle processors beside it, each wakes a thread, which
// looks for work and mostly finds none. That costs more than the work, so that a
// program gets as few processors as do its work.
//
// While a processor is in a system call, the runtime's monitor thread looks at it
// every 20 µs, which in a program that sleeps and wakes a thousand times a second
// costs more than the program's own work. Timers that may be somewhat late let it
// look less often.
package sched

import (
	"os"
	"runtime"
	"time"

	"github.com/hashicorp/go-hclog"
)

// promptSlice is the slice that threads ask for which carry messages. The
// kernel's shortest is 100 µs.
const promptSlice = 100 * time.Microsecond

// Coarse lets timers of this program be late by half a millisecond, unless an
// operator has given it another slack than the kernel's. For that the program
// begins anew, so it is called before anything is opened, and only where the
// program stays; Linux keeps the process and its ID.
func Coarse() { coarse() }

// Messages sets up a program that passes messages on.
func Messages(log hclog.Logger) { setUp(0, log) }

// Guest sets up a program that runs a guest of that many harts, and passes
// messages on beside it.
func Guest(harts int, log hclog.Logger) { setUp(harts, log) }

func setUp(harts int, log hclog.Logger) {
	if os.Getenv("GOMAXPROCS") == "" { // otherwise the operator has chosen
		runtime.GOMAXPROCS(harts + max(1, (runtime.NumCPU()-harts)/2))
	}
	if err := prompt(); err != nil {
		log.Debug("threads keep the kernel's time slices", "error", err)
	}
}

package fence

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Now is the time since this host's boot on a clock that never runs backwards
// and runs through suspend (CLOCK_BOOTTIME).
func Now() time.Duration {
	var ts unix.Timespec
	// Raw, because it never waits: the runtime need not prepare for that, and this
	// is asked for each message.
	_, _, errno := unix.RawSyscall(unix.SYS_CLOCK_GETTIME, unix.CLOCK_BOOTTIME, uintptr(unsafe.Pointer(&ts)), 0)
	if errno != 0 {
		// Linux has had this clock since 2.6.39; without it no lease is provable.
		panic("fence: CLOCK_BOOTTIME: " + errno.Error())
	}
	return time.Duration(ts.Nano())
}

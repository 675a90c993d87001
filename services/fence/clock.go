package fence

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time since this host's boot on a clock that never runs backwards
// and runs through suspend (CLOCK_BOOTTIME).
func Now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		// Linux has had this clock since 2.6.39; without it no lease is provable.
		panic("fence: CLOCK_BOOTTIME: " + err.Error())
	}
	return time.Duration(ts.Nano())
}

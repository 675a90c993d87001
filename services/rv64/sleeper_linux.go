package rv64

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A sleeper lets one goroutine wait until woken or for a time. It sleeps in
// the kernel because timers of the Go runtime are up to a millisecond late.
type sleeper struct{ event int }

func newSleeper() (*sleeper, error) {
	fd, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create an eventfd: %w", err)
	}
	return &sleeper{fd}, nil
}

// wake ends the present sleep, or the next one.
func (s *sleeper) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(s.event, one[:]) // fails only if a wake is pending
}

// sleep returns when woken, after d, or early.
func (s *sleeper) sleep(d time.Duration) {
	t := unix.NsecToTimespec(int64(d))
	fds := [1]unix.PollFd{{Fd: int32(s.event), Events: unix.POLLIN}}
	if n, _ := unix.Ppoll(fds[:], &t, nil); n > 0 {
		var count [8]byte
		_, _ = unix.Read(s.event, count[:])
	}
}

func (s *sleeper) close() error { return unix.Close(s.event) }

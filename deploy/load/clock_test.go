package load

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"
)

// A guest's clock that runs with the client's is found within the waits for its
// answers; a jump in either direction is found and measured.
func TestClockFindsJumps(t *testing.T) {
	jump := make(chan time.Duration, 1)
	addr := serve(t, func(c net.Conn) {
		offset := time.Duration(0)
		for r := bufio.NewScanner(c); r.Scan(); {
			select {
			case d := <-jump:
				offset += d
			default:
			}
			now := time.Now().Add(offset)
			s, us := fmt.Sprint(now.Unix()), fmt.Sprint(now.Nanosecond()/1000)
			if _, err := fmt.Fprintf(c, "*2\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(s), s, len(us), us); err != nil {
				return
			}
		}
	})
	c, err := OpenClock(addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for n, step := range []struct {
		jump, ahead time.Duration
		backwards   int
	}{
		{0, 0, 0},
		{time.Hour, time.Hour, 0},
		{-2 * time.Hour, -time.Hour, 2},
	} {
		if step.jump != 0 {
			jump <- step.jump
		}
		d, err := c.Ask(2)
		if err != nil {
			t.Fatal(err)
		}
		// The answer is cut to microseconds.
		if d.Least > step.ahead || d.Most < step.ahead-time.Microsecond || d.Most-d.Least > time.Minute {
			t.Errorf("step %d: between %v and %v ahead instead of %v", n, d.Least, d.Most, step.ahead)
		}
		if c.Backwards != step.backwards || c.Asked != firstQuestions+2*(n+1) {
			t.Errorf("step %d: %d of %d answers ran backwards, not %d", n, c.Backwards, c.Asked, step.backwards)
		}
	}
}

func TestClockRefusesNonsense(t *testing.T) {
	for _, answer := range []string{"-ERR\r\n", "*2\r\n$1\r\nx\r\n$1\r\n0\r\n", "*2\r\n$1\r\n1\r\n$7\r\n1000000\r\n"} {
		addr := serve(t, func(c net.Conn) {
			for r := bufio.NewScanner(c); r.Scan(); {
				if _, err := c.Write([]byte(answer)); err != nil {
					return
				}
			}
		})
		if c, err := OpenClock(addr); err == nil {
			c.Close()
			t.Errorf("%q is taken for a time", answer)
		}
	}
}

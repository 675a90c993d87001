package load

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// Clock compares the guest's clock with the client's from outside, by Redis's
// TIME, over a connection that is never opened again. Its methods are called by
// one goroutine.
//
// No two copies give the same answer: while the guest is protected, a question
// costs a resynchronization, and its answer waits for that.
type Clock struct {
	conn *conn
	// Asked is the number of questions, Backwards that of answers that were
	// before an earlier one's.
	Asked, Backwards int

	began time.Time
	last  time.Duration // newest answer
	first Drift         // guest's clock minus client's at the beginning
}

// Drift is by how much the guest's clock has gained on the client's: at least
// Least, at most Most. Negative is behind. The two are apart by the waits for
// answers, within which the guest may have read its clock at any moment.
type Drift struct{ Least, Most time.Duration }

// firstQuestions is how often OpenClock asks.
const firstQuestions = 5

// OpenClock connects to a Redis server and begins to compare. It is best called
// before the guest is protected, when answers come at once.
func OpenClock(addr string) (*Clock, error) {
	conn, err := dial(addr)
	if err != nil {
		return nil, fmt.Errorf("connect to ask for the guest's time: %w", err)
	}
	c := &Clock{conn: conn, began: time.Now()}
	if c.first, err = c.offset(firstQuestions); err != nil {
		_ = conn.Close() // it has failed
		return nil, err
	}
	return c, nil
}

// Ask asks several times, one after the other, so that one slow answer does not
// make the result vague. It gives up after a minute without an answer.
func (c *Clock) Ask(times int) (Drift, error) {
	o, err := c.offset(times)
	if err != nil {
		return Drift{}, err
	}
	return Drift{Least: o.Least - c.first.Most, Most: o.Most - c.first.Least}, nil
}

// offset returns the guest's clock minus the client's.
func (c *Clock) offset(times int) (Drift, error) {
	all, err := c.ask()
	for n := 1; n < times && err == nil; n++ {
		var d Drift
		d, err = c.ask()
		all = Drift{Least: max(all.Least, d.Least), Most: min(all.Most, d.Most)}
	}
	return all, err
}

// ask is offset by one question.
func (c *Clock) ask() (Drift, error) {
	asked := time.Since(c.began)
	guest, err := c.conn.time()
	if err != nil {
		return Drift{}, fmt.Errorf("ask for the guest's time: %w", err)
	}
	answered := time.Since(c.began)
	c.Asked++
	if guest < c.last {
		c.Backwards++
	}
	c.last = max(c.last, guest)
	return Drift{Least: guest - answered, Most: guest - asked}, nil
}

// Close closes the connection.
func (c *Clock) Close() error { return c.conn.Close() }

// time asks Redis for the time since 1970, which it knows to the microsecond.
func (c *conn) time() (time.Duration, error) {
	if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return 0, err
	}
	if _, err := io.WriteString(c, "TIME\r\n"); err != nil {
		return 0, err
	}
	// *2, and two strings of digits after their lengths: seconds, microseconds.
	var lines [5]string
	for i := range lines {
		line, err := readLine(c.r)
		if err != nil {
			return 0, err
		}
		if lines[i] = line; lines[0] != "*2" {
			return 0, fmt.Errorf("TIME answered %q", line)
		}
	}
	s, err1 := strconv.ParseUint(lines[2], 10, 32)
	us, err2 := strconv.ParseUint(lines[4], 10, 32)
	if err1 != nil || err2 != nil || us >= 1e6 {
		return 0, fmt.Errorf("TIME answered %q", lines)
	}
	return time.Duration(s)*time.Second + time.Duration(us)*time.Microsecond, nil
}

func readLine(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	return strings.TrimRight(line, "\r\n"), err
}

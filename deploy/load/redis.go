// Package load drives a Redis server over long-lived connections that are
// never opened again, and remembers what was acknowledged.
package load

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// replyTimeout bounds the wait for one reply; a connection that is silent for
// so long counts as broken.
const replyTimeout = 60 * time.Second

// dialTimeout bounds the opening of a connection.
const dialTimeout = replyTimeout

// conn is one connection that speaks the Redis protocol.
type conn struct {
	net.Conn
	r   *bufio.Reader
	buf []byte
}

func dial(addr string) (*conn, error) {
	c, err := net.DialTimeout("tcp", addr, dialTimeout)
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, r: bufio.NewReader(c)}, nil
}

// Await waits until a Redis server answers at addr.
func Await(ctx context.Context, addr string) error {
	for {
		err := ping(addr)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the guest's Redis at %s: %w (last: %w)", addr, ctx.Err(), err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// pingTimeout bounds one question whether a server answers.
const pingTimeout = 2 * time.Second

func ping(addr string) error {
	c, err := net.DialTimeout("tcp", addr, pingTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // one question
	if err := c.SetDeadline(time.Now().Add(pingTimeout)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, "PING\r\n"); err != nil {
		return err
	}
	b := make([]byte, len("+PONG\r\n"))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	if string(b) != "+PONG\r\n" {
		return fmt.Errorf("answered %q", b)
	}
	return nil
}

// do sends a command and returns its reply as text; ok is false for nil.
func (c *conn) do(args ...string) (reply string, ok bool, err error) {
	b := appendCommand(c.buf[:0], args...)
	c.buf = b
	if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return "", false, err
	}
	if _, err := c.Write(b); err != nil {
		return "", false, err
	}
	line, err := readLine(c.r)
	if err != nil {
		return "", false, err
	}
	if line == "" {
		return "", false, errors.New("empty reply")
	}
	kind, text := line[0], line[1:]
	switch kind {
	case '+', ':':
		return text, true, nil
	case '-':
		return "", false, errors.New("redis: " + text)
	case '$':
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			return "", false, err
		}
		data := make([]byte, n+2)
		if _, err := io.ReadFull(c.r, data); err != nil {
			return "", false, err
		}
		return string(data[:n]), true, nil
	}
	return "", false, fmt.Errorf("reply %q", line)
}

// appendCommand appends a command as Redis reads it.
func appendCommand(b []byte, args ...string) []byte {
	b = append(b, '*')
	b = strconv.AppendInt(b, int64(len(args)), 10)
	b = append(b, "\r\n"...)
	for _, a := range args {
		b = append(b, '$')
		b = strconv.AppendInt(b, int64(len(a)), 10)
		b = append(b, "\r\n"...)
		b = append(append(b, a...), "\r\n"...)
	}
	return b
}

// Load is a running set of clients.
type Load struct {
	addr    string
	writers []*writer
	readers []*reader
	stop    context.CancelFunc
	wg      sync.WaitGroup
}

// writer sets keys of its own to increasing values.
type writer struct {
	conn  *conn
	id    int
	acked atomic.Int64 // values 1 … acked are acknowledged
	gaps  gaps
	err   error
}

// reader reads what writers were acknowledged and checks it.
type reader struct {
	conn   *conn
	reads  atomic.Int64
	wrong  atomic.Int64
	gaps   gaps
	err    error
	sample string
}

// Start opens the connections and begins.
func Start(addr string, writers, readers int) (*Load, error) {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{addr: addr, stop: cancel}
	for i := range writers {
		c, err := dial(addr)
		if err != nil {
			l.Stop()
			return nil, fmt.Errorf("open connection %d: %w", i, err)
		}
		l.writers = append(l.writers, &writer{conn: c, id: i})
	}
	for range readers {
		c, err := dial(addr)
		if err != nil {
			l.Stop()
			return nil, fmt.Errorf("open a reading connection: %w", err)
		}
		l.readers = append(l.readers, &reader{conn: c})
	}
	for _, w := range l.writers {
		l.wg.Go(func() { w.run(ctx) })
	}
	for i, r := range l.readers {
		l.wg.Go(func() { r.run(ctx, l.writers[i%len(l.writers)]) })
	}
	return l, nil
}

func key(writer int, n int64) string { return fmt.Sprintf("w%d:%d", writer, n) }

func (w *writer) run(ctx context.Context) {
	for n := int64(1); ctx.Err() == nil; n++ {
		w.gaps.begin()
		reply, _, err := w.conn.do("SET", key(w.id, n), strconv.FormatInt(n, 10))
		w.gaps.end()
		if err == nil && reply != "OK" {
			err = fmt.Errorf("SET answered %q", reply)
		}
		if err != nil {
			w.err = err
			return
		}
		w.acked.Store(n)
	}
}

func (r *reader) run(ctx context.Context, w *writer) {
	for i := int64(0); ctx.Err() == nil; i++ {
		acked := w.acked.Load()
		if acked == 0 {
			select {
			case <-ctx.Done():
			case <-time.After(time.Millisecond):
			}
			continue
		}
		n := acked - (i*7919)%min(acked, 1000) // newest and older ones
		r.gaps.begin()
		v, ok, err := r.conn.do("GET", key(w.id, n))
		r.gaps.end()
		if err != nil {
			r.err = err
			return
		}
		if !ok || v != strconv.FormatInt(n, 10) {
			r.wrong.Add(1)
			r.sample = fmt.Sprintf("%s reads %q", key(w.id, n), v)
		}
		r.reads.Add(1)
	}
}

// Acked is the number of acknowledged writes so far.
func (l *Load) Acked() (n int64) {
	for _, w := range l.writers {
		n += w.acked.Load()
	}
	return n
}

// LongestGap returns the longest time that any connection waited for a reply,
// of the waits that ended after since or have not ended yet.
func (l *Load) LongestGap(since time.Time) (d time.Duration) {
	for _, w := range l.writers {
		d = max(d, w.gaps.longest(since))
	}
	for _, r := range l.readers {
		d = max(d, r.gaps.longest(since))
	}
	return d
}

// Result is what the clients saw.
type Result struct {
	Acked, Reads, Lost, Wrong    int64
	Connections, ConnectionsLost int
	// Problem is an example of what went wrong.
	Problem string
}

// Stop ends the load, closes its connections and returns what they saw. Lost
// is not filled in: see Verify.
func (l *Load) Stop() Result {
	l.stop()
	l.wg.Wait()
	res := Result{Acked: l.Acked(), Connections: len(l.writers) + len(l.readers)}
	count := func(c *conn, err error) {
		if err != nil {
			res.ConnectionsLost++
			res.Problem = err.Error()
		}
		_ = c.Close() // it has served
	}
	for _, w := range l.writers {
		count(w.conn, w.err)
	}
	for _, r := range l.readers {
		count(r.conn, r.err)
		res.Reads += r.reads.Load()
		if n := r.wrong.Load(); n > 0 {
			res.Wrong += n
			res.Problem = r.sample
		}
	}
	return res
}

// AckedByWriter is the number of acknowledged writes of each writer so far.
func (l *Load) AckedByWriter() []int64 {
	acked := make([]int64, len(l.writers))
	for i, w := range l.writers {
		acked[i] = w.acked.Load()
	}
	return acked
}

// Verify reads back every acknowledged write, in batches, over a new
// connection and returns how many are missing or wrong.
func (l *Load) Verify(ctx context.Context) (lost int64, err error) {
	return Verify(ctx, l.addr, l.AckedByWriter())
}

// Verify is Load.Verify for a load that has ended, by AckedByWriter.
func Verify(ctx context.Context, addr string, ackedByWriter []int64) (lost int64, err error) {
	c, err := dial(addr)
	if err != nil {
		return 0, fmt.Errorf("connect to read back: %w", err)
	}
	defer func() { _ = c.Close() }() // only reads
	for id, acked := range ackedByWriter {
		for from := int64(1); from <= acked; from += batch {
			if err := ctx.Err(); err != nil {
				return lost, err
			}
			n, err := c.check(id, from, min(acked, from+batch-1))
			if err != nil {
				return lost, fmt.Errorf("read back: %w", err)
			}
			lost += n
		}
	}
	return lost, nil
}

const batch = 200

// check reads one batch with MGET.
func (c *conn) check(id int, from, to int64) (lost int64, err error) {
	args := []string{"MGET"}
	for n := from; n <= to; n++ {
		args = append(args, key(id, n))
	}
	b := []byte(fmt.Sprintf("*%d\r\n", len(args)))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := c.SetDeadline(time.Now().Add(replyTimeout)); err != nil {
		return 0, err
	}
	if _, err := c.Write(b); err != nil {
		return 0, err
	}
	head, err := c.r.ReadString('\n')
	if err != nil || head != fmt.Sprintf("*%d\r\n", to-from+1) {
		return 0, fmt.Errorf("MGET answered %q: %w", head, err)
	}
	for n := from; n <= to; n++ {
		size, err := c.r.ReadString('\n')
		if err != nil {
			return lost, err
		}
		if size == "$-1\r\n" {
			lost++
			continue
		}
		value, err := c.r.ReadString('\n')
		if err != nil {
			return lost, err
		}
		if value != strconv.FormatInt(n, 10)+"\r\n" {
			lost++
		}
	}
	return lost, nil
}

// gaps remembers the long waits of one connection.
type gaps struct {
	mu    sync.Mutex
	waits []wait
	// began is when the wait that has not ended began; zero: there is none.
	began time.Time
}

type wait struct {
	end  time.Time
	took time.Duration
}

// noteworthy is the wait from which on it is remembered one by one.
const noteworthy = 5 * time.Millisecond

func (g *gaps) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.began = time.Now()
}

func (g *gaps) end() {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := wait{time.Now(), time.Since(g.began)}
	g.began = time.Time{}
	if w.took < noteworthy {
		return
	}
	g.waits = append(g.waits, w)
	if len(g.waits) > 1<<16 {
		g.waits = append(g.waits[:0], g.waits[1<<15:]...)
	}
}

func (g *gaps) longest(since time.Time) (d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.began.IsZero() {
		d = time.Since(g.began)
	}
	for _, w := range g.waits {
		if w.end.After(since) {
			d = max(d, w.took)
		}
	}
	return d
}

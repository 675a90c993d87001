package main

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// delay is a TCP proxy that hands on what it reads after a time, in either
// direction, without a bound on what is under way: a long wire.
type delay struct {
	by       time.Duration
	ln       net.Listener
	mu       sync.Mutex
	target   string
	conns    map[net.Conn]bool
	closed   bool
	handlers sync.WaitGroup
}

func listenDelay(by time.Duration) (*delay, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for a delayed connection: %w", err)
	}
	d := &delay{by: by, ln: ln, conns: map[net.Conn]bool{}}
	d.handlers.Go(d.accept)
	return d, nil
}

func (d *delay) addr() string { return d.ln.Addr().String() }

// to says where connections lead.
func (d *delay) to(addr string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.target = addr
}

func (d *delay) accept() {
	for {
		near, err := d.ln.Accept()
		if err != nil {
			return
		}
		d.mu.Lock()
		target := d.target
		d.mu.Unlock()
		far, err := net.DialTimeout("tcp", target, time.Second)
		if err != nil {
			_ = near.Close() // as if nobody listened
			continue
		}
		if !d.keep(near, far) {
			return
		}
		d.handlers.Go(func() { d.pipe(near, far) })
		d.handlers.Go(func() { d.pipe(far, near) })
	}
}

// keep remembers connections to end them; false: the proxy has been closed.
func (d *delay) keep(conns ...net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range conns {
		if d.closed {
			_ = c.Close() // nobody will use it
			continue
		}
		d.conns[c] = true
	}
	return !d.closed
}

// late is what was read and when it is to go on.
type late struct {
	data []byte
	due  time.Time
}

func (d *delay) pipe(from, to net.Conn) {
	under := make(chan late, 1<<16)
	d.handlers.Go(func() {
		for l := range under {
			time.Sleep(time.Until(l.due))
			if _, err := to.Write(l.data); err != nil {
				_ = from.Close() // ends the reader below
			}
		}
		_ = to.Close() // its peer has ended
	})
	defer close(under)
	for {
		b := make([]byte, 64<<10)
		n, err := from.Read(b)
		if n > 0 {
			under <- late{b[:n], time.Now().Add(d.by)}
		}
		if err != nil {
			return
		}
	}
}

func (d *delay) close() {
	d.mu.Lock()
	d.closed = true
	_ = d.ln.Close() // ends accept
	for c := range d.conns {
		_ = c.Close() // it may have ended before
	}
	d.mu.Unlock()
	d.handlers.Wait()
}

package main

import (
	"bufio"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/uplink/wire"
)

// Bounds of a port.
const (
	maxPorts      = 64
	queueFrames   = 2048
	queueBytes    = 4 << 20
	greetTimeout  = 2 * time.Second
	stallTimeout  = 5 * time.Second
	writeBufBytes = 64 << 10
)

// port is a replica's uplink at the switch.
type port struct {
	conn net.Conn
	log  hclog.Logger

	mu      sync.Mutex
	queue   [][]byte
	bytes   int
	dropped uint64
	closed  bool
	wake    chan struct{}
}

// servePort runs a port until its connection ends.
func servePort(conn net.Conn, e *ethernet, log hclog.Logger) {
	defer conn.Close()
	reader := wire.NewReader(bufio.NewReaderSize(conn, 64<<10))
	if err := greet(conn, reader); err != nil {
		log.Warn("refused a connection", "error", err)
		return
	}
	p := &port{conn: conn, log: log, wake: make(chan struct{}, 1)}
	id, ok := e.connect(p)
	if !ok {
		log.Warn("refused a connection", "error", fmt.Sprintf("there are %d ports already", maxPorts))
		return
	}
	p.log = log.With("port", id)
	p.log.Info("port connected")

	var writer sync.WaitGroup
	writer.Go(p.write)
	err := p.read(e, id, reader)
	e.disconnect(id)
	p.close()
	writer.Wait()
	p.log.Info("port removed", "cause", err, "dropped", p.dropped)
}

func greet(conn net.Conn, reader *wire.Reader) error {
	if err := conn.SetDeadline(time.Now().Add(greetTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write(wire.AppendHello(nil)); err != nil {
		return err
	}
	if err := reader.Expect(); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

// read passes on what the replica sends.
func (p *port) read(e *ethernet, id portID, reader *wire.Reader) error {
	for {
		m, err := reader.Next()
		if err != nil {
			return err
		}
		switch m.Kind {
		case wire.Mode:
			e.setMuted(id, m.Muted)
			p.log.Info("port changed", "muted", m.Muted)
		case wire.Frame:
			e.send(id, m.Frame)
		default:
			return fmt.Errorf("%w: a second greeting", wire.ErrMalformed)
		}
	}
}

// deliver queues a frame for the replica, or drops it where the queue is full.
func (p *port) deliver(frame []byte) {
	p.mu.Lock()
	full := p.closed || len(p.queue) >= queueFrames || p.bytes+len(frame) > queueBytes
	if full {
		p.dropped++
	} else {
		p.queue = append(p.queue, frame)
		p.bytes += len(frame)
	}
	first := full && p.dropped == 1
	p.mu.Unlock()
	if first {
		p.log.Warn("port takes frames too slowly, dropping some")
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// write sends the queue's frames, many at a time. An error or a replica that
// takes nothing for stallTimeout ends the connection, and so the port.
func (p *port) write() {
	defer p.conn.Close()
	w := bufio.NewWriterSize(p.conn, writeBufBytes)
	var batch [][]byte
	var message []byte
	for range p.wake {
		p.mu.Lock()
		batch, p.queue = p.queue, batch[:0]
		p.bytes = 0
		closed := p.closed
		p.mu.Unlock()
		if closed {
			return
		}
		if err := p.conn.SetWriteDeadline(time.Now().Add(stallTimeout)); err != nil {
			return
		}
		for i, frame := range batch {
			batch[i] = nil
			message = wire.AppendFrame(message[:0], frame)
			if _, err := w.Write(message); err != nil {
				p.log.Warn("port takes no frames", "error", err)
				return
			}
		}
		if err := w.Flush(); err != nil {
			p.log.Warn("port takes no frames", "error", err)
			return
		}
	}
}

// close ends the writer. Nothing is delivered any more.
func (p *port) close() {
	p.conn.Close()
	p.mu.Lock()
	p.closed = true
	p.queue = nil
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

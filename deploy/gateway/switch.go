package main

import (
	"sync"

	"github.com/hashicorp/go-hclog"
)

// A sink takes frames that leave the switch. It must not block and must not
// change the frame, which others have, too.
type sink interface {
	deliver(frame []byte)
}

// ethernet is the switch: the table with sinks behind its ports.
type ethernet struct {
	log hclog.Logger

	mu    sync.Mutex
	table *table
	sinks map[portID]sink
	next  portID
	to    []portID
}

func newEthernet(router mac, log hclog.Logger) *ethernet {
	return &ethernet{log: log, table: newTable(router), sinks: map[portID]sink{}, next: routerPort + 1}
}

// setRouter connects the stack's port.
func (e *ethernet) setRouter(s sink) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sinks[routerPort] = s
}

// connect adds a port, muted. It returns false where there are too many.
func (e *ethernet) connect(s sink) (portID, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.sinks) > maxPorts {
		return 0, false
	}
	p := e.next
	e.next++
	e.table.add(p)
	e.sinks[p] = s
	return p, true
}

func (e *ethernet) disconnect(p portID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.table.remove(p)
	delete(e.sinks, p)
}

func (e *ethernet) setMuted(p portID, muted bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.table.setMuted(p, muted)
}

// send passes a frame on, which the switch owns from now on. The router's sink
// may answer with frames of its own, so it is called without the lock; frames
// of one port leave in their order all the same, because each port calls send
// from one goroutine and other sinks are called under the lock.
func (e *ethernet) send(from portID, frame []byte) {
	e.mu.Lock()
	v := e.table.forward(e.to[:0], from, frame)
	e.to = v.to
	var router sink
	for _, p := range v.to {
		if p == routerPort {
			router = e.sinks[p]
			continue
		}
		e.sinks[p].deliver(frame)
	}
	e.mu.Unlock()
	if v.moved {
		e.log.Info("guest moved", "mac", v.src, "port", from)
	}
	if router != nil {
		router.deliver(frame)
	}
}

package main

import "net"

// mac is an Ethernet address.
type mac [6]byte

func (m mac) String() string  { return net.HardwareAddr(m[:]).String() }
func (m mac) multicast() bool { return m[0]&1 != 0 }

// portID names a port of the switch. IDs are not used again.
type portID uint64

// routerPort is where the user-mode stack is.
const routerPort portID = 0

// maxAddresses bounds what is learnt from one port.
const maxAddresses = 64

// A table is the switch's knowledge of who is where. It decides; it does not
// send, lock or wait.
type table struct {
	router mac
	muted  map[portID]bool // of every port besides the router's
	owner  map[mac]portID
	learnt map[portID]int
}

func newTable(router mac) *table {
	return &table{router: router, muted: map[portID]bool{}, owner: map[mac]portID{}, learnt: map[portID]int{}}
}

// add makes a port known, muted.
func (t *table) add(p portID) { t.muted[p] = true }

// remove forgets a port and the addresses behind it.
func (t *table) remove(p portID) {
	t.forget(p)
	delete(t.muted, p)
	delete(t.learnt, p)
}

// setMuted says whether the port may speak. A port that falls silent gives its
// addresses up.
func (t *table) setMuted(p portID, muted bool) {
	if _, known := t.muted[p]; !known {
		return
	}
	t.muted[p] = muted
	if muted {
		t.forget(p)
	}
}

func (t *table) forget(p portID) {
	for m, o := range t.owner {
		if o == p {
			delete(t.owner, m)
		}
	}
	t.learnt[p] = 0
}

// A verdict is what is to be done with a frame.
type verdict struct {
	to []portID
	// moved is set where the source address came from another port before.
	moved bool
	src   mac
}

// forward learns from a frame that came in at a port and returns where it goes
// to, appended to to.
func (t *table) forward(to []portID, from portID, frame []byte) verdict {
	v := verdict{to: to}
	if len(frame) < 14 {
		return v
	}
	var dst mac
	copy(dst[:], frame)
	copy(v.src[:], frame[6:])
	if from != routerPort {
		muted, known := t.muted[from]
		if !known || muted || v.src.multicast() || v.src == t.router {
			return v
		}
		v.moved = t.learn(from, v.src)
	}

	if dst == t.router {
		if from != routerPort {
			v.to = append(v.to, routerPort)
		}
		return v
	}
	if dst.multicast() && from != routerPort {
		v.to = append(v.to, routerPort)
	}
	owner, owned := t.owner[dst]
	if owned && owner == from {
		return v
	}
	for p, muted := range t.muted {
		if p != from && (!owned || muted || p == owner) {
			v.to = append(v.to, p)
		}
	}
	return v
}

func (t *table) learn(from portID, src mac) (moved bool) {
	before, known := t.owner[src]
	if known && before == from {
		return false
	}
	if known {
		t.learnt[before]--
	} else if t.learnt[from] >= maxAddresses {
		// Who invents addresses is flooded with what is sent to them.
		t.forget(from)
	}
	t.owner[src] = from
	t.learnt[from]++
	return known
}

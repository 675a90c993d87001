package role

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
)

// Bounds of the held outputs. Beyond them a replica drops what its guest
// transmits, as a network card with a full queue does: streams repeat it, and
// a datagram missing at one copy ends in a resynchronization.
const (
	maxHeldFrames = 1 << 16
	maxHeldBytes  = 64 << 20
)

// output is one held output; frame is nil once it has left, and for events.
type output struct {
	flow.Output
	id    uint64
	after uint64
	frame []byte
	gone  bool
	// covered: the active's counterpart has left; only the report is due.
	covered bool
	// opens: it opens a connection, and is reported once the standby knows the
	// active's numbers for it, or at the latest at that time.
	opens time.Duration
}

// held are the outputs of a replica that have not left, oldest first. The
// outputs of an epoch have consecutive numbers from 1.
type held struct {
	queue []output
	bytes int
	live  int
	// last is the number of the newest output of the epoch, reported the
	// number of the newest one that the arbiter was told of.
	last, reported uint64
	// carried are the outputs that the checkpoint brought, which the active had
	// not emitted before it (standby), or which it may not emit yet (active).
	carried []output
}

func (h *held) len() int { return h.live + len(h.carried) }

// full tells whether another frame would pass the bounds.
func (h *held) full(frame []byte) bool {
	return h.len() >= maxHeldFrames || h.bytes+len(frame) > maxHeldBytes
}

func (h *held) add(o flow.Output, frame []byte, after uint64) *output {
	h.last++
	h.live++
	h.bytes += len(frame)
	h.queue = append(h.queue, output{Output: o, id: h.last, after: after, frame: frame})
	return &h.queue[len(h.queue)-1]
}

// get returns the held output of that number, or nil.
func (h *held) get(id uint64) *output {
	if len(h.queue) == 0 || id < h.queue[0].id || id-h.queue[0].id >= uint64(len(h.queue)) {
		return nil
	}
	if o := &h.queue[id-h.queue[0].id]; !o.gone {
		return o
	}
	return nil
}

// oldest returns the number of the oldest held output of this epoch; 0: none.
func (h *held) oldest() uint64 {
	for i := range h.queue {
		if o := &h.queue[i]; !o.gone {
			return o.id
		}
	}
	return 0
}

// drop forgets an output of the queue.
func (h *held) drop(o *output) {
	o.gone = true
	h.bytes -= len(o.frame)
	h.live--
	o.frame = nil
}

// cover drops the frame of an output whose counterpart has left. Its report is
// still due, if it was not told yet: it may acknowledge more, or open the
// window further.
func (h *held) cover(o *output) {
	if o.id <= h.reported {
		h.drop(o)
		return
	}
	h.bytes -= len(o.frame)
	o.frame, o.covered = nil, true
}

// trim cuts what has gone off the front of the queue.
func (h *held) trim() {
	n := 0
	for n < len(h.queue) && h.queue[n].gone {
		n++
	}
	if n == len(h.queue) {
		h.queue = h.queue[:0]
		return
	}
	h.queue = h.queue[n:]
}

// take empties the queue and returns what was in it, carried outputs first.
func (h *held) take() []output {
	all := h.carried
	for _, o := range h.queue {
		if !o.gone {
			all = append(all, o)
		}
	}
	h.queue, h.carried, h.bytes, h.live = nil, nil, 0, 0
	return all
}

// newEpoch starts the numbering anew; the queue must have been emptied.
func (h *held) newEpoch() { h.last, h.reported = 0, 0 }

// message describes a held output to the arbiter.
func (o *output) message() *pb.Output {
	m := o.Output.Message()
	m.Id, m.AfterInput = o.id, o.after
	return m
}

// fromMessage is the inverse of message, for outputs that a checkpoint carries.
func fromMessage(m *pb.HeldOutput) output {
	p := m.GetOutput()
	return output{Output: flow.FromMessage(p), id: p.GetId(), after: p.GetAfterInput(), frame: m.GetFrame()}
}

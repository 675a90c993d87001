package role

import (
	"github.com/zeebo/xxh3"

	"github.com/understudy-ft/understudy/services/flow"
)

// recentInputs is how many of the last inputs a replica remembers by their
// hash, to tell at a take-over which heard frames the feed did not bring.
const recentInputs = 4096

// maxWaitingBytes bounds what the feed has brought and the standby's guest was
// not given yet. A standby that is further behind gives the feed up.
const maxWaitingBytes = 64 << 20

// frameOverhead is what a kept frame takes beside its bytes.
const frameOverhead = 64

// inbox numbers the inputs and keeps those that the guest was not given yet.
type inbox struct {
	// queue holds the inputs delivered+1 … accepted.
	queue [][]byte
	bytes int // of queue
	// accepted is the number of the newest input, delivered of the newest that
	// the guest was given, fed of the newest that the standby was sent.
	accepted, delivered, fed uint64
	// head is the oldest waiting input, translated; nil before.
	head []byte
}

// inboxAt returns the inbox of a copy that is at a checkpoint: inputs through
// that number are part of it.
func inboxAt(through uint64) *inbox {
	return &inbox{accepted: through, delivered: through, fed: through}
}

// accept numbers a new input. The inbox owns the frame.
func (b *inbox) accept(frame []byte) {
	b.accepted++
	b.bytes += len(frame) + frameOverhead
	b.queue = append(b.queue, frame)
}

// waiting is the number of inputs that wait for the guest.
func (b *inbox) waiting() int { return len(b.queue) }

// translated returns the oldest waiting input as this copy's guest is to see
// it. It is a copy: the original may still be on its way to the standby, or be
// needed again after a resynchronization.
func (b *inbox) translated(flows *flow.Table) []byte {
	if b.head == nil {
		b.head = flows.In(append([]byte(nil), b.queue[0]...))
	}
	return b.head
}

// pop says that the guest has taken the oldest waiting input.
func (b *inbox) pop() {
	b.delivered++
	b.head = nil
	b.bytes -= len(b.queue[0]) + frameOverhead
	b.queue[0] = nil
	b.queue = b.queue[1:]
}

// unfed returns up to n consecutive inputs that were not fed yet and counts
// them as fed.
func (b *inbox) unfed(n int) (first uint64, frames [][]byte) {
	from := int(b.fed - b.delivered)
	to := min(len(b.queue), from+n)
	first = b.fed + 1
	frames = append(frames, b.queue[from:to]...)
	b.fed += uint64(len(frames))
	return first, frames
}

// fedAll says that no standby needs the inputs so far.
func (b *inbox) fedAll() { b.fed = b.accepted }

// merge takes those inputs of next that this inbox does not have.
func (b *inbox) merge(next *inbox) {
	for i, f := range next.queue {
		if next.delivered+uint64(i)+1 == b.accepted+1 {
			b.accept(f)
		}
	}
}

// refeed makes the inputs that the guest was not given be sent once more: they
// belong to the epoch that begins.
func (b *inbox) refeed() { b.fed = b.delivered }

// recent remembers the hashes of the last inputs that the feed brought.
type recent struct {
	set  map[uint64]struct{}
	ring []uint64
	slot int
}

func (r *recent) add(frame []byte) {
	if r.set == nil {
		r.set = make(map[uint64]struct{}, recentInputs)
		r.ring = make([]uint64, recentInputs)
	}
	h := xxh3.Hash(frame)
	delete(r.set, r.ring[r.slot])
	r.ring[r.slot] = h
	r.slot = (r.slot + 1) % recentInputs
	r.set[h] = struct{}{}
}

func (r *recent) has(frame []byte) bool {
	_, ok := r.set[xxh3.Hash(frame)]
	return ok
}

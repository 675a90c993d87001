package role

import (
	"slices"

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
	// ready are the oldest waiting inputs that were translated.
	ready [][]byte
	// batches are those of the waiting inputs, oldest first, that the guest is to
	// be given as a whole. Inputs behind them are part of none.
	batches []batch
}

// batch is a run of inputs, by the numbers of its first and last.
type batch struct{ first, last uint64 }

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

// batch is the number of inputs of the oldest batch, 0 where there is none. Of
// one that the guest has been given a part of, it is the negative of what is
// left.
func (b *inbox) batch() int {
	if len(b.batches) == 0 {
		return 0
	}
	if at := b.batches[0]; at.first <= b.delivered {
		return -int(at.last - b.delivered)
	}
	return int(b.batches[0].last - b.delivered)
}

// loose is the number of waiting inputs that are part of no batch.
func (b *inbox) loose() int {
	if n := len(b.batches); n > 0 {
		return int(b.accepted - b.batches[n-1].last)
	}
	return b.waiting()
}

// seal makes a batch of the oldest loose inputs, at most so many.
func (b *inbox) seal(most int) {
	first := b.accepted - uint64(b.loose()) + 1
	b.batches = append(b.batches, batch{first, min(b.accepted, first+uint64(most)-1)})
}

// translated returns the n oldest waiting inputs as this copy's guest is to see
// them. They are copies: the originals may still be on their way to the standby,
// or be needed again after a resynchronization.
func (b *inbox) translated(flows *flow.Table, n int) [][]byte {
	for len(b.ready) < n {
		b.ready = append(b.ready, flows.In(append([]byte(nil), b.queue[len(b.ready)]...)))
	}
	return b.ready[:n]
}

// pop says that the guest has taken the n oldest waiting inputs.
func (b *inbox) pop(n int) {
	b.delivered += uint64(n)
	for _, f := range b.queue[:n] {
		b.bytes -= len(f) + frameOverhead
	}
	clear(b.queue[:n])
	b.queue, b.ready = b.queue[n:], b.ready[n:]
	for len(b.batches) > 0 && b.batches[0].last <= b.delivered {
		b.batches = b.batches[1:]
	}
}

// unfed returns up to n consecutive inputs that were not fed yet and counts
// them as fed.
func (b *inbox) unfed(n int) (first uint64, frames [][]byte) {
	from := int(b.fed - b.delivered)
	to := min(len(b.queue), from+n)
	for _, at := range b.batches {
		if at.first == b.fed+1 {
			to = int(at.last - b.delivered) // a batch travels as it is
		}
	}
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
func (b *inbox) refeed() { b.fed, b.batches = b.delivered, nil }

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

// outrun is by how many frames two hosts may hear the same ones in another order.
const outrun = 64

// missed returns those of the heard frames, oldest first, that the feed has not
// brought because the active did not live to feed them: what follows the newest
// that it has brought, and as much before it as may have been heard in another
// order there. Older ones the active had before this copy began, or so long ago
// that they are forgotten here: a guest that was given them again would be busy
// with answering duplicates while its clients wait.
func (r *recent) missed(heard [][]byte) (frames [][]byte) {
	newest := len(heard)
	for i, f := range slices.Backward(heard) {
		if r.has(f) {
			newest = i
			break
		}
	}
	for _, f := range heard[max(0, newest-outrun):] {
		if !r.has(f) {
			frames = append(frames, f)
		}
	}
	return frames
}

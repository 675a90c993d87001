package match

// queue is a first-in, first-out ring that grows by doubling and keeps its
// room, so that a steady load allocates nothing.
type queue[T any] struct {
	ring  []T // length is 0 or a power of two
	first int
	n     int
}

func (q *queue[T]) len() int { return q.n }

// at returns the i-th oldest; 0 <= i < len.
func (q *queue[T]) at(i int) *T { return &q.ring[(q.first+i)&(len(q.ring)-1)] }

func (q *queue[T]) push(v T) {
	if q.n == len(q.ring) {
		ring := make([]T, max(4, 2*len(q.ring)))
		for i := range q.n {
			ring[i] = *q.at(i)
		}
		q.ring, q.first = ring, 0
	}
	q.n++
	*q.at(q.n - 1) = v
}

// drop removes the k oldest; k <= len.
func (q *queue[T]) drop(k int) {
	if k == 0 {
		return
	}
	q.first = (q.first + k) & (len(q.ring) - 1)
	q.n -= k
}

// keptRing bounds the room that a queue of a flow at rest keeps.
const keptRing = 64

// clear empties the queue and gives up a large ring.
func (q *queue[T]) clear() {
	if len(q.ring) > keptRing {
		q.ring = nil
	}
	q.first, q.n = 0, 0
}

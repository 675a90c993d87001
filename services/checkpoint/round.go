package checkpoint

import (
	"context"
	"math/bits"
	"slices"
	"sync/atomic"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"
)

// round sends one cut: the items in own, and those of the standby's answer
// that differ.
type round struct {
	out   *outbox
	in    *inbox // nil: the standby does not answer
	crew  *crew
	ahead *[kinds]ahead
	// listed is the message of the answer that is next.
	listed *pb.DirtyPages
	// omitZero leaves out zero items that the answer does not list, because
	// they are zero at the standby, too.
	omitZero bool
	// enough, where not nil, tells whether the rest is to go to left.
	enough   func() bool
	left     *sets
	compared [kinds]uint64
}

// run sends the items of one space. Pages come before blocks.
func (r *round) run(ctx context.Context, s *space, own mem.Bitmap) error {
	it := cursor{b: own}
	for r.in != nil {
		if r.listed == nil {
			m, err := r.in.take(ctx)
			if err != nil {
				return err
			}
			r.listed = m
			if m.Last {
				// What is not digested by now may not be listed at all.
				for k := range kinds {
					r.ahead[k].stop.Store(true)
				}
			}
		}
		numbers, digests := r.listed.Pages, r.listed.PageDigests
		if s.kind == blocks {
			numbers, digests = r.listed.Blocks, r.listed.BlockDigests
		}
		if err := r.merge(ctx, s, &it, numbers, digests); err != nil {
			return err
		}
		if r.listed.Last || (s.kind == pages && len(r.listed.Blocks) > 0) {
			break // the next space goes on with this message
		}
		r.listed = nil
	}
	for n, ok := it.next(); ok; n, ok = it.next() {
		if err := r.send(ctx, s, n, r.omitZero); err != nil {
			return err
		}
	}
	return nil
}

// send sends item n, or leaves it.
func (r *round) send(ctx context.Context, s *space, n uint64, omitZero bool) error {
	if r.enough != nil && r.enough() {
		r.left[s.kind].Set(n)
		return nil
	}
	return r.out.add(ctx, s, n, omitZero)
}

// merge sends all of own up to the last of the listed numbers, in ascending
// order: those that are not listed, and the listed ones that differ.
func (r *round) merge(ctx context.Context, s *space, own *cursor, numbers []uint64, digests []byte) error {
	if len(numbers) == 0 {
		return nil
	}
	differs := make([]bool, len(numbers))
	err := r.crew.run(len(numbers), func(w *worker, lo, hi int) error {
		known := r.ahead[s.kind].from(numbers[lo])
		for i := lo; i < hi; i++ {
			d, ok := known.digest(numbers[i])
			if !ok {
				var err error
				if d, _, err = w.digest(s, numbers[i]); err != nil {
					return err
				}
			}
			differs[i] = d != digestAt(digests, i)
		}
		return nil
	})
	if err != nil {
		return err
	}
	r.compared[s.kind] += uint64(len(numbers))
	for i, listed := range numbers {
		n, ok := own.peek()
		for ; ok && n < listed; n, ok = own.peek() {
			own.skip()
			if err := r.send(ctx, s, n, r.omitZero); err != nil {
				return err
			}
		}
		if ok && n == listed {
			own.skip()
		}
		if differs[i] {
			if err := r.send(ctx, s, listed, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// cursor walks a bitmap in ascending order.
type cursor struct {
	b    mem.Bitmap
	word int
	bits uint64
	open bool
}

// peek returns the next number.
func (c *cursor) peek() (uint64, bool) {
	for {
		if !c.open {
			if c.word == len(c.b) {
				return 0, false
			}
			c.bits, c.open = c.b[c.word].Load(), true
		}
		if c.bits != 0 {
			return uint64(c.word)<<6 + uint64(bits.TrailingZeros64(c.bits)), true
		}
		c.word, c.open = c.word+1, false
	}
}

// skip passes the number that peek returned.
func (c *cursor) skip() { c.bits &= c.bits - 1 }

// next returns the next number and passes it.
func (c *cursor) next() (uint64, bool) {
	n, ok := c.peek()
	if ok {
		c.skip()
	}
	return n, ok
}

// ahead computes digests of the active's own dirty items while the standby
// still works on its answer, which most often lists the same ones.
type ahead struct {
	numbers []uint64
	digests []digest
	have    []atomic.Bool // for each grain of numbers
	stop    atomic.Bool
}

func (a *ahead) reset(own mem.Bitmap) {
	a.numbers = slices.AppendSeq(a.numbers[:0], own.All)
	a.digests = slices.Grow(a.digests[:0], len(a.numbers))[:len(a.numbers)]
	a.have = make([]atomic.Bool, (len(a.numbers)+grain-1)/grain)
	a.stop.Store(false)
}

// compute runs until all digests are there or stop is set.
func (a *ahead) compute(c *crew, s *space) error {
	return c.run(len(a.numbers), func(w *worker, lo, hi int) error {
		if a.stop.Load() {
			return nil
		}
		for i := lo; i < hi; i++ {
			d, _, err := w.digest(s, a.numbers[i])
			if err != nil {
				return err
			}
			a.digests[i] = d
		}
		a.have[lo/grain].Store(true)
		return nil
	})
}

// known looks numbers up in ascending order.
type known struct {
	a *ahead
	i int
}

func (a *ahead) from(n uint64) known {
	i, _ := slices.BinarySearch(a.numbers, n)
	return known{a, i}
}

func (k *known) digest(n uint64) (digest, bool) {
	a := k.a
	for k.i < len(a.numbers) && a.numbers[k.i] < n {
		k.i++
	}
	if k.i == len(a.numbers) || a.numbers[k.i] != n || !a.have[k.i/grain].Load() {
		return digest{}, false
	}
	return a.digests[k.i], true
}

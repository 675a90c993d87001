package checkpoint

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"
)

// digestSize is the size in bytes of an encoded digest.
const digestSize = 16

type digest = xxh3.Uint128

func appendDigest(p []byte, d digest) []byte {
	p = binary.BigEndian.AppendUint64(p, d.Hi)
	return binary.BigEndian.AppendUint64(p, d.Lo)
}

func digestAt(p []byte, i int) digest {
	p = p[i*digestSize : (i+1)*digestSize]
	return digest{Hi: binary.BigEndian.Uint64(p), Lo: binary.BigEndian.Uint64(p[8:])}
}

var zeroPage [BlockSize]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// space is a guest's pages or blocks, numbered from 0.
type space struct {
	kind kind
	n    uint64
	mem  *mem.Memory
	disk Disk
}

type kind uint64

const (
	pages kind = iota
	blocks
	kinds
)

func (k kind) String() string {
	if k == pages {
		return "page"
	}
	return "block"
}

// spaces returns the guest's pages and blocks. A guest without a disk has no
// blocks.
func spaces(g Guest) [kinds]space {
	m, d := g.Memory(), g.Disk()
	s := [kinds]space{
		pages:  {kind: pages, n: m.Pages(), mem: m},
		blocks: {kind: blocks, disk: d},
	}
	if d != nil {
		s[blocks].n = d.Blocks()
	}
	return s
}

// read returns item n: a view of guest memory, or block n read into buf.
func (s *space) read(n uint64, buf []byte) ([]byte, error) {
	if s.kind == pages {
		return s.mem.Page(n), nil
	}
	err := s.disk.ReadBlock(n, buf)
	return buf, err
}

// sets are a set of pages and one of blocks.
type sets [kinds]mem.Bitmap

func newSets(sp *[kinds]space) sets {
	return sets{mem.NewBitmap(sp[pages].n), mem.NewBitmap(sp[blocks].n)}
}

func (s *sets) clear() {
	for k := range s {
		s[k].Clear()
	}
}

// fill adds every number of each space.
func (s *sets) fill(sp *[kinds]space) {
	for k := range s {
		b := s[k]
		for i := range b {
			b[i].Store(^uint64(0))
		}
		if rest := sp[k].n % 64; rest != 0 {
			b[len(b)-1].Store(1<<rest - 1)
		}
	}
}

// add adds the numbers of o.
func (s *sets) add(o *sets) {
	for k := range s {
		for i := range o[k] {
			if w := o[k][i].Load(); w != 0 {
				s[k][i].Or(w)
			}
		}
	}
}

// remove removes the numbers of o.
func (s *sets) remove(o *sets) {
	for k := range s {
		for i := range o[k] {
			if w := o[k][i].Load(); w != 0 {
				s[k][i].And(^w)
			}
		}
	}
}

// drain moves the guest's dirty bits into s.
func (s *sets) drain(g Guest, sp *[kinds]space) error {
	if d := sp[blocks].disk; d != nil {
		d.DrainDirty(s[blocks])
	}
	return g.DrainDirty(s[pages])
}

// worker is what one goroutine of a parallel job owns.
type worker struct {
	hash *xxh3.Hasher128
	buf  []byte
}

// digest returns the digest of item n, and whether it is all zero.
func (w *worker) digest(s *space, n uint64) (d digest, zero bool, err error) {
	p, err := s.read(n, w.buf)
	if err != nil {
		return digest{}, false, err
	}
	w.hash.Reset()
	_, _ = w.hash.Write(p) // never fails
	return w.hash.Sum128(), isZero(p), nil
}

// crew runs jobs on all processors.
type crew struct {
	workers []worker
}

// newCrew returns a crew whose digests are seeded.
func newCrew(seed uint64) *crew {
	c := &crew{workers: make([]worker, runtime.GOMAXPROCS(0))}
	for i := range c.workers {
		c.workers[i] = worker{hash: xxh3.NewSeed128(seed), buf: make([]byte, BlockSize)}
	}
	return c
}

// grain is the number of items that a worker takes at a time.
const grain = 64

// run calls f for all of 0 to n-1, in ranges of at most grain items, and
// returns one of the errors.
func (c *crew) run(n int, f func(w *worker, lo, hi int) error) error {
	var (
		next   atomic.Int64
		failed atomic.Pointer[error]
		wg     sync.WaitGroup
	)
	work := func(w *worker) {
		for failed.Load() == nil {
			hi := int(next.Add(grain))
			lo := hi - grain
			if lo >= n {
				return
			}
			if err := f(w, lo, min(hi, n)); err != nil {
				first := err
				failed.CompareAndSwap(nil, &first)
			}
		}
	}
	helpers := min(len(c.workers), (n+grain-1)/grain)
	for i := 1; i < helpers; i++ {
		wg.Go(func() { work(&c.workers[i]) })
	}
	if helpers > 0 {
		work(&c.workers[0])
	}
	wg.Wait()
	if e := failed.Load(); e != nil {
		return *e
	}
	return nil
}

// transcript is the running digest over all messages of an attempt.
type transcript struct {
	hash    *xxh3.Hasher128
	scratch []byte
}

func newTranscript(seed uint64) *transcript {
	return &transcript{hash: xxh3.NewSeed128(seed)}
}

func (t *transcript) begin(b *pb.CheckpointBegin) {
	flags := uint64(0)
	if b.Live {
		flags |= 1
	}
	if b.Precopy {
		flags |= 2
	}
	t.head(1, b.Epoch, b.ThroughInput, b.Nonce, flags)
}

func (t *transcript) items(k kind, numbers []uint64, zero []bool, data []byte, compressed bool) {
	flags := uint64(k)
	if compressed {
		flags |= 2
	}
	t.head(2, flags, uint64(len(numbers)), uint64(len(zero)), uint64(len(data)))
	p := t.scratch[:0]
	for _, n := range numbers {
		p = binary.LittleEndian.AppendUint64(p, n)
	}
	for _, z := range zero {
		if z {
			p = append(p, 1)
		} else {
			p = append(p, 0)
		}
	}
	t.scratch = p
	_, _ = t.hash.Write(p)
	_, _ = t.hash.Write(data)
}

func (t *transcript) state(offset uint64, data []byte) {
	t.head(3, offset, uint64(len(data)))
	_, _ = t.hash.Write(data)
}

func (t *transcript) head(words ...uint64) {
	p := t.scratch[:0]
	for _, w := range words {
		p = binary.LittleEndian.AppendUint64(p, w)
	}
	t.scratch = p
	_, _ = t.hash.Write(p)
}

func (t *transcript) sum() []byte { return appendDigest(nil, t.hash.Sum128()) }

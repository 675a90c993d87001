package flow

import (
	"encoding/binary"
	"math/bits"

	"github.com/zeebo/xxh3"
)

// tail is the end of a stream: digest states at its two ends and the bytes in
// between, so that the digest at any offset of it can be told. SYN and FIN have
// a placeholder among the bytes.
type tail struct {
	base        uint64 // offset of held()[0]
	atBase, end xxh3.Hasher128
	buf         []byte // from the pool
	from        int    // buf[:from] is confirmed
}

func (l *tail) held() []byte { return l.buf[l.from:] }

// Markers go into a digest in place of what is no payload. They are longer than
// the one offset they stand for, so that no payload of the same length in
// offsets has the same input to the digest.
const (
	finMarker = "understudy:FIN\x00\x01"
	gapMarker = "understudy:GAP\x00\x02"
)

// newTail begins the tail of s at its next offset, with an empty digest.
func (t *Table) newTail(s *stream) {
	l := t.pool.tail()
	l.base = s.next
	l.atBase.Reset()
	l.end.Reset()
	s.tail = l
}

// dropTail forgets the tail of s.
func (t *Table) dropTail(s *stream) {
	if s.tail == nil {
		return
	}
	t.pool.putBuffer(s.tail.buf)
	s.tail.buf, s.tail.from = nil, 0
	t.pool.putTail(s.tail)
	s.tail = nil
}

// rebase makes the stream's next offset the first that can be probed.
func (t *Table) rebase(s *stream) {
	l := s.tail
	l.atBase = l.end
	l.base = s.next
	t.pool.putBuffer(l.buf)
	l.buf, l.from = nil, 0
}

// feed writes what the stream has in [from, to), both in the tail and to below
// the stream's end, to h. A FIN is not among it: in a tail it is at the end.
func (s *stream) feed(h *xxh3.Hasher128, from, to uint64) {
	l := s.tail
	if from == 0 && to > 0 {
		_, _ = h.Write(s.syn[:])
		from = 1
	}
	if from < to {
		_, _ = h.Write(l.held()[from-l.base : to-l.base])
	}
}

// advance drops the bytes below to.
func (t *Table) advance(s *stream, to uint64) {
	l := s.tail
	if to <= l.base {
		return
	}
	if to >= s.next {
		t.rebase(s)
		return
	}
	s.feed(&l.atBase, l.base, to)
	l.from += int(to - l.base)
	l.base = to
}

// hold appends b, which the stream has at its next offset, to the tail's bytes
// and moves the next offset on. The digest at the end has b already.
func (t *Table) hold(s *stream, b []byte) {
	l := s.tail
	if len(l.held())+len(b) > t.limits.HeldPerStream {
		t.counters.HeldDropped++
		if len(b) > t.limits.HeldPerStream/2 {
			s.next += uint64(len(b))
			t.rebase(s)
			return
		}
		t.advance(s, s.next-uint64(min(len(l.held()), t.limits.HeldPerStream/2)))
	}
	if need := len(l.buf) + len(b); need > cap(l.buf) {
		live := l.held()
		if len(live) <= cap(l.buf)/2 && len(live)+len(b) <= cap(l.buf) {
			l.buf = l.buf[:copy(l.buf, live)]
		} else {
			buf := t.pool.buffer(len(live) + len(b))
			if buf == nil {
				t.counters.HeldDropped++
				s.next += uint64(len(b))
				t.rebase(s)
				return
			}
			buf = append(buf, live...)
			t.pool.putBuffer(l.buf)
			l.buf = buf
		}
		l.from = 0
	}
	l.buf = append(l.buf, b...)
	s.next += uint64(len(b))
}

// gap records that the stream goes on n bytes after its next offset.
func (t *Table) gap(s *stream, n uint64) {
	t.counters.Gaps++
	if s.gapLo == s.gapHi {
		s.gapLo = s.next
	}
	s.next += n
	s.gapHi = s.next
	if l := s.tail; l != nil {
		h := append(t.scratch[:0], gapMarker...)
		_, _ = l.end.Write(binary.LittleEndian.AppendUint64(h, n))
		t.rebase(s)
	}
}

// DigestAt returns the digest over what the guest sent on a stream from the
// start of the epoch to offset. It returns false where the table cannot tell:
// an offset that is confirmed, forgotten or not yet sent, or an unknown flow.
func (t *Table) DigestAt(id ID, offset uint64) (Digest, bool) {
	s := t.streams[id]
	if s == nil || s.action != Compare || !t.digests || offset > s.next {
		return Digest{}, false
	}
	l := s.tail
	if l == nil {
		t.hash.Reset()
		return t.sum(), offset == s.next
	}
	if offset == s.next {
		return digestOf(&l.end), true
	}
	if offset < l.base {
		return Digest{}, false
	}
	t.hash = l.atBase
	s.feed(&t.hash, l.base, offset)
	return t.sum(), true
}

// Confirm says that offsets of a stream below end will not be probed any more.
// end itself still can be. Unknown flows are ignored.
func (t *Table) Confirm(id ID, end uint64) {
	if s := t.streams[id]; s != nil && s.tail != nil {
		t.advance(s, end)
	}
}

func digestOf(h *xxh3.Hasher128) (d Digest) {
	sum := h.Sum128()
	binary.BigEndian.PutUint64(d[:], sum.Hi)
	binary.BigEndian.PutUint64(d[8:], sum.Lo)
	if d.IsZero() {
		d[15] = 1
	}
	return d
}

// bufferPool hands out buffers of powers of two, so that a steady stream of
// bytes held and confirmed allocates nothing.
type bufferPool struct {
	limit int // bytes handed out at once
	out   int
	free  [poolClasses][][]byte
	kept  int // bytes in free
	tails []*tail
}

const (
	poolMinShift = 11 // 2 KiB
	poolClasses  = 20
	poolKeep     = 8 << 20
	poolTails    = 1024
)

func (b *bufferPool) reset() { *b = bufferPool{limit: b.limit} }

func poolClass(n int) int { return max(bits.Len(uint(n-1)), poolMinShift) - poolMinShift }

// buffer returns an empty buffer with room for n > 0 bytes, or nil.
func (b *bufferPool) buffer(n int) []byte {
	c := poolClass(n)
	size := 1 << (c + poolMinShift)
	if c >= poolClasses || b.out+size > b.limit {
		return nil
	}
	b.out += size
	if f := b.free[c]; len(f) > 0 {
		buf := f[len(f)-1]
		b.free[c] = f[:len(f)-1]
		b.kept -= size
		return buf
	}
	return make([]byte, 0, size)
}

func (b *bufferPool) putBuffer(buf []byte) {
	size := cap(buf)
	if size == 0 {
		return
	}
	b.out -= size
	if b.kept+size <= poolKeep {
		c := poolClass(size)
		b.free[c] = append(b.free[c], buf[:0])
		b.kept += size
	}
}

func (b *bufferPool) tail() *tail {
	if n := len(b.tails); n > 0 {
		l := b.tails[n-1]
		b.tails = b.tails[:n-1]
		return l
	}
	return new(tail)
}

func (b *bufferPool) putTail(l *tail) {
	if len(b.tails) < poolTails {
		b.tails = append(b.tails, l)
	}
}

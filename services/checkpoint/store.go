package checkpoint

import (
	"fmt"
	"io"
	"os"
)

// store keeps staged items: in memory, and above a limit in an unlinked file.
type store struct {
	spillAbove int64
	dir        string
	// room is the number of items that it still takes. It bounds a peer that
	// repeats precopy rounds.
	room   uint64
	parts  []part
	slabs  *slabs
	filled [][]byte // the slabs in use, the last with room at its end
	inMem  int64
	file   *os.File
	inFile int64
}

// slabs is the memory of one stage after the other, so that a pause need not
// wait for fresh memory.
type slabs struct{ free [][]byte }

const (
	// slabSize is the size of most slabs in bytes: that of the largest message.
	slabSize = maxItems * BlockSize
	// slabsKept bounds what is kept between two stages, for 64 MiB.
	slabsKept = 64
)

// take returns an empty slab with room for n bytes; the first of a stage may be
// a small one, because most stages are.
func (s *slabs) take(n int, first bool) []byte {
	if last := len(s.free) - 1; last >= 0 && cap(s.free[last]) >= n {
		b := s.free[last]
		s.free = s.free[:last]
		return b
	}
	if first {
		return make([]byte, 0, max(n, slabSize/8))
	}
	return make([]byte, 0, slabSize)
}

// give takes back what a stage has used; of a large one only the large slabs.
func (s *slabs) give(filled [][]byte) {
	if len(filled) > 1 && cap(filled[0]) < slabSize {
		filled = filled[1:]
	}
	for _, b := range filled[:min(len(filled), slabsKept-len(s.free))] {
		s.free = append(s.free, b[:0])
	}
}

// part is one message's items. Its data is in memory or at an offset of the
// file.
type part struct {
	kind    kind
	numbers []uint64
	zero    []bool
	data    []byte
	off     int64
	size    int
}

func newStore(spillAbove int64, dir string, room uint64, from *slabs) *store {
	return &store{spillAbove: spillAbove, dir: dir, room: room, slabs: from}
}

// put keeps the items: their numbers and flags, which it owns, and a copy of
// their data, at most slabSize bytes.
func (s *store) put(k kind, numbers []uint64, zero []bool, data []byte) error {
	if uint64(len(numbers)) > s.room {
		return violation("more items staged than a checkpoint may bring")
	}
	s.room -= uint64(len(numbers))
	p := part{kind: k, numbers: numbers, zero: zero, size: len(data)}
	switch {
	case len(data) == 0:
	case s.inMem+int64(len(data)) <= s.spillAbove:
		p.data = s.keep(data)
	default:
		if err := s.spill(&p, data); err != nil {
			return fmt.Errorf("spill stage to a file: %w", err)
		}
	}
	s.inMem += int64(len(p.data))
	s.parts = append(s.parts, p)
	return nil
}

// keep copies data into a slab.
func (s *store) keep(data []byte) []byte {
	last := len(s.filled) - 1
	if last < 0 || len(s.filled[last])+len(data) > cap(s.filled[last]) {
		s.filled = append(s.filled, s.slabs.take(len(data), last < 0))
		last++
	}
	b := append(s.filled[last], data...)
	s.filled[last] = b
	return b[len(b)-len(data):]
}

func (s *store) spill(p *part, data []byte) error {
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "understudy-stage-")
		if err != nil {
			return err
		}
		s.file = f
		if err := os.Remove(f.Name()); err != nil {
			return err
		}
	}
	if _, err := s.file.WriteAt(data, s.inFile); err != nil {
		return err
	}
	p.off = s.inFile
	s.inFile += int64(p.size)
	return nil
}

// write writes the items of one space to the guest, in the order in which they
// came, so that the last of each counts.
func (s *store) write(sp *space) error {
	var buf []byte
	for i := range s.parts {
		p := &s.parts[i]
		if p.kind != sp.kind {
			continue
		}
		data := p.data
		if data == nil && p.size > 0 {
			if buf == nil {
				buf = make([]byte, maxItems*BlockSize)
			}
			data = buf[:p.size]
			if n, err := s.file.ReadAt(data, p.off); n < len(data) {
				if err == nil {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("read spilled stage: %w", err)
			}
		}
		if err := writeItems(sp, p.numbers, p.zero, data); err != nil {
			return err
		}
	}
	return nil
}

// close frees what the store holds.
func (s *store) close() {
	if s.file != nil {
		_ = s.file.Close() // unlinked: nothing to lose
	}
	s.slabs.give(s.filled)
	s.file, s.parts, s.filled = nil, nil, nil
}

// writeItems writes items to the guest without marking them dirty. Zero pages
// that are zero already stay untouched, so that they take no memory.
func writeItems(s *space, numbers []uint64, zero []bool, data []byte) error {
	for i, n := range numbers {
		item := zeroPage[:]
		if len(zero) == 0 || !zero[i] {
			item, data = data[:BlockSize], data[BlockSize:]
		}
		if s.kind == blocks {
			if err := s.disk.WriteBlock(n, item); err != nil {
				return fmt.Errorf("write block %d: %w", n, err)
			}
			continue
		}
		page := s.mem.Page(n)
		if len(zero) > 0 && zero[i] && isZero(page) {
			continue
		}
		copy(page, item)
	}
	return nil
}

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
	inMem  int64
	file   *os.File
	inFile int64
}

// part is one message's items. Its data is in memory, until free, or at an
// offset of the file.
type part struct {
	kind    kind
	numbers []uint64
	zero    []bool
	data    []byte
	free    func()
	off     int64
	size    int
}

func newStore(spillAbove int64, dir string, room uint64) *store {
	return &store{spillAbove: spillAbove, dir: dir, room: room}
}

// put keeps the items. Where kept is true, their data is, too, and freed by
// close.
func (s *store) put(p part) (kept bool, err error) {
	if uint64(len(p.numbers)) > s.room {
		return false, violation("more items staged than a checkpoint may bring")
	}
	s.room -= uint64(len(p.numbers))
	p.size = len(p.data)
	kept = p.size > 0 && s.inMem+int64(p.size) <= s.spillAbove
	if kept {
		s.inMem += int64(p.size)
	} else {
		if err := s.spill(&p); err != nil {
			return false, fmt.Errorf("spill stage to a file: %w", err)
		}
		p.data, p.free = nil, nil
	}
	s.parts = append(s.parts, p)
	return kept, nil
}

// spill writes a part's data, if it has any, to the file.
func (s *store) spill(p *part) error {
	if p.size == 0 {
		return nil
	}
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
	if _, err := s.file.WriteAt(p.data, s.inFile); err != nil {
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
	for i := range s.parts {
		if free := s.parts[i].free; free != nil {
			free()
		}
	}
	s.file, s.parts = nil, nil
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

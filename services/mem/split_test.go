package mem

import (
	"bytes"
	"errors"
	"slices"
	"testing"
)

const (
	holeStart = 4 * PageSize
	holeEnd   = 16 * PageSize
)

func newSplit(t *testing.T, pages uint64) *Memory {
	t.Helper()
	m, err := NewSplit(pages*PageSize, holeStart, holeEnd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func TestSplitContains(t *testing.T) {
	m := newSplit(t, 6) // pages 4 and 5 at holeEnd
	for _, c := range []struct {
		addr, n uint64
		want    bool
	}{
		{0, holeStart, true},
		{0, holeStart + 1, false}, // into the hole
		{0, 6 * PageSize, false},  // across it
		{holeStart - 1, 1, true},
		{holeStart - 1, 2, false},
		{holeStart, 0, true},
		{holeStart, 1, false},
		{holeStart + 1, 0, false},
		{holeEnd - 1, 1, false},
		{holeEnd - 1, 2, false},
		{holeEnd, 2 * PageSize, true},
		{holeEnd, 2*PageSize + 1, false},
		{holeEnd + 2*PageSize, 0, true},
		{holeEnd + 2*PageSize, 1, false},
		{holeEnd, ^uint64(0), false},
		{^uint64(0), 1, false},
		{^uint64(0), ^uint64(0), false},
	} {
		if got := m.Contains(c.addr, c.n); got != c.want {
			t.Errorf("Contains(%#x, %#x) = %v", c.addr, c.n, got)
		}
		if _, err := m.Slice(c.addr, c.n); errors.Is(err, ErrBounds) == c.want {
			t.Errorf("Slice(%#x, %#x): %v", c.addr, c.n, err)
		}
	}
}

// TestSplitPlaces writes to each page by its address and finds it under its
// number, marked dirty.
func TestSplitPlaces(t *testing.T) {
	m := newSplit(t, 6)
	want := []uint64{0, PageSize, 2 * PageSize, 3 * PageSize, holeEnd, holeEnd + PageSize}
	for n := range m.Pages() {
		addr := m.Address(n)
		if addr != want[n] {
			t.Errorf("page %d at %#x instead of %#x", n, addr, want[n])
		}
		p := bytes.Repeat([]byte{byte(n) + 1}, PageSize)
		m.Dirty().Clear()
		if err := m.WriteAt(p, addr); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(m.Page(n), p) {
			t.Errorf("page %d: written elsewhere", n)
		}
		if got := slices.Collect(m.Dirty().All); !slices.Equal(got, []uint64{n}) {
			t.Errorf("page %d: marked %v", n, got)
		}
	}
	if got, want := m.Regions(), []Region{{0, 0, holeStart}, {holeEnd, holeStart, 2 * PageSize}}; !slices.Equal(got, want) {
		t.Errorf("regions %v instead of %v", got, want)
	}
}

// TestSplitSmall has all memory below the hole.
func TestSplitSmall(t *testing.T) {
	for _, pages := range []uint64{3, 4} {
		m := newSplit(t, pages)
		if got, want := m.Regions(), []Region{{0, 0, pages * PageSize}}; !slices.Equal(got, want) {
			t.Errorf("regions %v instead of %v", got, want)
		}
		if m.Contains(holeEnd, 1) || m.Contains(pages*PageSize, 1) || !m.Contains(0, pages*PageSize) {
			t.Errorf("%d pages: wrong bounds", pages)
		}
	}
}

func TestSplitRefuses(t *testing.T) {
	for _, hole := range [][2]uint64{{0, PageSize}, {2 * PageSize, PageSize}, {1, PageSize}, {PageSize, PageSize + 1}, {PageSize, 2 * MaxSize}} {
		if m, err := NewSplit(8*PageSize, hole[0], hole[1]); err == nil {
			t.Errorf("hole %#x accepted", hole)
			_ = m.Close()
		}
	}
}

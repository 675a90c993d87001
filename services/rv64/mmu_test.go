package rv64

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// tables is a set of page tables in guest memory and what they should mean.
// Everything in it is written for clarity; the engine's walker is another.
type tables struct {
	m      *machine
	levels int
	next   uint64 // next free page
	root   uint64
}

func newTables(m *machine, levels int, first uint64) *tables {
	return &tables{m: m, levels: levels, root: first, next: first + mem.PageSize}
}

func (s *tables) satp() uint64 { return uint64(s.levels+5)<<60 | s.root>>12 }

func (s *tables) entry(table, va uint64, level int) uint64 {
	return table + 8*(va>>(12+9*level)&511)
}

// set makes the leaf for va at a level, with tables above it. It returns
// whether a whole table was replaced, which one address cannot fence.
func (s *tables) set(va uint64, level int, pte uint64) (replaced bool) {
	table := s.root
	for l := s.levels - 1; l > level; l-- {
		at := s.entry(table, va, l)
		e := s.m.word(at)
		if e&1 == 0 || e&0xe != 0 {
			e = s.next>>12<<10 | 1
			zero := make([]byte, mem.PageSize)
			must(s.m.mem.WriteAt(zero, s.next))
			must(s.m.mem.PutUint64(at, e))
			s.next += mem.PageSize
		}
		table = e >> 10 << 12
	}
	at := s.entry(table, va, level)
	old := s.m.word(at)
	must(s.m.mem.PutUint64(at, pte))
	return old&0xf == 1
}

// resolve says what an access should find: an address, or 0 for a page fault;
// and the page-table entry's address and value after the access.
func (s *tables) resolve(va uint64, acc access, user, sum, mxr bool) (pa, at, pte uint64) {
	if top := int64(va) >> (11 + 9*s.levels); top != 0 && top != -1 {
		return 0, 0, 0
	}
	table := s.root
	for l := s.levels - 1; l >= 0; l-- {
		at = s.entry(table, va, l)
		e := s.m.word(at)
		r, w, x, u := e&2 != 0, e&4 != 0, e&8 != 0, e&16 != 0
		switch {
		case e&1 == 0, w && !r, e>>54 != 0:
			return 0, 0, 0
		case !r && !x:
			if e&0xd0 != 0 {
				return 0, 0, 0
			}
			table = e >> 10 << 12
			continue
		case user != u && (user || acc == accFetch || !sum):
			return 0, 0, 0
		case acc == accFetch && !x, acc == accStore && !w, acc == accLoad && !r && !(mxr && x):
			return 0, 0, 0
		}
		pa = e >> 10 << 12
		low := uint64(1)<<(12+9*l) - 1
		if pa&low != 0 {
			return 0, 0, 0
		}
		set := e | 0x40
		if acc == accStore {
			set |= 0x80
		}
		return pa | va&low, at, set
	}
	return 0, 0, 0
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// TestPaging drives the MMU with random changes of tables, fences, modes and
// accesses, and compares addresses, faults, A and D bits, and dirty pages with
// the plain model above.
func TestPaging(t *testing.T) {
	pages := []uint64{0, 0x1000, 0x200000, 0x201000, 0x40000000, 0x40201000, 0x3f_ffff_f000, 0x40_0000_0000,
		0xffff_ffff_ffff_f000, 0xffff_ffc0_0000_0000, 0x100_0000_1000}
	m := newMachine(t, noBus{})
	rapid.Check(t, func(t *rapid.T) {
		clear(m.mem.Bytes())
		must(m.Reset(vmm.Entry{}))
		h := m.harts[0]
		levels := rapid.IntRange(3, 4).Draw(t, "levels")
		spaces := [2]*tables{
			newTables(m, levels, RAMBase+1<<20),
			newTables(m, levels, RAMBase+2<<20),
		}
		cur := spaces[0]
		enter := func(user, sum, mxr bool) {
			h.priv = privS
			v := uint64(0)
			if sum {
				v |= sstatusSUM
			}
			if mxr {
				v |= sstatusMXR
			}
			h.writeCSR(csrSstatus, v)
			if user {
				h.priv = privU
				h.enterSpace()
			}
		}
		fenceAt := func(insn uint32) {
			was := h.priv
			h.priv = privS
			h.enterSpace()
			h.system(insn, 0)
			h.priv = was
			h.enterSpace()
		}
		h.writeCSR(csrSatp, cur.satp())
		user, sum, mxr := false, false, false
		enter(user, sum, mxr)
		m.mem.Dirty().Clear()
		wrote := map[uint64]bool{}
		page := rapid.SampledFrom(pages)
		t.Repeat(map[string]func(*rapid.T){
			"map": func(t *rapid.T) {
				va := page.Draw(t, "va")
				level := rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "level")
				target := RAMBase + rapid.SampledFrom([]uint64{0, 0, 0, 3 << 20, 3<<20 + 4096, 1 << 30}).Draw(t, "target")
				flags := uint64(rapid.IntRange(0, 255).Draw(t, "flags"))
				if rapid.IntRange(0, 3).Draw(t, "usual") > 0 {
					flags |= 1
				}
				if rapid.IntRange(0, 15).Draw(t, "reserved") == 0 {
					flags |= 1 << 61
				}
				if level > 0 && flags&0xe == 0 {
					flags |= 2 // a leaf, not a wild pointer to a table
				}
				before := snapshot(m)
				replaced := cur.set(va, level, target>>12<<10|flags)
				restore(m, before) // table writes by the test are not the hart's
				fence := va
				if replaced || rapid.Bool().Draw(t, "all") {
					fenceAt(sfence(0))
				} else {
					if level > 0 {
						fence += uint64(rapid.IntRange(0, 1<<(9*level)-1).Draw(t, "part")) << 12
					}
					h.x[a0] = fence
					fenceAt(sfence(a0))
				}
			},
			"switch": func(t *rapid.T) {
				cur = spaces[rapid.IntRange(0, 1).Draw(t, "space")]
				h.writeCSR(csrSatp, cur.satp())
			},
			"mode": func(t *rapid.T) {
				user, sum, mxr = rapid.Bool().Draw(t, "user"), rapid.Bool().Draw(t, "sum"), rapid.Bool().Draw(t, "mxr")
				enter(user, sum, mxr)
			},
			"drain": func(t *rapid.T) {
				got := mem.NewBitmap(m.mem.Pages())
				must(m.DrainDirty(got))
				for n := range m.mem.Pages() {
					if got.Has(n) != wrote[n] {
						t.Fatalf("page %d: dirty %v, written %v", n, got.Has(n), wrote[n])
					}
				}
				clear(wrote)
			},
			"": func(*rapid.T) {},
			"access": func(t *rapid.T) {
				va := page.Draw(t, "va") + uint64(rapid.IntRange(0, 511).Draw(t, "word"))*8
				acc := access(rapid.IntRange(0, 2).Draw(t, "access"))
				pa, at, pte := cur.resolve(va, acc, user, sum, mxr)
				if acc == accStore && pa >= RAMBase+1<<20 && pa < RAMBase+3<<20 {
					return // leave the tables alone
				}
				if pa != 0 && m.word(at) != pte {
					wrote[(at-RAMBase)>>12] = true
				}
				wantOK, want := true, ""
				switch {
				case pa == 0:
					wantOK, want = false, fmt.Sprint("cause ", causePage[acc])
				case !m.mem.Contains(pa, 8):
					wantOK, want = false, fmt.Sprint("cause ", causeAccess[acc])
				}
				var ok bool
				switch acc {
				case accFetch:
					var off uint64
					off, ok = h.fetchPage(va)
					if ok && wantOK && off != (pa-RAMBase)&^4095 {
						t.Fatalf("fetch at %#x goes to %#x instead of %#x", va, off, pa)
					}
				case accLoad:
					var v uint64
					v, ok = h.load(va, 8)
					if ok && wantOK && v != m.word(pa) {
						t.Fatalf("load at %#x: %#x instead of %#x at %#x", va, v, m.word(pa), pa)
					}
				case accStore:
					if wantOK {
						wrote[(pa-RAMBase)>>12] = true
					}
					v := rapid.Uint64().Draw(t, "v")
					ok = h.store(va, 8, v)
					if ok && wantOK && m.word(pa) != v {
						t.Fatalf("store at %#x does not reach %#x", va, pa)
					}
				}
				if pa != 0 && m.word(at) != pte {
					t.Fatalf("page-table entry at %#x is %#x instead of %#x", at, m.word(at), pte)
				}
				got := ""
				if !ok {
					got = fmt.Sprint("cause ", h.exc)
				}
				if ok != wantOK || got != want {
					t.Fatalf("%d at %#x (user %v sum %v mxr %v): ok %v %s, want %v %s", acc, va, user, sum, mxr, ok, got, wantOK, want)
				}
			},
		})
	})
}

// snapshot and restore keep the test's own writes out of the dirty bitmap.
func snapshot(m *machine) []uint64 {
	var s []uint64
	for i := range m.mem.Dirty() {
		s = append(s, m.mem.Dirty()[i].Load())
	}
	return s
}

func restore(m *machine, s []uint64) {
	for i, w := range s {
		m.mem.Dirty()[i].Store(w)
	}
}

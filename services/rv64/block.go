package rv64

import (
	"bytes"

	"github.com/understudy-ft/understudy/services/mem"
)

// A block is a run of instructions with one entry. It never leaves its page,
// except for a block of one instruction that straddles two (see lookup).
//
// Blocks of one page are chained by taken and fall without any check: the
// same page offset is the same code wherever the page is mapped. Jumps to
// another page go through the space's jump cache.
type block struct {
	ops         []word
	taken, fall *block
	// size is the length in bytes, n the number of instructions.
	size uint32
	n    uint32
	// where tells for each op the offset of its instruction (in half-words,
	// low byte) and how many instructions of the block lie before it.
	where []uint16
}

// maxInstrs bounds a block, so that where's bytes hold offsets and counts.
const maxInstrs = 120

// codePage holds the blocks that begin in one physical page.
type codePage struct {
	// source is what was translated. Code may change at any time, by the
	// guest or by a device; the guest must then execute FENCE.I before it
	// relies on the change. After one, the page is compared again.
	source  [mem.PageSize]byte
	checked uint64 // the fence after which source was last compared
	index   [mem.PageSize / 2]uint16
	blocks  []*block
	// lines has a bit for each 64 bytes from which code was decoded.
	lines uint64
}

// codeCache holds a hart's translations by physical page.
type codeCache struct {
	mem   *mem.Memory
	pages []*codePage
	fence uint64 // instruction fences executed
	used  int    // approximate bytes held
	ops   []word // room for further ops
	pos   []uint16
	one   block // for single
}

// maxCodeBytes bounds the memory for translations; beyond it all are dropped.
const maxCodeBytes = 256 << 20

const opChunk = 16384

func newCodeCache(m *mem.Memory) *codeCache {
	return &codeCache{mem: m, pages: make([]*codePage, m.Pages())}
}

// flush drops all translations.
func (c *codeCache) flush() {
	clear(c.pages)
	c.used = 0
	c.ops, c.pos = nil, nil
}

// lookup finds or makes the block at pc and enters it in the jump cache. It
// returns nil after an exception, which it leaves in h.exc.
func (h *hart) lookup(pc uint64) *block {
	if e := &h.sp.jc[pc>>1%jcSize]; e.pc == pc {
		return e.b
	}
	off, ok := h.fetchPage(pc)
	if !ok {
		return nil
	}
	b := h.code.find(off, uint32(pc%mem.PageSize))
	if b == nil {
		// The first instruction continues on the next page. Such a block
		// depends on two mappings and is held by the jump cache only.
		if b = h.code.single(h, pc); b == nil {
			return nil
		}
		own := *b
		b = &own
	}
	h.sp.enter(pc, b)
	return b
}

// chain finds the block at pc, where control goes from the block in h.frame,
// and makes it the frame's. It links the two if they lie in one page. After an
// exception it returns false; h.pc and h.instret are then up to date.
func (h *hart) chain(pc uint64) bool {
	f := &h.frame
	next := h.lookup(pc)
	if next == nil {
		h.instret = f.n
		h.trap(pc, h.exc, h.excVal)
		return false
	}
	if (f.pc^pc)&^(mem.PageSize-1) == 0 && f.b.inPage(f.pc) && next.inPage(pc) {
		if f.taken {
			f.b.taken = next
		} else {
			f.b.fall = next
		}
	}
	f.b, f.pc = next, pc
	return true
}

// inPage tells whether b at pc ends in the page where it begins.
func (b *block) inPage(pc uint64) bool { return uint64(b.size)+pc%mem.PageSize <= mem.PageSize }

// find returns the block at offset start of the page at offset off of the
// memory, or nil if the instruction there crosses the page's end.
func (c *codeCache) find(off uint64, start uint32) *block {
	p := c.page(off)
	if i := p.index[start/2]; i != 0 {
		return p.blocks[i-1]
	}
	b := c.build(p, start, maxInstrs)
	if b == nil {
		return nil
	}
	p.blocks = append(p.blocks, b)
	p.index[start/2] = uint16(len(p.blocks))
	c.used += 128 + 10*len(b.ops)
	return b
}

// page returns the code page at off with contents that were right at the last
// instruction fence or later.
func (c *codeCache) page(off uint64) *codePage {
	n := off >> mem.PageShift
	p := c.pages[n]
	now := c.mem.Page(n)
	if p != nil {
		if p.checked == c.fence || p.matches(now) {
			p.checked = c.fence
			return p
		}
	}
	if c.used > maxCodeBytes {
		c.flush()
	}
	p = &codePage{checked: c.fence}
	copy(p.source[:], now)
	c.pages[n] = p
	c.used += 2 * mem.PageSize
	return p
}

// matches tells whether the page's translations are right for contents now.
// Data beside the code may have changed.
func (p *codePage) matches(now []byte) bool {
	if bytes.Equal(p.source[:], now) {
		return true
	}
	for l := range 64 {
		if p.lines>>l&1 != 0 && !bytes.Equal(p.source[64*l:64*l+64], now[64*l:64*l+64]) {
			return false
		}
	}
	copy(p.source[:], now)
	return true
}

// build translates up to limit instructions from offset start of p.
func (c *codeCache) build(p *codePage, start uint32, limit int) *block {
	if len(c.ops) < maxInstrs+2 {
		c.ops, c.pos = make([]word, opChunk), make([]uint16, opChunk)
	}
	tr := translator{ops: c.ops[: 0 : maxInstrs+2], where: c.pos[: 0 : maxInstrs+2]}
	at := start
	for tr.n < limit && at < mem.PageSize {
		insn := uint32(p.source[at]) | uint32(p.source[at+1])<<8
		size := uint32(2)
		if insn&3 == 3 {
			if at+4 > mem.PageSize {
				break
			}
			insn |= uint32(p.source[at+2])<<16 | uint32(p.source[at+3])<<24
			size = 4
		}
		p.lines |= 1<<(at>>6) | 1<<((at+size-1)>>6)
		if !tr.add(insn, size) {
			break
		}
		at += size
		if tr.ended {
			break
		}
	}
	if tr.n == 0 {
		return nil
	}
	b := &block{ops: tr.ops[:len(tr.ops):len(tr.ops)], where: tr.where, size: tr.size, n: uint32(tr.n)}
	c.ops, c.pos = c.ops[len(tr.ops):], c.pos[len(tr.ops):]
	return b
}

// single translates the one instruction at pc, unfused, into a block that is
// valid until the next call. It returns nil after an exception.
func (c *codeCache) single(h *hart, pc uint64) *block {
	half := func(pc uint64) (uint32, bool) {
		off, ok := h.fetchPage(pc)
		if !ok {
			return 0, false
		}
		return uint32(*h.word16(off + pc%mem.PageSize)), true
	}
	insn, ok := half(pc)
	size := uint32(2)
	if ok && insn&3 == 3 {
		var high uint32
		high, ok = half(pc + 2)
		insn |= high << 16
		size = 4
	}
	if !ok {
		return nil
	}
	tr := translator{ops: make([]word, 0, 2), where: make([]uint16, 0, 2)}
	tr.add(insn, size)
	c.one = block{ops: tr.ops, where: tr.where, size: size, n: 1}
	return &c.one
}

// translator builds a block instruction by instruction.
type translator struct {
	ops   []word
	where []uint16
	size  uint32 // bytes so far
	n     int    // instructions so far
	fpOn  bool   // the floating-point unit was checked
	ended bool
}

// add appends an instruction of size bytes (a compressed one is expanded
// here). It returns false if the instruction must begin another block.
func (t *translator) add(insn, size uint32) bool {
	raw := insn
	if size == 2 {
		insn = expand(uint16(insn))
	}
	o := decode(insn)
	if o.kind == opIllegal {
		o.imm = int32(raw)
	}
	if isFP(insn) && o.kind != opIllegal && !t.fpOn {
		t.emit(op{kind: opFPOn, imm: int32(raw)})
		t.fpOn = true
	}
	switch o.kind {
	case opLA, opBeq, opBne, opBlt, opBge, opBltu, opBgeu, opJ, opJal:
		at := int64(o.imm) + int64(t.size)
		if at != int64(int32(at)) {
			return false // never at the start of a block
		}
		o.imm = int32(at)
	}
	if o.kind != opNop && !t.fuse(o) {
		t.emit(o)
	}
	t.n++
	t.size += size
	t.ended = endsBlock(o.kind)
	return true
}

func (t *translator) emit(o op) {
	t.ops = append(t.ops, o.pack())
	t.where = append(t.where, uint16(t.size/2)|uint16(t.n)<<8)
}

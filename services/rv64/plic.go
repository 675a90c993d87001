package rv64

import "sync"

// plic is a platform-level interrupt controller (RISC-V PLIC specification
// 1.0.0) with level-triggered sources and one supervisor context per hart.
// A source is pending while its line is high and nobody has it claimed.
type plic struct {
	mu       sync.Mutex
	level    uint64 // bit n: line n is high
	claimed  uint64
	priority [MaxIRQ + 1]uint32
	context  []plicContext
	// output drives a hart's external interrupt. It is called with mu held.
	output func(hart int, level bool)
}

type plicContext struct {
	enable    uint64
	threshold uint32
	out       bool
}

const (
	plicPending   = 0x1000
	plicEnable    = 0x2000
	plicEnableLen = 0x80
	plicContext0  = 0x20_0000
	plicContextSz = 0x1000

	plicMaxPriority = 7
	plicSources     = 1<<(MaxIRQ+1) - 2 // source 0 does not exist; MaxIRQ is 63
)

func newPLIC(harts int, output func(int, bool)) *plic {
	return &plic{context: make([]plicContext, harts), output: output}
}

func (p *plic) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claimed, p.priority = 0, [MaxIRQ + 1]uint32{}
	clear(p.context)
	for i := range p.context {
		p.output(i, false)
	}
}

func (p *plic) setLevel(line uint32, level bool) {
	if line < MinIRQ || line > MaxIRQ {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.level
	p.level &^= 1 << line
	if level {
		p.level |= 1 << line
	}
	if p.level != old {
		p.update()
	}
}

// update drives the outputs after a change.
func (p *plic) update() {
	for i := range p.context {
		c := &p.context[i]
		if out := p.best(c, c.threshold) != 0; out != c.out {
			c.out = out
			p.output(i, out)
		}
	}
}

// best is the pending source of the highest priority above top that context c
// has enabled, or 0. The lowest number wins among equals.
func (p *plic) best(c *plicContext, top uint32) uint32 {
	var best uint32
	for n, bits := uint32(0), p.level&^p.claimed&c.enable; bits != 0; n, bits = n+1, bits>>1 {
		if bits&1 != 0 && p.priority[n] > top {
			best, top = n, p.priority[n]
		}
	}
	return best
}

// The registers are 32 bits wide; other sizes read as zero and are ignored.
func (p *plic) read(off uint64, size int) (uint64, bool) {
	if size != 4 || off&3 != 0 {
		return 0, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	word := func(bits uint64, i uint64) uint64 {
		if i > 1 {
			return 0
		}
		return bits >> (32 * i) & 0xffff_ffff
	}
	switch {
	case off < 4*(MaxIRQ+1):
		return uint64(p.priority[off/4]), true
	case off >= plicPending && off < plicPending+0x80:
		return word(p.level&^p.claimed, (off-plicPending)/4), true
	case off >= plicEnable && off < plicContext0:
		if i := (off - plicEnable) / plicEnableLen; i < uint64(len(p.context)) {
			return word(p.context[i].enable, off%plicEnableLen/4), true
		}
	case off >= plicContext0:
		if i := (off - plicContext0) / plicContextSz; i < uint64(len(p.context)) {
			c := &p.context[i]
			switch off % plicContextSz {
			case 0:
				return uint64(c.threshold), true
			case 4:
				return uint64(p.claim(c)), true
			}
		}
	}
	return 0, true
}

// claim is not affected by the threshold (PLIC specification, chapter 8).
func (p *plic) claim(c *plicContext) uint32 {
	n := p.best(c, 0)
	if n != 0 {
		p.claimed |= 1 << n
		p.update()
	}
	return n
}

func (p *plic) write(off uint64, size int, v64 uint64) bool {
	if size != 4 || off&3 != 0 {
		return true
	}
	v := uint32(v64)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case off >= 4 && off < 4*(MaxIRQ+1):
		p.priority[off/4] = v & plicMaxPriority
	case off >= plicEnable && off < plicContext0:
		i, w := (off-plicEnable)/plicEnableLen, off%plicEnableLen/4
		if i < uint64(len(p.context)) && w < 2 {
			e := &p.context[i].enable
			*e = (*e&^(0xffff_ffff<<(32*w)) | uint64(v)<<(32*w)) & plicSources
		}
	case off >= plicContext0:
		i := (off - plicContext0) / plicContextSz
		if i >= uint64(len(p.context)) {
			return true
		}
		c := &p.context[i]
		switch off % plicContextSz {
		case 0:
			c.threshold = v & plicMaxPriority
		case 4:
			// A completion of a source that the context has not enabled is
			// ignored (PLIC specification, chapter 9).
			if v >= MinIRQ && v <= MaxIRQ && c.enable>>v&1 != 0 {
				p.claimed &^= 1 << v
			}
		}
	}
	p.update()
	return true
}

package conform

import "fmt"

// ProgramBase is where user programs are linked and run, on every machine:
// results may contain addresses.
const ProgramBase = 0x80400000

// A group is one instruction, or a short sequence, that is run once for each
// tuple of operands. Its body finds the tuple at (s0) and puts results at
// (s1); it may use every register but s0, s1 and s2.
type group struct {
	name   string
	width  int      // words in a tuple
	out    int      // words of results per tuple
	tuples []uint64 // width words each
	body   func(a *assembler)
}

func (g *group) count() int { return len(g.tuples) / g.width }

// Program is a user-mode program: it writes its results to file descriptor 1
// by the Linux system call and exits with status 0 by another.
type Program struct {
	Name  string
	Image []byte // to be loaded at ProgramBase, which is the entry point, too
	BSS   uint64 // bytes of zeros behind it
	// Result lies in the image or behind it.
	Result, ResultSize uint64
	parts              []part
}

// part names a range of the results.
type part struct {
	name   string
	offset uint64
	size   uint64
	stride uint64 // bytes of one tuple's results
	tuples []uint64
	width  int
}

// ELF is the program as a static Linux executable.
func (p *Program) ELF() []byte {
	return elfImage(ProgramBase, ProgramBase, p.Image, p.BSS)
}

// groupProgram links groups into one program.
func groupProgram(name string, groups []group) (*Program, error) {
	p := &Program{Name: name}
	a := newAssembler(ProgramBase)
	results := a.newLabel()
	// Tables that several groups share are linked once.
	tables := map[*uint64]label{}
	for i := range groups {
		g := &groups[i]
		table, ok := tables[&g.tuples[0]]
		if !ok {
			table = a.newLabel()
			tables[&g.tuples[0]] = table
		}
		size := uint64(g.count() * g.out * 8)
		p.parts = append(p.parts, part{g.name, p.ResultSize, size, uint64(g.out * 8), g.tuples, g.width})
		a.la(s0, table)
		a.la(s1, results)
		a.li(t0, p.ResultSize)
		a.i(add(s1, s1, t0))
		a.li(s2, uint64(g.count()))
		p.ResultSize += size
		loop := a.here()
		g.body(a)
		a.i(addi(s0, s0, int32(g.width*8)), addi(s1, s1, int32(g.out*8)), addi(s2, s2, -1))
		done := a.newLabel()
		a.beqz(s2, done) // the way back may be too long for a branch
		a.j(loop)
		a.bind(done)
	}
	p.exit(a, results)
	a.align(8)
	for i := range groups {
		if l := tables[&groups[i].tuples[0]]; a.labels[l] < 0 {
			a.bind(l)
			a.data(groups[i].tuples...)
		}
	}
	return p, p.link(a, results)
}

// exit emits the end of the program, which writes ResultSize bytes at label
// results.
func (p *Program) exit(a *assembler, results label) {
	a.la(a1, results)
	a.li(a2, p.ResultSize)
	loop, exit := a.here(), a.newLabel()
	a.i(addi(a0, zero, 1), addi(a7, zero, 64), ecall) // write
	a.branch(5, zero, a0, exit)
	a.i(add(a1, a1, a0), sub(a2, a2, a0))
	a.bnez(a2, loop)
	a.bind(exit)
	a.i(mv(a0, a2), addi(a7, zero, 93), ecall) // exit
}

// link binds the results behind all else.
func (p *Program) link(a *assembler, results label) error {
	a.align(4096)
	a.bind(results)
	image, err := a.finish()
	if err != nil {
		return fmt.Errorf("link %s: %w", p.Name, err)
	}
	p.Image, p.BSS, p.Result = image, p.ResultSize, a.address(results)
	return nil
}

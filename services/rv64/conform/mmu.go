package conform

// Bits of sstatus.
const (
	statusSPP = 1 << 8
	statusFS  = 1 << 13
	statusSUM = 1 << 18
	statusMXR = 1 << 19
)

// An mmuCase is one access in one mode by one of the stubs.
type mmuCase struct {
	name   string
	status uint64 // SPP, SUM and MXR
	stub   stub
	va     uint64 // in a0
	pteAt  uint64 // guest-physical address of an entry that is set before, or 0
	pte    uint64
	satp   uint64
	// lostTable tells that the walk meets a table outside of memory.
	lostTable bool
	// fence is the address that is fenced after pte was set; 0 stands for all.
	fence uint64
}

// A stub is a place in the stub page: one access and then EBREAK.
type stub int

const (
	stubLoad stub = iota
	stubStore
	stubFetch
	stubLoadByte
	stubStoreByte
	stubLR
	stubSC
	stubAMO
	stubLRW
	stubAMOW
	stubLoadFloat
	stubStoreFloat
	stubCall
	stubs
)

var stubCode = [stubs][2]uint32{
	stubLoad:       {ld(a2, a0, 0), ebreak},
	stubStore:      {sd(a1, a0, 0), ebreak},
	stubFetch:      {jalr(zero, a0, 0), ebreak},
	stubLoadByte:   {lbu(a2, a0, 0), ebreak},
	stubStoreByte:  {sb(a1, a0, 0), ebreak},
	stubLR:         {amo(amoLR, 3, 0, a2, a0, 0), ebreak},
	stubSC:         {amo(amoSC, 3, 0, a2, a0, a1), ebreak},
	stubAMO:        {amo(0, 3, 0, a2, a0, a1), ebreak},
	stubLRW:        {amo(amoLR, 2, 0, a2, a0, 0), ebreak},
	stubAMOW:       {amo(0, 2, 0, a2, a0, a1), ebreak},
	stubLoadFloat:  {fld(1, a0, 0), ebreak},
	stubStoreFloat: {fsd(1, a0, 0), ebreak},
	stubCall:       {ecall, ebreak},
}

// Addresses of the tests' mappings.
const (
	stubPage  = payloadPages          // physical, and virtual for S mode
	dataPage  = payloadPages + 0x1000 // EBREAK at its start, then data
	dataPage2 = payloadPages + 0x2000
	userStubs = 0x30000000 // virtual, for U mode
	matrixVA  = 0x40000000 // 256 pages, one for each set of flags
)

const kernelFlags = leafFlags | pteR | pteW | pteX | pteG

// kernelTables map the payload itself, by 2-MiB pages, and the stubs for U
// mode.
func kernelTables(t *pageTables) {
	for pa := uint64(SupervisorBase); pa < payloadEnd; pa += 2 << 20 {
		t.mapPage(pa, pa, 1, kernelFlags)
	}
	t.mapPage(userStubs, stubPage, 0, leafFlags|pteR|pteX|pteU)
}

// mmuPayload runs the cases.
func mmuPayload(name string, cases []mmuCase, tables ...Segment) (*Payload, error) {
	size := uint64(len(cases) * mmuResultWords * 8)
	a := newPayload()
	table, trap, next := a.newLabel(), a.newLabel(), a.newLabel()
	a.la(t0, trap)
	a.i(csrw(csrStvec, t0))
	a.la(s0, table)
	a.li(s1, payloadResult)
	a.li(s2, uint64(len(cases)))

	loop := a.here()
	a.i(ld(t0, s0, 24), ld(t1, s0, 32)) // pteAt, pte
	skip := a.newLabel()
	a.beqz(t0, skip)
	a.i(sd(t1, t0, 0))
	a.bind(skip)
	all, fenced := a.newLabel(), a.newLabel()
	a.i(ld(a0, s0, 16), ld(t0, s0, 40), ld(t1, s0, 48), csrw(csrSatp, t0), fenceI)
	a.beqz(t1, all)
	a.i(sfenceVMA | t1<<15)
	a.j(fenced)
	a.bind(all)
	a.i(sfenceVMA)
	a.bind(fenced)
	a.li(t0, statusSPP|statusSUM|statusMXR)
	a.i(csrc(csrSstatus, t0))
	a.i(ld(t0, s0, 0), csrs(csrSstatus, t0))
	a.li(t0, statusFS)
	a.i(csrs(csrSstatus, t0))
	a.i(ld(t0, s0, 8), csrw(csrSepc, t0))
	a.li(a1, 0x1122334455667788)
	a.i(mv(a2, zero), sret)

	a.align(4)
	a.bind(trap)
	a.i(csrr(t0, csrScause), sd(t0, s1, 0))
	a.i(csrr(t0, csrSepc), sd(t0, s1, 8))
	a.i(csrr(t0, csrStval), sd(t0, s1, 16))
	a.i(sd(a2, s1, 24))
	a.i(ld(t0, s0, 24))
	a.beqz(t0, next)
	a.i(ld(t0, t0, 0))
	a.bind(next)
	a.i(sd(t0, s1, 32))
	a.i(addi(s0, s0, 56), addi(s1, s1, 8*mmuResultWords), addi(s2, s2, -1))
	done := a.newLabel()
	a.beqz(s2, done)
	a.j(loop)
	a.bind(done)
	shutDown(a)

	a.align(8)
	a.bind(table)
	for _, c := range cases {
		entry := uint64(stubPage)
		if c.status&statusSPP == 0 && c.satp != 0 {
			entry = userStubs
		}
		a.data(c.status, entry+uint64(c.stub)*8, c.va, c.pteAt, c.pte, c.satp, c.fence)
	}

	page := newAssembler(stubPage)
	for _, code := range stubCode {
		page.i(code[:]...)
	}
	page.align(pageSize)
	for range 2 { // dataPage and dataPage2
		page.i(ebreak)
		page.align(8)
		for i := range uint64(pageSize/8 - 1) {
			page.data(0x0101010101010101 * (i & 127))
		}
	}
	pages, err := page.finish()
	if err != nil {
		return nil, err
	}
	return finishPayload(name, a, size, append(tables, Segment{stubPage, pages})...)
}

var modes = []struct {
	name   string
	status uint64
}{
	{"U", 0}, {"S", statusSPP},
	{"U SUM", statusSUM}, {"S SUM", statusSPP | statusSUM},
	{"U MXR", statusMXR}, {"S MXR", statusSPP | statusMXR},
	{"U SUM MXR", statusSUM | statusMXR}, {"S SUM MXR", statusSPP | statusSUM | statusMXR},
}

// permissionMatrix is every set of a leaf's flags under every mode and kind of
// access. The entries' bits for software are set, and must stay.
func permissionMatrix() (*Payload, []mmuCase, error) {
	t := newPageTables(payloadTables)
	kernelTables(t)
	for i := range uint64(256) {
		t.entry(matrixVA+i*pageSize, 0)
	}
	var cases []mmuCase
	for _, mode := range modes {
		for s, name := range []string{"load", "store", "fetch"} {
			for flags := range uint64(256) {
				va := matrixVA + flags*pageSize
				c := mmuCase{
					name: mode.name + " " + name, status: mode.status, stub: stub(s), va: va,
					pteAt: t.entry(va, 0), pte: dataPage>>12<<10 | 3<<8 | flags, satp: t.satp(),
				}
				if len(cases) > 0 { // the first switches translation on
					c.fence = va
				}
				if stub(s) != stubFetch {
					c.va += 64
				}
				cases = append(cases, c)
			}
		}
	}
	p, err := mmuPayload("permissions", cases, Segment{t.base, t.mem})
	return p, cases, err
}

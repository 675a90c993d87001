package conform

import "fmt"

// translationCases are the walks and accesses that the permission matrix does
// not see: superpages, reserved entries, addresses that do not exist, and
// accesses that cross pages.
func translationCases() (*Payload, []mmuCase, error) {
	sv39 := newPageTables(payloadTables)
	sv48 := newSv48Tables(payloadTables + 0x100000)
	var cases []mmuCase
	for _, t := range []*pageTables{sv39, sv48} {
		kernelTables(t)
		cases = append(cases, walkCases(t)...)
	}
	cases = append(cases, bareCases()...)
	p, err := mmuPayload("translation", cases, Segment{sv39.base, sv39.mem}, Segment{sv48.base, sv48.mem})
	return p, cases, err
}

const (
	supervisorRWX = leafFlags | pteR | pteW | pteX
	userRWX       = supervisorRWX | pteU
	nowhere       = 0x3f_0000_0000 // guest-physical: no memory and no device
)

func walkCases(t *pageTables) []mmuCase {
	var cases []mmuCase
	mode := map[uint64]string{satpSv39: "Sv39", satpSv48: "Sv48"}[t.mode]
	// each adds a load, a store and a fetch by S at va.
	each := func(name string, va uint64) {
		for s, access := range []string{"load", "store", "fetch"} {
			c := mmuCase{name: fmt.Sprintf("%s %s %s", mode, name, access), status: statusSPP, stub: stub(s), va: va, satp: t.satp()}
			if stub(s) != stubFetch {
				c.va += 64
			}
			cases = append(cases, c)
		}
	}
	// entry does the same for a page whose entry is pte at first.
	const entryVA = 0x5000_0000
	entry := func(name string, pte uint64) {
		n := len(cases)
		each(name, entryVA)
		for i := range cases[n:] {
			cases[n+i].pteAt, cases[n+i].pte = t.entry(entryVA, 0), pte
		}
	}
	leaf := uint64(dataPage>>12<<10 | supervisorRWX)

	// Superpages, at their start and aligned or not.
	const inPage = dataPage - payloadPages
	t.mapPage(0x6000_0000, payloadPages, 1, supervisorRWX)
	each("2 MiB page", 0x6000_0000+inPage)
	t.mapPage(0x6020_0000, payloadPages+0x1000, 1, supervisorRWX)
	each("misaligned 2 MiB page", 0x6020_0000)
	t.mapPage(0x6040_0000, payloadPages, 1, leafFlags&^pteA&^pteD|pteR|pteW|pteX)
	each("2 MiB page not accessed", 0x6040_0000+inPage)
	t.mapPage(0x1_0000_0000, memoryBase, 2, supervisorRWX)
	each("1 GiB page", 0x1_0000_0000+dataPage-memoryBase)
	t.mapPage(0x1_4000_0000, memoryBase+2<<20, 2, supervisorRWX)
	each("misaligned 1 GiB page", 0x1_4000_0000+dataPage-memoryBase)
	t.mapPage(0x1_8000_0000, memoryBase+pageSize, 2, supervisorRWX)
	each("more misaligned 1 GiB page", 0x1_8000_0000+dataPage-memoryBase)
	if t.mode == satpSv48 {
		t.mapPage(0x80_0000_0000, 0, 3, supervisorRWX)
		each("512 GiB page", 0x80_0000_0000+dataPage)
		t.mapPage(0x100_0000_0000, memoryBase, 3, supervisorRWX)
		each("misaligned 512 GiB page", 0x100_0000_0000)
		t.mapPage(0xffff_8000_0000_0000, dataPage, 0, supervisorRWX)
		each("upper half", 0xffff_8000_0000_0000)
		each("not canonical", 0x0000_8000_0000_0000)
		each("not canonical, mapped if cut", 0x8000_5000_0000)
	} else {
		t.mapPage(0xffff_ffc0_0000_0000, dataPage, 0, supervisorRWX)
		each("upper half", 0xffff_ffc0_0000_0000)
		each("not canonical", 0x40_0000_0000)
		each("not canonical, mapped if cut", 0x80_5000_0000)
	}
	each("top of the address space", 0xffff_ffff_ffff_f000)
	each("sign bit alone", 1<<63|entryVA)

	// Pointers to the next table.
	for i, flags := range []uint64{0, pteG, pteA, pteD, pteU, 3 << 8, 1 << 54, 1 << 60, 1 << 61, 1 << 62, 1 << 63} {
		va := 0x7000_0000 + uint64(i)<<21
		t.mapPage(va, dataPage, 0, supervisorRWX)
		at := t.entry(va, 1)
		t.put(at, t.get(at)|flags)
		each(fmt.Sprintf("pointer with %#x", flags), va)
	}
	t.put(t.entry(0x7200_0000, 1), nowhere>>12<<10|pteV)
	n := len(cases)
	each("table outside of memory", 0x7200_0000)
	for i := range cases[n:] {
		cases[n+i].lostTable = true
	}
	t.put(t.entry(0x7220_0000, 1), 0)
	each("no table", 0x7220_0000)

	// Leaves.
	entry("pointer at the last level", dataPage>>12<<10|pteV)
	for bit := 54; bit < 64; bit++ {
		entry(fmt.Sprintf("leaf with bit %d", bit), leaf|1<<bit)
	}
	entry("page outside of memory", nowhere>>12<<10|supervisorRWX)
	entry("page outside of memory, not accessed", nowhere>>12<<10|pteV|pteR|pteW|pteX)
	entry("page at the highest address", (1<<44-1)<<10|supervisorRWX)

	// Atomics and floating point: which kind of fault they cause.
	for _, c := range []struct {
		name string
		stub stub
	}{{"lr.d", stubLR}, {"lr.w", stubLRW}, {"amoadd.d", stubAMO}, {"amoadd.w", stubAMOW}, {"fld", stubLoadFloat}, {"fsd", stubStoreFloat}} {
		for _, p := range []struct {
			name  string
			flags uint64
		}{
			{"invalid", 0}, {"read-only", leafFlags | pteR}, {"execute-only", leafFlags | pteX},
			{"clean", leafFlags&^pteD | pteR | pteW}, {"not accessed", leafFlags&^pteA&^pteD | pteR | pteW},
			{"writable", leafFlags | pteR | pteW}, {"user's", userRWX},
		} {
			cases = append(cases, supervisorCase(t, fmt.Sprintf("%s %s of %s page", mode, c.name, p.name), c.stub,
				entryVA+128, t.entry(entryVA, 0), dataPage>>12<<10|p.flags))
		}
		if c.stub != stubLoadFloat && c.stub != stubStoreFloat {
			cases = append(cases, supervisorCase(t, fmt.Sprintf("%s misaligned %s", mode, c.name), c.stub,
				entryVA+129, t.entry(entryVA, 0), leaf))
		}
	}

	// Across two pages, of which either may be missing. The second page of
	// memory is not the one behind the first.
	const two = 0x5100_0000
	t.mapPage(two, dataPage2, 0, supervisorRWX)
	for _, p := range []struct {
		name string
		pte  uint64
		lost bool
	}{
		{"valid", leaf, false}, {"invalid", 0, false}, {"read-only", dataPage>>12<<10 | leafFlags | pteR, false},
		{"clean", leaf &^ pteD, false}, {"user's", leaf | pteU, false},
		{"outside of memory", nowhere>>12<<10 | supervisorRWX, true},
	} {
		for _, c := range []struct {
			name string
			stub stub
			off  uint64
		}{
			{"load", stubLoad, 0xffc}, {"load of a byte", stubLoadByte, 0xfff}, {"load", stubLoad, 0xff9},
			{"fld", stubLoadFloat, 0xffb}, {"fetch", stubFetch, 0xffe},
			{"store", stubStore, 0xffc}, {"store", stubStore, 0xfff}, {"fsd", stubStoreFloat, 0xffd},
		} {
			if p.lost && (c.stub == stubStore || c.stub == stubStoreFloat) {
				continue // QEMU writes the part that it can, which is allowed
			}
			cases = append(cases, supervisorCase(t, fmt.Sprintf("%s %s at %#x before a page that is %s", mode, c.name, c.off, p.name),
				c.stub, two+c.off, t.entry(two+pageSize, 0), p.pte))
			cases = append(cases, supervisorCase(t, fmt.Sprintf("%s what %s at %#x before a page that is %s left", mode, c.name, c.off, p.name),
				stubLoad, two+c.off&^7, 0, 0))
		}
		// The first page is the one in question, the second is valid.
		t.mapPage(two+2*pageSize, dataPage2, 0, supervisorRWX)
		for _, c := range []struct {
			name string
			stub stub
			off  uint64
		}{{"load", stubLoad, 0x1ffd}, {"store", stubStore, 0x1ffe}, {"fetch", stubFetch, 0x1ffe}} {
			if p.lost && c.stub == stubLoad {
				continue // QEMU's stval is not the access's address
			}
			cases = append(cases, supervisorCase(t, fmt.Sprintf("%s %s at %#x on a page that is %s", mode, c.name, c.off, p.name),
				c.stub, two+c.off, t.entry(two+pageSize, 0), p.pte))
		}
	}

	user := func(name string, s stub, va uint64) mmuCase {
		return mmuCase{name: mode + " " + name, stub: s, va: va, satp: t.satp()}
	}
	return append(cases,
		supervisorCase(t, mode+" fetch with bit 0 of the address", stubFetch, entryVA+1, t.entry(entryVA, 0), leaf),
		user("call from U", stubCall, 0),
		user("U loads what is S's", stubLoad, stubPage),
		user("U fetches what is S's", stubFetch, stubPage),
		// Misaligned in page 0, where empty entries of a cache may seem to match.
		user("U loads from address 1", stubLoad, 1),
		user("U stores to address 1", stubStore, 1),
	)
}

// supervisorCase is an access by S under t.
func supervisorCase(t *pageTables, name string, s stub, va, pteAt, pte uint64) mmuCase {
	return mmuCase{name: name, status: statusSPP, stub: s, va: va, pteAt: pteAt, pte: pte, satp: t.satp()}
}

// bareCases are accesses without translation.
func bareCases() []mmuCase {
	var cases []mmuCase
	for _, mode := range modes[:2] {
		for _, c := range []struct {
			name string
			va   uint64
		}{{"memory", dataPage}, {"nothing", nowhere}, {"the highest address", ^uint64(7)}, {"bit 56", 1<<56 | dataPage}} {
			for s, access := range []string{"load", "store", "fetch"} {
				va := c.va
				if stub(s) != stubFetch && c.va == dataPage {
					va += 64
				}
				cases = append(cases, mmuCase{name: fmt.Sprintf("bare %s %s of %s", mode.name, access, c.name), status: mode.status, stub: stub(s), va: va})
			}
		}
	}
	// Not the load: QEMU's stval is not the access's address.
	cases = append(cases, mmuCase{name: "bare U store to address 1", stub: stubStore, va: 1})
	return append(cases, mmuCase{name: "bare call from U", stub: stubCall})
}

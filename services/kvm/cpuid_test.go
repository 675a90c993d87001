//go:build linux && amd64

package kvm

import (
	"slices"
	"strings"
	"testing"
)

// amd and intel are small CPUs: vendor, features, extended state.
func amd() []cpuidEntry {
	return []cpuidEntry{
		{function: 0, regs: [4]uint32{0xd, 0x6874_7541, 0x444d_4163, 0x6974_6e65}},
		{function: 1, regs: [4]uint32{0xa20f12, 0xff_08_0800, 0x7ed8_320b, 0x178b_fbff}},
		{function: 7, flags: cpuidIndexed, regs: [4]uint32{1, 0xd09f_97a9, 8, 0}},
		{function: 0xb, flags: cpuidIndexed, regs: [4]uint32{1, 2, 3, 4}},
		{function: 0xd, flags: cpuidIndexed, regs: [4]uint32{0xe7, 0x980, 0x980, 0}},
		{function: 0xd, index: 1, flags: cpuidIndexed, regs: [4]uint32{0xf, 0, 0x1800, 0}},
		{function: 0xd, index: 2, flags: cpuidIndexed, regs: [4]uint32{0x100, 0x240, 0, 0}},
		{function: 0xd, index: 5, flags: cpuidIndexed, regs: [4]uint32{0x40, 0x340, 0, 0}},
		{function: 0xd, index: 6, flags: cpuidIndexed, regs: [4]uint32{0x200, 0x380, 0, 0}},
		{function: 0xd, index: 7, flags: cpuidIndexed, regs: [4]uint32{0x400, 0x580, 0, 0}},
		{function: 0x8000_0001, regs: [4]uint32{0, 0, 0x75c2_37ff, 0x2fd3_fbff}},
		{function: 0x8000_0008, regs: [4]uint32{0x3030, 0, 0x7001, 0}},
		{function: 0x8000_001d, index: 0, flags: cpuidIndexed, regs: [4]uint32{0x4121, 0x1c0_003f, 0x3f, 0}},
		{function: 0x8000_001d, index: 3, flags: cpuidIndexed, regs: [4]uint32{0x3c163, 0x3c0_003f, 0x7fff, 0}},
		{function: 0x8000_001e, regs: [4]uint32{0xff, 0x1ff, 0x300, 0}},
	}
}

func TestParseFeature(t *testing.T) {
	for name, want := range map[string]string{
		"avx512f":          "avx512f",
		"rdrand":           "rdrand",
		"0x1:ecx:30":       "rdrand",
		"7:ebx:16":         "avx512f",
		"0x7.1:eax:5":      "avx512_bf16",
		"0x7.1:eax:6":      "lass",
		"0x80000001:ecx:2": "svm",
		"0x7:edx:0":        "0x7:edx:0",
		"0x7.1:ebx:3":      "0x7.1:ebx:3",
	} {
		f, err := parseFeature(name)
		if err != nil || f.String() != want {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	for _, name := range []string{"", "-", "nonsense", "0x7:ebx", "0x7:ebx:32", "0x7:xbx:1", "0x7:ebx:-1", "0x4:eax:1", "0x7.x:ebx:1", "0x7:ebx:1:2"} {
		if f, err := parseFeature(name); err == nil {
			t.Errorf("%q is %v", name, f)
		}
	}
	// Every name names the bit that it is read from.
	for name, f := range byName {
		if f.String() != name {
			t.Errorf("%s is written as %s: two bits have that name", name, f)
		}
	}
	for r, names := range featureNames {
		if n := len(strings.Fields(names)); n > 32 {
			t.Errorf("%v: %d names", r, n)
		}
		if !slices.Contains(featureRegisters, r) {
			t.Errorf("%v has names but is not compared", r)
		}
	}
}

// TestFeatureBits pins some bits to the manuals, so that a name left out of a
// list is noticed.
func TestFeatureBits(t *testing.T) {
	for name, want := range map[string]string{
		"x2apic": "0x1:ecx:21", "tsc_deadline_timer": "0x1:ecx:24", "hypervisor": "0x1:ecx:31", "vmx": "0x1:ecx:5", "pcid": "0x1:ecx:17",
		"fxsr": "0x1:edx:24", "pbe": "0x1:edx:31", "acpi": "0x1:edx:22",
		"rdseed": "0x7:ebx:18", "intel_pt": "0x7:ebx:25", "avx512vl": "0x7:ebx:31", "sgx": "0x7:ebx:2",
		"la57": "0x7:ecx:16", "pks": "0x7:ecx:31", "shstk": "0x7:ecx:7", "waitpkg": "0x7:ecx:5", "rdpid": "0x7:ecx:22",
		"ibt": "0x7:edx:20", "amx_tile": "0x7:edx:24", "spec_ctrl": "0x7:edx:26", "spec_ctrl_ssbd": "0x7:edx:31", "uintr": "0x7:edx:5",
		"fred": "0x7.1:eax:17", "lam": "0x7.1:eax:26", "avx10": "0x7.1:edx:19", "xfd": "0xd.1:eax:4",
		"svm": "0x80000001:ecx:2", "mwaitx": "0x80000001:ecx:29", "topoext": "0x80000001:ecx:22", "perfctr_core": "0x80000001:ecx:23",
		"nx": "0x80000001:edx:20", "lm": "0x80000001:edx:29", "rdtscp": "0x80000001:edx:27", "constant_tsc": "0x80000007:edx:8",
		"amd_ibpb": "0x80000008:ebx:12", "virt_ssbd": "0x80000008:ebx:25", "brs": "0x80000008:ebx:31",
		"kvmclock_stable": "0x40000001:eax:24", "migration_control": "0x40000001:eax:17",
	} {
		f, err := parseFeature(want)
		if got := byName[name]; err != nil || got != f {
			t.Errorf("%s is %+v, not %s (%v)", name, got, want, err)
		}
	}
}

func TestLacks(t *testing.T) {
	for name, c := range map[string]struct {
		host func([]cpuidEntry) []cpuidEntry
		want []string
	}{
		"same":            {func(e []cpuidEntry) []cpuidEntry { return e }, nil},
		"more":            {func(e []cpuidEntry) []cpuidEntry { leaf(e, 7, 0).regs[edx] = ^uint32(0); return e }, nil},
		"without one":     {func(e []cpuidEntry) []cpuidEntry { byName["avx2"].clear(e); return e }, []string{"avx2"}},
		"without two":     {func(e []cpuidEntry) []cpuidEntry { byName["avx2"].clear(e); byName["sse4_2"].clear(e); return e }, []string{"sse4_2", "avx2"}},
		"other vendor":    {func(e []cpuidEntry) []cpuidEntry { leaf(e, 0, 0).regs[ecx]++; return e }, []string{"CPU of the same vendor"}},
		"narrower":        {func(e []cpuidEntry) []cpuidEntry { leaf(e, 0x8000_0008, 0).regs[eax] = 0x3028; return e }, []string{"48-bit physical addresses"}},
		"other placement": {func(e []cpuidEntry) []cpuidEntry { leaf(e, 0xd, 6).regs[ebx] += 64; return e }, []string{"same place of extended state component 6"}},
		"no leaves":       {func([]cpuidEntry) []cpuidEntry { return nil }, []string{"CPU of the same vendor"}},
	} {
		if got := lacks(amd(), c.host(amd())); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v instead of %v", name, got, c.want)
		}
	}
}

func TestTrimXSave(t *testing.T) {
	e := amd()
	trimXSave(e)
	if d := leaf(e, 0xd, 0); d.regs != [4]uint32{0xe7, 0x980, 0x980, 0} {
		t.Errorf("all: %x", d.regs)
	}
	byName["avx512f"].clear(e)
	trimXSave(e)
	if d := leaf(e, 0xd, 0); d.regs != [4]uint32{7, 0x340, 0x340, 0} {
		t.Errorf("without AVX-512: %x", d.regs)
	}
	if leaf(e, 0xd, 6).regs != [4]uint32{} || leaf(e, 0xd, 1).regs[ecx] != 0 {
		t.Error("components left that are not enabled")
	}
	byName["avx"].clear(e)
	trimXSave(e)
	if d := leaf(e, 0xd, 0); d.regs[eax] != 3 {
		t.Errorf("without AVX: %x", d.regs)
	}
}

func TestTopology(t *testing.T) {
	for _, cpus := range []int{1, 2, 3, 8} {
		shift := map[int]uint32{1: 0, 2: 1, 3: 2, 8: 3}[cpus]
		for id := range cpus {
			e := forCPU(amd(), id, cpus)
			if r := leaf(e, 1, 0).regs; r[ebx]>>24 != uint32(id) || r[ebx]>>16&0xff != 1<<shift || r[edx]>>28&1 == 1 != (cpus > 1) {
				t.Errorf("%d of %d: leaf 1 %x", id, cpus, r)
			}
			if r := leaf(e, 0xb, 1).regs; r != [4]uint32{shift, uint32(cpus), 0x201, uint32(id)} {
				t.Errorf("%d of %d: leaf 0xb.1 %x", id, cpus, r)
			}
			if r := leaf(e, 0x8000_001e, 0).regs; r != [4]uint32{uint32(id), uint32(id), 0, 0} {
				t.Errorf("%d of %d: leaf 0x8000001e %x", id, cpus, r)
			}
			if r := leaf(e, 0x8000_0008, 0).regs; r[ecx] != shift<<12|uint32(cpus-1) {
				t.Errorf("%d of %d: leaf 0x80000008 %x", id, cpus, r)
			}
			if l1, l3 := leaf(e, 0x8000_001d, 0).regs[eax]>>14&0xfff, leaf(e, 0x8000_001d, 3).regs[eax]>>14&0xfff; l1 != 0 || l3 != 1<<shift-1 {
				t.Errorf("%d of %d: caches shared by %d and %d more", id, cpus, l1, l3)
			}
		}
	}
}

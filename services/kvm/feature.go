//go:build linux && amd64

package kvm

import (
	"fmt"
	"strconv"
	"strings"
)

// featureRegister is a CPUID register whose bits are features.
type featureRegister struct {
	function, index uint32
	reg             int
}

// feature is a bit of a featureRegister.
type feature struct {
	featureRegister
	bit int
}

// featureRegisters are those that tell guests what they may use. lacks compares
// them bit by bit.
var featureRegisters = []featureRegister{
	{1, 0, ecx}, {1, 0, edx},
	{6, 0, eax},
	{7, 0, ebx}, {7, 0, ecx}, {7, 0, edx}, {7, 1, eax}, {7, 1, ebx}, {7, 1, edx}, {7, 2, edx},
	{0xd, 0, eax}, {0xd, 1, eax},
	{0x8000_0001, 0, ecx}, {0x8000_0001, 0, edx},
	{0x8000_0007, 0, edx},
	{0x8000_0008, 0, ebx},
	{0x8000_001a, 0, eax},
	{0x8000_0021, 0, eax},
	{leafKVMFeatures, 0, eax},
}

// featureNames are Linux's names (arch/x86/include/asm/cpufeatures.h), by bit;
// "" has none.
var featureNames = map[featureRegister]string{
	{1, 0, ecx}: "pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm " +
		"- pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c rdrand hypervisor",
	{1, 0, edx}: "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov " +
		"pat pse36 pn clflush - dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe",
	{6, 0, eax}: "dtherm ida arat - pln - pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req - - - - - - - hfi",
	{7, 0, ebx}: "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm zero_fcs_fds mpx rdt_a " +
		"avx512f avx512dq rdseed adx smap avx512ifma - clflushopt clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl",
	{7, 0, ecx}: "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni avx512_bitalg tme avx512_vpopcntdq - " +
		"la57 - - - - - rdpid - bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks",
	{7, 0, edx}: "- - avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl md_clear rtm_always_abort - tsx_force_abort serialize hybrid_cpu " +
		"tsxldtrk - pconfig arch_lbr ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl intel_stibp flush_l1d arch_capabilities core_capabilities spec_ctrl_ssbd",
	{7, 1, eax}:   "sha512 sm3 sm4 - avx_vnni avx512_bf16 lass cmpccxadd - - fzrm fsrs fsrc - - - - fred lkgs wrmsrns - amx_fp16 - avx_ifma - - lam",
	{7, 1, edx}:   "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchi - - - cet_sss avx10",
	{0xd, 1, eax}: "xsaveopt xsavec xgetbv1 xsaves xfd",
	{0x8000_0001, 0, ecx}: "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs xop skinit wdt - lwp " +
		"fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext ptsc perfctr_llc mwaitx",
	{0x8000_0001, 0, edx}:     "- - - - - - - - - - - syscall - - - - - - - mp nx - mmxext - - fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow",
	{0x8000_0007, 0, edx}:     "- - - - - - - hw_pstate constant_tsc cpb",
	{0x8000_0008, 0, ebx}:     "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - amd_ibpb - amd_ibrs amd_stibp - stibp_always_on - - - - - amd_ppin amd_ssbd virt_ssbd amd_ssb_no cppc amd_psfd btc_no ibpb_ret brs",
	{leafKVMFeatures, 0, eax}: "kvmclock_old nop_io_delay mmu_op kvmclock async_pf steal_time pv_eoi pv_unhalt - pv_tlb_flush async_pf_vmexit pv_send_ipi poll_control pv_sched_yield async_pf_int msi_ext_dest_id hc_map_gpa migration_control - - - - - - kvmclock_stable",
}

// hidden are features that no guest sees: entropy that differs between copies,
// a time stamp counter that pretends never to be moved to another host,
// nested virtualization and other state that is not saved, and what only makes
// sense on hardware.
var hidden = features("rdrand", "rdseed", "constant_tsc",
	"vmx", "svm", "smx", "skinit", "monitor", "mwaitx", "dtes64", "ds_cpl", "dts", "pdcm", "est", "tm", "tm2", "acpi", "xtpr",
	"sgx", "sgx_lc", "mpx", "intel_pt", "cqm", "rdt_a", "pks", "shstk", "ibt", "cet_sss", "waitpkg", "enqcmd", "uintr", "fred", "lkgs",
	"amx_bf16", "amx_tile", "amx_int8", "amx_fp16", "amx_complex", "xfd", "arch_lbr", "la57", "lam", "hybrid_cpu", "pconfig", "bus_lock_detect",
	"ibs", "lwp", "perfctr_core", "perfctr_nb", "perfctr_llc", "bpext", "nodeid_msr", "wdt", "irperf", "rdpru", "amd_ppin", "cppc", "brs",
	"dtherm", "ida", "pln", "pts", "hwp", "hwp_notify", "hwp_act_window", "hwp_epp", "hwp_pkg_req", "hfi", "avx10",
	"osxsave", "ospke")

// byName finds features by Linux's names.
var byName = func() map[string]feature {
	m := map[string]feature{}
	for r, names := range featureNames {
		for bit, name := range strings.Fields(names) {
			if name != "-" {
				m[name] = feature{r, bit}
			}
		}
	}
	return m
}()

func features(names ...string) []feature {
	var l []feature
	for _, name := range names {
		f, err := parseFeature(name)
		if err != nil {
			panic(err) // a mistake in this file
		}
		l = append(l, f)
	}
	return l
}

var registerNames = [...]string{"eax", "ebx", "ecx", "edx"}

// String is the feature's name, or leaf:register:bit.
func (f feature) String() string {
	if names := strings.Fields(featureNames[f.featureRegister]); f.bit < len(names) && names[f.bit] != "-" {
		return names[f.bit]
	}
	s := fmt.Sprintf("%#x", f.function)
	if f.index != 0 {
		s += fmt.Sprintf(".%d", f.index)
	}
	return fmt.Sprintf("%s:%s:%d", s, registerNames[f.reg], f.bit)
}

// parseFeature reads what String writes.
func parseFeature(s string) (feature, error) {
	if f, ok := byName[s]; ok {
		return f, nil
	}
	bad := fmt.Errorf("CPU feature %q is not known: use a name of /proc/cpuinfo's, or leaf:register:bit as in 0x7.1:eax:5", s)
	p := strings.Split(s, ":")
	if len(p) != 3 {
		return feature{}, bad
	}
	function, index, _ := strings.Cut(p[0], ".")
	fn, err1 := strconv.ParseUint(function, 0, 32)
	ix, err2 := strconv.ParseUint("0"+index, 10, 32)
	bit, err3 := strconv.ParseUint(p[2], 10, 5)
	for reg, name := range registerNames {
		r := featureRegister{uint32(fn), uint32(ix), reg}
		if err1 == nil && err2 == nil && err3 == nil && p[1] == name {
			for _, known := range featureRegisters {
				if r == known {
					return feature{r, int(bit)}, nil
				}
			}
		}
	}
	return feature{}, bad
}

func (f feature) clear(entries []cpuidEntry) {
	if e := leaf(entries, f.function, f.index); e != nil {
		e.regs[f.reg] &^= 1 << f.bit
	}
}

// has tells whether a feature of that name is shown.
func has(entries []cpuidEntry, name string) bool {
	f := byName[name]
	e := leaf(entries, f.function, f.index)
	return e != nil && e.regs[f.reg]&(1<<f.bit) != 0
}

// shownFeatures lists the features in a stable order.
func shownFeatures(entries []cpuidEntry) []string {
	var l []string
	for _, r := range featureRegisters {
		e := leaf(entries, r.function, r.index)
		if e == nil {
			continue
		}
		for bit := range 32 {
			if e.regs[r.reg]&(1<<bit) != 0 {
				l = append(l, feature{r, bit}.String())
			}
		}
	}
	return l
}

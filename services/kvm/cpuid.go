//go:build linux && amd64

package kvm

import (
	"fmt"
	"math/bits"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

var (
	ioGetSupportedCPUID = ioRW[[8]byte](0x05)
	ioSetCPUID2         = ioW[[8]byte](0x90)
)

// maxCPUID bounds a list of CPUID leaves; KVM has at most 256.
const maxCPUID = 256

// cpuidEntry is struct kvm_cpuid_entry2.
type cpuidEntry struct {
	function, index, flags uint32
	regs                   [4]uint32 // eax, ebx, ecx, edx
	_                      [3]uint32
}

type cpuidList struct {
	n, _    uint32
	entries [maxCPUID]cpuidEntry
}

const (
	_ = -(unsafe.Sizeof(cpuidEntry{}) ^ 40)
	_ = -(unsafe.Offsetof(cpuidList{}.entries) ^ 8)
)

const (
	eax = iota
	ebx
	ecx
	edx
)

// cpuidIndexed is KVM_CPUID_FLAG_SIGNIFCANT_INDEX.
const cpuidIndexed = 1

func (s *system) supportedCPUID() ([]cpuidEntry, error) {
	list := &cpuidList{n: maxCPUID}
	if _, err := ioctl(s.fd, ioGetSupportedCPUID, unsafe.Pointer(list)); err != nil {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: %w", err)
	}
	return slices.Clone(list.entries[:min(list.n, maxCPUID)]), nil
}

func (c *vcpuFD) setCPUID(entries []cpuidEntry) error {
	list := &cpuidList{n: uint32(len(entries))}
	copy(list.entries[:], entries)
	if _, err := ioctl(c.fd, ioSetCPUID2, unsafe.Pointer(list)); err != nil {
		return fmt.Errorf("KVM_SET_CPUID2: %w", err)
	}
	return nil
}

// leaf finds a leaf; nil if there is none.
func leaf(entries []cpuidEntry, function, index uint32) *cpuidEntry {
	for i := range entries {
		if e := &entries[i]; e.function == function && (e.index == index || e.flags&cpuidIndexed == 0) {
			return e
		}
	}
	return nil
}

// hostCPUID is all that this host can show to a guest whose state can be saved
// and continued on another host. It does not depend on the vCPU.
func (s *system) hostCPUID() ([]cpuidEntry, error) {
	entries, err := s.supportedCPUID()
	if err != nil {
		return nil, err
	}
	// Leaves about what stays hidden: performance counters, cache allocation,
	// SGX, processor trace, AMX, memory encryption, IBS, and topologies that
	// forCPU does not write.
	hide := []uint32{0xa, 0xf, 0x10, 0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f, 0x23, 0x24,
		0x8000_001b, 0x8000_001f, 0x8000_0020, 0x8000_0022, 0x8000_0026}
	entries = slices.DeleteFunc(entries, func(e cpuidEntry) bool {
		return slices.Contains(hide, e.function) || e.function>>28 == 4 && e.function > leafKVMFeatures
	})
	for _, f := range hidden {
		f.clear(entries)
	}
	if e := leaf(entries, 1, 0); e != nil {
		e.regs[ecx] |= 1 << 31 // a hypervisor is present
		if s.has(capTSCDeadline) != 0 {
			e.regs[ecx] |= 1 << 24
		}
	}
	if e := leaf(entries, leafKVMFeatures, 0); e != nil {
		e.regs[eax] &= kvmFeatures
		e.regs[edx] = 0 // hints
	}
	trimXSave(entries)
	return entries, nil
}

// Leaves of KVM's own (Documentation/virt/kvm/x86/cpuid.rst).
const (
	leafKVM         = 0x4000_0000
	leafKVMFeatures = 0x4000_0001

	// kvmFeatures are the paravirtual features that are shown: clock sources,
	// I/O without delays, and a stable clock. The others (asynchronous page
	// faults, steal time, …) make guests differ or need state of their own.
	kvmFeatures = 1<<0 | 1<<1 | 1<<3 | 1<<24
)

// Components of extended state that can be shown: x87, SSE, AVX, AVX-512 (3)
// and protection keys. MPX is gone, AMX needs more than KVM_GET_XSAVE carries,
// supervisor components are hidden.
const (
	xsaveAVX    = 1 << 2
	xsaveAVX512 = 7 << 5
	xsavePKRU   = 1 << 9
	xsaveShown  = 3 | xsaveAVX | xsaveAVX512 | xsavePKRU
)

// trimXSave makes leaf 0xd agree with the features that are shown.
func trimXSave(entries []cpuidEntry) {
	d := leaf(entries, 0xd, 0)
	if d == nil {
		return
	}
	components := d.regs[eax] & xsaveShown
	if !has(entries, "avx") {
		components &^= xsaveAVX
	}
	if !has(entries, "avx") || !has(entries, "avx512f") {
		components &^= xsaveAVX512
	}
	if !has(entries, "pku") {
		components &^= xsavePKRU
	}
	size := uint32(0x240) // legacy area and header
	for i := uint32(2); i < 32; i++ {
		if e := leaf(entries, 0xd, i); e != nil && components&(1<<i) != 0 {
			size = max(size, e.regs[eax]+e.regs[ebx])
		}
	}
	d.regs = [4]uint32{components, size, size, 0}
	if e := leaf(entries, 0xd, 1); e != nil {
		e.regs[ecx], e.regs[edx] = 0, 0
	}
	for i := range entries {
		if e := &entries[i]; e.function == 0xd && e.index > 1 && (e.index > 31 || components&(1<<e.index) == 0) {
			e.regs = [4]uint32{}
		}
	}
}

// forCPU is what one vCPU sees: template with its number, as one of cpus cores
// of one thread each in one socket.
func forCPU(template []cpuidEntry, id, cpus int) []cpuidEntry {
	entries := slices.DeleteFunc(slices.Clone(template), func(e cpuidEntry) bool { return e.function == 0xb })
	shift := uint32(bits.Len(uint(cpus - 1)))
	apic, n := uint32(id), uint32(cpus)
	for i := range entries {
		r := &entries[i].regs
		switch entries[i].function {
		case 1:
			r[ebx] = r[ebx]&0xffff | 1<<shift<<16 | apic<<24
			r[edx] &^= 1 << 28
			if cpus > 1 {
				r[edx] |= 1 << 28 // the count in ebx is valid
			}
		case 4, 0x8000_001d: // caches: the last level is shared by all, the others by none
			if r[eax]&0x1f == 0 {
				continue
			}
			r[eax] &^= 0xfff << 14
			if r[eax]>>5&7 >= 3 {
				r[eax] |= (1<<shift - 1) << 14
			}
			if entries[i].function == 4 {
				r[eax] = r[eax]&(1<<26-1) | (1<<shift-1)<<26
			}
		case 0x8000_0001:
			r[ecx] &^= 1 << 1
			if cpus > 1 && isAMD(entries) {
				r[ecx] |= 1 << 1 // cores, not threads
			}
		case 0x8000_0008:
			if isAMD(entries) {
				r[ecx] = shift<<12 | (n - 1)
			}
		case 0x8000_001e:
			*r = [4]uint32{apic, apic, 0, 0}
		}
	}
	if e := leaf(entries, 0, 0); e != nil && e.regs[eax] >= 0xb {
		entries = append(entries,
			cpuidEntry{function: 0xb, index: 0, flags: cpuidIndexed, regs: [4]uint32{0, 1, 1 << 8, apic}},
			cpuidEntry{function: 0xb, index: 1, flags: cpuidIndexed, regs: [4]uint32{shift, n, 2<<8 | 1, apic}},
			cpuidEntry{function: 0xb, index: 2, flags: cpuidIndexed, regs: [4]uint32{0, 0, 2, apic}})
	}
	return entries
}

// isAMD tells whether the vendor is AMD or Hygon, which describe cores in the
// extended leaves.
func isAMD(entries []cpuidEntry) bool {
	e := leaf(entries, 0, 0)
	return e != nil && (e.regs[ebx] == 0x6874_7541 || e.regs[ebx] == 0x6f67_7948)
}

// template is what the guests of an engine see: the host's leaves without the
// features that baseline names.
func (s *system) template(baseline []string) ([]cpuidEntry, error) {
	entries, err := s.hostCPUID()
	if err != nil {
		return nil, err
	}
	for _, name := range baseline {
		f, err := parseFeature(name)
		if err != nil {
			return nil, err
		}
		f.clear(entries)
	}
	trimXSave(entries)
	if e := leaf(entries, 1, 0); e == nil || leaf(entries, 0, 0) == nil {
		return nil, fmt.Errorf("KVM_GET_SUPPORTED_CPUID: no basic leaves: %w", unix.EINVAL)
	}
	return entries, nil
}

// lacks lists what the leaves shown to a guest have and the host cannot show.
func lacks(shown, host []cpuidEntry) []string {
	var l []string
	sv, hv := leaf(shown, 0, 0), leaf(host, 0, 0)
	if sv == nil || hv == nil || sv.regs[ebx] != hv.regs[ebx] || sv.regs[ecx] != hv.regs[ecx] || sv.regs[edx] != hv.regs[edx] {
		return []string{"CPU of the same vendor"}
	}
	for _, r := range featureRegisters {
		s, h := leaf(shown, r.function, r.index), leaf(host, r.function, r.index)
		if s == nil {
			continue
		}
		missing := s.regs[r.reg]
		if h != nil {
			missing &^= h.regs[r.reg]
		}
		for ; missing != 0; missing &= missing - 1 {
			l = append(l, feature{r, bits.TrailingZeros32(missing)}.String())
		}
	}
	for i := range shown {
		s := &shown[i]
		h := leaf(host, s.function, s.index)
		switch {
		case s.function == 0xd && s.index > 1 && s.regs[eax] != 0 && (h == nil || h.regs[eax] != s.regs[eax] || h.regs[ebx] != s.regs[ebx]):
			l = append(l, fmt.Sprintf("same place of extended state component %d", s.index))
		case s.function == 0x8000_0008 && (h == nil || s.regs[eax]&0xff > h.regs[eax]&0xff):
			l = append(l, fmt.Sprintf("%d-bit physical addresses", s.regs[eax]&0xff))
		case s.function == 0x8000_0008 && s.regs[eax]>>8&0xff > h.regs[eax]>>8&0xff:
			l = append(l, fmt.Sprintf("%d-bit virtual addresses", s.regs[eax]>>8&0xff))
		}
	}
	return l
}

//go:build linux && amd64

package kvm

import (
	"fmt"
	"slices"
	"unsafe"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// apart tells which MSRs the state does not carry with the others: the TSC is
// part of the timebase; writing a wall clock register makes KVM write to the
// guest's memory, and nobody reads its value; Hyper-V's are not shown to guests,
// and some of them are clocks.
func apart(index uint32) bool {
	switch index {
	case msrTSC, msrWallClock, msrWallClockOld:
		return true
	}
	return index >= msrHyperV && index < msrHyperVEnd
}

// save reads a vCPU that is not in KVM_RUN and has no I/O pending.
func (c *vcpuFD) save(sys *system, indexes []uint32) (*pb.KvmVcpu, error) {
	s := &pb.KvmVcpu{}
	// First the multiprocessing state: reading it makes the vCPU accept pending
	// INIT and SIPI, which changes all else.
	mp, err := regMP.read(c)
	if err != nil {
		return nil, err
	}
	s.MpState = mp
	if s.Regs, err = save(c, regRegs); err != nil {
		return nil, err
	}
	if s.Sregs, err = save(c, regSRegs); err != nil {
		return nil, err
	}
	if sys.has(capSRegs2) != 0 {
		if s.Sregs2, err = save(c, regSRegs2); err != nil {
			return nil, err
		}
	}
	if s.Xsave, err = save(c, regXSave); err != nil {
		return nil, err
	}
	if sys.has(capXCRs) != 0 { // not on CPUs without XSAVE
		if s.Xcrs, err = save(c, regXCRs); err != nil {
			return nil, err
		}
	}
	if s.Debugregs, err = save(c, regDebug); err != nil {
		return nil, err
	}
	// The local APIC brings itself up to date when it is read: before events.
	if s.Lapic, err = save(c, regLAPIC); err != nil {
		return nil, err
	}
	values, err := c.msrs(indexes)
	if err != nil {
		return nil, err
	}
	for _, v := range values {
		if !apart(v.index) {
			s.Msrs = append(s.Msrs, &pb.KvmMsr{Index: v.index, Value: v.value})
		}
	}
	if !slices.Contains(indexes, msrTSCDeadline) {
		if v, err := c.msr(msrTSCDeadline); err == nil {
			s.Msrs = append(s.Msrs, &pb.KvmMsr{Index: msrTSCDeadline, Value: v})
		}
	}
	// Events last: reading the others may have turned something pending into
	// an event.
	s.Events, err = save(c, regEvents)
	return s, err
}

func save[T any](c *vcpuFD, r register[T]) ([]byte, error) {
	v, err := r.read(c)
	if err != nil {
		return nil, err
	}
	return toBytes(&v), nil
}

// load writes a checked state. The CPUID leaves are set already, on which most
// of what follows depends.
func (c *vcpuFD) load(sys *system, s *pb.KvmVcpu) error {
	// First the multiprocessing state: it drops INIT and SIPI left from before.
	if err := regMP.write(c, &s.MpState); err != nil {
		return err
	}
	if err := load(c, regRegs, s.Regs); err != nil {
		return err
	}
	// The special registers have the local APIC's base and mode: before it.
	// They load PDPTRs from memory; the second form overrules that with those
	// that were cached.
	if err := load(c, regSRegs, s.Sregs); err != nil {
		return err
	}
	if len(s.Sregs2) > sregs2Flags && s.Sregs2[sregs2Flags]&sregs2PDPTRsValid != 0 && sys.has(capSRegs2) != 0 {
		if err := load(c, regSRegs2, s.Sregs2); err != nil {
			return err
		}
	}
	// XCR0 before the state of the components that it enables.
	if len(s.Xcrs) > 0 && sys.has(capXCRs) != 0 {
		if err := load(c, regXCRs, s.Xcrs); err != nil {
			return err
		}
	}
	if err := load(c, regXSave, s.Xsave); err != nil {
		return err
	}
	if err := load(c, regDebug, s.Debugregs); err != nil {
		return err
	}
	// The local APIC before the MSRs: its timer's mode decides whether the
	// deadline MSR means anything.
	if err := load(c, regLAPIC, s.Lapic); err != nil {
		return err
	}
	values := make([]msr, len(s.Msrs))
	for i, m := range s.Msrs {
		values[i] = msr{index: m.GetIndex(), value: m.GetValue()}
	}
	// The deadline last: arming it takes the state of the others.
	slices.SortStableFunc(values, func(a, b msr) int { return last(a) - last(b) })
	if err := c.setMSRs(values); err != nil {
		return err
	}
	// Events last: what is about to be injected must not be changed by the rest.
	return load(c, regEvents, s.Events)
}

func last(m msr) int {
	if m.index == msrTSCDeadline {
		return 1
	}
	return 0
}

// Of struct kvm_sregs2: its flags say whether the PDPTRs count.
const (
	sregs2Flags       = 280
	sregs2PDPTRsValid = 1
)

func load[T any](c *vcpuFD, r register[T], b []byte) error { return r.write(c, fromBytes[T](b)) }

func checkVCPU(s *pb.KvmVcpu) error {
	for _, f := range []struct {
		name string
		b    []byte
		size uintptr
	}{
		{"regs", s.GetRegs(), unsafe.Sizeof(regs{})},
		{"sregs", s.GetSregs(), unsafe.Sizeof(sregs{})},
		{"sregs2", s.GetSregs2(), unsafe.Sizeof(sregs2{})},
		{"xsave", s.GetXsave(), unsafe.Sizeof(xsave{})},
		{"xcrs", s.GetXcrs(), unsafe.Sizeof(xcrs{})},
		{"debugregs", s.GetDebugregs(), unsafe.Sizeof(debugRegs{})},
		{"lapic", s.GetLapic(), unsafe.Sizeof(lapic{})},
		{"events", s.GetEvents(), unsafe.Sizeof(vcpuEvents{})},
	} {
		if uintptr(len(f.b)) > f.size {
			return fmt.Errorf("%s of %d bytes instead of %d", f.name, len(f.b), f.size)
		}
	}
	switch {
	case s.GetMpState() > mpSIPIReceived:
		return fmt.Errorf("multiprocessing state %d", s.GetMpState())
	case len(s.GetSregs()) == 0 || len(s.GetLapic()) == 0:
		return fmt.Errorf("special registers or local APIC missing")
	case len(s.GetMsrs()) > maxMSRs:
		return fmt.Errorf("%d MSRs", len(s.GetMsrs()))
	}
	return nil
}

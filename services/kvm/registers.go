//go:build linux && amd64

package kvm

import (
	"fmt"
	"unsafe"
)

var (
	ioGetRegs      = ioR[regs](0x81)
	ioSetRegs      = ioW[regs](0x82)
	ioGetSRegs     = ioR[sregs](0x83)
	ioSetSRegs     = ioW[sregs](0x84)
	ioGetSRegs2    = ioR[sregs2](0xcc)
	ioSetSRegs2    = ioW[sregs2](0xcd)
	ioGetLAPIC     = ioR[lapic](0x8e)
	ioSetLAPIC     = ioW[lapic](0x8f)
	ioGetMPState   = ioR[uint32](0x98)
	ioSetMPState   = ioW[uint32](0x99)
	ioGetEvents    = ioR[vcpuEvents](0x9f)
	ioSetEvents    = ioW[vcpuEvents](0xa0)
	ioGetDebugRegs = ioR[debugRegs](0xa1)
	ioSetDebugRegs = ioW[debugRegs](0xa2)
	ioGetXSave     = ioR[xsave](0xa4)
	ioSetXSave     = ioW[xsave](0xa5)
	ioGetXCRs      = ioR[xcrs](0xa6)
	ioSetXCRs      = ioW[xcrs](0xa7)
)

// regs is struct kvm_regs.
type regs struct {
	_, _, rcx, _, rsi, rdi, rsp, _ uint64 // rax to rbp
	_                              [8]uint64
	rip, rflags                    uint64
}

// segment is struct kvm_segment.
type segment struct {
	base                      uint64
	limit                     uint32
	selector                  uint16
	typ, present, _, db, s, l uint8
	g                         uint8
	_                         [3]uint8
}

// dtable is struct kvm_dtable.
type dtable struct {
	base  uint64
	limit uint16
	_     [3]uint16
}

// sregs is struct kvm_sregs.
type sregs struct {
	cs, ds, es, fs, gs, ss, tr, _ segment // the last is LDTR
	gdt, idt                      dtable
	cr0, _, cr3, cr4, _           uint64 // cr0 to cr8
	efer                          uint64
	_                             [5]uint64 // APIC base, pending interrupts
}

// Registers whose fields this package only carries, in the kernel's layout:
// struct kvm_sregs2, kvm_lapic_state, kvm_vcpu_events, kvm_debugregs, kvm_xsave
// and kvm_xcrs.
type (
	sregs2     [320]byte
	lapic      [1024]byte
	vcpuEvents [64]byte
	debugRegs  [128]byte
	xsave      [4096]byte
	xcrs       [392]byte
)

const (
	_ = -(unsafe.Sizeof(regs{}) ^ 144)
	_ = -(unsafe.Sizeof(segment{}) ^ 24)
	_ = -(unsafe.Sizeof(dtable{}) ^ 16)
	_ = -(unsafe.Sizeof(sregs{}) ^ 312)
)

// Values of KVM_GET_MP_STATE.
const (
	mpRunnable      = 0
	mpUninitialized = 1
	mpInitReceived  = 2
	mpHalted        = 3
	mpSIPIReceived  = 4
)

// register is an ioctl pair for one kind of register of a vCPU.
type register[T any] struct {
	name     string
	get, set uintptr
}

var (
	regRegs   = register[regs]{"KVM_GET/SET_REGS", ioGetRegs, ioSetRegs}
	regSRegs  = register[sregs]{"KVM_GET/SET_SREGS", ioGetSRegs, ioSetSRegs}
	regSRegs2 = register[sregs2]{"KVM_GET/SET_SREGS2", ioGetSRegs2, ioSetSRegs2}
	regLAPIC  = register[lapic]{"KVM_GET/SET_LAPIC", ioGetLAPIC, ioSetLAPIC}
	regMP     = register[uint32]{"KVM_GET/SET_MP_STATE", ioGetMPState, ioSetMPState}
	regEvents = register[vcpuEvents]{"KVM_GET/SET_VCPU_EVENTS", ioGetEvents, ioSetEvents}
	regDebug  = register[debugRegs]{"KVM_GET/SET_DEBUGREGS", ioGetDebugRegs, ioSetDebugRegs}
	regXSave  = register[xsave]{"KVM_GET/SET_XSAVE", ioGetXSave, ioSetXSave}
	regXCRs   = register[xcrs]{"KVM_GET/SET_XCRS", ioGetXCRs, ioSetXCRs}
)

func (r register[T]) read(c *vcpuFD) (T, error) {
	v, err := get[T](c.fd, r.get)
	if err != nil {
		err = fmt.Errorf("read by %s: %w", r.name, err)
	}
	return v, err
}

func (r register[T]) write(c *vcpuFD, v *T) error {
	if err := set(c.fd, r.set, v); err != nil {
		return fmt.Errorf("write by %s: %w", r.name, err)
	}
	return nil
}

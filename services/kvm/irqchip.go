//go:build linux && amd64

package kvm

import (
	"fmt"
	"unsafe"
)

var (
	ioCreateIRQChip   = ioN(0x60)
	ioIRQLineStatus   = ioRW[irqLevel](0x67)
	ioGetIRQChip      = ioRW[irqChip](0x62)
	ioSetIRQChip      = ioR[irqChip](0x63)
	ioReinjectControl = ioN(0x71)
	ioCreatePIT2      = ioW[pitConfig](0x77)
	ioGetPIT2         = ioR[pitState](0x9f)
	ioSetPIT2         = ioW[pitState](0xa0)
)

// The chips of KVM_GET_IRQCHIP.
const (
	chipPICMaster = iota
	chipPICSlave
	chipIOAPIC
	chips
)

// irqLevel is struct kvm_irq_level. KVM_IRQ_LINE_STATUS answers in the line's
// place with the number of vCPUs that it told, 0 if it merged with an interrupt
// already pending, or less if nobody listens.
type irqLevel struct {
	line  int32
	level uint32
}

// irqChip is struct kvm_irqchip.
type irqChip struct {
	id, _ uint32
	state [512]byte
}

// pitConfig is struct kvm_pit_config.
type pitConfig struct {
	flags uint32
	_     [15]uint32
}

// pitState is struct kvm_pit_state2.
type pitState [112]byte

// reinjectControl is struct kvm_reinject_control.
type reinjectControl [32]byte

// pitSpeakerDummy lets KVM answer the speaker port 0x61, too, which kernels
// read to calibrate against the PIT.
const pitSpeakerDummy = 1

const (
	_ = -(unsafe.Sizeof(irqLevel{}) ^ 8)
	_ = -(unsafe.Sizeof(irqChip{}) ^ 520)
	_ = -(unsafe.Sizeof(pitConfig{}) ^ 64)
	_ = -(unsafe.Sizeof(pitState{}) ^ 112)
	_ = -(unsafe.Sizeof(reinjectControl{}) ^ 32)
)

// createIRQChip makes PICs, I/O APIC, local APICs and PIT, which run in the
// kernel. It must come before the vCPUs.
func (v *vm) createIRQChip() error {
	if _, err := ioctlArg(v.fd, ioCreateIRQChip, 0); err != nil {
		return fmt.Errorf("KVM_CREATE_IRQCHIP: %w", err)
	}
	if err := set(v.fd, ioCreatePIT2, &pitConfig{flags: pitSpeakerDummy}); err != nil {
		return fmt.Errorf("KVM_CREATE_PIT2: %w", err)
	}
	// Ticks that fall into a pause must not come in a burst afterwards: guests
	// read the time elsewhere.
	if v.sys.has(capReinjectControl) != 0 {
		if err := set(v.fd, ioReinjectControl, &reinjectControl{}); err != nil {
			return fmt.Errorf("KVM_REINJECT_CONTROL: %w", err)
		}
	}
	return nil
}

// setLine drives a line and tells whether a vCPU was told of an interrupt.
func (v *vm) setLine(line uint32, level bool) (told bool, err error) {
	l := irqLevel{line: int32(line)}
	if level {
		l.level = 1
	}
	if err := set(v.fd, ioIRQLineStatus, &l); err != nil {
		return false, fmt.Errorf("KVM_IRQ_LINE_STATUS: %w", err)
	}
	return level && l.line > 0, nil
}

func (v *vm) irqChip(id uint32) (*irqChip, error) {
	c := &irqChip{id: id}
	if err := set(v.fd, ioGetIRQChip, c); err != nil {
		return nil, fmt.Errorf("KVM_GET_IRQCHIP %d: %w", id, err)
	}
	return c, nil
}

func (v *vm) setIRQChip(c *irqChip) error {
	if err := set(v.fd, ioSetIRQChip, c); err != nil {
		return fmt.Errorf("KVM_SET_IRQCHIP %d: %w", c.id, err)
	}
	return nil
}

// maskPICs masks all interrupts of both PICs, as firmware leaves them to who
// boots with I/O APIC.
func (v *vm) maskPICs() error {
	const imr = 2 // in struct kvm_pic_state
	for id := range uint32(chipIOAPIC) {
		c, err := v.irqChip(id)
		if err != nil {
			return err
		}
		c.state[imr] = 0xff
		if err := v.setIRQChip(c); err != nil {
			return err
		}
	}
	return nil
}

func (v *vm) pit() (pitState, error) {
	p, err := get[pitState](v.fd, ioGetPIT2)
	if err != nil {
		err = fmt.Errorf("KVM_GET_PIT2: %w", err)
	}
	return p, err
}

func (v *vm) setPIT(p *pitState) error {
	if err := set(v.fd, ioSetPIT2, p); err != nil {
		return fmt.Errorf("KVM_SET_PIT2: %w", err)
	}
	return nil
}

//go:build linux && amd64

package kvm

import (
	"encoding/binary"
	"fmt"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Where Reset puts its tables, from BootStart to BootEnd.
const (
	bootGDT  = BootStart
	bootPML4 = 0x9000
	bootPDPT = 0xa000
	bootPD   = 0xb000 // 4 pages, of 1 GiB each
)

// Selectors of the 64-bit boot protocol: __BOOT_CS, __BOOT_DS and a task state
// segment, which VMX demands.
const (
	selCode = 0x10
	selData = 0x18
	selTask = 0x20
)

// gdt describes flat segments: code (64 bits), data and task.
var gdt = [...]uint64{0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x008f_8b00_0000_ffff}

// Bits of page table entries and control registers.
const (
	pteTable = 0x03 // present, writable
	pteLarge = 0x83 // and a page of 2 MiB

	cr0PE, cr0ET, cr0PG = 1 << 0, 1 << 4, 1 << 31
	cr4PAE              = 1 << 5
	eferLME, eferLMA    = 1 << 8, 1 << 10

	lapicLINT0, lapicLINT1 = 0x350, 0x360
	lvtExtINT, lvtNMI      = 0x700, 0x400

	mtrrEnableWriteBack = 1<<11 | 6
)

// writeBootTables writes the descriptor table, and page tables that map the
// first 4 GiB onto themselves.
func writeBootTables(m *mem.Memory) error {
	b := make([]byte, BootEnd-BootStart)
	put := func(at int, v uint64) { binary.LittleEndian.PutUint64(b[at-BootStart:], v) }
	for i, d := range gdt {
		put(bootGDT+8*i, d)
	}
	put(bootPML4, bootPDPT|pteTable)
	for i := range 4 {
		put(bootPDPT+8*i, uint64(bootPD+i*mem.PageSize)|pteTable)
	}
	for i := range 4 * 512 {
		put(bootPD+8*i, uint64(i)<<21|pteLarge)
	}
	if err := m.WriteAt(b, BootStart); err != nil {
		return fmt.Errorf("write boot tables: %w", err)
	}
	return nil
}

// enter64 puts a vCPU from power-on to the entry of the 64-bit Linux boot
// protocol (Documentation/arch/x86/boot.rst): long mode, flat segments,
// interrupts off, rsi with the address of the boot parameters.
func (c *vcpuFD) enter64(entry vmm.Entry) error {
	s, err := regSRegs.read(c)
	if err != nil {
		return err
	}
	code := segment{limit: 0xffff_ffff, selector: selCode, typ: 0xb, present: 1, s: 1, l: 1, g: 1}
	data := segment{limit: 0xffff_ffff, selector: selData, typ: 0x3, present: 1, s: 1, db: 1, g: 1}
	s.cs, s.ds, s.es, s.fs, s.gs, s.ss = code, data, data, data, data, data
	s.tr = segment{limit: 0xf_ffff, selector: selTask, typ: 0xb, present: 1, g: 1}
	s.gdt = dtable{base: bootGDT, limit: uint16(8*len(gdt) - 1)}
	s.idt = dtable{}
	s.cr0, s.cr3, s.cr4 = cr0PE|cr0ET|cr0PG, bootPML4, cr4PAE
	s.efer = eferLME | eferLMA
	if err := regSRegs.write(c, &s); err != nil {
		return err
	}
	return regRegs.write(c, &regs{rip: entry.PC, rsi: entry.Args[0], rdi: entry.Args[1], rflags: 2})
}

// firmware does what a PC's firmware does on each vCPU: the local interrupt
// pins as the MADT and the MP specification have them (PIC and NMI), and memory
// that is cached by default.
func (c *vcpuFD) firmware() error {
	l, err := regLAPIC.read(c)
	if err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(l[lapicLINT0:], lvtExtINT)
	binary.LittleEndian.PutUint32(l[lapicLINT1:], lvtNMI)
	if err := regLAPIC.write(c, &l); err != nil {
		return err
	}
	return c.setMSRs([]msr{{index: msrMTRRDefType, value: mtrrEnableWriteBack}})
}

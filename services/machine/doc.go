// Package machine assembles a virtual machine: memory, an engine that runs the
// guest, and the devices around it. Two hosts that are given the same Config
// build the same machine, so that a state saved on one loads on the other.
//
// # Machine as the guest sees it (engine rv64)
//
//	address       what                              interrupt
//	0x0010_1000   Goldfish real-time clock          11
//	0x0c00_0000   PLIC (in the engine)
//	0x1000_0000   16550A serial port, ttyS0         10
//	0x1000_1000   virtio-mmio: net                  1
//	0x1000_2000   virtio-mmio: block (with a disk)  2
//	0x1000_3000   virtio-mmio: console, hvc         3
//	0x1000_4000   virtio-mmio: rng                  4
//	0x8000_0000   memory
//
// The kernel (a RISC-V Linux Image, plain or gzip'ed) lies at its text offset
// from the start of memory, the device tree 2 MiB below its end, and the initrd
// below that. The first hart starts at the kernel with a0 = its id and a1 = the
// device tree's address (Linux Documentation/arch/riscv/boot.rst).
//
// # Machine as the guest sees it (engine kvm)
//
//	address       what                              global interrupt
//	ports 0x3f8   16550A serial port, ttyS0         4
//	ports 0x70    CMOS real-time clock              none
//	port 0x600    ACPI sleep control, 0x601 status
//	port 0xcf9    reset; 0xfe at port 0x64, too
//	0xd000_0000   virtio-mmio: net                  16
//	0xd000_1000   virtio-mmio: block (with a disk)  17
//	0xd000_2000   virtio-mmio: console, hvc         18
//	0xd000_3000   virtio-mmio: rng                  19
//	0xfec0_0000   I/O APIC (in the engine)
//	0xfee0_0000   local APICs (in the engine)
//
// Memory lies from 0 to at most 3 GiB, the rest from 4 GiB on. The kernel (an x86
// bzImage, boot protocol 2.12 or later) lies at the address that it prefers, the
// initrd as high below 3 GiB as the kernel allows. The first vCPU starts at the
// kernel's 64-bit entry with rsi = the address of its parameters (package
// bzimage):
//
//	0x0000_7000   parameters (zero page)
//	0x0000_8000   page tables and descriptors, by the engine
//	0x0001_0000   entropy (setup data)
//	0x0002_0000   command line
//	0x000e_0000   ACPI tables
//	0x000f_fff0   code that resets the machine, where a BIOS would begin
//
// The tables (package acpi) are of hardware-reduced ACPI: no firmware, no PCI, no
// legacy devices. virtio-mmio devices have the hardware ID LNRO0005, the serial
// port PNP0501, the clock PNP0B00. Ports where nothing is read as ones.
//
// # Console
//
// The serial port, the virtio console and what a RISC-V guest prints through its
// firmware interface all come out at Host.Console. console=ttyS0 is the one to
// put on the kernel's command line: it needs no module and is there from the
// first message on (for earlier ones add earlycon=sbi, on x86
// earlyprintk=ttyS0). Input goes to the
// console that the command line names last, the serial port if it names none.
//
// # Life
//
// New builds a paused machine that is switched off. Start boots it from its
// images, or Load gives it the state of another, whose memory and disk blocks
// the caller has copied. Pause and Resume may follow in any number. When the
// guest reboots or powers off by itself, its harts have stopped and Host.OnStop
// is told; to let it reboot the owner calls Pause, Reset and Resume.
//
// While a machine is paused nothing in it changes: no hart runs, no device
// touches memory, disk or its own state, and Deliver and ConsoleInput refuse.
// Its clock goes on.
//
// Limits: memory from MinMemory to MaxMemory. The x86-64 machine's clock has no
// alarms, and there is no power button. A disk that hangs makes Pause
// wait, because a disk request completes before the machine pauses.
package machine

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
// # Console
//
// The serial port, the virtio console and what the guest prints through its
// firmware interface all come out at Host.Console. console=ttyS0 is the one to
// put on the kernel's command line: it needs no module and is there from the
// first message on (add earlycon=sbi for earlier ones). Input goes to the
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
// Limits: memory from MinMemory to MaxMemory. A disk that hangs makes Pause
// wait, because a disk request completes before the machine pauses.
package machine

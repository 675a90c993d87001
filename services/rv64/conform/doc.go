// Package conform checks the rv64 engine and package fp against QEMU, an
// implementation that shares nothing with them.
//
// Programs are generated from a seed by an encoder of its own. User programs
// (RandomProgram, and groups of one instruction over tables of operands) run
// in qemu-riscv64 as static executables and in user mode on the engine, under
// a supervisor of a few instructions, at the same addresses; the memory that
// they leave must be equal byte for byte. Supervisor payloads, which are about
// address translation, traps and illegal instructions, run on the bare virt
// machine of qemu-system-riscv64 behind a machine-mode shim, and as they are
// on the engine.
//
// The same programs show that an engine's state is whole: one hops between two
// engines with nothing but saved state and dirty pages.
//
// Where QEMU 7.2 departs from the manuals, its answers are corrected or the
// case is left out, with the reason at that place. Not covered: time and the
// timer's interrupt, device interrupts, SBI but for the system reset, and the
// order of memory accesses between harts.
//
// What QEMU said is kept in testdata, as one digest for each instruction or
// program, so that a machine without QEMU still notices a change. Run the
// tests with -rewrite to ask QEMU again, with -effort for more of everything,
// and with -seed for something else.
package conform

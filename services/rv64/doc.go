// Package rv64 is a RISC-V machine in pure Go: a vmm.Engine for hosts without
// usable hardware virtualization.
//
// Harts implement RV64IMAFDC with Zicsr, Zifencei, Zicntr, Zba, Zbb, Zbs and
// Sstc in supervisor and user mode, with Sv39 and Sv48. There is no machine
// mode: the monitor serves SBI 2.0 calls (base, time, IPI, remote fence, HSM,
// system reset, debug console, and the legacy ones) itself. A PLIC is part of
// the engine; all other addresses outside of memory go to the machine's bus.
//
// Instructions are translated into blocks of pre-decoded ops, cached by
// physical page, chained within a page and found through a jump cache across
// pages (block.go), and run by one dense switch (exec.go). Loads and stores
// go through direct-mapped software TLBs, whose tag check also catches
// misaligned accesses (mmu.go). The first store to a page after DrainDirty
// misses and marks the page dirty; later ones cost nothing extra.
//
// Code may be changed by anybody, devices included. As the ISA has it, the
// guest then executes FENCE.I; the engine compares each code page with what
// it translated when the page is next entered.
//
// Known limits: one hart; hosts must be little-endian; no vector extension,
// no Svnapot or Svpbmt; no performance counters beyond cycle and instret,
// both of which count instructions.
package rv64

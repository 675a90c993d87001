// Package kvm is the vmm.Engine for x86-64 guests on Linux KVM. It needs
// read and write access to /dev/kvm and Linux 5.2 or later, 5.16 or later for
// exact time stamp counters.
//
// # The machine
//
// Memory begins at 0 and leaves a hole from 3 GiB to 4 GiB. PICs, I/O APIC (24
// pins, version 0x11, at IOAPICBase), local APICs (ids from 0) and PIT are in
// the kernel; SetIRQ drives the pins of the I/O APIC, the lower 16 also those
// of the PICs. All else is the machine's: physical addresses without memory
// reach Config.Bus, ports reach Config.Ports. Reset starts the first vCPU by
// the 64-bit Linux boot protocol; the others wait for INIT and SIPI. A triple
// fault is a reboot, as on a PC. Power-off and reset registers are devices,
// which call Engine.Stop.
//
// # What the guest sees of the CPU
//
// CPUID shows what the host and KVM support, without what makes copies differ
// (RDRAND, RDSEED), state that is not saved (nested virtualization, performance
// counters, SGX, AMX, CET, MPX), and what Config.Baseline names. RDRAND still
// works where a program uses it without asking CPUID: no hypervisor feature
// that this package relies on can forbid it. The leaves are part of the state.
// Load shows them again, so that a guest keeps seeing the CPU that it was
// started on, and refuses with the list of what lacks on a host that cannot.
// CPUs are cores of one socket without threads.
//
// # Time
//
// Guests read kvmclock, or the TSC. The TSC is not shown as invariant, so that
// Linux prefers kvmclock, which survives a move to a host of another frequency.
// Both run on while the guest is paused, and so do the timers: a pause is time
// that passed. A state carries what Clock, TSC and kvmclock read at one
// instant. Load, and Resume after it, set TSC and kvmclock to what they read
// then plus what Clock has advanced since, never less. Clock must not be set
// while the guest runs: nothing follows it then. The error is that of reading
// two clocks one after the other, around a microsecond. Between checkpoints
// each copy's clock runs at its own host's rate. A host whose TSC differs by
// more than 250 ppm from the guest's and cannot be scaled refuses the state.
// Where the host's own clock is not the TSC, kvmclock is slower and not shared
// with user space, but right.
//
// An APIC timer in one-shot or periodic mode, unlike one in deadline mode, does
// not count the time between Save and Resume on the other host. Linux uses the
// deadline mode where the host has it.
//
// # Pages
//
// KVM's log is on from the start, and with it all mappings are of 4 KiB. The
// log may name a page that did not change. DrainDirty unites it with the
// memory's own bitmap.
//
// It is KVM's bitmap with manual clearing, not the dirty ring. A bitmap costs
// 32 KiB to copy for each GiB, where a ring costs by the page; but an epoch lasts
// until the copies disagree, and a ring that is full before must be emptied, which
// protects its pages anew: a guest that goes on writing to them leaves the guest
// for each of them again and again, with the bitmap once in an epoch. docs/lab.md
// has the measurement (BenchmarkDirtyPages).
//
// # Emulated hosts
//
// A KVM host under QEMU's software translation has KVM's semantics, with two
// defects seen in QEMU 7.2: CMPXCHG16B may spoil the flags, and guests' writes
// to XCR0 pass KVM by, which loses AVX state on the way to another host. Hosts
// for tests are best started without both (-cpu EPYC,+svm,+npt,-cx16,-xsave).
package kvm

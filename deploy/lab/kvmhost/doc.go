// Package kvmhost makes KVM hosts where the machine has no hardware
// virtualization: QEMU emulates an AMD CPU with SVM and nested paging, and a
// stock Debian kernel booted on it offers a real /dev/kvm. Each host has a kernel,
// a memory and a network stack of its own, and killing its process is the most
// honest crash of a host that there is.
//
// A host runs the amd64 images that deploy/guest builds: bzImage, and host-initrd
// with what the lab appends.
//
// # What an emulated host cannot tell
//
// Speed: exits cost a hundred times what they cost on hardware. Neither does it
// tell whether a feature that QEMU lacks works, and three that QEMU 7.2 gets
// wrong are kept from being used:
//   - CMPXCHG16B leaves garbage in the flags when it is followed by an exit or an
//     interrupt (host and guest crash at random where their allocators use it), so
//     that the hosts' CPU has none.
//   - A guest's XSETBV does not exit to KVM, which then moves a guest without its
//     AVX state: the hosts' CPU has no XSAVE, and thus no AVX.
//   - SVM on several CPUs: hosts hang or crash. A host has one CPU; a guest's vCPUs
//     share it.
package kvmhost

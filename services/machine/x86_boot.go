package machine

import (
	"fmt"

	"github.com/understudy-ft/understudy/services/acpi"
	"github.com/understudy-ft/understudy/services/bzimage"
	"github.com/understudy-ft/understudy/services/kvm"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Low memory at boot. The engine's page tables and descriptors are between
// kvm.BootStart and kvm.BootEnd. Old kernels look for ACPI's root pointer where
// a BIOS has it.
const (
	x86ZeroPage  = 0x7000
	x86SetupData = 0x1_0000
	x86Cmdline   = 0x2_0000
	x86LowEnd    = 0x9_f000 // usable memory below the BIOS's
	x86ACPI      = 0xe_0000
	x86Reset     = 0xf_fff0
	x86HighStart = 0x10_0000
)

// resetVector is all there is of a BIOS. Linux with hardware-reduced ACPI reboots
// by EFI, and where there is none by a jump in real mode to where a CPU starts
// (arch/x86/kernel/reboot.c), without a try of ACPI's reset register.
var resetVector = []byte{
	0xba, portReset & 0xff, portReset >> 8, // mov dx, portReset
	0xb0, resetCPU | resetSystem, //           mov al, …
	0xee,       //                             out dx, al
	0xf4,       //                             hlt
	0xeb, 0xfd, //                             jmp to hlt
}

// x86Images are what the x86-64 machine boots from.
type x86Images struct {
	kernel *bzimage.Kernel
	initrd []byte
	// initrdAt is the initrd's address.
	initrdAt uint64
	cfg      Config
}

func (x86Platform) newImages(kernel, initrd []byte, cfg Config) (images, error) {
	fail := func(format string, args ...any) (images, error) {
		return nil, fmt.Errorf(format+": %w", append(args, ErrKernel)...)
	}
	if !bzimage.Is(kernel) {
		if isa, err := Sniff(kernel); err == nil {
			return fail("kernel is for %s, not an x86 bzImage", isa)
		}
		if what := foreign(kernel); what != "" {
			return fail("kernel is %s, not an x86 bzImage", what)
		}
	}
	k, err := bzimage.Parse(kernel)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKernel, err)
	}
	if len(cfg.Append) > k.CmdlineMax {
		return fail("kernel command line of %d bytes: this kernel takes %d", len(cfg.Append), k.CmdlineMax)
	}
	// Both lie below the hole, the initrd as high as it may.
	top := min(cfg.MemoryBytes, kvm.HoleStart)
	if k.PrefAddress < x86HighStart || k.PrefAddress > top || k.InitSize > top-k.PrefAddress {
		return fail("kernel needs %d bytes of memory at %#x, there are %d", k.InitSize, k.PrefAddress, cfg.MemoryBytes)
	}
	room := min(top, k.InitrdMax+1)
	size := uint64(len(initrd))
	at := (room - min(size, room)) &^ (mem.PageSize - 1)
	if size > room || size > 0 && at < k.PrefAddress+k.InitSize {
		return fail("kernel (%d bytes at %#x) and initrd (%d bytes) are too large for %d bytes of memory",
			k.InitSize, k.PrefAddress, size, cfg.MemoryBytes)
	}
	return &x86Images{kernel: k, initrd: initrd, initrdAt: at, cfg: cfg}, nil
}

func (b *x86Images) load(memory *mem.Memory, seed []byte, devices []slot) (vmm.Entry, error) {
	params := bzimage.Params{
		Cmdline: x86Cmdline, RSDP: x86ACPI, SetupData: x86SetupData, Map: x86MemoryMap(b.cfg.MemoryBytes),
	}
	if len(b.initrd) > 0 {
		params.Initrd, params.InitrdSize = b.initrdAt, uint64(len(b.initrd))
	}
	page, err := b.kernel.ZeroPage(params)
	if err != nil {
		return vmm.Entry{}, fmt.Errorf("load boot images: %w", err)
	}
	for _, part := range []struct {
		addr uint64
		data []byte
	}{
		{b.kernel.PrefAddress, b.kernel.Code},
		{b.initrdAt, b.initrd},
		{x86ZeroPage, page},
		{x86SetupData, bzimage.SeedData(seed)},
		{x86Cmdline, append([]byte(b.cfg.Append), 0)},
		{x86ACPI, acpi.Tables(x86Description(b.cfg.CPUs, devices), x86ACPI)},
		{x86Reset, resetVector},
	} {
		if err := memory.WriteAt(part.data, part.addr); err != nil {
			return vmm.Entry{}, fmt.Errorf("load boot images: %w", err)
		}
	}
	return vmm.Entry{PC: b.kernel.PrefAddress + bzimage.EntryOffset, Args: [2]uint64{x86ZeroPage}}, nil
}

// x86MemoryMap is the memory that the kernel is told of. What a BIOS would have
// below 1 MiB is the tables'. The hole below 4 GiB is not mentioned.
func x86MemoryMap(memoryBytes uint64) []bzimage.Region {
	low := min(memoryBytes, kvm.HoleStart)
	regions := []bzimage.Region{
		{Addr: 0, Size: x86LowEnd, Kind: bzimage.RAM},
		{Addr: x86LowEnd, Size: x86HighStart - x86LowEnd, Kind: bzimage.Reserved},
		{Addr: x86HighStart, Size: low - x86HighStart, Kind: bzimage.RAM},
	}
	if memoryBytes > low {
		regions = append(regions, bzimage.Region{Addr: kvm.HoleEnd, Size: memoryBytes - low, Kind: bzimage.RAM})
	}
	return regions
}

// x86Description is what ACPI says of the machine.
func x86Description(cpus int, devices []slot) acpi.Machine {
	d := acpi.Machine{
		CPUs:         cpus,
		LocalAPIC:    kvm.LAPICBase,
		IOAPIC:       kvm.IOAPICBase,
		SleepControl: portSleepControl,
		SleepStatus:  portSleepStatus,
		PowerOffType: sleepPowerOff,
		Reset:        portReset,
		ResetValue:   resetCPU | resetSystem,
	}
	for i, s := range devices {
		a := acpi.Device{IRQ: s.line}
		if s.ports {
			a.Port, a.PortSize = uint16(s.base), uint8(s.size)
		} else {
			a.Memory, a.MemorySize = uint32(s.base), uint32(s.size)
		}
		switch s.name {
		case nameUART:
			a.Name, a.HID = "COM1", "PNP0501"
		case nameRTC:
			a.Name, a.HID = "RTC0", "PNP0B00"
		default:
			a.Name, a.HID, a.UID = fmt.Sprintf("VIO%X", i), "LNRO0005", uint8(i)
		}
		d.Devices = append(d.Devices, a)
	}
	return d
}

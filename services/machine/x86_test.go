package machine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/understudy-ft/understudy/services/kvm"
	"github.com/understudy-ft/understudy/services/vmm"
)

// bzImage makes an x86 kernel of code that wants memory bytes from 16 MiB on.
func bzImage(memory uint32, code []byte) []byte {
	le := binary.LittleEndian
	const setup = 5 * 512
	k := make([]byte, setup+0x200)
	k = append(k, code...)
	k = append(k, make([]byte, 16-len(k)%16)...)
	k[0x1f1] = 4
	le.PutUint32(k[0x1f4:], uint32(len(k)-setup)/16)
	copy(k[0x200:], "\xeb\x6aHdrS\x0f\x02")
	k[0x211] = 1
	le.PutUint32(k[0x22c:], 0x7fffffff)
	le.PutUint32(k[0x230:], 2<<20)
	k[0x234] = 1
	le.PutUint16(k[0x236:], 1)
	le.PutUint32(k[0x238:], 2047)
	le.PutUint64(k[0x258:], 16<<20)
	le.PutUint32(k[0x260:], memory)
	return k
}

func TestX86Placement(t *testing.T) {
	kernel := bzImage(32<<20, []byte("code"))
	for _, tt := range []struct {
		memory uint64
		initrd int
		want   uint64
	}{
		{256 << 20, 5000, 256<<20 - 8192},
		{256 << 20, 208 << 20, 48 << 20},
		{64 << 20, 4096, 64<<20 - 4096},
		{2 << 30, 1, 2<<30 - 4096},
		{4 << 30, 4096, 2<<30 - 4096}, // up to the kernel's bound
		{16 << 30, 4096, 2<<30 - 4096},
	} {
		b, err := x86Platform{}.newImages(kernel, make([]byte, tt.initrd), Config{MemoryBytes: tt.memory})
		if err != nil {
			t.Errorf("%d MiB, initrd of %d: %v", tt.memory>>20, tt.initrd, err)
		} else if got := b.(*x86Images).initrdAt; got != tt.want {
			t.Errorf("%d MiB, initrd of %d at %#x, want %#x", tt.memory>>20, tt.initrd, got, tt.want)
		}
	}
}

func TestX86KernelRefused(t *testing.T) {
	good := bzImage(32<<20, nil)
	for _, tt := range []struct {
		name, says string
		kernel     []byte
		initrd     int
		append     int
	}{
		{"empty", "not an x86", nil, 0, 0},
		{"RISC-V", "kernel is for riscv64", kernelImage(0, 64, 0x13), 0, 0},
		{"RISC-V, gzip'ed", "kernel is for riscv64", gzipped(kernelImage(0, 64, 0x13)), 0, 0},
		{"ELF", "ELF file", []byte("\x7fELF and so on"), 0, 0},
		{"truncated", "truncated", good[:len(good)-1], 0, 0},
		{"too large", "kernel needs", bzImage(241<<20, nil), 0, 0},
		{"no room beside the initrd", "too large", good, 208<<20 + 1, 0},
		{"initrd larger than memory", "too large", good, 257 << 20, 0},
		{"line that the kernel would cut", "takes 2047", good, 0, 2048},
	} {
		_, err := x86Platform{}.newImages(tt.kernel, make([]byte, tt.initrd),
			Config{MemoryBytes: 256 << 20, Append: strings.Repeat("x", tt.append)})
		if !errors.Is(err, ErrKernel) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v, want one that says %q", tt.name, err, tt.says)
		}
	}
}

func TestX86MemoryMap(t *testing.T) {
	for _, memory := range []uint64{64 << 20, 3<<30 - 4096, 3 << 30, 3<<30 + 4096, 4 << 30, 16 << 30} {
		var end, usable uint64
		for _, r := range x86MemoryMap(memory) {
			if r.Addr < end || r.Size == 0 {
				t.Errorf("%#x: region %#x after one that ends at %#x", memory, r, end)
			}
			end = r.Addr + r.Size
			if r.Addr < kvm.HoleEnd && end > kvm.HoleStart {
				t.Errorf("%#x: region %#x is in the hole", memory, r)
			}
			usable += r.Size
		}
		want := memory
		if memory > kvm.HoleStart {
			want += kvm.HoleEnd - kvm.HoleStart
		}
		if end != want || usable != memory {
			t.Errorf("%#x: memory ends at %#x, want %#x; %#x bytes", memory, end, want, usable)
		}
	}
}

// What the kernel is handed lies where its parameters say.
func TestX86Load(t *testing.T) {
	initrd := bytes.Repeat([]byte("initrd"), 1000)
	cfg := Config{MemoryBytes: 5 << 30, CPUs: 2, Append: "console=ttyS0 quiet"}
	b, err := x86Platform{}.newImages(bzImage(32<<20, []byte("code")), initrd, cfg)
	if err != nil {
		t.Fatal(err)
	}
	memory, err := x86Platform{}.newMemory(cfg.MemoryBytes)
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	seed := bytes.Repeat([]byte{7}, 64)
	entry, err := b.load(memory, seed, []slot{{name: nameUART, window: x86Layout[nameUART]}, {name: nameNet, window: x86Layout[nameNet]}})
	if err != nil {
		t.Fatal(err)
	}
	if entry != (vmm.Entry{PC: 16<<20 + 0x200, Args: [2]uint64{x86ZeroPage}}) {
		t.Errorf("entry %#x", entry)
	}
	at := func(addr, n uint64) []byte {
		t.Helper()
		p, err := memory.Slice(addr, n)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	le := binary.LittleEndian
	zero := at(entry.Args[0], 4096)
	if got := at(entry.PC, 4); string(got) != "code" {
		t.Errorf("%q at the entry", got)
	}
	if got := at(uint64(le.Uint32(zero[0x218:])), uint64(le.Uint32(zero[0x21c:]))); !bytes.Equal(got, initrd) {
		t.Errorf("initrd of %d bytes is another", len(got))
	}
	if got := at(uint64(le.Uint32(zero[0x228:])), 20); string(got) != "console=ttyS0 quiet\x00" {
		t.Errorf("command line %q", got)
	}
	if got := at(le.Uint64(zero[0x250:])+16, 64); !bytes.Equal(got, seed) {
		t.Errorf("seed % x", got)
	}
	if got := at(le.Uint64(zero[0x70:]), 8); string(got) != "RSD PTR " {
		t.Errorf("%q instead of the root pointer", got)
	}
	if got := fmt.Sprintf("%x", at(0xffff0, 8)); got != "baf90cb006eef4eb" {
		t.Errorf("reset vector %s", got) // mov dx, 0xcf9; mov al, 6; out dx, al; hlt; jmp
	}
	if n := zero[0x1e8]; n != 4 {
		t.Errorf("memory map of %d regions", n)
	}
	// The engine fills what is left alone.
	for i, c := range at(kvm.BootStart, kvm.BootEnd-kvm.BootStart) {
		if c != 0 {
			t.Fatalf("the engine's memory is used at %#x", kvm.BootStart+i)
		}
	}
}

func TestX86Description(t *testing.T) {
	var slots []slot
	for _, name := range []string{nameUART, nameRTC, nameNet, nameConsole} {
		slots = append(slots, slot{name: name, window: x86Layout[name]})
	}
	d := x86Description(4, slots)
	var got []string
	for _, a := range d.Devices {
		got = append(got, fmt.Sprintf("%s %s.%d memory %#x+%#x port %#x+%d irq %d",
			a.Name, a.HID, a.UID, a.Memory, a.MemorySize, a.Port, a.PortSize, a.IRQ))
	}
	want := `COM1 PNP0501.0 memory 0x0+0x0 port 0x3f8+8 irq 4
RTC0 PNP0B00.0 memory 0x0+0x0 port 0x70+2 irq 0
VIO2 LNRO0005.2 memory 0xd0000000+0x200 port 0x0+0 irq 16
VIO3 LNRO0005.3 memory 0xd0002000+0x200 port 0x0+0 irq 18`
	if strings.Join(got, "\n") != want || d.CPUs != 4 {
		t.Errorf("%d CPUs, devices\n%s\nwant\n%s", d.CPUs, strings.Join(got, "\n"), want)
	}
}

// Windows do not overlap, nor do interrupts.
func TestLayouts(t *testing.T) {
	for engine, p := range platforms {
		lines := map[uint32]string{}
		for name, w := range p.layout() {
			if other := lines[w.line]; other != "" {
				t.Errorf("%s: %s and %s share line %d", engine, name, other, w.line)
			}
			if w.line != 0 {
				lines[w.line] = name
			}
			for other, o := range p.layout() {
				if name != other && w.ports == o.ports && w.base < o.base+o.size && o.base < w.base+w.size {
					t.Errorf("%s: %s and %s overlap", engine, name, other)
				}
			}
		}
	}
}

func TestPowerRegisters(t *testing.T) {
	var stops []vmm.Stop
	b := bus(powerRegisters(func(s vmm.Stop) { stops = append(stops, s) }))
	for _, tt := range []struct {
		name  string
		port  uint64
		size  int
		value uint64
		taken bool
		want  vmm.StopCause
	}{
		{"ACPI S5", 0x600, 1, 5<<2 | 0x20, true, vmm.PowerOff},
		{"another sleep", 0x600, 1, 3<<2 | 0x20, true, 0},
		{"sleep type alone", 0x600, 1, 5 << 2, true, 0},
		{"wake status", 0x601, 1, 0x80, true, 0},
		{"reset register", 0xcf9, 1, 6, true, vmm.Reboot},
		{"reset register, first half", 0xcf9, 1, 2, true, 0},
		{"PCI address", 0xcf8, 4, 0x80000000, false, 0},
		{"keyboard controller", 0x64, 1, 0xfe, true, vmm.Reboot},
		{"keyboard controller, self-test", 0x64, 1, 0xaa, true, 0},
		{"delay", 0x80, 1, 0xfe, false, 0},
	} {
		stops = nil
		if taken := b.Write(tt.port, tt.size, tt.value); taken != tt.taken {
			t.Errorf("%s: taken: %v", tt.name, taken)
		}
		if got := len(stops) == 1 && stops[0].Cause == tt.want; got != (tt.want != 0) || len(stops) > 1 {
			t.Errorf("%s: %v", tt.name, stops)
		}
	}
	if v, ok := b.Read(0x64, 1); v != 0 || !ok {
		t.Errorf("keyboard controller's status %#x, %v", v, ok)
	}
}

func TestSniff(t *testing.T) {
	riscv, x86 := kernelImage(0, 64, 0x13), bzImage(1<<20, nil)
	for _, tt := range []struct {
		name   string
		kernel []byte
		want   ISA
		says   string
	}{
		{"RISC-V", riscv, RISCV64, ""},
		{"RISC-V, gzip'ed", gzipped(riscv), RISCV64, ""},
		{"x86", x86, X86_64, ""},
		{"empty", nil, "", "neither"},
		{"arm64", append(make([]byte, 0x38), "ARM\x64"...), "", "arm64"},
		{"ELF", []byte("\x7fELF"), "", "ELF"},
		{"gzip cut short", gzipped(riscv)[:20], "", "gzip"},
		{"gzip of little", gzipped([]byte("x")), "", "gzip"},
		{"gzip of something", gzipped(make([]byte, 4096)), "", "neither"},
	} {
		isa, err := Sniff(tt.kernel)
		if isa != tt.want || (err == nil) != (tt.says == "") ||
			err != nil && (!errors.Is(err, ErrKernel) || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%s: %q, %v", tt.name, isa, err)
		}
	}
}

func TestChooseEngine(t *testing.T) {
	riscv, x86 := kernelImage(0, 64, 0x13), bzImage(1<<20, nil)
	for _, tt := range []struct {
		name     string
		kernel   []byte
		hardware error
		want     string
		is       error
		says     string
	}{
		{"x86 on hardware", x86, nil, EngineKVM, nil, ""},
		{"x86, emulated", x86, fmt.Errorf("%w (slow)", errEmulated), "", ErrConfig, `engine "kvm" takes it nevertheless`},
		{"x86, no KVM", x86, kvm.ErrUnavailable, "", ErrConfig, "runs on KVM only"},
		{"RISC-V on hardware", riscv, nil, EngineRV64, nil, ""},
		{"RISC-V, no KVM", riscv, kvm.ErrUnavailable, EngineRV64, nil, ""},
		{"no kernel", nil, nil, EngineRV64, nil, ""},
		{"something else", []byte("something"), nil, "", ErrKernel, "neither"},
	} {
		got, err := chooseEngine(tt.kernel, func() error { return tt.hardware })
		if got != tt.want || !errors.Is(err, tt.is) || err != nil && !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %q, %v", tt.name, got, err)
		}
	}
}

// FuzzX86Kernel: whatever is accepted lies in memory, apart from each other.
func FuzzX86Kernel(f *testing.F) {
	f.Add(bzImage(32<<20, nil), uint32(5000))
	f.Add(bzImage(48<<20, nil), uint32(0))
	f.Fuzz(func(t *testing.T, kernel []byte, initrd uint32) {
		size := uint64(initrd % (80 << 20))
		images, err := x86Platform{}.newImages(kernel, make([]byte, size), Config{MemoryBytes: MinMemory})
		if err != nil {
			return
		}
		b := images.(*x86Images)
		end := b.kernel.PrefAddress + b.kernel.InitSize
		if b.kernel.PrefAddress < x86HighStart || end > MinMemory || uint64(len(b.kernel.Code)) > b.kernel.InitSize ||
			size > 0 && (b.initrdAt < end || b.initrdAt+size > MinMemory || b.initrdAt+size > b.kernel.InitrdMax+1) {
			t.Errorf("kernel at %#x to %#x, initrd at %#x of %d bytes", b.kernel.PrefAddress, end, b.initrdAt, size)
		}
	})
}

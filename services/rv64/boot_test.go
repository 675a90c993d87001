package rv64

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// TestBootLinux boots a distribution kernel to a shell and powers off. It
// needs UNDERSTUDY_RV64_KERNEL (an Image) and UNDERSTUDY_RV64_BUSYBOX (a
// static riscv64 busybox).
func TestBootLinux(t *testing.T) {
	kernel, busybox := bootFiles(t)
	m := newBootMachine(t, kernel, busybox, "echo shell is up; cat /proc/cpuinfo; poweroff -f")
	start := time.Now()
	m.engine.Resume()
	select {
	case s := <-m.stopped:
		if s.Cause != vmm.PowerOff {
			t.Fatalf("stopped by %v: %s\n%s", s.Cause, s.Detail, m.uart.text())
		}
	case <-time.After(2 * time.Minute):
		m.engine.Pause()
		h := m.engine.harts[0]
		t.Fatalf("no power-off; pc %#x, %d instructions\n%s", h.pc, h.instret, m.uart.text())
	}
	took := time.Since(start)
	m.engine.Pause()
	if !strings.Contains(m.uart.text(), "shell is up") {
		t.Errorf("no shell:\n%s", m.uart.text())
	}
	n := m.engine.harts[0].instret
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		t.Fatal(err)
	}
	cpu := time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	t.Logf("%.2f s (%.2f s of CPU), %d M instructions, %.0f MIPS", took.Seconds(), cpu.Seconds(), n/1e6, float64(n)/1e6/took.Seconds())
	if testing.Verbose() {
		t.Log(m.uart.text())
	}
}

// TestMigrateLinux moves a booting and working guest to and fro between two
// engines. Only the pages that an engine reports dirty travel, so a single
// missed one, or a piece of state, would end in a crash or in a wrong sum.
func TestMigrateLinux(t *testing.T) {
	kernel, busybox := bootFiles(t)
	m := newBootMachine(t, kernel, busybox,
		"i=0; while [ $i -lt 150 ]; do /bin/true; i=$((i+1)); done; sleep 0.2\n"+
			"dd if=/bin/busybox bs=64k 2>/dev/null | gzip | gunzip | sha256sum\n"+
			"awk 'BEGIN { for (i = 1; i < 20000; i++) s += i / (i * i + 0.1); printf \"%.12f\\n\", s }'\npoweroff -f")
	other := newBootMachine(t, nil, nil, "")
	other.uart, other.clock = m.uart, m.clock
	var err error
	if other.engine, err = New(Config{Memory: other.mem, Bus: m.uart, Clock: m.clock,
		OnStop: func(s vmm.Stop) { m.stopped <- s }, Console: m.uart.print}); err != nil {
		t.Fatal(err)
	}
	other.stopped = m.stopped
	engine := m.engine
	m.uart.irq = func(level bool) { engine.SetIRQ(uartIRQ, level) }
	copy(other.mem.Bytes(), m.mem.Bytes())
	m.mem.Dirty().Clear()
	other.mem.Dirty().Clear()
	moves, pages := 0, 0
	for deadline := time.Now().Add(2 * time.Minute); ; {
		m.engine.Resume()
		select {
		case <-m.stopped:
			text := m.uart.text()
			t.Logf("%d moves of %d pages in all", moves, pages)
			if sum := fmt.Sprintf("%x  -", sha256.Sum256(busybox)); !strings.Contains(text, sum) {
				t.Errorf("no %s in:\n%s", sum, text)
			}
			s := 0.0
			for i := 1; i < 20000; i++ {
				s += float64(i) / (float64(float64(i)*float64(i)) + 0.1)
			}
			if sum := fmt.Sprintf("%.9f", s); !strings.Contains(text, sum) {
				t.Errorf("no %s in:\n%s", sum, text)
			}
			return
		case <-time.After(time.Duration(20+moves%30) * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("no power-off after %d moves:\n%s", moves, m.uart.text())
		}
		m.engine.Pause()
		state, err := m.engine.Save()
		if err != nil {
			t.Fatal(err)
		}
		d := mem.NewBitmap(m.mem.Pages())
		if err := m.engine.DrainDirty(d); err != nil {
			t.Fatal(err)
		}
		for n := range d.All {
			copy(other.mem.Page(n), m.mem.Page(n))
			pages++
		}
		if moves%16 == 0 && !bytes.Equal(m.mem.Bytes(), other.mem.Bytes()) {
			t.Fatal("an unreported page differs")
		}
		if err := other.engine.Load(state); err != nil {
			t.Fatal(err)
		}
		if len(m.stopped) == 0 {
			m.uart.mu.Lock()
			m, other = other, m
			engine = m.engine
			m.uart.mu.Unlock()
			moves++
		}
	}
}

func bootFiles(t testing.TB) (kernel, busybox []byte) {
	k, b := os.Getenv("UNDERSTUDY_RV64_KERNEL"), os.Getenv("UNDERSTUDY_RV64_BUSYBOX")
	if k == "" || b == "" {
		t.Skip("UNDERSTUDY_RV64_KERNEL and UNDERSTUDY_RV64_BUSYBOX name no files")
	}
	kernel, err := os.ReadFile(k)
	if err != nil {
		t.Fatal(err)
	}
	busybox, err = os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	return kernel, busybox
}

type bootMachine struct {
	mem     *mem.Memory
	uart    *uart
	engine  *Engine
	clock   *vmm.Clock
	stopped chan vmm.Stop
}

const bootMemory = 256 << 20

func newBootMachine(t testing.TB, kernel, busybox []byte, script string) *bootMachine {
	m, err := mem.New(RAMBase, bootMemory)
	if err != nil {
		t.Fatal(err)
	}
	b := &bootMachine{mem: m, uart: &uart{}, clock: vmm.NewClock(), stopped: make(chan vmm.Stop, 1)}
	b.engine, err = New(Config{
		Memory: m, Bus: b.uart, Clock: b.clock,
		OnStop:  func(s vmm.Stop) { b.stopped <- s },
		Console: b.uart.print,
	})
	if err != nil {
		t.Fatal(err)
	}
	b.uart.irq = func(level bool) { b.engine.SetIRQ(uartIRQ, level) }
	t.Cleanup(func() {
		b.engine.Close()
		m.Close()
	})
	initrd := initramfs(busybox, "#!/bin/busybox sh\n/bin/busybox mkdir -p /proc /sys /dev\n"+
		"/bin/busybox mount -t proc proc /proc\n/bin/busybox --install -s /bin\n"+script+"\n")
	const kernelAt = RAMBase + 2<<20
	initrdAt := uint64(RAMBase + bootMemory - 32<<20)
	fdtAt := initrdAt - 2<<20
	for at, p := range map[uint64][]byte{
		kernelAt: kernel, initrdAt: initrd,
		fdtAt: bootFDT("earlycon=sbi console=ttyS0", initrdAt, uint64(len(initrd))),
	} {
		if err := m.WriteAt(p, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.engine.Reset(vmm.Entry{PC: kernelAt, Args: [2]uint64{0, fdtAt}}); err != nil {
		t.Fatal(err)
	}
	return b
}

// uart is a transmit-only 16550 and what was written to it.
type uart struct {
	mu      sync.Mutex
	out     bytes.Buffer
	regs    [8]byte
	thrIdle bool
	irq     func(bool)
}

const (
	uartBase = 0x1000_0000
	uartIRQ  = 10
)

func (u *uart) text() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.out.String()
}

func (u *uart) print(p []byte) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.out.Write(p)
}

func (u *uart) Read(addr uint64, _ int) (uint64, bool) {
	r := addr - uartBase
	if r >= 8 {
		return 0, false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	switch r {
	case 2:
		if u.regs[1]&2 != 0 && u.thrIdle {
			u.thrIdle = false
			u.irq(false)
			return 0xc2, true
		}
		return 0xc1, true
	case 5:
		return 0x60, true
	}
	return uint64(u.regs[r]), true
}

func (u *uart) Write(addr uint64, _ int, v uint64) bool {
	r := addr - uartBase
	if r >= 8 {
		return false
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	dlab := u.regs[3]&0x80 != 0
	switch {
	case r == 0 && !dlab:
		u.out.WriteByte(byte(v))
		u.thrIdle = true
	case r == 1 && dlab, r == 0:
	default:
		u.regs[r] = byte(v)
		u.thrIdle = u.thrIdle || r == 1 && v&2 != 0
	}
	u.irq(u.regs[1]&2 != 0 && u.thrIdle)
	return true
}

// initramfs is a cpio archive (newc) with busybox, a console and /init.
func initramfs(busybox []byte, init string) []byte {
	var b bytes.Buffer
	file := func(name string, mode, major, minor int, data []byte) {
		fmt.Fprintf(&b, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
			0, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0)
		b.WriteString(name)
		b.WriteByte(0)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
		b.Write(data)
		for b.Len()%4 != 0 {
			b.WriteByte(0)
		}
	}
	file("bin", 0o40755, 0, 0, nil)
	file("dev", 0o40755, 0, 0, nil)
	file("dev/console", 0o20600, 5, 1, nil)
	file("bin/busybox", 0o100755, 0, 0, busybox)
	file("init", 0o100755, 0, 0, []byte(init))
	file("TRAILER!!!", 0, 0, 0, nil)
	return b.Bytes()
}

// fdt writes a flattened device tree (Devicetree Specification 0.4, 5).
type fdt struct{ tree, names bytes.Buffer }

func (f *fdt) u32(v ...uint32) {
	for _, v := range v {
		binary.Write(&f.tree, binary.BigEndian, v)
	}
}

func (f *fdt) padded(p []byte) {
	f.tree.Write(p)
	for f.tree.Len()%4 != 0 {
		f.tree.WriteByte(0)
	}
}

func (f *fdt) node(name string, body func()) {
	f.u32(1)
	f.padded([]byte(name + "\x00"))
	body()
	f.u32(2)
}

func (f *fdt) prop(name string, val any) {
	var v bytes.Buffer
	switch val := val.(type) {
	case string:
		v.WriteString(val + "\x00")
	default:
		binary.Write(&v, binary.BigEndian, val)
	}
	f.u32(3, uint32(v.Len()), uint32(f.names.Len()))
	f.names.WriteString(name + "\x00")
	f.padded(v.Bytes())
}

func bootFDT(bootargs string, initrd, initrdLen uint64) []byte {
	f := &fdt{}
	f.node("", func() {
		f.prop("#address-cells", uint32(2))
		f.prop("#size-cells", uint32(2))
		f.prop("compatible", "understudy,test")
		f.node("chosen", func() {
			f.prop("bootargs", bootargs)
			f.prop("linux,initrd-start", initrd)
			f.prop("linux,initrd-end", initrd+initrdLen)
			f.prop("rng-seed", [4]uint64{1, 2, 3, 4})
		})
		f.node("memory@80000000", func() {
			f.prop("device_type", "memory")
			f.prop("reg", []uint64{RAMBase, bootMemory})
		})
		f.node("cpus", func() {
			f.prop("#address-cells", uint32(1))
			f.prop("#size-cells", uint32(0))
			f.prop("timebase-frequency", uint32(TimebaseHz))
			f.node("cpu@0", func() {
				f.prop("device_type", "cpu")
				f.prop("reg", uint32(0))
				f.prop("compatible", "riscv")
				f.prop("riscv,isa", ISAString())
				f.prop("mmu-type", "riscv,sv48")
				f.node("interrupt-controller", func() {
					f.prop("#interrupt-cells", uint32(1))
					f.prop("interrupt-controller", []byte{})
					f.prop("compatible", "riscv,cpu-intc")
					f.prop("phandle", uint32(1))
				})
			})
		})
		f.node("soc", func() {
			f.prop("#address-cells", uint32(2))
			f.prop("#size-cells", uint32(2))
			f.prop("compatible", "simple-bus")
			f.prop("ranges", []byte{})
			f.node("plic@c000000", func() {
				f.prop("compatible", "riscv,plic0")
				f.prop("reg", []uint64{PLICBase, PLICSize})
				f.prop("#interrupt-cells", uint32(1))
				f.prop("#address-cells", uint32(0))
				f.prop("interrupt-controller", []byte{})
				f.prop("interrupts-extended", []uint32{1, 9})
				f.prop("riscv,ndev", uint32(MaxIRQ))
				f.prop("phandle", uint32(2))
			})
			f.node("serial@10000000", func() {
				f.prop("compatible", "ns16550a")
				f.prop("reg", []uint64{uartBase, 0x100})
				f.prop("clock-frequency", uint32(3686400))
				f.prop("interrupt-parent", uint32(2))
				f.prop("interrupts", uint32(uartIRQ))
			})
		})
	})
	f.u32(9)
	var out bytes.Buffer
	tree, names := f.tree.Len(), f.names.Len()
	head := []uint32{0xd00dfeed, uint32(56 + tree + names), 56, uint32(56 + tree), 40, 17, 16, 0, uint32(names), uint32(tree)}
	binary.Write(&out, binary.BigEndian, head)
	out.Write(make([]byte, 16))
	out.Write(f.tree.Bytes())
	out.Write(f.names.Bytes())
	return out.Bytes()
}

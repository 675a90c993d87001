//go:build linux && amd64

package kvm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// stopPort stops the machine, with what is written as the cause.
type stopPort struct{ stop func(vmm.Stop) }

func (stopPort) Read(uint64, int) (uint64, bool) { return 0, false }

func (p stopPort) Write(port uint64, _ int, v uint64) bool {
	if port == 0xf4 {
		p.stop(vmm.Stop{Cause: vmm.StopCause(v)})
	}
	return port == 0xf4
}

type noBus struct{}

func (noBus) Read(uint64, int) (uint64, bool) { return 0, false }
func (noBus) Write(uint64, int, uint64) bool  { return false }

type machine struct {
	*Engine
	t       testing.TB
	mem     *mem.Memory
	stopped chan vmm.Stop
}

const codeAt = 0x10_0000

func newMachine(t testing.TB, size uint64, change func(*Config)) *machine {
	t.Helper()
	if err := Available(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	ram, err := mem.NewSplit(size, HoleStart, HoleEnd)
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{t: t, mem: ram, stopped: make(chan vmm.Stop, 1)}
	p := &stopPort{}
	c := Config{Memory: ram, Bus: noBus{}, Ports: p, Clock: vmm.NewClock(), OnStop: func(s vmm.Stop) { m.stopped <- s }}
	if change != nil {
		change(&c)
	}
	if m.Engine, err = New(c); err != nil {
		t.Fatal(err)
	}
	p.stop = m.Stop
	t.Cleanup(func() {
		if err := errors.Join(m.Close(), ram.Close()); err != nil {
			t.Error(err)
		}
	})
	return m
}

// run runs code until the guest stops by itself.
func (m *machine) run(code ...byte) vmm.Stop {
	m.t.Helper()
	if err := m.mem.WriteAt(code, codeAt); err != nil {
		m.t.Fatal(err)
	}
	if err := m.Reset(vmm.Entry{PC: codeAt, Args: [2]uint64{0x1122_3344_5566, 0x7788}}); err != nil {
		m.t.Fatal(err)
	}
	m.Resume()
	return m.wait()
}

func (m *machine) wait() vmm.Stop {
	m.t.Helper()
	select {
	case s := <-m.stopped:
		m.Pause()
		return s
	case <-time.After(20 * time.Second):
		m.Pause()
		m.t.Fatal("the guest does not stop")
		panic("unreachable")
	}
}

// powerOff is mov $1, %al; out %al, $0xf4; and a loop.
var powerOff = []byte{0xb0, 1, 0xe6, 0xf4, 0xeb, 0xfe}

func (m *machine) word(addr uint64) uint64 {
	m.t.Helper()
	v, err := m.mem.Uint64(addr)
	if err != nil {
		m.t.Fatal(err)
	}
	return v
}

func TestEntry(t *testing.T) {
	m := newMachine(t, 4<<20, nil)
	code := slices.Concat([]byte{
		0x48, 0x89, 0x34, 0x25, 0, 0, 0x20, 0, // mov %rsi, 0x200000
		0x48, 0x89, 0x3c, 0x25, 8, 0, 0x20, 0, // mov %rdi, 0x200008
	}, powerOff)
	for range 2 { // the second time on another VM
		if err := m.mem.WriteAt(make([]byte, 16), 0x20_0000); err != nil {
			t.Fatal(err)
		}
		if s := m.run(code...); s.Cause != vmm.PowerOff {
			t.Fatalf("%v: %s", s.Cause, s.Detail)
		}
		if a, b := m.word(0x20_0000), m.word(0x20_0008); a != 0x1122_3344_5566 || b != 0x7788 {
			t.Errorf("rsi %#x rdi %#x", a, b)
		}
	}
}

func TestTripleFaultIsAReboot(t *testing.T) {
	m := newMachine(t, 4<<20, nil)
	if s := m.run(0x0f, 0x0b); s.Cause != vmm.Reboot { // ud2 without an IDT
		t.Errorf("%v: %s", s.Cause, s.Detail)
	}
}

// TestMemoryAboveTheHole writes to the first and to the last page above 4 GiB,
// and finds them, and their dirty bits, behind the first 3 GiB. Memory that
// nobody touches takes no memory: 16 GiB fit into a host with one.
func TestMemoryAboveTheHole(t *testing.T) {
	for _, size := range []uint64{HoleStart + 4<<20, 16 << 30} {
		m := newMachine(t, size, nil)
		high := size - HoleStart // bytes from 4 GiB on
		for _, at := range []uint64{HoleEnd + 0x3008, HoleEnd + high - mem.PageSize + 8} {
			// The boot page tables end at 4 GiB: map the 2 MiB with at at 3 GiB.
			const large = 2 << 20
			entry := at&^(large-1) | 0x83
			addr := HoleStart + uint32(at%large)
			code := slices.Concat([]byte{
				0xb8, 0, 0xe0, 0, 0, // mov $0xe000, %eax: the fourth page of PDs
				0x48, 0xb9}, binary.LittleEndian.AppendUint64(nil, entry), []byte{ // mov $entry, %rcx
				0x48, 0x89, 0x08, // mov %rcx, (%rax)
				0x0f, 0x20, 0xd8, 0x0f, 0x22, 0xd8, // reload cr3
				0xb8}, binary.LittleEndian.AppendUint32(nil, addr), []byte{ // mov $addr, %eax
				0xc7, 0x00, 0x78, 0x56, 0x34, 0x12, // movl $0x12345678, (%rax)
			}, powerOff)
			if s := m.run(code...); s.Cause != vmm.PowerOff {
				t.Fatalf("%v: %s", s.Cause, s.Detail)
			}
			if v := m.word(at); v != 0x1234_5678 {
				t.Errorf("%d MiB: %#x at %#x", size>>20, v, at)
			}
			d := mem.NewBitmap(m.mem.Pages())
			if err := m.DrainDirty(d); err != nil {
				t.Fatal(err)
			}
			n := (at - HoleEnd + HoleStart) >> mem.PageShift
			if !d.Has(n) || m.mem.Address(n) != at&^(mem.PageSize-1) {
				t.Errorf("%d MiB: the page at %#x is not reported", size>>20, at)
			}
		}
		if err := errors.Join(m.Close(), m.mem.Close()); err != nil {
			t.Error(err)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	ram, err := mem.New(0, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	elsewhere, err := mem.New(1<<20, 4<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close()
	ok := Config{Memory: ram, Bus: noBus{}, Ports: noBus{}, Clock: vmm.NewClock()}
	for name, change := range map[string]func(*Config){
		"nine vCPUs":       func(c *Config) { c.CPUs = 9 },
		"no ports":         func(c *Config) { c.Ports = nil },
		"memory elsewhere": func(c *Config) { c.Memory = elsewhere },
	} {
		c := ok
		change(&c)
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if Available() == nil {
		c := ok
		c.Baseline = []string{"avx512nonsense"}
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "avx512nonsense") {
			t.Errorf("unknown feature: %v", err)
		}
	}
}

// TestDeviceMissing: the words say what to do.
func TestDeviceMissing(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none"): "--device",
		plain:                      "not a KVM device",
	} {
		s, err := openSystem(path)
		if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%v", err)
		}
		if s != nil {
			t.Error("opened")
		}
	}
	for err, want := range map[error][]string{
		unix.EACCES: {"mode -rw-------", fmt.Sprintf("this process runs as user %d", os.Geteuid()), fmt.Sprintf("--group-add %d", os.Getegid())},
		unix.EPERM:  {"--device " + plain},
		unix.ENXIO:  {"kvm_amd"},
	} {
		for _, part := range want {
			if advice := openAdvice(plain, err); !strings.Contains(advice, part) {
				t.Errorf("%v: %q is not in the advice:%s", err, part, advice)
			}
		}
	}
}

func TestFeatures(t *testing.T) {
	m := newMachine(t, 4<<20, func(c *Config) { c.Baseline = []string{"popcnt", "0x1:ecx:13"} })
	f := m.Features()
	for _, name := range []string{"rdrand", "rdseed", "vmx", "svm", "constant_tsc", "popcnt", "cx16"} {
		if slices.Contains(f, name) {
			t.Errorf("%s is shown", name)
		}
	}
	for _, name := range []string{"lm", "hypervisor", "sse2", "kvmclock"} {
		if !slices.Contains(f, name) {
			t.Errorf("%s is not shown", name)
		}
	}
}

// load spoils a saved state and loads it.
func (m *machine) load(good []byte, spoil func(*pb.KvmState)) error {
	m.t.Helper()
	s := &pb.KvmState{}
	if err := proto.Unmarshal(good, s); err != nil {
		m.t.Fatal(err)
	}
	spoil(s)
	b, err := proto.Marshal(s)
	if err != nil {
		m.t.Fatal(err)
	}
	return m.Load(b)
}

// TestLoadOnAnotherCPU: a guest keeps the CPU that it was started on.
func TestLoadOnAnotherCPU(t *testing.T) {
	m := newMachine(t, 4<<20, nil)
	m.run(powerOff...)
	feature := "clflush"
	if !slices.Contains(m.Features(), feature) {
		t.Skipf("NOT TESTED: the host has no %s", feature)
	}
	old := newMachine(t, 4<<20, func(c *Config) { c.Baseline = []string{feature} })
	old.run(powerOff...)
	state, err := old.Save()
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Load(state); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(m.Features(), feature) {
		t.Error("the guest sees what it was not started with")
	}
	err = m.load(state, func(s *pb.KvmState) {
		for _, l := range s.Cpuid {
			if l.Function == 1 {
				l.Ecx |= 1 << 30
			}
		}
	})
	if !errors.Is(err, ErrHost) || !strings.Contains(err.Error(), "rdrand") {
		t.Errorf("a guest with rdrand: %v", err)
	}
	err = m.load(state, func(s *pb.KvmState) { s.Time.TscKhz *= 3 })
	if m.sys.has(capTSCControl) == 0 && !errors.Is(err, ErrHost) {
		t.Errorf("a guest with a TSC thrice as fast: %v", err)
	}
	m.run(powerOff...) // Reset shows the host's own again
	if !slices.Contains(m.Features(), feature) {
		t.Error("Reset keeps the other CPU")
	}
}

// TestSaveAfterLoad: nothing of a state gets lost on the way through an engine,
// but for time, which goes on.
func TestSaveAfterLoad(t *testing.T) {
	m := newMachine(t, 4<<20, func(c *Config) { c.CPUs = 2 })
	m.SetIRQ(9, true)
	m.run(powerOff...)
	first, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	o := newMachine(t, 4<<20, func(c *Config) { c.CPUs = 2 })
	copy(o.mem.Bytes(), m.mem.Bytes())
	if err := o.Load(first); err != nil {
		t.Fatal(err)
	}
	second, err := o.Save()
	if err != nil {
		t.Fatal(err)
	}
	a, b := &pb.KvmState{}, &pb.KvmState{}
	if err := errors.Join(proto.Unmarshal(first, a), proto.Unmarshal(second, b)); err != nil {
		t.Fatal(err)
	}
	if b.Time.Tsc < a.Time.Tsc || b.Time.KvmclockNs < a.Time.KvmclockNs || b.Time.TscKhz != a.Time.TscKhz {
		t.Errorf("time %v became %v", a.Time, b.Time)
	}
	if !bytes.Equal(a.Pit[:4], b.Pit[:4]) {
		t.Errorf("PIT %x became %x", a.Pit, b.Pit)
	}
	for _, s := range []*pb.KvmState{a, b} {
		s.Time, s.Pit = nil, nil // the PIT's state has the host's time in it
	}
	if !proto.Equal(a, b) {
		for i := range a.Vcpus {
			for j, x := range a.Vcpus[i].Msrs {
				if y := b.Vcpus[i].Msrs[j]; !proto.Equal(x, y) {
					t.Errorf("vCPU %d: MSR %#x: %#x became %#x", i, x.Index, x.Value, y.Value)
				}
			}
			a.Vcpus[i].Msrs, b.Vcpus[i].Msrs = nil, nil
			if !proto.Equal(a.Vcpus[i], b.Vcpus[i]) {
				t.Errorf("vCPU %d:\n%v\n%v", i, a.Vcpus[i], b.Vcpus[i])
			}
		}
		if len(a.Irqchips) != len(b.Irqchips) || a.Lines != b.Lines {
			t.Errorf("lines %x became %x", a.Lines, b.Lines)
		}
		t.Error("state changes on its way through an engine")
	}
}

// TestUnlistedMSRs: memory types, machine check banks and debug control come
// along although KVM's list leaves them out.
func TestUnlistedMSRs(t *testing.T) {
	m := newMachine(t, 4<<20, nil)
	m.run(powerOff...)
	want := []msr{
		{index: msrMTRRDefType, value: mtrrEnableWriteBack},
		{index: 0x20e, value: 0xc000_0000}, {index: 0x20f, value: 0xf_c000_0800}, // 1 GiB uncached
		{index: 0x250, value: 0x0606_0606_0606_0606},
		{index: 0x26f, value: 0x0505_0505_0505_0505},
		{index: msrMachineCheck + 4*7, value: 0},
		{index: msrMachineCheck + 4*7 + 1, value: 1 << 63},
	}
	if err := m.vm.vcpus[0].setMSRs(want); err != nil {
		t.Fatal(err)
	}
	state, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	o := newMachine(t, 4<<20, nil)
	if err := o.Load(state); err != nil {
		t.Fatal(err)
	}
	for _, w := range want {
		if v, err := o.vm.vcpus[0].msr(w.index); err != nil || v != w.value {
			t.Errorf("MSR %#x is %#x instead of %#x (%v)", w.index, v, w.value, err)
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	m := newMachine(t, 4<<20, nil)
	m.run(powerOff...)
	good, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*pb.KvmState){
		"version 0":           func(s *pb.KvmState) { s.Version = 0 },
		"newer version":       func(s *pb.KvmState) { s.Version++ },
		"no vCPUs":            func(s *pb.KvmState) { s.Vcpus = nil },
		"too many vCPUs":      func(s *pb.KvmState) { s.Vcpus = append(s.Vcpus, s.Vcpus[0]) },
		"no CPUID":            func(s *pb.KvmState) { s.Cpuid = nil },
		"too many leaves":     func(s *pb.KvmState) { s.Cpuid = slices.Repeat(s.Cpuid, 50) },
		"no clocks":           func(s *pb.KvmState) { s.Time = nil },
		"no TSC frequency":    func(s *pb.KvmState) { s.Time.TscKhz = 0 },
		"skew of no vCPU":     func(s *pb.KvmState) { s.Time.TscSkew = nil },
		"lines that are none": func(s *pb.KvmState) { s.Lines = 1 << 24 },
		"two chips":           func(s *pb.KvmState) { s.Irqchips = s.Irqchips[:2] },
		"long chip":           func(s *pb.KvmState) { s.Irqchips[0] = make([]byte, 513) },
		"long PIT":            func(s *pb.KvmState) { s.Pit = make([]byte, 113) },
		"long registers":      func(s *pb.KvmState) { s.Vcpus[0].Regs = make([]byte, 145) },
		"long xsave":          func(s *pb.KvmState) { s.Vcpus[0].Xsave = make([]byte, 4097) },
		"no sregs":            func(s *pb.KvmState) { s.Vcpus[0].Sregs = nil },
		"no LAPIC":            func(s *pb.KvmState) { s.Vcpus[0].Lapic = nil },
		"MP state":            func(s *pb.KvmState) { s.Vcpus[0].MpState = 9 },
		"too many MSRs":       func(s *pb.KvmState) { s.Vcpus[0].Msrs = slices.Repeat(s.Vcpus[0].Msrs, 50) },
	} {
		if err := m.load(good, spoil); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.Load(good); err != nil {
		t.Error(err)
	}
}

// FuzzLoad feeds states to Load and runs what it accepts for a moment.
func FuzzLoad(f *testing.F) {
	m := newMachine(f, 4<<20, func(c *Config) { c.OnStop = nil })
	if err := m.mem.WriteAt([]byte{0xeb, 0xfe}, codeAt); err != nil {
		f.Fatal(err)
	}
	if err := m.Reset(vmm.Entry{PC: codeAt}); err != nil {
		f.Fatal(err)
	}
	good, err := m.Save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, state []byte) {
		if m.Load(state) != nil {
			return
		}
		m.Resume()
		m.Pause()
		if _, err := m.Save(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestProbe(t *testing.T) {
	if err := Available(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	start := time.Now()
	s, err := Probe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%v in %v", s, time.Since(start))
	if s.Instructions == 0 || s.Elapsed < probeTime/2 {
		t.Errorf("%+v", s)
	}
}

func TestSpeed(t *testing.T) {
	for s, want := range map[Speed]bool{
		{}: false,
		{Instructions: 1e6, Elapsed: time.Second}:        false,
		{Instructions: 100e6, Elapsed: time.Second}:      true,
		{Instructions: 30e6, Elapsed: time.Second / 10}:  true,
		{Instructions: 2_000, Elapsed: time.Millisecond}: false,
	} {
		if s.Hardware() != want {
			t.Errorf("%v: hardware %v", s, !want)
		}
	}
}

// TestTicks converts without overflow.
func TestTicks(t *testing.T) {
	b := &timebase{guestNS: 1000, khz: 2_600_000}
	for ns, want := range map[uint64]uint64{0: 0, 1: 2, 5: 13, 1e9: 2_600_000_000, 1e18: 2_600_000_000_000_000_000} {
		if got := b.ticks(ns); got != want {
			t.Errorf("%d ns are %d ticks instead of %d", ns, got, want)
		}
	}
	if b.since(999) != 0 || b.since(1001) != 1 {
		t.Error("time since the base")
	}
}

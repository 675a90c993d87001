//go:build linux && amd64

package kvm

import (
	"bytes"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/bzimage"
	"github.com/understudy-ft/understudy/services/vmm"
)

// serial is the sending half of a 16550.
type serial struct {
	mu  sync.Mutex
	out bytes.Buffer
}

func (s *serial) Read(port uint64, _ int) (uint64, bool) { return 0x60, port == 0x3fd } // line status: ready

func (s *serial) Write(port uint64, _ int, v uint64) bool {
	if port != 0x3f8 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.WriteByte(byte(v))
	return true
}

func (s *serial) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.String()
}

// TestLinux boots the kernel that UNDERSTUDY_TEST_BZIMAGE names, without
// firmware tables and devices, up to the point where it misses its root, and
// moves it to another engine every now and then.
func TestLinux(t *testing.T) {
	path := os.Getenv("UNDERSTUDY_TEST_BZIMAGE")
	if path == "" {
		t.Skip("NOT TESTED: UNDERSTUDY_TEST_BZIMAGE names no kernel")
	}
	file, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	k, err := bzimage.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	const size = 256 << 20
	const zeroPage, cmdline, kernel = 0x1_0000, 0x2_0000, 16 << 20
	out := &serial{}
	clock := vmm.NewClock()
	boot := func() *machine { return newMachine(t, size, func(c *Config) { c.Ports, c.Clock = out, clock }) }
	m := boot()
	zp, err := k.ZeroPage(bzimage.Params{Cmdline: cmdline, Map: []bzimage.Region{
		{Addr: 0, Size: 0x9_f000, Kind: bzimage.RAM}, {Addr: 1 << 20, Size: size - 1<<20, Kind: bzimage.RAM}}})
	if err != nil {
		t.Fatal(err)
	}
	for addr, p := range map[uint64][]byte{
		zeroPage: zp, kernel: k.Code,
		cmdline: []byte("earlyprintk=serial,0x3f8,115200 console=ttyS0 acpi=off panic=0 nokaslr\x00"),
	} {
		if err := m.mem.WriteAt(p, addr); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Reset(vmm.Entry{PC: kernel + bzimage.EntryOffset, Args: [2]uint64{zeroPage}}); err != nil {
		t.Fatal(err)
	}
	m.Resume()
	const end = "Unable to mount root fs"
	deadline := time.Now().Add(5 * time.Minute)
	for n := 1; !strings.Contains(out.String(), end); n++ {
		select {
		case s := <-m.stopped:
			t.Fatalf("%v: %s\n%s", s.Cause, s.Detail, out)
		case <-time.After(500 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("the kernel does not get to its root:\n%s", out)
		}
		if n%8 == 0 {
			m.Pause()
			state, err := m.Save()
			if err != nil {
				t.Fatal(err)
			}
			o := boot()
			copy(o.mem.Bytes(), m.mem.Bytes())
			if err := o.Load(state); err != nil {
				t.Fatal(err)
			}
			if err := m.Close(); err != nil {
				t.Fatal(err)
			}
			_ = m.mem.Close() // a second time is nothing
			m = o
			m.Resume()
			t.Logf("moved after %d bytes of output", len(out.String()))
		}
	}
	m.Pause()
	for _, want := range []string{"Hypervisor detected: KVM", "kvm-clock: using sched offset", "clocksource: Switched to clocksource kvm-clock"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the kernel does not say %q:\n%s", want, out)
		}
	}
	if testing.Verbose() {
		t.Log(out)
	}
}

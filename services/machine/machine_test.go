package machine

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rv64"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Registers and instructions of the guest below.
const (
	x0, t0, t1, t2, a0, a1, a6, a7 = 0, 5, 6, 7, 10, 11, 16, 17
)

func lui(rd, imm uint32) uint32            { return imm<<12 | rd<<7 | 0x37 }
func addi(rd, rs uint32, imm int32) uint32 { return uint32(imm)<<20 | rs<<15 | rd<<7 | 0x13 }
func andi(rd, rs uint32, imm int32) uint32 { return uint32(imm)<<20 | rs<<15 | 7<<12 | rd<<7 | 0x13 }
func lbu(rd, rs uint32, off int32) uint32  { return uint32(off)<<20 | rs<<15 | 4<<12 | rd<<7 | 0x03 }
func sb(rs2, rs1, off uint32) uint32 {
	return off>>5<<25 | rs2<<20 | rs1<<15 | off&31<<7 | 0x23
}

// branch is beq (0) or bne (1) over off bytes.
func branch(f3, rs1, rs2 uint32, off int32) uint32 {
	o := uint32(off)
	return o>>12&1<<31 | o>>5&0x3f<<25 | rs2<<20 | rs1<<15 | f3<<12 | o>>1&0xf<<8 | o>>11&1<<7 | 0x63
}

const ecall = 0x73

// echoGuest is a kernel that prints '!', then repeats what is typed at the
// serial port with a count that it keeps in a register ("a0b1c2…"), switches the
// machine off at 'q' and reboots it at 'r'.
func echoGuest() []byte {
	return kernelImage(0x20_0000, 0x1000,
		lui(t0, 0x10000),       // the serial port
		addi(t1, x0, '!'),      //
		sb(t1, t0, 0),          //
		addi(a1, x0, '0'),      // the count
		lbu(t2, t0, 5),         // wait: line status
		andi(t2, t2, 1),        //
		branch(0, t2, x0, -8),  // nothing: wait
		lbu(t1, t0, 0),         //
		addi(t2, x0, 'q'),      //
		addi(a0, x0, 0),        // power-off
		branch(0, t1, t2, 28),  // to the call
		addi(t2, x0, 'r'),      //
		addi(a0, x0, 1),        // cold reboot
		branch(0, t1, t2, 16),  // to the call
		sb(t1, t0, 0),          //
		sb(a1, t0, 0),          //
		branch(0, x0, x0, 28),  // over the call
		lui(a7, 0x53525),       // SBI SRST
		addi(a7, a7, 0x354),    //
		addi(a6, x0, 0),        //
		addi(a1, x0, 0),        //
		ecall,                  //
		branch(0, x0, x0, 0),   // never here
		addi(a1, a1, 1),        //
		branch(0, x0, x0, -80), // wait
	)
}

// screen is a console that can be waited on.
type screen struct {
	mu      sync.Mutex
	text    bytes.Buffer
	changed chan struct{}
	also    io.Writer // gets what the guest prints, too
}

func newScreen() *screen { return &screen{changed: make(chan struct{}, 1)} }

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p)
	if s.also != nil {
		s.also.Write(p)
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Reset()
}

// await returns when the screen shows text.
func (s *screen) await(t *testing.T, text string, timeout time.Duration) {
	t.Helper()
	deadline := time.After(timeout)
	for !bytes.Contains([]byte(s.String()), []byte(text)) {
		select {
		case <-s.changed:
		case <-deadline:
			t.Fatalf("no %q within %v; the console says:\n%s", text, timeout, s)
		}
	}
}

// rig is a machine with its console.
type rig struct {
	*Machine
	screen *screen
	stops  chan vmm.Stop
}

func newRig(t *testing.T, change func(*Config)) *rig {
	t.Helper()
	cfg := Config{MemoryBytes: MinMemory, CPUs: 1, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Kernel: echoGuest()}
	if change != nil {
		change(&cfg)
	}
	r := &rig{screen: newScreen(), stops: make(chan vmm.Stop, 1)}
	var err error
	r.Machine, err = New(cfg, Host{Console: r.screen, OnStop: func(s vmm.Stop) { r.stops <- s }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func image(t *testing.T, size uint64) *disk.Image {
	t.Helper()
	d, err := disk.Create(filepath.Join(t.TempDir(), "disk.img"), size)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

const wait = 20 * time.Second

func TestConfigRefused(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"unknown engine":     func(c *Config) { c.Engine = "abacus" },
		"odd memory":         func(c *Config) { c.MemoryBytes++ },
		"too little memory":  func(c *Config) { c.MemoryBytes = MinMemory - mem.PageSize },
		"no memory":          func(c *Config) { c.MemoryBytes = 0 },
		"too much memory":    func(c *Config) { c.MemoryBytes = MaxMemory + mem.PageSize },
		"no CPU":             func(c *Config) { c.CPUs = 0 },
		"too many CPUs":      func(c *Config) { c.CPUs = rv64.MaxHarts + 1 },
		"no MAC":             func(c *Config) { c.MAC = [6]byte{} },
		"multicast MAC":      func(c *Config) { c.MAC[0] = 1 },
		"endless line":       func(c *Config) { c.Append = string(make([]byte, 4096)) },
		"line with NUL byte": func(c *Config) { c.Append = "quiet\x00" },
	} {
		cfg := Config{MemoryBytes: MinMemory, CPUs: 1, MAC: [6]byte{2}}
		change(&cfg)
		if _, err := New(cfg, Host{}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: error %v, want ErrConfig", name, err)
		}
	}
	cfg := Config{MemoryBytes: MinMemory, CPUs: 1, MAC: [6]byte{2}, Kernel: []byte("no kernel")}
	if _, err := New(cfg, Host{}); !errors.Is(err, ErrKernel) {
		t.Errorf("error %v, want ErrKernel", err)
	}
}

func TestLife(t *testing.T) {
	m := newRig(t, nil)
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	m.screen.await(t, "!", wait)
	m.ConsoleInput([]byte("ab"))
	m.screen.await(t, "!a0b1", wait)

	m.Pause()
	if n := m.ConsoleInput([]byte("x")); n != 0 {
		t.Errorf("a paused machine took %d bytes", n)
	}
	if m.Deliver(make([]byte, 60)) != 0 {
		t.Error("a paused machine took a frame")
	}
	m.Resume()
	m.ConsoleInput([]byte("c"))
	m.screen.await(t, "!a0b1c2", wait)

	m.ConsoleInput([]byte("r"))
	if s := <-m.stops; s.Cause != vmm.Reboot {
		t.Fatalf("stopped by %v: %s", s.Cause, s.Detail)
	}
	if err := m.Reset(); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Reset without Pause: %v", err)
	}
	m.Pause()
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	m.Resume()
	m.screen.await(t, "!a0b1c2!", wait)
	m.ConsoleInput([]byte("z"))
	m.screen.await(t, "!z0", wait)

	m.ConsoleInput([]byte("q"))
	if s := <-m.stops; s.Cause != vmm.PowerOff {
		t.Fatalf("stopped by %v: %s", s.Cause, s.Detail)
	}
	if err := errors.Join(m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
	if m.Deliver(make([]byte, 60)) != 0 || m.ConsoleInput([]byte("x")) != 0 {
		t.Error("a closed machine takes input")
	}
	if _, err := m.Save(); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Save of a closed machine: %v", err)
	}
}

// The owner may deal with a reboot where it is told of it.
func TestRebootFromOnStop(t *testing.T) {
	var m *Machine
	s := newScreen()
	m, err := New(Config{MemoryBytes: MinMemory, CPUs: 1, MAC: [6]byte{2}, Kernel: echoGuest()}, Host{
		Console: s,
		OnStop: func(vmm.Stop) {
			m.Pause()
			if err := m.Reset(); err != nil {
				t.Error(err)
			}
			m.Resume()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"!", "!!"} {
		s.await(t, text, wait)
		m.ConsoleInput([]byte("r"))
	}
	s.await(t, "!!!", wait)
}

// Close does not wait for an owner who, told of a stop, waits for the machine.
func TestCloseDuringOnStop(t *testing.T) {
	var m *Machine
	s, told, closing := newScreen(), make(chan struct{}), make(chan struct{})
	m, err := New(Config{MemoryBytes: MinMemory, CPUs: 1, MAC: [6]byte{2}, Kernel: echoGuest()}, Host{
		Console: s,
		OnStop: func(vmm.Stop) {
			close(told)
			<-closing
			m.Pause()
			if err := m.Reset(); !errors.Is(err, vmm.ErrNotPaused) {
				t.Errorf("Reset of a closed machine: %v", err)
			}
			m.Resume()
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	s.await(t, "!", wait)
	m.ConsoleInput([]byte("q"))
	<-told
	closed := make(chan error)
	go func() { closed <- m.Close() }()
	for done := false; !done; runtime.Gosched() {
		m.mu.Lock()
		done = m.closed
		m.mu.Unlock()
	}
	close(closing)
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestStartNeedsAKernel(t *testing.T) {
	m := newRig(t, func(c *Config) { c.Kernel = nil })
	if err := m.Start(); !errors.Is(err, ErrNoKernel) {
		t.Errorf("error %v, want ErrNoKernel", err)
	}
	if err := m.SetImages([]byte("nonsense"), nil); !errors.Is(err, ErrKernel) {
		t.Errorf("error %v, want ErrKernel", err)
	}
	if err := m.SetImages(echoGuest(), nil); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	m.screen.await(t, "!", wait)
}

// copyTo moves a paused machine to another host: memory first, then state.
func (r *rig) copyTo(t *testing.T, to *rig) {
	t.Helper()
	s, err := r.Save()
	if err != nil {
		t.Fatal(err)
	}
	if err := to.Memory().WriteAt(r.Memory().Bytes(), r.Memory().Base()); err != nil {
		t.Fatal(err)
	}
	if err := to.Load(s); err != nil {
		t.Fatal(err)
	}
}

// A guest goes on elsewhere with what it knew and what was typed ahead, at the
// time that it was.
func TestCopy(t *testing.T) {
	a := newRig(t, func(c *Config) { c.Disk = image(t, 1<<20) })
	b := newRig(t, func(c *Config) { c.Disk = image(t, 1<<20); c.Kernel = nil })
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	a.ConsoleInput([]byte("ab"))
	a.screen.await(t, "!a0b1", wait)
	a.Pause()
	a.Clock().Set(uint64(time.Hour))
	a.copyTo(t, b)
	if now := b.Clock().Now(); now < uint64(time.Hour) || now > uint64(time.Hour+time.Minute) {
		t.Errorf("guest time %v", time.Duration(now))
	}
	b.Resume()
	b.ConsoleInput([]byte("c"))
	b.screen.await(t, "c2", wait)
	if got := b.screen.String(); got != "c2" {
		t.Errorf("the copy said %q", got)
	}

	// Back again, on top of a machine that is at another point.
	a.Resume()
	a.ConsoleInput([]byte("x"))
	a.screen.await(t, "x2", wait)
	a.Pause()
	b.Pause()
	b.copyTo(t, a)
	a.Resume()
	a.ConsoleInput([]byte("d"))
	a.screen.await(t, "d3", wait)
}

func TestSaveAndLoadNeedAPause(t *testing.T) {
	m := newRig(t, nil)
	s, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	m.Resume()
	if _, err := m.Save(); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Save: %v", err)
	}
	if err := m.Load(s); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Load: %v", err)
	}
}

// A state that does not fit changes nothing.
func TestLoadRefused(t *testing.T) {
	m := newRig(t, func(c *Config) { c.Disk = image(t, 1<<20) })
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	good, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	other := newRig(t, func(c *Config) { c.Disk = image(t, 2<<20) })
	otherState, err := other.Save()
	if err != nil {
		t.Fatal(err)
	}
	const block = 3 // in the order of devices
	for name, change := range map[string]func(*understudyv1.MachineState){
		"version":         func(s *understudyv1.MachineState) { s.Version++ },
		"engine":          func(s *understudyv1.MachineState) { s.Engine = "kvm" },
		"no devices":      func(s *understudyv1.MachineState) { s.Devices = nil },
		"nil device":      func(s *understudyv1.MachineState) { s.Devices[0] = nil },
		"device missing":  func(s *understudyv1.MachineState) { s.Devices = s.Devices[1:] },
		"devices swapped": func(s *understudyv1.MachineState) { s.Devices[0], s.Devices[1] = s.Devices[1], s.Devices[0] },
		"device version":  func(s *understudyv1.MachineState) { s.Devices[block].Version++ },
		"device garbage":  func(s *understudyv1.MachineState) { s.Devices[2].State = []byte{0xff} },
		"other disk":      func(s *understudyv1.MachineState) { s.Devices[block] = otherState.Devices[block] },
		"engine garbage":  func(s *understudyv1.MachineState) { s.EngineState = []byte{0xff} },
		"engine cut":      func(s *understudyv1.MachineState) { s.EngineState = s.EngineState[:len(s.EngineState)/2] },
	} {
		s := proto.Clone(good).(*understudyv1.MachineState)
		s.GuestNs = uint64(1000 * time.Hour)
		change(s)
		if err := m.Load(s); !errors.Is(err, ErrState) {
			t.Errorf("%s: error %v, want ErrState", name, err)
		}
		if now := m.Clock().Now(); now > uint64(time.Hour) {
			t.Fatalf("%s: the clock was changed", name)
		}
	}
	if err := m.Load(nil); !errors.Is(err, ErrState) {
		t.Errorf("nil: error %v", err)
	}
	if err := m.Load(good); err != nil {
		t.Fatal(err)
	}
	m.Resume()
	m.screen.await(t, "!", wait)
}

// Pages that the boot or a reset changed are dirty, so that a copy gets them.
func TestResetMarksPages(t *testing.T) {
	m := newRig(t, func(c *Config) { c.Initrd = bytes.Repeat([]byte{1}, 5000) })
	drain := func() mem.Bitmap {
		b := mem.NewBitmap(m.Memory().Pages())
		if err := m.DrainDirty(b); err != nil {
			t.Fatal(err)
		}
		return b
	}
	drain()
	if err := m.Memory().WriteAt([]byte{1}, rv64.RAMBase); err != nil {
		t.Fatal(err)
	}
	drain()
	if err := m.Reset(); err != nil {
		t.Fatal(err)
	}
	if b, _ := m.Memory().Slice(rv64.RAMBase, 1); b[0] != 0 {
		t.Error("memory is not zeroed")
	}
	dirty := drain()
	end := m.Memory().Pages()
	for name, page := range map[string]uint64{
		"zeroed page": 0, "kernel": 0x20_0000 / mem.PageSize, "device tree": end - fdtReserve/mem.PageSize,
		"initrd": end - fdtReserve/mem.PageSize - 1,
	} {
		if !dirty.Has(page) {
			t.Errorf("%s (page %d) is not dirty", name, page)
		}
	}
	if n := dirty.Count(); n > 10 {
		t.Errorf("%d pages are dirty for a guest of a few", n)
	}
}

// Each boot gets entropy of its own, the same on both copies.
func TestBootEntropy(t *testing.T) {
	trees := func(seed [32]byte) (list [][]byte) {
		m := newRig(t, func(c *Config) { c.RNGSeed = seed })
		for range 2 {
			if err := m.Reset(); err != nil {
				t.Fatal(err)
			}
			p, err := m.Memory().Slice(m.images.(rv64Images).fdt, 8192)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, bytes.Clone(p))
		}
		return list
	}
	a, b, c := trees([32]byte{1}), trees([32]byte{1}), trees([32]byte{2})
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			t.Errorf("boot %d differs between copies", i)
		}
	}
	if bytes.Equal(a[0], a[1]) || bytes.Equal(a[0], c[0]) {
		t.Error("entropy repeats")
	}
}

func TestLastConsole(t *testing.T) {
	for line, want := range map[string]string{
		"": "", "quiet": "", "console=ttyS0": "ttyS", "console=ttyS0,115200n8": "ttyS",
		"console=ttyS0 console=hvc0": "hvc", "console=hvc0 console=ttyS0 quiet": "ttyS",
	} {
		if got := lastConsole(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// The bus takes accesses that lie whole in one device.
func TestBus(t *testing.T) {
	m := newRig(t, nil)
	for _, tt := range []struct {
		name string
		addr uint64
		size int
		ok   bool
	}{
		{"net", 0x1000_1000, 4, true}, {"no disk", 0x1000_2000, 4, false},
		{"last register", 0x1000_11fc, 4, true}, {"over the end", 0x1000_11fe, 4, false},
		{"behind", 0x1000_1200, 4, false}, {"nowhere", 0, 8, false}, {"end of addresses", ^uint64(0), 8, false},
	} {
		v, ok := m.bus.Read(tt.addr, tt.size)
		if ok != tt.ok || !ok && v != 0 {
			t.Errorf("%s: read %#x, %v", tt.name, v, ok)
		}
		if ok := m.bus.Write(tt.addr, tt.size, 0); ok != tt.ok {
			t.Errorf("%s: write %v", tt.name, ok)
		}
	}
}

package machine

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/uart"
	"github.com/understudy-ft/understudy/services/virtio"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Bounds of guest memory, in bytes.
const (
	MinMemory = 64 << 20
	MaxMemory = 64 << 30
)

// Engines that Config.Engine names.
const (
	EngineAuto = "auto"
	EngineRV64 = "rv64" // RISC-V, on any host
	EngineKVM  = "kvm"  // x86-64, on Linux KVM
)

// MaxFrame and MaxPendingFrames are those of the network device.
const (
	MaxFrame         = virtio.MaxFrame
	MaxPendingFrames = virtio.MaxPendingFrames
)

// Errors that callers decide on.
var (
	ErrConfig   = errors.New("impossible machine")
	ErrNoKernel = errors.New("machine has no kernel to boot")
	ErrState    = errors.New("state does not fit this machine")
)

// Config describes the machine, the same on both hosts.
type Config struct {
	// Engine is EngineAuto, EngineRV64 or EngineKVM; empty is EngineAuto. Auto is
	// the engine of the kernel's instruction set (see Sniff), rv64 without a
	// kernel. It takes KVM only where guest code proves to run on hardware.
	Engine string
	// MemoryBytes is a multiple of mem.PageSize from MinMemory to MaxMemory.
	MemoryBytes uint64
	// CPUs is the number of harts or vCPUs, as many as the engine can at most.
	CPUs int
	// CPUBaseline names features of the host's CPU to hide from the guest, as
	// package kvm's Config says. Only EngineKVM has a use for it.
	CPUBaseline []string
	// MAC is the guest's unicast address.
	MAC [6]byte
	// Kernel and Initrd are kept for reboots and must not be changed. Without
	// Kernel the machine can only Load, until SetImages.
	Kernel, Initrd []byte
	// Append is the kernel's command line.
	Append string
	// Disk is the guest's disk; nil: none. It stays the caller's to close.
	Disk *disk.Image
	// DiskReadOnly keeps the guest from writing; a disk that is itself
	// read-only does, too.
	DiskReadOnly bool
	// RNGSeed seeds the guest's entropy until ReseedRNG.
	RNGSeed [32]byte
}

// Host is what the machine needs of its host. Nil functions do nothing.
type Host struct {
	// Transmit gets each frame that the guest sends, from a vCPU's goroutine.
	// The frame is valid only during the call. It must be quick and must not
	// call the machine.
	Transmit func(frame []byte)
	// NetReady says that Deliver, which had returned false, can take a frame
	// again. It must only signal another goroutine.
	NetReady func()
	// Console gets what the guest prints, from any goroutine, one call at a
	// time. Writes must be quick; errors are ignored.
	Console io.Writer
	// OnStop is told when the guest stops by itself, from a vCPU's goroutine.
	// It may call Pause, Save and Reset, not Close.
	OnStop func(vmm.Stop)
	// OnIdle is told when the guest becomes idle, from a vCPU's goroutine. It must
	// only signal another goroutine. Engine kvm, whose vCPUs go to sleep in the
	// kernel, never calls it.
	OnIdle func()
	Log    hclog.Logger
}

// Machine is a virtual machine. All methods may be called from any goroutine.
type Machine struct {
	cfg    Config
	log    hclog.Logger
	memory *mem.Memory
	clock  *vmm.Clock
	engine vmm.Engine
	kind   platform
	// bus and ports are what the engine reaches in memory and I/O space.
	bus, ports bus
	// devices are on them, in the order of a MachineState.
	devices []slot
	net     *virtio.Net
	rng     *virtio.RNG
	input   func([]byte) int

	// mu is held for as long as the machine's life changes.
	mu     sync.Mutex
	images images
	paused bool
	closed bool
}

// New builds a paused machine that is switched off. Errors wrap ErrConfig or
// ErrKernel where the configuration, or a host that lacks what it asks for, is to
// blame.
func New(cfg Config, host Host) (*Machine, error) {
	kind, err := cfg.resolve()
	if err != nil {
		return nil, err
	}
	if err := cfg.check(kind); err != nil {
		return nil, err
	}
	host = host.withDefaults()
	m := &Machine{cfg: cfg, kind: kind, log: host.Log, clock: vmm.NewClock(), paused: true}
	if len(cfg.Kernel) > 0 {
		if err := m.SetImages(cfg.Kernel, cfg.Initrd); err != nil {
			return nil, err
		}
	}
	if m.memory, err = kind.newMemory(cfg.MemoryBytes); err != nil {
		return nil, err
	}
	m.addDevices(host)
	if m.engine, err = kind.newEngine(m, host); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrConfig, err), m.memory.Close())
	}
	return m, nil
}

// resolve replaces EngineAuto by what it stands for.
func (c *Config) resolve() (platform, error) {
	if c.Engine == "" || c.Engine == EngineAuto {
		var err error
		if c.Engine, err = chooseEngine(c.Kernel, hardware); err != nil {
			return nil, err
		}
	}
	kind, ok := platforms[c.Engine]
	if !ok {
		return nil, fmt.Errorf("engine %q is not known, use %q, %q or %q: %w", c.Engine, EngineAuto, EngineRV64, EngineKVM, ErrConfig)
	}
	return kind, nil
}

func (c *Config) check(kind platform) error {
	switch {
	case c.MemoryBytes%mem.PageSize != 0:
		return fmt.Errorf("memory of %d bytes is not a multiple of %d: %w", c.MemoryBytes, mem.PageSize, ErrConfig)
	case c.MemoryBytes < MinMemory || c.MemoryBytes > MaxMemory:
		return fmt.Errorf("memory of %d MiB: must be from %d to %d MiB (--memory): %w", c.MemoryBytes>>20, MinMemory>>20, MaxMemory>>20, ErrConfig)
	case c.CPUs < 1:
		return fmt.Errorf("%d CPUs: at least 1 is needed: %w", c.CPUs, ErrConfig)
	case c.MAC == [6]byte{} || c.MAC[0]&1 != 0:
		return fmt.Errorf("MAC address %x is not a unicast address: %w", c.MAC, ErrConfig)
	case len(c.Append) > kind.maxAppend() || strings.ContainsRune(c.Append, 0):
		return fmt.Errorf("kernel command line of %d bytes: at most %d without NUL: %w", len(c.Append), kind.maxAppend(), ErrConfig)
	}
	return nil
}

func (h Host) withDefaults() Host {
	if h.Transmit == nil {
		h.Transmit = func([]byte) {}
	}
	if h.NetReady == nil {
		h.NetReady = func() {}
	}
	if h.Console == nil {
		h.Console = io.Discard
	}
	if h.OnStop == nil {
		h.OnStop = func(vmm.Stop) {}
	}
	if h.Log == nil {
		h.Log = hclog.NewNullLogger()
	}
	h.Console = &serialWriter{w: h.Console}
	return h
}

// serialWriter lets several devices share a writer.
type serialWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *serialWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}

// addDevices puts all devices on the bus.
func (m *Machine) addDevices(host Host) {
	layout := m.kind.layout()
	irq := func(name string) func(bool) {
		line := layout[name].line
		return func(level bool) {
			// Devices come before the engine and begin with their lines low.
			if m.engine != nil {
				m.engine.SetIRQ(line, level)
			}
		}
	}
	add := func(name string, version uint32, d device) {
		m.devices = append(m.devices, slot{name, version, layout[name], d})
		m.attach(layout[name], d)
	}
	addVirtio := func(name string, d virtio.Device) {
		add(name, virtio.StateVersion, virtio.NewTransport(virtio.Config{
			Name: name, Memory: m.memory, IRQ: irq(name), Log: host.Log.Named(name),
		}, d))
	}
	serial := uart.New(host.Console, irq(nameUART))
	console := virtio.NewConsole(host.Console)
	m.net = virtio.NewNet(m.cfg.MAC, host.Transmit, host.NetReady)
	m.rng = virtio.NewRNG(m.cfg.RNGSeed)

	add(nameUART, uart.StateVersion, serial)
	clock, clockVersion := m.kind.newRTC(m.clock, time.Now(), irq(nameRTC))
	add(nameRTC, clockVersion, clock)
	addVirtio(nameNet, m.net)
	if m.cfg.Disk != nil {
		addVirtio(nameBlock, virtio.NewBlock(m.cfg.Disk, m.cfg.DiskReadOnly))
	}
	addVirtio(nameConsole, console)
	addVirtio(nameRNG, m.rng)

	m.input = serial.Input
	if lastConsole(m.cfg.Append) == "hvc" {
		m.input = console.Input
	}
}

// attach puts registers on the bus that their window is in.
func (m *Machine) attach(w window, r registers) {
	if w.ports {
		m.ports = append(m.ports, mapping{w, r})
	} else {
		m.bus = append(m.bus, mapping{w, r})
	}
}

// lastConsole returns the kind of the console that a command line names last:
// its name without number and options.
func lastConsole(line string) string {
	kind := ""
	for _, word := range strings.Fields(line) {
		if name, ok := strings.CutPrefix(word, "console="); ok {
			name, _, _ = strings.Cut(name, ",")
			kind = strings.TrimRight(name, "0123456789")
		}
	}
	return kind
}

// SetImages replaces what the machine boots from next. The slices are kept and
// must not be changed. Errors wrap ErrKernel.
func (m *Machine) SetImages(kernel, initrd []byte) error {
	images, err := m.kind.newImages(kernel, initrd, m.cfg)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.images = images
	return nil
}

// Start boots a paused machine: Reset and Resume.
func (m *Machine) Start() error {
	if err := m.Reset(); err != nil {
		return err
	}
	m.Resume()
	return nil
}

// Resume lets the guest run, devices first. A guest that stopped by itself does
// not go on until Reset or Load.
func (m *Machine) Resume() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || !m.paused {
		return
	}
	m.paused = false
	for _, s := range m.devices {
		s.Resume()
	}
	m.engine.Resume()
}

// Pause returns when nothing in the machine changes any more.
func (m *Machine) Pause() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pause()
}

func (m *Machine) pause() {
	if m.closed {
		return
	}
	m.paused = true
	for _, s := range m.devices {
		s.Pause()
	}
	m.engine.Pause()
}

// Reset brings a paused machine to the state in which its guest starts anew:
// zeroed memory with the boot images, devices and harts at power-on. Changed
// pages are marked dirty. Errors: vmm.ErrNotPaused, ErrNoKernel.
func (m *Machine) Reset() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed || !m.paused:
		return vmm.ErrNotPaused
	case m.images == nil:
		return ErrNoKernel
	}
	for _, s := range m.devices {
		s.Reset()
	}
	seed := make([]byte, 64)
	m.rng.Read(seed)
	zero(m.memory)
	entry, err := m.images.load(m.memory, seed, m.devices)
	if err != nil {
		return err
	}
	return m.engine.Reset(entry)
}

// zero clears the pages that are not zero already.
func zero(memory *mem.Memory) {
	var none [mem.PageSize]byte
	for n := range memory.Pages() {
		if p := memory.Page(n); [mem.PageSize]byte(p) != none {
			clear(p)
			memory.MarkDirty(memory.Address(n), mem.PageSize)
		}
	}
}

// Close ends the machine and frees its memory. Nothing may use it afterwards;
// Deliver and ConsoleInput still refuse.
func (m *Machine) Close() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.pause()
	m.closed = true
	m.mu.Unlock()
	// Without the lock: the engine waits for an OnStop that may want it.
	return errors.Join(m.engine.Close(), m.memory.Close())
}

// Config returns the configuration that the machine was built from.
func (m *Machine) Config() Config { return m.cfg }

// Engine returns the name of the engine that runs the guest.
func (m *Machine) Engine() string { return m.engine.Name() }

// Memory is the guest's memory. A paused machine's may be written; Load must
// follow before it runs.
func (m *Machine) Memory() *mem.Memory { return m.memory }

// Disk is the guest's disk, nil without one.
func (m *Machine) Disk() *disk.Image { return m.cfg.Disk }

// Clock is guest time.
func (m *Machine) Clock() *vmm.Clock { return m.clock }

// DrainDirty moves the numbers of the pages written since the last call, by
// harts or devices, into dst, a bitmap of Memory().Pages() numbers. It may be
// called while the guest runs.
func (m *Machine) DrainDirty(dst mem.Bitmap) error { return m.engine.DrainDirty(dst) }

// Idle returns how long the guest has been waiting for something to happen, 0
// while it runs.
func (m *Machine) Idle() time.Duration { return m.engine.Idle() }

// Deliver gives the guest frames with one interrupt; they are copied. It returns
// how many it took: fewer while the guest does not keep up or the machine is
// paused; Host.NetReady follows.
func (m *Machine) Deliver(frames ...[]byte) int { return m.net.Deliver(frames...) }

// Room is how many frames Deliver would take now; where it is 0, NetReady is
// called later.
func (m *Machine) Room() int { return m.net.Room() }

// ConsoleInput types at the guest's console and returns how many bytes were
// taken: fewer while the guest does not read them, none while it is paused.
func (m *Machine) ConsoleInput(p []byte) int { return m.input(p) }

// ReseedRNG begins a new sequence of entropy, at a checkpoint the same on both
// copies.
func (m *Machine) ReseedRNG(seed [32]byte) { m.rng.Reseed(seed) }

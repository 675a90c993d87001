//go:build linux && amd64

package kvm

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Engine is a vmm.Engine for x86-64 guests.
type Engine struct {
	mem    *mem.Memory
	bus    vmm.Bus
	ports  vmm.Bus
	clock  *vmm.Clock
	onStop func(vmm.Stop)
	log    hclog.Logger
	sys    *system
	host   hostCPU
	msrs   []uint32 // those that Save reads
	vcpus  []*vcpu
	idle   idleness

	// Of the goroutine that changes the engine's life.
	template []cpuidEntry // what the next guest to be started sees
	fresh    bool         // the VM is at power-on
	resumeAt *timebase    // what time to go on with after a Load

	// vmMu guards vm and shown against being replaced, for those who reach them
	// from other goroutines.
	vmMu  sync.RWMutex
	vm    *vm
	shown []cpuidEntry // what the guest sees
	// irqMu keeps the order of a line's changes.
	irqMu  sync.Mutex
	levels uint32

	// dirtyMu lets one goroutine at a time read KVM's log.
	dirtyMu sync.Mutex

	mu      sync.Mutex
	changed sync.Cond // holds, running or closed changed
	// holds counts who wants the world stopped; Pause is one of them.
	holds   int
	paused  bool
	stopped bool      // the guest stopped by itself
	request *vmm.Stop // a device's wish, see Stop
	closed  bool
	running int // vCPUs that are not parked
	alive   sync.WaitGroup
	closing atomic.Bool
}

var _ vmm.Engine = (*Engine)(nil)

// New returns a paused engine whose vCPUs are in their power-on state. Errors
// wrap ErrUnavailable where the host is to blame.
func New(c Config) (_ *Engine, err error) {
	if c.CPUs == 0 {
		c.CPUs = 1
	}
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("kvm: %w", err)
	}
	e := &Engine{
		mem: c.Memory, bus: c.Bus, ports: c.Ports, clock: c.Clock, onStop: c.OnStop, log: c.Log,
		holds: 1, paused: true, running: c.CPUs,
	}
	if e.log == nil {
		e.log = hclog.NewNullLogger()
	}
	e.changed.L = &e.mu
	if e.sys, err = openSystem(c.Device); err != nil {
		return nil, err
	}
	if err := e.build(c); err != nil {
		return nil, errors.Join(fmt.Errorf("kvm: %w", err), e.free())
	}
	for i := range c.CPUs {
		v := &vcpu{engine: e, id: i, fd: e.vm.vcpus[i]}
		v.hold.Store(true)
		e.vcpus = append(e.vcpus, v)
	}
	e.idle.watch(e.vcpus, e.vm)
	for _, v := range e.vcpus {
		e.alive.Go(v.loop)
	}
	e.Pause() // until the vCPUs are parked
	return e, nil
}

func (c *Config) check() error {
	switch {
	case c.CPUs < 1 || c.CPUs > MaxCPUs:
		return fmt.Errorf("%d vCPUs: 1 to %d are possible", c.CPUs, MaxCPUs)
	case c.Memory == nil || c.Bus == nil || c.Ports == nil || c.Clock == nil:
		return errors.New("memory, buses and clock are required")
	case c.Memory.Size() < 1<<20:
		return fmt.Errorf("%d bytes of memory: at least 1 MiB is needed", c.Memory.Size())
	}
	for _, r := range c.Memory.Regions() {
		if r.Phys == 0 && r.Size <= HoleStart || r.Phys == HoleEnd && r.Offset == HoleStart {
			continue
		}
		return fmt.Errorf("memory of %d bytes at %#x: must be from 0 to %#x and from %#x on", r.Size, r.Phys, uint64(HoleStart), uint64(HoleEnd))
	}
	return nil
}

func (e *Engine) build(c Config) (err error) {
	if n := e.sys.has(capMaxVCPUs); n != 0 && n < c.CPUs {
		return fmt.Errorf("%w: the host's KVM runs at most %d vCPUs, not %d", ErrUnavailable, n, c.CPUs)
	}
	if e.host, err = e.sys.hostCPU(); err != nil {
		return err
	}
	if e.msrs, err = e.sys.msrIndexes(); err != nil {
		return err
	}
	if e.template, err = e.sys.template(c.Baseline); err != nil {
		return err
	}
	return e.rebuild(c.CPUs, e.template)
}

// rebuild replaces the VM by one at power-on whose guest sees the given leaves.
// All vCPUs are parked. KVM can neither put a vCPU back to power-on, nor change
// what CPUID shows once it ran.
func (e *Engine) rebuild(cpus int, shown []cpuidEntry) error {
	if e.vm != nil {
		if err := e.DrainDirty(e.mem.Dirty()); err != nil { // the log goes with the VM
			return err
		}
	}
	v, err := newVM(e.sys, e.mem, cpus, shown)
	if err != nil {
		return err
	}
	e.vmMu.Lock()
	old := e.vm
	e.vm, e.shown = v, shown
	e.vmMu.Unlock()
	e.mu.Lock()
	for i, c := range e.vcpus {
		c.fd, c.pending = v.vcpus[i], false
	}
	e.mu.Unlock()
	e.fresh = true
	e.idle.watch(e.vcpus, v)
	if old != nil {
		return old.close()
	}
	return nil
}

// Name is "kvm".
func (e *Engine) Name() string { return "kvm" }

// Features lists the CPU features that the guest sees, by Linux's names.
func (e *Engine) Features() []string {
	e.vmMu.RLock()
	defer e.vmMu.RUnlock()
	return shownFeatures(e.shown)
}

// Stop stops the guest as its own doing. A device calls it from within the
// guest's access that asked for it, such as a write to a power-off register;
// OnStop follows once that access is complete.
func (e *Engine) Stop(s vmm.Stop) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped || e.request != nil || e.closed {
		return
	}
	e.request = &s
	e.holdAll()
}

func (e *Engine) holdAll() {
	for _, c := range e.vcpus {
		c.kick()
	}
}

func (e *Engine) awaitStop() {
	if e.running > 0 {
		e.holdAll()
	}
	for e.running > 0 {
		e.changed.Wait()
	}
}

// park holds a vCPU until the world starts, after it reported the guest's own
// stop if there is one. It returns false if the engine was closed.
func (e *Engine) park(c *vcpu, stop *vmm.Stop) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.request != nil {
		stop, e.request = e.request, nil
	}
	report := stop != nil && !e.stopped
	if report {
		e.stopped = true
		e.holdAll()
	}
	e.running--
	e.changed.Broadcast()
	if report {
		e.mu.Unlock()
		e.log.Info("guest stopped", "cause", stop.Cause, "detail", stop.Detail)
		if e.onStop != nil {
			e.onStop(*stop)
		}
		e.mu.Lock()
	}
	for !e.closed && (e.holds > 0 || e.stopped) {
		e.changed.Wait()
	}
	if e.closed {
		return false
	}
	e.running++
	return true
}

// Resume lets the vCPUs run. The guest's time goes on as if it had never
// stopped; after a Load it follows Clock.
func (e *Engine) Resume() {
	e.mu.Lock()
	if !e.paused || e.closed {
		e.mu.Unlock()
		return
	}
	stopped := e.stopped
	e.mu.Unlock()
	if !stopped {
		if err := e.startTime(); err != nil {
			e.log.Error("guest time does not go on as it should", "error", err)
		}
		e.fresh = false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.paused = false
	e.holds--
	if e.holds == 0 && !e.stopped {
		for _, c := range e.vcpus {
			c.hold.Store(false)
		}
		e.changed.Broadcast()
	}
}

// Pause returns when no vCPU runs or touches memory or devices any more.
func (e *Engine) Pause() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.paused {
		e.paused = true
		e.holds++
	}
	e.awaitStop()
}

func (e *Engine) checkPaused() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.paused || e.running > 0 || e.closed {
		return vmm.ErrNotPaused
	}
	return nil
}

// Reset puts all vCPUs, interrupt controllers and timers to their power-on
// state. The first vCPU begins at entry.PC in 64-bit mode with entry.Args in
// rsi and rdi, as the 64-bit Linux boot protocol has it; the others wait for
// their start-up interrupt. It writes page tables that map the first 4 GiB, and
// a descriptor table, into [BootStart, BootEnd).
func (e *Engine) Reset(entry vmm.Entry) error {
	if err := e.checkPaused(); err != nil {
		return err
	}
	if !e.fresh || !sameLeaves(e.shown, e.template) {
		if err := e.rebuild(len(e.vcpus), e.template); err != nil {
			return fmt.Errorf("reset kvm: %w", err)
		}
	}
	e.fresh = false
	e.irqMu.Lock()
	levels := e.levels
	e.irqMu.Unlock()
	if err := e.driveLines(levels); err != nil {
		return fmt.Errorf("reset kvm: %w", err)
	}
	if err := writeBootTables(e.mem); err != nil {
		return fmt.Errorf("reset kvm: %w", err)
	}
	if err := e.vm.maskPICs(); err != nil {
		return fmt.Errorf("reset kvm: %w", err)
	}
	for i, c := range e.vm.vcpus {
		if err := c.firmware(); err != nil {
			return fmt.Errorf("reset kvm: vCPU %d: %w", i, err)
		}
	}
	if err := e.vm.vcpus[0].enter64(entry); err != nil {
		return fmt.Errorf("reset kvm: vCPU 0: %w", err)
	}
	e.resumeAt = nil
	e.clearStop()
	return nil
}

func (e *Engine) clearStop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.stopped, e.request = false, nil
}

// SetIRQ drives a level-triggered interrupt line, a pin of the I/O APIC. Lines
// from GSIs on are ignored.
func (e *Engine) SetIRQ(line uint32, level bool) {
	if line >= GSIs {
		return
	}
	e.irqMu.Lock()
	defer e.irqMu.Unlock()
	bit := uint32(1) << line
	if e.levels&bit != 0 == level {
		return
	}
	e.levels ^= bit
	e.vmMu.RLock()
	defer e.vmMu.RUnlock()
	if e.closing.Load() {
		return
	}
	told, err := e.vm.setLine(line, level)
	if err != nil {
		e.log.Error("interrupt line", "line", line, "level", level, "error", err)
	}
	if told {
		e.idle.told()
	}
}

// driveLines drives all lines of the VM to the given levels.
func (e *Engine) driveLines(levels uint32) error {
	e.irqMu.Lock()
	defer e.irqMu.Unlock()
	e.levels = levels
	for line := range uint32(GSIs) {
		if line == 0 { // the PIT's
			continue
		}
		if _, err := e.vm.setLine(line, levels&(1<<line) != 0); err != nil {
			return err
		}
	}
	return nil
}

// DrainDirty moves the numbers of the pages written since the last call, by
// vCPUs or through the memory's methods, into dst.
func (e *Engine) DrainDirty(dst mem.Bitmap) error {
	if len(dst) != len(e.mem.Dirty()) {
		return fmt.Errorf("kvm: dirty bitmap of %d words instead of %d", len(dst), len(e.mem.Dirty()))
	}
	e.dirtyMu.Lock()
	defer e.dirtyMu.Unlock()
	e.vmMu.RLock()
	defer e.vmMu.RUnlock()
	if !e.closing.Load() {
		for _, l := range e.vm.log {
			if err := l.drain(dst); err != nil {
				return fmt.Errorf("kvm: %w", err)
			}
		}
	}
	if &dst[0] != &e.mem.Dirty()[0] {
		e.mem.Dirty().DrainInto(dst)
	}
	return nil
}

// Close ends the vCPUs' goroutines and frees the VM. Memory is the caller's.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.holds++
	e.holdAll()
	e.changed.Broadcast()
	e.mu.Unlock()
	e.alive.Wait()
	return e.free()
}

func (e *Engine) free() error {
	e.idle.watch(nil, nil)
	e.vmMu.Lock()
	defer e.vmMu.Unlock()
	e.closing.Store(true)
	var errs []error
	if e.vm != nil {
		errs = append(errs, e.vm.close())
	}
	return errors.Join(append(errs, e.sys.close())...)
}

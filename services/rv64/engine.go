package rv64

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// MaxHarts is the number of harts that New accepts.
const MaxHarts = 1

// ErrState is returned by Load for a state that cannot be this machine's.
var ErrState = errors.New("invalid rv64 state")

// Config is what an engine needs of its machine.
type Config struct {
	// Memory begins at RAMBase.
	Memory *mem.Memory
	// Bus takes every access outside of memory and PLIC.
	Bus   vmm.Bus
	Clock *vmm.Clock
	// Harts is the number of harts, 1 to MaxHarts; 0 stands for 1.
	Harts int
	// OnStop is called from a hart's goroutine when the guest stops by itself.
	// That hart counts as parked: OnStop may call Pause and Save, not Close.
	OnStop func(vmm.Stop)
	// OnIdle is called from a hart's goroutine when it begins to wait for an
	// interrupt, which Idle tells from then on. It must only signal another
	// goroutine. Optional.
	OnIdle func()
	// Console takes what the guest prints through SBI. Optional. The slice is
	// only valid during the call.
	Console func([]byte)
	// Log is optional.
	Log hclog.Logger
}

// Engine is a vmm.Engine for RISC-V guests.
type Engine struct {
	mem     *mem.Memory
	bus     vmm.Bus
	clock   *vmm.Clock
	onStop  func(vmm.Stop)
	onIdle  func()
	console func([]byte)
	log     hclog.Logger
	start   time.Time
	harts   []*hart
	plic    *plic

	mu      sync.Mutex
	changed sync.Cond // holds, running or closed changed
	// holds counts who wants the world stopped; Pause is one of them.
	holds   int
	paused  bool
	stopped bool // the guest stopped by itself
	closed  bool
	running int // harts that are not parked
	alive   sync.WaitGroup
}

var _ vmm.Engine = (*Engine)(nil)

// New returns a paused engine whose harts are in their power-on state.
func New(c Config) (*Engine, error) {
	if c.Harts == 0 {
		c.Harts = 1
	}
	switch {
	case c.Harts < 1 || c.Harts > MaxHarts:
		return nil, fmt.Errorf("rv64: %d harts: this engine runs %d", c.Harts, MaxHarts)
	case c.Memory == nil || c.Bus == nil || c.Clock == nil:
		return nil, errors.New("rv64: memory, bus and clock are required")
	case c.Memory.Base() != RAMBase:
		return nil, fmt.Errorf("rv64: memory at %#x instead of %#x", c.Memory.Base(), uint64(RAMBase))
	}
	e := &Engine{
		mem: c.Memory, bus: c.Bus, clock: c.Clock, onStop: c.OnStop, onIdle: c.OnIdle, console: c.Console, log: c.Log,
		start: time.Now(), holds: 1, paused: true, running: c.Harts,
	}
	if e.log == nil {
		e.log = hclog.NewNullLogger()
	}
	if e.onIdle == nil {
		e.onIdle = func() {}
	}
	e.changed.L = &e.mu
	e.plic = newPLIC(c.Harts, func(hart int, level bool) {
		h := e.harts[hart]
		if level {
			h.ip.Or(irqExt)
			h.notify(attnIRQ)
		} else {
			h.ip.And(^uint32(irqExt))
		}
	})
	for i := range c.Harts {
		s, err := newSleeper()
		if err != nil {
			return nil, errors.Join(fmt.Errorf("rv64: hart %d: %w", i, err), e.freeHarts())
		}
		h := newHart(e, i, s)
		h.attn.Store(attnHold)
		e.harts = append(e.harts, h)
	}
	for _, h := range e.harts {
		e.alive.Go(h.loop)
	}
	e.Pause() // until the harts are parked
	return e, nil
}

// Name is "rv64".
func (e *Engine) Name() string { return "rv64" }

// stopWorld returns when no hart runs. Each call needs a startWorld.
func (e *Engine) stopWorld() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.holds++
	e.awaitStop()
}

func (e *Engine) awaitStop() {
	for _, h := range e.harts {
		h.notify(attnHold)
	}
	for e.running > 0 {
		e.changed.Wait()
	}
}

func (e *Engine) startWorld() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.release()
}

func (e *Engine) release() {
	e.holds--
	if e.holds == 0 && !e.stopped {
		for _, h := range e.harts {
			h.attn.And(^attnHold)
		}
		e.changed.Broadcast()
	}
}

// park holds a hart until the world starts, after it reported the guest's own
// stop if there is one. It returns false if the engine was closed.
func (e *Engine) park(stop *vmm.Stop) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	report := stop != nil && !e.stopped
	if stop != nil {
		e.stopped = true
		for _, h := range e.harts {
			h.notify(attnHold)
		}
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

// Resume lets the harts run.
func (e *Engine) Resume() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.paused && !e.closed {
		e.paused = false
		e.release()
	}
}

// Pause returns when no hart runs or touches memory or devices any more.
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
	if !e.paused || e.running > 0 {
		return vmm.ErrNotPaused
	}
	return nil
}

// Reset puts all harts and the PLIC to their power-on state; the first hart
// starts at entry.PC with Args in a0 and a1.
func (e *Engine) Reset(entry vmm.Entry) error {
	if err := e.checkPaused(); err != nil {
		return err
	}
	e.plic.reset()
	for _, h := range e.harts {
		h.powerOn()
	}
	e.InvalidateMemory()
	e.harts[0].begin(entry.PC, entry.Args[0], entry.Args[1])
	e.mu.Lock()
	e.stopped = false
	e.mu.Unlock()
	return nil
}

// begin starts a stopped hart in supervisor mode without translation.
func (h *hart) begin(pc, a0, a1 uint64) {
	h.powerOn()
	h.pc = pc
	h.x[10], h.x[11] = a0, a1
	h.hsm.Store(uint32(hsmStarted))
}

// InvalidateMemory makes a paused engine forget what it derived from memory:
// translated code and addresses. It must follow every change of memory under
// a paused guest that may touch code or page tables, unless Load follows.
func (e *Engine) InvalidateMemory() {
	for _, h := range e.harts {
		h.code.flush()
		h.flushAll()
	}
}

// SetIRQ drives a level-triggered interrupt line of the PLIC. Lines outside
// of MinIRQ to MaxIRQ are ignored.
func (e *Engine) SetIRQ(line uint32, level bool) { e.plic.setLevel(line, level) }

// DrainDirty moves the numbers of the pages written since the last call into
// dst. The harts stop for its duration, some microseconds. It must not be
// called by a device in the middle of a guest's access.
func (e *Engine) DrainDirty(dst mem.Bitmap) error {
	if len(dst) != len(e.mem.Dirty()) {
		return fmt.Errorf("rv64: dirty bitmap of %d words instead of %d", len(dst), len(e.mem.Dirty()))
	}
	e.stopWorld()
	defer e.startWorld()
	for _, h := range e.harts {
		h.flushWrites()
	}
	e.mem.Dirty().DrainInto(dst)
	return nil
}

// Idle returns how long all harts have been waiting for an interrupt, or 0.
func (e *Engine) Idle() time.Duration {
	now, tick := int64(time.Since(e.start)), e.clock.Now()/nsPerTick
	idle := time.Duration(now)
	for _, h := range e.harts {
		since := h.idleSince.Load()
		if since == 0 || h.attn.Load()&^attnHold != 0 || tick >= h.wakeAt.Load() {
			return 0
		}
		idle = min(idle, time.Duration(now-since))
	}
	return max(0, idle)
}

// Close ends the harts' goroutines. Memory is the caller's.
func (e *Engine) Close() error {
	e.mu.Lock()
	if e.closed {
		e.mu.Unlock()
		return nil
	}
	e.closed = true
	e.holds++
	for _, h := range e.harts {
		h.notify(attnHold)
	}
	e.changed.Broadcast()
	e.mu.Unlock()
	e.alive.Wait()
	return e.freeHarts()
}

func (e *Engine) freeHarts() error {
	var errs []error
	for _, h := range e.harts {
		errs = append(errs, h.sleeper.close())
	}
	return errors.Join(errs...)
}

// busRead and busWrite are the harts' accesses outside of memory.
func (e *Engine) busRead(addr uint64, size int) (uint64, bool) {
	if addr-PLICBase < PLICSize {
		return e.plic.read(addr-PLICBase, size)
	}
	return e.bus.Read(addr, size)
}

func (e *Engine) busWrite(addr uint64, size int, v uint64) bool {
	if addr-PLICBase < PLICSize {
		return e.plic.write(addr-PLICBase, size, v)
	}
	return e.bus.Write(addr, size, v)
}

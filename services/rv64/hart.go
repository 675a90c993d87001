package rv64

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/sched"
	"github.com/understudy-ft/understudy/services/vmm"
)

// Reasons to leave the hot loop at the end of a block (hart.attn).
const (
	attnHold  uint32 = 1 << iota // park: somebody wants the world stopped
	attnIRQ                      // an interrupt may have become deliverable
	attnFence                    // another hart asks for fences
)

// Status of a hart as SBI HSM numbers it.
type hsmState uint32

const (
	hsmStarted   hsmState = 0
	hsmStopped   hsmState = 1
	hsmSuspended hsmState = 4
)

// hart is one RISC-V hardware thread. Its goroutine owns it; others touch it
// only through the atomic fields, or while the world is stopped.
type hart struct {
	// x holds the integer registers, the sink and from fpBase the
	// floating-point registers. The index has the type of the array's
	// length, so that no bounds check is needed.
	x [256]uint64

	eng   *Engine
	id    int
	ram   unsafe.Pointer
	base  uint64
	size  uint64
	mem   *mem.Memory
	dirty mem.Bitmap
	code  *codeCache

	attn atomic.Uint32
	// ip holds the software and external bits of sip.
	ip atomic.Uint32
	// remote collects the fences that other harts asked for.
	remote atomic.Uint32
	hsm    atomic.Uint32
	// sleeping is set while the goroutine may be asleep.
	sleeping  atomic.Bool
	sleeper   *sleeper
	idleSince atomic.Int64  // engine time in ns, 0 while not idle
	wakeAt    atomic.Uint64 // the tick at which idleness ends, all ones for never

	pc      uint64
	priv    privilege
	sp      *space
	instret uint64
	// exc and excVal are the exception that the last failed access raised.
	exc, excVal uint64
	// single counts the instructions to run one by one, unfused.
	single int
	frame  frame

	sstatus    uint64
	sie        uint64
	stvec      uint64
	scounteren uint64
	senvcfg    uint64
	sscratch   uint64
	sepc       uint64
	scause     uint64
	stval      uint64
	stimecmp   uint64
	satp       uint64
	fcsr       uint64

	reserved bool // an LR holds a reservation
	resAddr  uint64
	resValue uint64
	waiting  bool          // in WFI
	stop     *vmm.Stop     // the guest's own stop, to be reported
	barrier  atomic.Uint32 // written to order stores before loads
	timerDue bool          // stimecmp had passed when last looked at
	spaces   []*space
	spaceUse uint64
	tlbGen   uint64
	jcGen    uint64
	large    superpages
}

// instructions between two looks at the clock, some 50 µs of a busy guest.
const timeslice = 16384

func newHart(e *Engine, id int, s *sleeper) *hart {
	h := &hart{
		eng: e, id: id, mem: e.mem,
		ram: unsafe.Pointer(unsafe.SliceData(e.mem.Bytes())), base: e.mem.Base(), size: e.mem.Size(),
		dirty: e.mem.Dirty(), code: newCodeCache(e.mem),
		sleeper: s, tlbGen: 1, jcGen: 1,
	}
	h.powerOn()
	return h
}

// powerOn sets the state after reset: supervisor mode, no translation,
// interrupts off.
func (h *hart) powerOn() {
	h.x = [256]uint64{}
	h.pc, h.priv, h.instret, h.single = 0, privS, 0, 0
	h.sstatus, h.sie, h.stvec, h.senvcfg = 0, 0, 0, 0
	// As firmware leaves it: user programs may read the counters. The kernel
	// relies on it for the clock in its vDSO.
	h.scounteren = 7
	h.sscratch, h.sepc, h.scause, h.stval, h.satp, h.fcsr = 0, 0, 0, 0, 0, 0
	h.stimecmp = ^uint64(0)
	h.reserved, h.waiting, h.stop, h.timerDue = false, false, nil, false
	h.ip.Store(0)
	h.remote.Store(0)
	h.hsm.Store(uint32(hsmStopped))
	h.idleSince.Store(0)
	h.flushAll()
}

// notify sets a reason to leave the hot loop and wakes a sleeping hart.
func (h *hart) notify(reason uint32) {
	h.attn.Or(reason)
	if h.sleeping.Load() {
		h.sleeper.wake()
	}
}

// loop runs the hart until the engine closes.
func (h *hart) loop() {
	// The thread's time slices are its own, and so it ends with the goroutine.
	runtime.LockOSThread()
	if err := sched.Steady(); err != nil {
		h.eng.log.Debug("the hart's thread keeps short time slices", "error", err)
	}
	for {
		if h.attn.Load()&attnHold != 0 {
			stop := h.stop
			h.stop = nil
			if !h.eng.park(stop) {
				return
			}
			continue
		}
		h.attn.And(^uint32(attnIRQ))
		if h.attn.Load()&attnFence != 0 {
			h.takeFences()
		}
		if hsmState(h.hsm.Load()) == hsmStopped {
			h.sleep(0)
			continue
		}
		ready := h.pending() & h.sie
		if h.waiting {
			if ready == 0 {
				h.sleep(h.sie & irqTimer)
				continue
			}
			h.waiting = false
			h.idleSince.Store(0)
		}
		if ready != 0 && h.interruptible() {
			h.interrupt(ready)
		}
		h.runSlice()
	}
}

// runSlice executes until a reason to look up, or a slice's end.
func (h *hart) runSlice() {
	end := h.instret + timeslice
	for h.attn.Load() == 0 && h.instret < end && !h.waiting {
		if h.single > 0 {
			h.single--
			if b := h.code.single(h, h.pc); b != nil {
				h.exec(b, h.instret+1)
			} else {
				h.fetchFailed()
			}
			continue
		}
		if b := h.lookup(h.pc); b != nil {
			h.exec(b, end)
		} else {
			h.fetchFailed()
		}
	}
}

// fetchFailed takes the exception of a failed fetch. A trap handler that
// cannot be fetched, with interrupts off, fails forever.
func (h *hart) fetchFailed() {
	if h.priv == privS && h.sstatus&sstatusSIE == 0 && h.pc == h.stvec&^3 {
		h.requestStop(vmm.Fault, fmt.Sprintf("hart %d: no code at its trap handler %#x (cause %d, sepc %#x, scause %#x, stval %#x)",
			h.id, h.pc, h.exc, h.sepc, h.scause, h.stval))
		return
	}
	h.trap(h.pc, h.exc, h.excVal)
}

func (h *hart) now() uint64 { return h.eng.clock.Now() / nsPerTick }

// requestStop ends the guest on its own wish at the end of the instruction.
func (h *hart) requestStop(cause vmm.StopCause, detail string) {
	h.stop = &vmm.Stop{Cause: cause, Detail: detail}
	h.attn.Or(attnHold)
}

// pending is the value of sip.
func (h *hart) pending() uint64 {
	ip := uint64(h.ip.Load())
	if h.timerDue = h.expired(); h.timerDue {
		ip |= irqTimer
	}
	return ip
}

func (h *hart) expired() bool { return h.stimecmp != ^uint64(0) && h.now() >= h.stimecmp }

func (h *hart) interruptible() bool { return h.priv == privU || h.sstatus&sstatusSIE != 0 }

// interrupt takes the most urgent of the ready interrupts (privileged ISA,
// 12.1.3: external, software, timer).
func (h *hart) interrupt(ready uint64) {
	var n uint64
	switch {
	case ready&irqExt != 0:
		n = 9
	case ready&irqSoft != 0:
		n = 1
	default:
		n = 5
	}
	h.trap(h.pc, causeInterrupt|n, 0)
}

// recheck makes the hot loop end if an interrupt can be taken now. It follows
// every change of sie, sip, sstatus.SIE, stimecmp and privilege. It does not
// read the clock, which is looked at in every slice.
func (h *hart) recheck() {
	ip := uint64(h.ip.Load())
	if h.timerDue {
		ip |= irqTimer
	}
	if ip&h.sie != 0 && h.interruptible() {
		h.attn.Or(attnIRQ)
	}
}

// trap enters the supervisor's trap handler.
func (h *hart) trap(epc, cause, tval uint64) {
	h.sepc, h.scause, h.stval = epc, cause, tval
	s := h.sstatus &^ (sstatusSPIE | sstatusSPP | sstatusSIE)
	if h.sstatus&sstatusSIE != 0 {
		s |= sstatusSPIE
	}
	if h.priv == privS {
		s |= sstatusSPP
	}
	h.sstatus, h.priv = s, privS
	h.pc = h.stvec &^ 3
	if h.stvec&1 != 0 && cause&causeInterrupt != 0 {
		h.pc += 4 * (cause &^ causeInterrupt)
	}
	h.enterSpace()
}

// sret returns from a trap to next's sepc.
func (h *hart) sret() {
	s := h.sstatus
	h.priv = privilege(s >> 8 & 1)
	s &^= sstatusSIE | sstatusSPP
	if s&sstatusSPIE != 0 {
		s |= sstatusSIE
	}
	h.sstatus = s | sstatusSPIE
	h.pc = h.sepc
	h.enterSpace()
	h.recheck()
}

// sleep blocks until something notifies the hart, or, where timer is not 0,
// until stimecmp.
func (h *hart) sleep(timer uint64) {
	wakeAt := ^uint64(0)
	if timer != 0 {
		wakeAt = h.stimecmp
	}
	h.wakeAt.Store(wakeAt)
	if h.idleSince.Load() == 0 {
		h.idleSince.Store(max(1, int64(time.Since(h.eng.start))))
		h.eng.onIdle()
	}
	h.sleeping.Store(true)
	if h.attn.Load() == 0 {
		h.sleeper.sleep(h.untilTimer(wakeAt))
	}
	h.sleeping.Store(false)
}

// untilTimer is the time until a tick, at most an hour.
func (h *hart) untilTimer(tick uint64) time.Duration {
	now := h.eng.clock.Now()
	if tick > (now+uint64(time.Hour))/nsPerTick {
		return time.Hour
	}
	return time.Duration(max(0, int64(tick*nsPerTick)-int64(now)))
}

package rv64

import (
	"github.com/understudy-ft/understudy/services/vmm"
)

// Extensions of the SBI specification 2.0 that the monitor serves.
const (
	sbiBase   = 0x10
	sbiTime   = 0x54494d45
	sbiIPI    = 0x735049
	sbiRFence = 0x52464e43
	sbiHSM    = 0x48534d
	sbiReset  = 0x53525354
	sbiDebug  = 0x4442434e
)

// Legacy extensions (chapter 5).
const (
	sbiLegacySetTimer = iota
	sbiLegacyPutchar
	sbiLegacyGetchar
	sbiLegacyClearIPI
	sbiLegacySendIPI
	sbiLegacyFenceI
	sbiLegacySfence
	sbiLegacySfenceASID
	sbiLegacyShutdown
)

// sbiError is a standard error code; results are two's complement.
type sbiError int64

const (
	sbiOK               sbiError = 0
	sbiNotSupported     sbiError = -2
	sbiInvalidParam     sbiError = -3
	sbiAlreadyAvailable sbiError = -6
)

const (
	sbiSpecVersion = 2 << 24
	// sbiImplID is outside of the registered range; the version is our own.
	sbiImplID      = 0x75_6e_64_72
	sbiImplVersion = 1
)

// Fences that one hart asks of another (hart.remote).
const (
	fenceCode uint32 = 1 << iota
	fenceAddresses
)

// sbi serves an ECALL from supervisor mode: extension in a7, function in a6,
// arguments from a0, results in a0 (error) and a1 (value).
func (h *hart) sbi() {
	ext, fn := h.x[17], h.x[16]
	a := [5]uint64(h.x[10:15])
	if ext <= sbiLegacyShutdown {
		h.x[10] = h.sbiLegacy(ext, a[0])
		return
	}
	v, err := uint64(0), sbiNotSupported
	switch ext {
	case sbiBase:
		v, err = sbiBaseCall(fn, a[0])
	case sbiTime:
		if fn == 0 {
			h.setTimer(a[0])
			err = sbiOK
		}
	case sbiIPI:
		if fn == 0 {
			err = h.eng.eachHart(a[0], a[1], func(t *hart) {
				t.ip.Or(irqSoft)
				t.notify(attnIRQ)
			})
		}
	case sbiRFence:
		switch fn {
		case 0:
			err = h.eng.eachHart(a[0], a[1], func(t *hart) { t.askFence(fenceCode) })
		case 1, 2:
			err = h.eng.eachHart(a[0], a[1], func(t *hart) { t.askFence(fenceAddresses) })
		}
	case sbiHSM:
		v, err = h.sbiHSMCall(fn, a)
	case sbiReset:
		err = h.sbiSystemReset(fn, a[0], a[1])
	case sbiDebug:
		v, err = h.sbiConsole(fn, a)
	}
	h.x[10], h.x[11] = uint64(err), v
}

func sbiBaseCall(fn, arg uint64) (uint64, sbiError) {
	switch fn {
	case 0:
		return sbiSpecVersion, sbiOK
	case 1:
		return sbiImplID, sbiOK
	case 2:
		return sbiImplVersion, sbiOK
	case 3:
		switch arg {
		case sbiBase, sbiTime, sbiIPI, sbiRFence, sbiHSM, sbiReset, sbiDebug:
			return 1, sbiOK
		}
		return b2u(arg <= sbiLegacyShutdown), sbiOK
	case 4, 5, 6: // mvendorid, marchid, mimpid
		return 0, sbiOK
	}
	return 0, sbiNotSupported
}

func (h *hart) sbiLegacy(ext, arg uint64) uint64 {
	switch ext {
	case sbiLegacySetTimer:
		h.setTimer(arg)
	case sbiLegacyPutchar:
		h.eng.print([]byte{byte(arg)})
	case sbiLegacyGetchar:
		return ^uint64(0)
	case sbiLegacyClearIPI:
		h.ip.And(^uint32(irqSoft))
	case sbiLegacySendIPI:
		for _, t := range h.eng.harts {
			t.ip.Or(irqSoft)
			t.notify(attnIRQ)
		}
	case sbiLegacyFenceI:
		h.eng.eachHart(0, ^uint64(0), func(t *hart) { t.askFence(fenceCode) })
	case sbiLegacySfence, sbiLegacySfenceASID:
		h.eng.eachHart(0, ^uint64(0), func(t *hart) { t.askFence(fenceAddresses) })
	case sbiLegacyShutdown:
		h.requestStop(vmm.PowerOff, "SBI legacy shutdown")
	}
	return 0
}

func (h *hart) setTimer(tick uint64) {
	h.stimecmp = tick
	h.timerDue = h.expired()
	h.recheck()
}

// eachHart calls f for the harts of an SBI hart mask (section 3.1).
func (e *Engine) eachHart(mask, base uint64, f func(*hart)) sbiError {
	if base == ^uint64(0) {
		for _, t := range e.harts {
			f(t)
		}
		return sbiOK
	}
	n := uint64(len(e.harts))
	if base >= n || n-base < 64 && mask>>(n-base) != 0 {
		return sbiInvalidParam
	}
	for i, t := range e.harts {
		if d := uint64(i) - base; d < 64 && mask>>d&1 != 0 {
			f(t)
		}
	}
	return sbiOK
}

// askFence makes a hart fence before its next block.
func (h *hart) askFence(kind uint32) {
	h.remote.Or(kind)
	h.notify(attnFence)
}

// takeFences does what other harts, or this one, asked for.
func (h *hart) takeFences() {
	h.attn.And(^attnFence)
	kinds := h.remote.Swap(0)
	if kinds&fenceCode != 0 {
		h.fenceI()
	}
	if kinds&fenceAddresses != 0 {
		h.flushAll()
	}
}

func (h *hart) sbiHSMCall(fn uint64, a [5]uint64) (uint64, sbiError) {
	switch fn {
	case 0: // hart_start
		if a[0] >= uint64(len(h.eng.harts)) {
			return 0, sbiInvalidParam
		}
		if hsmState(h.eng.harts[a[0]].hsm.Load()) != hsmStopped {
			return 0, sbiAlreadyAvailable
		}
		// With one hart there is no stopped one to start.
		return 0, sbiInvalidParam
	case 1: // hart_stop
		h.hsm.Store(uint32(hsmStopped))
		h.attn.Or(attnIRQ)
		return 0, sbiOK
	case 2: // hart_get_status
		if a[0] >= uint64(len(h.eng.harts)) {
			return 0, sbiInvalidParam
		}
		return uint64(h.eng.harts[a[0]].hsm.Load()), sbiOK
	case 3: // hart_suspend
		if a[0] == 0 { // default retentive suspend
			h.waiting = true
			return 0, sbiOK
		}
		return 0, sbiNotSupported
	}
	return 0, sbiNotSupported
}

func (h *hart) sbiSystemReset(fn, kind, reason uint64) sbiError {
	if fn != 0 {
		return sbiNotSupported
	}
	detail := "SBI system reset"
	if reason == 1 {
		detail = "SBI system reset after a system failure"
	}
	switch kind {
	case 0:
		h.requestStop(vmm.PowerOff, detail)
	case 1, 2:
		h.requestStop(vmm.Reboot, detail)
	default:
		return sbiInvalidParam
	}
	return sbiOK
}

// maxConsoleWrite bounds the bytes taken by one call; the guest writes the
// rest with another one.
const maxConsoleWrite = 4096

func (h *hart) sbiConsole(fn uint64, a [5]uint64) (uint64, sbiError) {
	switch fn {
	case 0: // write
		n := min(a[0], maxConsoleWrite)
		if a[2] != 0 || !h.mem.Contains(a[1], a[0]) {
			return 0, sbiInvalidParam
		}
		p := make([]byte, n)
		if err := h.mem.ReadAt(p, a[1]); err != nil {
			return 0, sbiInvalidParam
		}
		h.eng.print(p)
		return n, sbiOK
	case 1: // read: there is no input
		return 0, sbiOK
	case 2:
		h.eng.print([]byte{byte(a[0])})
		return 0, sbiOK
	}
	return 0, sbiNotSupported
}

func (e *Engine) print(p []byte) {
	if e.console != nil {
		e.console(p)
	}
}

package rv64

import (
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/vmm"
)

// waitUntil polls a condition that another goroutine brings about.
func waitUntil(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s does not happen", what)
		}
		time.Sleep(50 * time.Microsecond)
	}
}

// enableLine is a program that routes a PLIC line to the hart.
func enableLine(line uint32) []uint32 {
	return asm(
		li(t0, PLICBase), addi(t1, zero, 1), sw(t1, t0, int32(4*line)),
		li(t0, PLICBase+plicEnable), li(t1, 1<<line), sw(t1, t0, 0),
		li(t0, irqExt), csrrw(0, csrSie, t0),
	)
}

// TestExternalInterrupt: a sleeping guest wakes, claims the line, completes
// it, and is interrupted again for as long as the line is high.
func TestExternalInterrupt(t *testing.T) {
	const line = 5
	m := newMachine(t, noBus{})
	// The handler counts in s5, keeps the claim in s2, and powers off at the
	// third time.
	handler := uint64(codeAt + 4096)
	m.put(handler, asm(
		li(s0, PLICBase+plicContext0), lw(s2, s0, 4), csrrs(s3, csrScause, 0),
		lw(s4, s0, 4), // a second claim finds nothing
		addi(s5, s5, 1), addi(t0, zero, 3), bne(s5, t0, 12), halt(),
		sw(s2, s0, 4), uint32(sret)))
	m.boot(enableLine(line), li(t0, handler), csrrw(0, csrStvec, t0), csrrsi(0, csrSstatus, 2),
		uint32(wfi), jal(0, -4))
	m.Resume()
	waitUntil(t, "sleep", func() bool { return m.Idle() > 0 })
	m.SetIRQ(line, true)
	m.wait()
	h := m.harts[0]
	if h.x[s2] != line || h.x[s4] != 0 || h.x[s3] != causeInterrupt|9 || h.x[s5] != 3 {
		t.Errorf("claims %d and %d, cause %#x, %d interrupts", h.x[s2], h.x[s4], h.x[s3], h.x[s5])
	}
}

// TestTimer wakes at stimecmp, not before, and soon after.
func TestTimer(t *testing.T) {
	m := newMachine(t, noBus{})
	const ticks = 50_000 // 5 ms
	h := m.run(li(t0, irqTimer), csrrw(0, csrSie, t0),
		csrrs(s2, csrTime, 0), li(t1, ticks), add(s3, s2, t1), csrrw(0, csrStimecmp, s3),
		csrrs(s0, csrSip, 0), uint32(wfi), csrrs(s4, csrTime, 0), csrrs(s1, csrSip, 0))
	if h.x[s4] < h.x[s3] {
		t.Errorf("woke %d ticks early", h.x[s3]-h.x[s4])
	}
	t.Logf("woke %v late", time.Duration(h.x[s4]-h.x[s3])*nsPerTick)
	if h.x[s0]&irqTimer != 0 || h.x[s1]&irqTimer == 0 {
		t.Errorf("sip %#x before and %#x after", h.x[s0], h.x[s1])
	}
}

// TestTimerInterruptsBusyGuest takes the interrupt in a loop that never ends.
func TestTimerInterruptsBusyGuest(t *testing.T) {
	m := newMachine(t, noBus{})
	handler := uint64(codeAt + 4096)
	m.put(handler, asm(csrrs(s2, csrScause, 0), csrrs(s4, csrTime, 0), halt()))
	m.boot(li(t0, handler), csrrw(0, csrStvec, t0), li(t0, irqTimer), csrrw(0, csrSie, t0),
		csrrs(s2, csrTime, 0), li(t1, 10_000), add(s3, s2, t1), csrrw(0, csrStimecmp, s3),
		csrrsi(0, csrSstatus, 2), jal(0, 0))
	m.Resume()
	m.wait()
	h := m.harts[0]
	if h.x[s2] != causeInterrupt|5 || h.x[s4] < h.x[s3] {
		t.Errorf("cause %#x at %d, due at %d", h.x[s2], h.x[s4], h.x[s3])
	}
}

// TestSelfIPI sends itself a software interrupt through SBI, masked at first.
func TestSelfIPI(t *testing.T) {
	m := newMachine(t, noBus{})
	handler := uint64(codeAt + 4096)
	m.put(handler, asm(csrrs(s2, csrScause, 0), addi(s5, s5, 1), csrrci(0, csrSip, 2), uint32(sret)))
	h := m.run(li(t0, handler), csrrw(0, csrStvec, t0), csrrsi(0, csrSie, 2),
		addi(a0, zero, 1), addi(a1, zero, 0), li(a7, sbiIPI), addi(a6, zero, 0), uint32(ecall), addi(s3, a0, 0),
		addi(s4, s5, 0), // still masked
		csrrsi(0, csrSstatus, 2), uint32(nop))
	if h.x[s3] != 0 || h.x[s4] != 0 || h.x[s5] != 1 || h.x[s2] != causeInterrupt|1 {
		t.Errorf("error %d, %d masked, %d in all, cause %#x", h.x[s3], h.x[s4], h.x[s5], h.x[s2])
	}
}

// TestIdle: a guest in WFI uses no time, says so, and still pauses at once.
func TestIdle(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(enableLine(1), uint32(wfi), addi(s5, s5, 1), jal(0, 0))
	if m.Idle() != 0 {
		t.Error("idle before it ran")
	}
	m.Resume()
	waitUntil(t, "idleness", func() bool { return m.Idle() > 2*time.Millisecond })
	start := time.Now()
	m.Pause()
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("pausing a sleeping guest took %v", d)
	}
	n := m.harts[0].instret
	if m.Idle() == 0 || !m.harts[0].waiting {
		t.Error("a pause ends the wait")
	}
	m.Resume()
	if m.harts[0].x[s5] != 0 {
		t.Error("WFI ended by a pause")
	}
	m.SetIRQ(1, true)
	if m.Idle() != 0 {
		t.Error("idle with an interrupt pending")
	}
	waitUntil(t, "waking", func() bool { return m.harts[0].idleSince.Load() == 0 })
	m.Pause()
	if m.harts[0].instret == n {
		t.Error("did not go on")
	}
	if n := m.rests.Load(); n != 1 {
		t.Errorf("OnIdle was called %d times, for one wait", n)
	}
}

// TestWakeLatency measures from SetIRQ to the guest's first store.
func TestWakeLatency(t *testing.T) {
	const line = 1
	woke := make(chan time.Time, 1)
	m := newMachine(t, writeBus(func(uint64, uint64) { woke <- time.Now() }))
	m.boot(enableLine(line), li(s0, 0x1000_0000), uint32(wfi), sw(zero, s0, 0),
		li(s1, PLICBase+plicContext0), lw(t0, s1, 4), sw(t0, s1, 4), jal(0, -4*6))
	m.Resume()
	var sum, worst time.Duration
	const times = 100
	for range times {
		waitUntil(t, "sleep", func() bool { return m.Idle() > 100*time.Microsecond })
		start := time.Now()
		m.SetIRQ(line, true)
		d := (<-woke).Sub(start)
		m.SetIRQ(line, false)
		for len(woke) > 0 {
			<-woke
		}
		sum, worst = sum+d, max(worst, d)
		m.Pause() // let it complete and sleep again
		m.Resume()
		select {
		case <-woke:
		default:
		}
	}
	t.Logf("mean %v, worst %v", sum/times, worst)
	if sum/times > 100*time.Millisecond {
		t.Errorf("waking takes %v", sum/times)
	}
}

func TestPLIC(t *testing.T) {
	out := false
	p := newPLIC(1, func(_ int, level bool) { out = level })
	rd := func(off uint64) uint64 { v, _ := p.read(off, 4); return v }
	wr := func(off, v uint64) { p.write(off, 4, v) }
	const claim = plicContext0 + 4
	p.setLevel(3, true)
	p.setLevel(40, true)
	if out || rd(plicPending) != 1<<3 || rd(plicPending+4) != 1<<8 {
		t.Fatal("lines are pending, but not enabled")
	}
	wr(plicEnable, 0xffffffff)
	wr(plicEnable+4, 0xffffffff)
	if rd(plicEnable) != 0xfffffffe {
		t.Error("source 0 can be enabled")
	}
	if out {
		t.Error("priority 0 interrupts")
	}
	wr(4*3, 1)
	wr(4*40, 9) // 3 bits are kept
	if rd(4*40) != 1 || !out {
		t.Errorf("priority %d, out %v", rd(4*40), out)
	}
	wr(4*40, 7)
	wr(plicContext0, 1)
	if got := rd(claim); got != 40 || out {
		t.Errorf("claimed %d, out %v: the other line is at the threshold", got, out)
	}
	if got := rd(claim); got != 3 {
		t.Errorf("claimed %d: a claim ignores the threshold", got)
	}
	if got := rd(claim); got != 0 {
		t.Errorf("claimed %d twice", got)
	}
	p.setLevel(40, false)
	wr(claim, 40)
	if out {
		t.Error("a low line is pending")
	}
	wr(plicContext0, 0)
	wr(claim, 3)
	if !out {
		t.Error("a high line is not pending after its completion")
	}
	p.setLevel(0, true)
	p.setLevel(MaxIRQ+1, true)
	p.setLevel(3, false)
	if out || p.level != 0 {
		t.Error("lines that do not exist are pending")
	}
	for off := uint64(0); off < PLICSize; off += 1021 { // odd ones, too
		for _, size := range []int{1, 2, 4, 8} {
			p.read(off, size)
			p.write(off, size, ^uint64(0))
		}
	}
}

func TestSBI(t *testing.T) {
	const none = ^uint64(1) // SBI_ERR_NOT_SUPPORTED
	for _, c := range []struct {
		name       string
		ext, fn    uint64
		args       [3]uint64
		err, value uint64
	}{
		{"version", sbiBase, 0, [3]uint64{}, 0, sbiSpecVersion},
		{"probe of what is there", sbiBase, 3, [3]uint64{sbiHSM}, 0, 1},
		{"probe of what is not", sbiBase, 3, [3]uint64{0x504d55}, 0, 0},
		{"unknown extension", 0x504d55, 0, [3]uint64{}, none, 0},
		{"unknown function", sbiTime, 7, [3]uint64{}, none, 0},
		{"IPI to a hart that does not exist", sbiIPI, 0, [3]uint64{2, 0}, ^uint64(2), 0},
		{"IPI with a base that does not exist", sbiIPI, 0, [3]uint64{1, 64}, ^uint64(2), 0},
		{"IPI to all", sbiIPI, 0, [3]uint64{0, ^uint64(0)}, 0, 0},
		{"remote fence", sbiRFence, 0, [3]uint64{1, 0}, 0, 0},
		{"status of this hart", sbiHSM, 2, [3]uint64{0}, 0, uint64(hsmStarted)},
		{"status of no hart", sbiHSM, 2, [3]uint64{1}, ^uint64(2), 0},
		{"start of this hart", sbiHSM, 0, [3]uint64{0}, ^uint64(5), 0},
		{"reset of unknown type", sbiReset, 0, [3]uint64{77}, ^uint64(2), 0},
		{"console write from nowhere", sbiDebug, 0, [3]uint64{4, 0x1000, 0}, ^uint64(2), 0},
		{"console write that overflows", sbiDebug, 0, [3]uint64{^uint64(0), RAMBase, 0}, ^uint64(2), 0},
		{"console write", sbiDebug, 0, [3]uint64{4, RAMBase, 0}, 0, 4},
	} {
		m := newMachine(t, noBus{})
		h := m.run(li(a0, c.args[0]), li(a1, c.args[1]), li(a2, c.args[2]), li(a6, c.fn), li(a7, c.ext), uint32(ecall),
			addi(s2, a0, 0), addi(s3, a1, 0))
		if h.x[s2] != c.err || h.x[s3] != c.value {
			t.Errorf("%s: error %d, value %#x", c.name, int64(h.x[s2]), h.x[s3])
		}
	}
	for kind, want := range map[uint64]vmm.StopCause{0: vmm.PowerOff, 1: vmm.Reboot, 2: vmm.Reboot} {
		m := newMachine(t, noBus{})
		m.boot(li(a0, kind), li(a1, 0), li(a6, 0), li(a7, sbiReset), uint32(ecall), jal(0, 0))
		m.Resume()
		if s := m.wait(); s.Cause != want {
			t.Errorf("reset of type %d: %v", kind, s.Cause)
		}
	}
}

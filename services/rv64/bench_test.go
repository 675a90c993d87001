package rv64

import (
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/mem"
)

// Guests for benchmarks. Each runs for ever.
var benchGuests = []struct {
	name string
	prog []uint32
}{
	{"sieve", asm(
		li(s0, dataAt), li(s1, 1<<18),
		// clear
		addi(a0, zero, 0),
		add(a1, s0, a0), sb(zero, a1, 0), addi(a0, a0, 1), bltu(a0, s1, -12),
		// for i := 2; i < n; i++
		addi(a0, zero, 2),
		add(a1, s0, a0), lbu(a2, a1, 0), bne(a2, zero, 28),
		add(a3, a0, a0), bgeu(a3, s1, 20),
		// for j := 2*i; j < n; j += i
		add(a1, s0, a3), sb(s1, a1, 0), add(a3, a3, a0), bltu(a3, s1, -12),
		addi(a0, a0, 1), bltu(a0, s1, -40),
		jal(0, -4*17),
	)},
	{"crc", asm(
		// CRC-32, bit by bit, of the words of 256 KiB.
		li(s0, dataAt), li(s1, dataAt+1<<18), li(s2, 0xedb88320),
		addi(a0, s0, 0),
		lw(a1, a0, 0), xor(a2, a2, a1), addi(a3, zero, 32),
		andi(a4, a2, 1), slli(a2, a2, 32), srli(a2, a2, 33), beq(a4, zero, 8), xor(a2, a2, s2),
		addi(a3, a3, -1), bne(a3, zero, -24),
		addi(a0, a0, 4), bltu(a0, s1, -44),
		jal(0, -4*13),
	)},
	{"sort", asm(
		// Bubble sort of 64 words that a generator fills.
		li(s0, dataAt), li(s1, dataAt+64*8), li(s2, 6364136223846793005), addi(s4, zero, 17),
		addi(a0, s0, 0),
		mul(s4, s4, s2), addi(s4, s4, 11), sd(s4, a0, 0), addi(a0, a0, 8), bltu(a0, s1, -16),
		addi(a5, zero, 64),
		addi(a0, s0, 0), addi(a1, s1, -8),
		ld(a2, a0, 0), ld(a3, a0, 8), slt(a4, a3, a2), beq(a4, zero, 12), sd(a3, a0, 0), sd(a2, a0, 8),
		addi(a0, a0, 8), bltu(a0, a1, -28),
		addi(a5, a5, -1), bne(a5, zero, -44),
		jal(0, -4*19),
	)},
	{"calls", asm(
		// Functions of three instructions on other pages.
		li(s0, codeAt+4096), li(s1, codeAt+3*4096),
		jalr(ra, s0, 0), jalr(ra, s1, 0), addi(a0, a0, 1), jal(0, -12),
	)},
	{"float", asm(
		li(t0, fsInitial), csrrs(0, csrSstatus, t0), addi(a0, zero, 3),
		encR(0x53, 7, 0x69, 1, a0, 2), encR(0x53, 7, 0x2d, 2, 1, 0), // f1 = 3, f2 = sqrt(f1)
		encR(0x53, 7, 0x09, 3, 1, 2), encR(0x53, 7, 0x01, 4, 3, 2), // f3 = f1*f2, f4 = f3+f2
		encR(0x53, 7, 0x0d, 1, 4, 3), // f1 = f4/f3
		addi(a0, a0, 1), jal(0, -16),
	)},
}

// threadTime is the CPU time of this thread.
func threadTime(b *testing.B) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

// BenchmarkGuest reports the speed of small loops; one op is an instruction.
// MIPS count CPU time, so that a busy host disturbs them less.
func BenchmarkGuest(b *testing.B) {
	for _, g := range benchGuests {
		b.Run(g.name, func(b *testing.B) {
			m := newMachine(b, noBus{})
			for page := range uint64(2) {
				m.put(codeAt+(1+2*page)*mem.PageSize, asm(addi(a1, a1, 1), xor(a2, a2, a1), jalr(0, ra, 0)))
			}
			m.boot(g.prog)
			h := m.harts[0]
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			b.ResetTimer()
			start := threadTime(b)
			for h.instret < uint64(b.N) {
				h.attn.Store(0)
				h.runSlice()
			}
			b.ReportMetric(float64(h.instret)/1e6/(threadTime(b)-start).Seconds(), "MIPS")
			b.StopTimer()
			h.attn.Store(attnHold)
			if h.scause != 0 {
				b.Fatalf("trap %d at %#x", h.scause, h.sepc)
			}
		})
	}
}

// BenchmarkBoot boots a Debian kernel to a power-off (see TestBootLinux).
func BenchmarkBoot(b *testing.B) {
	kernel, busybox := bootFiles(b)
	for b.Loop() {
		b.StopTimer()
		m := newBootMachine(b, kernel, busybox, "poweroff -f")
		b.StartTimer()
		m.engine.Resume()
		<-m.stopped
		b.ReportMetric(float64(m.engine.harts[0].instret)/1e6/b.Elapsed().Seconds()*float64(max(1, b.N)), "MIPS")
	}
}

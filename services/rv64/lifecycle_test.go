package rv64

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

// mixer is a program that fills memory from a linear congruential generator
// for n rounds: loads, stores, atomics, floating point, calls across pages and
// traps. All that it leaves depends on each step before.
func mixer(m *machine, n uint64) []uint32 {
	const function = codeAt + 8*mem.PageSize
	m.put(function, asm(
		encR(0x53, 7, 0x69, 2, s5, 2), // fcvt.d.l f2, s5, dyn
		encR(0x53, 7, 0x01, 3, 3, 2),  // fadd.d f3, f3, f2
		encR(0x53, 0, 0x71, a3, 3, 0), // fmv.x.d a3, f3
		xor(s5, s5, a3),
		uint32(0xffffffff), // counted and skipped by the trap handler
		jalr(0, ra, 0)))
	loop := asm(
		mul(s5, s5, s0), addi(s5, s5, 0x555),
		srli(a0, s5, 40), slli(a0, a0, 3), slli(a0, a0, 46), srli(a0, a0, 46), // offset below 256 KiB
		add(a0, a0, s1),
		ld(a1, a0, 0), xor(a1, a1, s5), sd(a1, a0, 0),
		amoaddw(a2, a0, s5), xor(s5, s5, a2),
		jalr(ra, a5, 0),
		addi(a4, a4, -1),
	)
	loop = append(loop, bne(a4, zero, -4*int32(len(loop))))
	return asm(m.skipTraps(), li(t0, fsInitial), csrrs(0, csrSstatus, t0),
		li(s0, 6364136223846793005), li(s1, dataAt), li(s5, 42), li(a5, function), li(a4, n), loop, halt())
}

// TestMigration runs a program that is moved to a fresh engine every now and
// then, and ends like the same program that was left alone.
func TestMigration(t *testing.T) {
	const rounds = 300_000
	alone := newMachine(t, noBus{})
	alone.boot(mixer(alone, rounds))
	alone.Resume()
	alone.wait()
	want, err := alone.Save()
	if err != nil {
		t.Fatal(err)
	}

	m := newMachine(t, noBus{})
	m.boot(mixer(m, rounds))
	m.Resume()
	moves := 0
	for done := false; !done; {
		select {
		case <-m.stopped:
			done = true
		case <-time.After(time.Duration(rand.IntN(3000)) * time.Microsecond):
		}
		m.Pause()
		state, err := m.Save()
		if err != nil {
			t.Fatal(err)
		}
		other := newMachine(t, noBus{})
		copy(other.mem.Bytes(), m.mem.Bytes())
		if err := other.Load(state); err != nil {
			t.Fatal(err)
		}
		if again, err := other.Save(); err != nil || !bytes.Equal(state, again) {
			t.Fatalf("state changes in a save after a load (%v)", err)
		}
		if len(m.stopped) > 0 { // it stopped while pausing
			done = true
		}
		if m = other; !done {
			moves++
			m.Resume()
		}
	}
	got, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("hart state differs after %d moves", moves)
	}
	if !bytes.Equal(m.mem.Bytes(), alone.mem.Bytes()) {
		t.Errorf("memory differs after %d moves", moves)
	}
	if moves < 5 {
		t.Errorf("only %d moves", moves)
	}
}

// TestDirtyIsExact drains while the guest runs, copies what was reported when
// it stands, and finds the copy complete; pages that nobody wrote are never
// reported.
func TestDirtyIsExact(t *testing.T) {
	m := newMachine(t, noBus{})
	prog := mixer(m, 2_000_000)
	m.boot(prog)
	m.mem.Dirty().Clear()
	was := bytes.Clone(m.mem.Bytes())
	m.Resume()
	for round := range 30 {
		time.Sleep(time.Duration(rand.IntN(2000)) * time.Microsecond) // varies where the guest stands
		d := mem.NewBitmap(m.mem.Pages())
		if round%2 == 0 { // a first drain under the running guest, the rest below
			if err := m.DrainDirty(d); err != nil {
				t.Fatal(err)
			}
		}
		m.Pause()
		if err := m.DrainDirty(d); err != nil {
			t.Fatal(err)
		}
		for n := range m.mem.Pages() {
			now, old := m.mem.Page(n), was[n<<mem.PageShift:(n+1)<<mem.PageShift]
			if !d.Has(n) && !bytes.Equal(now, old) {
				t.Fatalf("round %d: page %d changed unreported", round, n)
			}
			if first := uint64(dataAt-RAMBase) >> mem.PageShift; d.Has(n) && (n < first || n >= first+64) {
				t.Fatalf("round %d: page %d reported, nobody writes it", round, n)
			}
			copy(old, now)
		}
		m.Resume()
	}
	m.Pause()
	if m.harts[0].instret < 100_000 {
		t.Error("the guest hardly ran")
	}
}

// TestPauseLatency pauses a busy guest.
func TestPauseLatency(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(jal(0, 0))
	worst, sum := time.Duration(0), time.Duration(0)
	const times = 200
	for range times {
		m.Resume()
		time.Sleep(time.Duration(rand.IntN(200)) * time.Microsecond) // anywhere in its run
		start := time.Now()
		m.Pause()
		d := time.Since(start)
		worst, sum = max(worst, d), sum+d
	}
	t.Logf("mean %v, worst %v", sum/times, worst)
	if sum/times > 100*time.Millisecond { // microseconds, where nothing else runs
		t.Errorf("a pause takes %v", sum/times)
	}
	if m.harts[0].instret == 0 {
		t.Error("the guest did not run")
	}
}

func TestNotPaused(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(jal(0, 0))
	m.Resume()
	defer m.Pause()
	if _, err := m.Save(); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Save: %v", err)
	}
	if err := m.Load(nil); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Load: %v", err)
	}
	if err := m.Reset(vmm.Entry{}); !errors.Is(err, vmm.ErrNotPaused) {
		t.Errorf("Reset: %v", err)
	}
}

// TestStopIsFinal: after its own stop a guest does not run before Reset.
func TestStopIsFinal(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(halt(), addi(s5, zero, 1), jal(0, 0))
	m.Resume()
	m.wait()
	m.Resume()
	m.Pause()
	if m.harts[0].x[s5] != 0 {
		t.Error("ran after its power-off")
	}
	m.boot(halt())
	m.Resume()
	m.wait()
}

// TestStopInOnStop lets OnStop pause and save, as a replica may.
func TestStopInOnStop(t *testing.T) {
	m := newMachine(t, noBus{})
	saved := make(chan error, 1)
	m.onStop = func(vmm.Stop) {
		m.Pause()
		_, err := m.Save()
		saved <- err
	}
	m.boot(halt())
	m.Resume()
	if err := <-saved; err != nil {
		t.Error(err)
	}
}

// TestClosed: a closed engine answers, and does nothing.
func TestClosed(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(jal(0, 0))
	m.Resume()
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	n := m.harts[0].instret
	m.Resume()
	m.SetIRQ(1, true)
	m.Pause()
	if err := m.DrainDirty(mem.NewBitmap(m.mem.Pages())); err != nil {
		t.Error(err)
	}
	if m.harts[0].instret != n {
		t.Error("ran after Close")
	}
}

func TestTrapLoopIsAFault(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(li(t0, 0x1000), csrrw(0, csrStvec, t0), uint32(0xffffffff))
	m.Resume()
	if s := m.wait(); s.Cause != vmm.Fault || s.Detail == "" {
		t.Errorf("%v %q", s.Cause, s.Detail)
	}
}

func TestNewRefuses(t *testing.T) {
	ram, err := mem.New(RAMBase, testMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer ram.Close()
	low, err := mem.New(0x1000, testMemory)
	if err != nil {
		t.Fatal(err)
	}
	defer low.Close()
	for name, c := range map[string]Config{
		"two harts":             {Memory: ram, Bus: noBus{}, Clock: vmm.NewClock(), Harts: 2},
		"no bus":                {Memory: ram, Clock: vmm.NewClock()},
		"memory not at RAMBase": {Memory: low, Bus: noBus{}, Clock: vmm.NewClock()},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// TestLoadRefuses spoils a good state field by field.
func TestLoadRefuses(t *testing.T) {
	m := newMachine(t, noBus{})
	m.boot(nop)
	good, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*pb.Rv64State){
		"version 0":             func(s *pb.Rv64State) { s.Version = 0 },
		"newer version":         func(s *pb.Rv64State) { s.Version++ },
		"no harts":              func(s *pb.Rv64State) { s.Harts = nil },
		"too many harts":        func(s *pb.Rv64State) { s.Harts = append(s.Harts, s.Harts[0]) },
		"no PLIC":               func(s *pb.Rv64State) { s.Plic = nil },
		"few registers":         func(s *pb.Rv64State) { s.Harts[0].X = s.Harts[0].X[1:] },
		"odd pc":                func(s *pb.Rv64State) { s.Harts[0].Pc = 1 },
		"machine mode":          func(s *pb.Rv64State) { s.Harts[0].Privilege = 3 },
		"satp of Sv57":          func(s *pb.Rv64State) { s.Harts[0].Satp = 10 << 60 },
		"satp bare with a root": func(s *pb.Rv64State) { s.Harts[0].Satp = 1 },
		"reserved sstatus":      func(s *pb.Rv64State) { s.Harts[0].Sstatus = 1 },
		"fcsr":                  func(s *pb.Rv64State) { s.Harts[0].Fcsr = 256 },
		"HSM state":             func(s *pb.Rv64State) { s.Harts[0].Hsm = 99 },
		"reservation outside":   func(s *pb.Rv64State) { s.Harts[0].Reservation = &pb.Rv64Reservation{Address: RAMBase - 8} },
		"PLIC priority":         func(s *pb.Rv64State) { s.Plic.Priority[3] = 8 },
		"PLIC source 0":         func(s *pb.Rv64State) { s.Plic.Level = 1 },
		"PLIC contexts":         func(s *pb.Rv64State) { s.Plic.Contexts = nil },
	} {
		s := &pb.Rv64State{}
		must(proto.Unmarshal(good, s))
		spoil(s)
		b, err := proto.Marshal(s)
		must(err)
		if err := m.Load(b); !errors.Is(err, ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if now, err := m.Save(); err != nil || !bytes.Equal(now, good) {
			t.Errorf("%s: a refused state changed the engine (%v)", name, err)
		}
	}
	if err := m.Load(good); err != nil {
		t.Error(err)
	}
}

// FuzzLoad feeds states to Load and runs what it accepts for a moment.
func FuzzLoad(f *testing.F) {
	m := newMachine(f, noBus{})
	m.boot(mixer(m, 1000))
	for range 5 {
		state, err := m.Save()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(state)
		m.Resume()
		m.Pause()
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, state []byte) {
		if m.Load(state) != nil {
			return
		}
		m.glance()
		if _, err := m.Save(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzGuest runs any code, on any mapping of memory onto itself, in either
// mode, with a device: the engine survives, pauses and can be saved.
func FuzzGuest(f *testing.F) {
	for _, g := range benchGuests {
		var b []byte
		for _, insn := range g.prog {
			b = binary.LittleEndian.AppendUint32(b, insn)
		}
		f.Add(b, uint8(len(b)))
	}
	f.Add([]byte{0x73, 0, 0x20, 0x10}, uint8(3)) // SRET
	m := newMachine(f, writeBus(func(uint64, uint64) {}))
	f.Fuzz(func(t *testing.T, code []byte, mode uint8) {
		if len(code) > 64<<10 {
			return
		}
		m.t = t
		m.boot(nop)
		clear(m.mem.Bytes())
		must(m.mem.WriteAt(code, codeAt))
		h := m.harts[0]
		if mode&1 != 0 { // gigapages from 0 and from RAMBase, user or not
			const root = RAMBase + 2<<20
			for i := range uint64(4) {
				must(m.mem.PutUint64(root+8*i, i<<28|pteV|pteR|pteW|pteX|uint64(mode>>1&1)*pteU))
			}
			h.writeCSR(csrSatp, satpSv39<<60|root>>12)
		}
		for r := range uint64(32) {
			if r != 0 {
				h.x[r] = dataAt + r*0x1111
			}
			h.x[fpBase+r] = r * 0x0123456789abcdef
		}
		h.stvec = codeAt + uint64(mode&0xfc)
		h.writeCSR(csrSstatus, uint64(mode)<<11&sstatusFS)
		if mode&4 != 0 {
			h.priv = privU
			h.enterSpace()
		}
		m.glance()
		state, err := m.Save()
		if err != nil {
			t.Fatal(err)
		}
		if err := m.Load(state); err != nil {
			t.Fatalf("refuses its own state: %v", err)
		}
		if h.x[0] != 0 {
			t.Fatal("x0 is not 0")
		}
	})
}

// glance lets the guest run for a moment.
func (m *machine) glance() {
	m.Resume()
	time.Sleep(100 * time.Microsecond)
	m.Pause()
	select {
	case <-m.stopped:
	default:
	}
}

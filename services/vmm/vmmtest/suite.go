package vmmtest

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/vmm"
)

type test struct {
	name string
	test func(*testing.T, *Target)
}

func run(t *testing.T, x *Target, tests []test) {
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) { c.test(t, x) })
	}
}

// RunSMP runs what is different on machines with two CPUs, which needs the
// program "smp".
func RunSMP(t *testing.T, x *Target) {
	run(t, x, []test{
		{"MovesAllCPUs", func(t *testing.T, x *Target) { moves(t, x, "smp", maxRounds) }},
		{"PauseIsQuickAndWhole", pauseIsQuick},
		{"OwnStop", ownStop},
		{"StopInOnStop", stopInOnStop},
		{"InterruptsSurviveMoves", interruptsSurviveMoves},
		{"Idle", idle},
		{"TimerSurvivesMoves", timerSurvivesMoves},
		{"HostileCode", hostileCode},
	})
}

// Run runs the whole suite.
func Run(t *testing.T, x *Target) {
	run(t, x, []test{
		{"BeginsPaused", beginsPaused},
		{"PauseIsQuickAndWhole", pauseIsQuick},
		{"OwnStop", ownStop},
		{"StopInOnStop", stopInOnStop},
		{"NeedsPause", needsPause},
		{"Closed", closed},
		{"MovesInTheMiddle", movesInTheMiddle},
		{"MovesBetweenAccesses", movesBetweenAccesses},
		{"DirtyMissesNothing", dirtyMissesNothing},
		{"DirtyUnitesMonitor", dirtyUnitesMonitor},
		{"Interrupts", interrupts},
		{"InterruptsSurviveMoves", interruptsSurviveMoves},
		{"Idle", idle},
		{"Timer", timer},
		{"TimerSurvivesMoves", timerSurvivesMoves},
		{"TimePassesInPauses", timePassesInPauses},
		{"TimeNeverRunsBackwards", timeNeverRunsBackwards},
		{"HostileAccesses", hostileAccesses},
		{"HostileCode", hostileCode},
		{"RefusesStates", refusesStates},
	})
}

// moment is a random short time, for guests to be met anywhere.
func moment(most time.Duration) time.Duration { return time.Duration(rand.Int64N(int64(most))) }

func beginsPaused(t *testing.T, x *Target) {
	m := x.boot(t, "spin")
	if m.Idle() != 0 {
		t.Error("a paused engine is idle")
	}
	if v := m.word(x.Result); v != 0 {
		t.Error("the guest ran before Resume")
	}
	m.Resume()
	m.Resume() // twice is once
	for start := time.Now(); m.word(x.Result) == 0; {
		if time.Since(start) > patience {
			t.Fatal("the guest does not run after Resume")
		}
	}
	m.Pause()
}

// pauseIsQuick pauses a busy guest, and sees that it stands until Resume.
func pauseIsQuick(t *testing.T, x *Target) {
	m := x.boot(t, "spin")
	var worst, sum time.Duration
	const times = 100
	for range times {
		m.Resume()
		time.Sleep(moment(300 * time.Microsecond))
		start := time.Now()
		m.Pause()
		d := time.Since(start)
		worst, sum = max(worst, d), sum+d
		v := m.word(x.Result)
		time.Sleep(moment(100 * time.Microsecond))
		if m.word(x.Result) != v {
			t.Fatal("the guest runs while paused")
		}
	}
	t.Logf("mean %v, worst %v", sum/times, worst)
	if sum/times > 20*time.Millisecond {
		t.Errorf("a pause takes %v", sum/times)
	}
}

func ownStop(t *testing.T, x *Target) {
	for arg, want := range map[uint64]vmm.StopCause{1: vmm.PowerOff, 2: vmm.Reboot} {
		m := x.boot(t, "stop", arg)
		for range 2 { // Reset brings it back
			m.Resume()
			if s := m.wait(); s.Cause != want {
				t.Errorf("stop %v (%s) instead of %v", s.Cause, s.Detail, want)
			}
			m.Resume()
			if m.Pause(); len(m.stopped) > 0 {
				t.Error("ran after its own stop")
			}
			m.begin(x.Program("stop"), arg)
		}
	}
}

// stopInOnStop lets OnStop pause and save, as a replica may.
func stopInOnStop(t *testing.T, x *Target) {
	m := x.boot(t, "stop", 1)
	saved := make(chan error, 1)
	m.onStop = func(vmm.Stop) {
		m.Pause()
		_, err := m.Save()
		saved <- err
	}
	m.Resume()
	select {
	case err := <-saved:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Fatal("no OnStop")
	}
}

func needsPause(t *testing.T, x *Target) {
	m := x.boot(t, "spin")
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

// closed: a closed engine answers, and does nothing.
func closed(t *testing.T, x *Target) {
	m := x.boot(t, "spin")
	m.Resume()
	for range 2 {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	v := m.word(x.Result)
	m.Resume()
	m.SetIRQ(x.Line, true)
	m.Pause()
	if err := m.DrainDirty(mem.NewBitmap(m.mem.Pages())); err != nil {
		t.Error(err)
	}
	if m.Idle() < 0 || m.word(x.Result) != v {
		t.Error("ran after Close")
	}
}

// movesInTheMiddle moves a computing guest, which ends like one left alone.
func movesInTheMiddle(t *testing.T, x *Target) { moves(t, x, "mix", maxRounds) }

// compare compares what programs wrote.
func compare(t *testing.T, x *Target, a, b *machine) {
	t.Helper()
	if x, y := a.word(x.Result), b.word(x.Result); x != y {
		t.Errorf("result %#x instead of %#x", x, y)
	}
	p, err1 := a.mem.Slice(x.Data, x.DataSize)
	q, err2 := b.mem.Slice(x.Data, x.DataSize)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p, q) {
		t.Error("memory differs")
	}
}

// movesBetweenAccesses moves a guest that does nothing but access a device:
// each access happens once.
func movesBetweenAccesses(t *testing.T, x *Target) {
	m, rounds := moves(t, x, "echo", maxLog/2) // each round is in the log
	log := m.device.Log()
	for i, v := range log {
		if v != uint64(i) {
			t.Fatalf("access %d logs %d", i, v)
		}
	}
	if uint64(len(log)) != rounds {
		t.Errorf("%d accesses instead of %d", len(log), rounds)
	}
}

// maxRounds are more than any machine does in the time that moves needs.
const maxRounds = 1 << 30

// moves runs a program alone, then another time moving from engine to engine,
// and compares what they leave. It returns the latter machine, and for how many
// rounds the program ran: as many as give room for a few moves, whatever the
// engine's speed, up to most.
func moves(t *testing.T, x *Target, program string, most uint64) (m *machine, rounds uint64) {
	t.Helper()
	const enough = 100 * time.Millisecond
	for rounds = 100; ; rounds *= 2 {
		alone := x.boot(t, program, rounds)
		start := time.Now()
		alone.Resume()
		alone.wait()
		took := time.Since(start)
		if took < enough && rounds < most {
			continue
		}
		m = x.boot(t, program, rounds)
		n := m.wander(took / 20)
		compare(t, x, n.machine, alone)
		t.Logf("%d moves in %d rounds, which take %v alone", n.moves, rounds, took)
		if n.moves >= 3 || t.Failed() {
			return n.machine, rounds
		}
		if rounds >= most {
			t.Fatalf("only %d moves", n.moves)
		}
	}
}

// wandered is a machine that moved until its guest stopped.
type wandered struct {
	*machine
	moves int
}

// wander lets a guest run until it stops, and moves it every now and then.
func (m *machine) wander(every time.Duration) wandered {
	m.t.Helper()
	for n := 0; ; n++ {
		m.Resume()
		select {
		case <-m.stopped:
			m.Pause()
			return wandered{m, n}
		case <-time.After(every/2 + moment(every)):
		}
		if m.Pause(); len(m.stopped) > 0 { // it stopped while pausing
			return wandered{m, n}
		}
		m = m.move()
	}
}

// dirtyMissesNothing drains while the guest runs and compares all memory: what
// was not reported did not change.
func dirtyMissesNothing(t *testing.T, x *Target) {
	m := x.boot(t, "mix", 1<<62)
	if err := m.DrainDirty(mem.NewBitmap(m.mem.Pages())); err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(m.mem.Bytes())
	reported := 0
	m.Resume()
	for round := range 30 {
		time.Sleep(moment(5 * time.Millisecond)) // varies where the guest stands
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
			copy(old, now)
		}
		reported += d.Count()
		if again := mem.NewBitmap(m.mem.Pages()); m.DrainDirty(again) != nil || again.Count() != 0 {
			t.Fatalf("round %d: %d pages reported of a paused guest", round, again.Count())
		}
		m.Resume()
	}
	m.Pause()
	if reported == 0 {
		t.Error("nothing was ever reported")
	}
	if most := 30 * int(x.DataSize>>mem.PageShift+16); reported > most {
		t.Errorf("%d pages reported, the guest cannot write more than %d", reported, most)
	}
}

func dirtyUnitesMonitor(t *testing.T, x *Target) {
	m := x.boot(t, "spin")
	d := mem.NewBitmap(m.mem.Pages())
	if err := m.DrainDirty(d); err != nil {
		t.Fatal(err)
	}
	d.Clear()
	last := m.mem.Pages() - 1
	if err := m.mem.WriteAt([]byte{1}, m.mem.Address(last)); err != nil {
		t.Fatal(err)
	}
	m.Resume()
	for start := time.Now(); m.word(x.Result) < 100; {
		if time.Since(start) > patience {
			t.Fatal("the guest does not run")
		}
	}
	m.Pause()
	if err := m.DrainDirty(d); err != nil {
		t.Fatal(err)
	}
	var result uint64
	for n := range m.mem.Pages() {
		if m.mem.Address(n) == x.Result&^(mem.PageSize-1) {
			result = n
		}
	}
	if got := slices.Collect(d.All); !slices.Contains(got, last) || !slices.Contains(got, result) || len(got) > 16 {
		t.Errorf("pages %v reported: %d and %d were written", got, result, last)
	}
	if err := m.DrainDirty(mem.NewBitmap(64)); err == nil && m.mem.Pages() > 64 {
		t.Error("a bitmap of another size is accepted")
	}
}

// line wires the device's acknowledgement to the machine's interrupt line.
func (m *machine) line() { m.device.OnAck(func() { m.SetIRQ(m.target.Line, false) }) }

func interrupts(t *testing.T, x *Target) {
	m := x.boot(t, "irq")
	m.line()
	m.Resume()
	m.device.Await(t, 1)
	for _, line := range []uint32{1 << 31, 64, 200, ^uint32(0)} {
		m.SetIRQ(line, true) // there is none
	}
	for range 100 {
		m.raise()
	}
	// A line that stays high interrupts again until it is lowered.
	left := 3
	m.device.OnAck(func() {
		if left--; left == 0 {
			m.SetIRQ(x.Line, false)
		}
	})
	n, _ := m.device.Logged()
	m.SetIRQ(x.Line, true)
	m.device.Await(t, n+3)
	time.Sleep(5 * time.Millisecond) // no more may come
	m.Pause()
	m.interrupted(103)
}

// raise raises the line and waits until the guest handled the interrupt.
func (m *machine) raise() {
	m.t.Helper()
	n, _ := m.device.Logged()
	m.SetIRQ(m.target.Line, true)
	m.device.Await(m.t, n+1)
}

// interrupted checks how many interrupts the guest of program "irq" counted.
func (m *machine) interrupted(want uint64) {
	m.t.Helper()
	_, n := m.device.Logged()
	if m.target.RepeatsInterrupts && n >= want {
		return
	}
	if n != want {
		m.t.Errorf("%d interrupts instead of %d", n, want)
	}
}

// interruptsSurviveMoves raises the line before a move, during one or after it:
// it always arrives, once.
func interruptsSurviveMoves(t *testing.T, x *Target) {
	m := x.boot(t, "irq")
	m.line()
	m.Resume()
	m.device.Await(t, 1)
	for i := range 12 {
		n, _ := m.device.Logged()
		switch i % 3 {
		case 0:
			m.SetIRQ(x.Line, true)
			m = m.move()
			m.line()
		case 1:
			m.Pause()
			m.SetIRQ(x.Line, true)
			m = m.move()
			m.line()
		case 2:
			m = m.move()
			m.line()
			m.SetIRQ(x.Line, true)
		}
		m.Resume()
		m.device.Await(t, n+1)
	}
	time.Sleep(5 * time.Millisecond) // no more may come
	m.Pause()
	m.interrupted(12)
}

func idle(t *testing.T, x *Target) {
	m := x.boot(t, "irq")
	m.line()
	begin := time.Now()
	m.Resume()
	m.device.Await(t, 1)
	become := func(least time.Duration) {
		t.Helper()
		for m.Idle() < least {
			if time.Since(begin) > patience {
				t.Fatalf("a waiting guest is not idle for %v", least)
			}
			time.Sleep(time.Millisecond) // as the replica's ticks
		}
		if m.Idle() > time.Since(begin) {
			t.Error("idle for longer than it can be")
		}
	}
	become(30 * time.Millisecond)
	raised := time.Now()
	m.SetIRQ(x.Line, true)
	if d := m.Idle(); d > time.Since(raised) {
		t.Errorf("idle for %v with an interrupt on its way", d)
	}
	m.device.Await(t, 2)
	begin = raised
	become(10 * time.Millisecond)
	m.Pause()

	busy := x.boot(t, "spin")
	busy.Resume()
	for range 20 {
		time.Sleep(time.Millisecond)
		if d := busy.Idle(); d != 0 {
			t.Fatalf("a busy guest is idle for %v", d)
		}
	}
	busy.Pause()
}

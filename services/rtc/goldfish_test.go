package rtc

import (
	"bytes"
	"math"
	"sync/atomic"
	"testing"
	"time"
)

// guestTime is set by hand.
type guestTime struct{ ns atomic.Uint64 }

func (g *guestTime) Now() uint64 { return g.ns.Load() }

const bootUnix = 1_700_000_000_123_456_789

// newClock returns a running clock that reads bootUnix at guest time 1 s.
func newClock() (*Clock, *guestTime, *atomic.Bool) {
	g, irq := &guestTime{}, &atomic.Bool{}
	g.ns.Store(1e9)
	c := New(g, time.Unix(0, bootUnix), irq.Store)
	c.Resume()
	return c, g, irq
}

func (c *Clock) wall() int64 {
	low := c.Read(regTimeLow, 4)
	return int64(c.Read(regTimeHigh, 4)<<32 | low)
}

func (c *Clock) setAlarm(ns int64) {
	c.Write(regAlarmHigh, 4, uint64(ns)>>32)
	c.Write(regAlarmLow, 4, uint64(ns)&math.MaxUint32)
}

func TestTimeFollowsTheGuest(t *testing.T) {
	c, g, _ := newClock()
	if got := c.wall(); got != bootUnix {
		t.Errorf("%d at the start, want %d", got, int64(bootUnix))
	}
	g.ns.Add(5e9)
	if got := c.wall(); got != bootUnix+5e9 {
		t.Errorf("%d after 5 s", got)
	}
	// The high half belongs to the low half that was read, not to now.
	low := c.Read(regTimeLow, 4)
	g.ns.Add(1 << 40)
	if got := c.Read(regTimeHigh, 4)<<32 | low; got != bootUnix+5e9 {
		t.Errorf("time tore: %d", got)
	}
	c.Reset()
	if got := c.wall(); got != bootUnix+5e9+1<<40 {
		t.Errorf("reset lost the time: %d", got)
	}
}

func TestTimeCanBeSet(t *testing.T) {
	c, g, _ := newClock()
	const set = 1_600_000_000_000_000_000
	c.Write(regTimeHigh, 4, uint64(set)>>32)
	c.Write(regTimeLow, 4, set&math.MaxUint32)
	g.ns.Add(7)
	if got := c.wall(); got != set+7 {
		t.Errorf("%d, want %d", got, int64(set+7))
	}
}

func TestOddAccesses(t *testing.T) {
	c, _, _ := newClock()
	for _, size := range []int{0, 1, 2, 8} {
		c.Write(regTimeLow, size, 0)
		if c.Read(regTimeLow, size) != 0 {
			t.Errorf("%d bytes read something", size)
		}
	}
	if c.Read(0x20, 4) != 0 || c.Read(0x1000, 4) != 0 || c.wall() != bootUnix {
		t.Error("odd accesses had an effect")
	}
}

func TestAlarm(t *testing.T) {
	c, g, irq := newClock()
	c.Write(regIRQEnabled, 4, 1)
	c.setAlarm(bootUnix + 1e15)
	if irq.Load() || c.Read(regAlarmStatus, 4) != 1 || c.Read(regAlarmHigh, 4)<<32|c.Read(regAlarmLow, 4) != bootUnix+1e15 {
		t.Fatal("alarm is not armed")
	}
	g.ns.Add(1e15)
	c.fire() // the host's timer would
	if !irq.Load() || c.Read(regAlarmStatus, 4) != 0 {
		t.Fatal("alarm did not happen")
	}
	c.Write(regClearInterrupt, 4, 1)
	if irq.Load() {
		t.Error("interrupt stays")
	}
	c.setAlarm(bootUnix + 2e15)
	c.Write(regClearAlarm, 4, 1)
	g.ns.Add(1e15)
	c.fire()
	if irq.Load() {
		t.Error("a cancelled alarm happened")
	}
	c.Write(regIRQEnabled, 4, 0)
	c.setAlarm(0)
	if irq.Load() {
		t.Error("a masked alarm interrupts")
	}
	c.Write(regIRQEnabled, 4, 1)
	if !irq.Load() {
		t.Error("an alarm in the past is lost")
	}
}

// The host's timer brings an alarm without anybody's looking.
func TestAlarmByTimer(t *testing.T) {
	g, happened := &guestTime{}, make(chan bool, 1)
	c := New(g, time.Unix(0, bootUnix), func(level bool) {
		if level {
			happened <- true
		}
	})
	c.Write(regIRQEnabled, 4, 1)
	c.setAlarm(bootUnix + 1e6)
	g.ns.Store(1e6)
	c.Resume() // due at once
	<-happened
	c.Write(regClearInterrupt, 4, 1)
	c.setAlarm(bootUnix + 2e6)
	g.ns.Store(2e6)
	<-happened // by the timer
}

func TestPauseHoldsAlarms(t *testing.T) {
	c, g, irq := newClock()
	c.Write(regIRQEnabled, 4, 1)
	c.setAlarm(bootUnix + 1e15)
	c.Pause()
	before, err := c.Save()
	if err != nil {
		t.Fatal(err)
	}
	g.ns.Add(1e15)
	c.fire()
	if after, _ := c.Save(); irq.Load() || !bytes.Equal(before, after) {
		t.Fatal("a paused clock changed")
	}

	// Another copy goes on with it.
	var irq2 atomic.Bool
	d := New(g, time.Unix(0, 0), irq2.Store)
	commit, err := d.Prepare(before)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if again, err := d.Save(); err != nil || !bytes.Equal(before, again) {
		t.Fatalf("state changed by a round trip: %v", err)
	}
	d.Resume()
	if !irq2.Load() || d.wall() != c.wall() {
		t.Error("the alarm or the time is lost")
	}
	if _, err := d.Prepare([]byte{0xff}); err == nil {
		t.Error("nonsense is accepted")
	}
}

// FuzzGoldfish: no sequence of accesses and no state makes it panic, and what a
// guest brings it to can be loaded.
func FuzzGoldfish(f *testing.F) {
	f.Add([]byte{regTimeHigh, 0xff, regTimeLow, 0xff, regAlarmHigh, 0x7f, regAlarmLow, 1}, []byte{})
	c, _, _ := newClock()
	state, err := c.Save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, state)
	f.Fuzz(func(t *testing.T, accesses, state []byte) {
		c, g, _ := newClock()
		if commit, err := c.Prepare(state); err == nil {
			commit()
		}
		for ; len(accesses) > 1; accesses = accesses[2:] {
			at, v := uint64(accesses[0]), uint64(accesses[1])
			c.Write(at, 4, v<<24|v)
			c.Read(at, int(v%9))
			g.ns.Add(1e9)
		}
		c.Pause()
		saved, err := c.Save()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Prepare(saved); err != nil {
			t.Fatalf("a state that a guest has brought it to is refused: %v", err)
		}
	})
}

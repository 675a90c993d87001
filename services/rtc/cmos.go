package rtc

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// CMOS's register window: the index port and the data port.
const (
	CMOSSize         = 2
	CMOSStateVersion = 1
)

// Registers (Motorola MC146818 data sheet; the century is the PC's convention).
const (
	cmosSeconds = 0x00
	cmosMinutes = 0x02
	cmosHours   = 0x04
	cmosWeekday = 0x06
	cmosDay     = 0x07
	cmosMonth   = 0x08
	cmosYear    = 0x09
	cmosA       = 0x0a
	cmosB       = 0x0b
	cmosC       = 0x0c
	cmosD       = 0x0d
	cmosCentury = 0x32

	cmosBytes = 128

	cmosDivider = 0x26 // 32 kHz, no update in progress
	cmosSet     = 0x80 // of B: the guest sets the clock
	cmosBinary  = 0x04
	cmos24Hours = 0x02
	cmosBKept   = cmosSet | cmosBinary | cmos24Hours
	cmosValid   = 0x80 // of D: the battery is fine
)

// CMOS is the real-time clock of a PC without alarms: wall time in seconds and
// 114 bytes of memory. It always counts 24 hours, in BCD unless the guest asks
// for binary. Like Clock it takes wall time from guest time.
type CMOS struct {
	guest GuestClock

	mu      sync.Mutex
	offset  int64 // Unix time minus guest time, in nanoseconds
	index   uint8
	control uint8    // register B
	held    calendar // what the registers show while control has cmosSet
	memory  [cmosBytes]byte
}

// NewCMOS returns a clock that reads now.
func NewCMOS(guest GuestClock, now time.Time) *CMOS {
	c := &CMOS{guest: guest, offset: now.UnixNano() - int64(guest.Now())}
	c.Reset()
	return c
}

// Read reads a port's byte.
func (c *CMOS) Read(off uint64, _ int) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off == 0 {
		return 0xff // the index cannot be read
	}
	return uint64(c.read(c.index))
}

func (c *CMOS) read(index uint8) uint8 {
	t := c.shown()
	switch index {
	case cmosSeconds:
		return c.encode(t.second)
	case cmosMinutes:
		return c.encode(t.minute)
	case cmosHours:
		return c.encode(t.hour)
	case cmosWeekday:
		return c.encode(int(t.time().Weekday()) + 1)
	case cmosDay:
		return c.encode(t.day)
	case cmosMonth:
		return c.encode(t.month)
	case cmosYear:
		return c.encode(t.year % 100)
	case cmosCentury:
		return c.encode(t.year / 100 % 100)
	case cmosA:
		return cmosDivider
	case cmosB:
		return c.control
	case cmosC:
		return 0
	case cmosD:
		return cmosValid
	}
	return c.memory[index]
}

// Write writes a port's byte.
func (c *CMOS) Write(off uint64, _ int, v uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off == 0 {
		c.index = uint8(v) & (cmosBytes - 1) // the highest bit masks the NMI
		return
	}
	c.write(c.index, uint8(v))
}

func (c *CMOS) write(index, v uint8) {
	t := c.shown()
	switch n := c.decode(v); index {
	case cmosSeconds:
		t.second = n
	case cmosMinutes:
		t.minute = n
	case cmosHours:
		t.hour = n
	case cmosDay:
		t.day = n
	case cmosMonth:
		t.month = n
	case cmosYear:
		t.year = t.year/100*100 + n
	case cmosCentury:
		t.year = n*100 + t.year%100
	case cmosB:
		c.setControl(v)
		return
	case cmosWeekday, cmosA, cmosC, cmosD:
		return
	default:
		c.memory[index] = v
		return
	}
	if c.control&cmosSet != 0 {
		// The guest writes the fields one by one, in any order: only all
		// together are they a date.
		c.held = t
		return
	}
	c.set(t)
}

// set makes the clock run on from t. Days that a month lacks run over into the
// next.
func (c *CMOS) set(t calendar) {
	c.offset += (t.time().Unix() - c.seconds()) * int64(time.Second)
}

// setControl begins or ends a time in which the registers stand still.
func (c *CMOS) setControl(v uint8) {
	t := c.shown()
	if c.control&cmosSet != 0 && v&cmosSet == 0 {
		c.offset = t.time().UnixNano() - int64(c.guest.Now())
	}
	c.control = v&cmosBKept | cmos24Hours
	c.held = t
}

// shown is what the registers show.
func (c *CMOS) shown() calendar {
	if c.control&cmosSet != 0 {
		return c.held
	}
	t := time.Unix(c.seconds(), 0).UTC()
	return calendar{t.Year(), int(t.Month()), t.Day(), t.Hour(), t.Minute(), t.Second()}
}

// seconds is the Unix time of the running clock.
func (c *CMOS) seconds() int64 {
	return floorDiv(int64(c.guest.Now())+c.offset, int64(time.Second))
}

// calendar is what the registers hold; the fields need not make a date.
type calendar struct{ year, month, day, hour, minute, second int }

func (t calendar) time() time.Time {
	return time.Date(t.year, time.Month(t.month), t.day, t.hour, t.minute, t.second, 0, time.UTC)
}

func (t calendar) pack() (v uint64) {
	for _, f := range []struct{ n, bits int }{{t.year, 14}, {t.month, 4}, {t.day, 5}, {t.hour, 5}, {t.minute, 6}, {t.second, 6}} {
		v = v<<f.bits | uint64(f.n)&(1<<f.bits-1)
	}
	return v
}

func unpackCalendar(v uint64) calendar {
	take := func(bits int) int {
		n := v & (1<<bits - 1)
		v >>= bits
		return int(n)
	}
	t := calendar{second: take(6), minute: take(6), hour: take(5)}
	t.day, t.month, t.year = take(5), take(4), take(14)
	return t
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

func (c *CMOS) encode(n int) uint8 {
	if c.control&cmosBinary != 0 {
		return uint8(n)
	}
	return uint8(n/10<<4 | n%10)
}

func (c *CMOS) decode(v uint8) int {
	if c.control&cmosBinary != 0 {
		return int(v)
	}
	return int(v>>4)*10 + int(v&0xf)
}

// Pause does nothing: the clock acts only when it is accessed.
func (c *CMOS) Pause() {}

// Resume does nothing.
func (c *CMOS) Resume() {}

// Reset brings the registers to their power-on state; time and memory stay.
func (c *CMOS) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.index, c.control, c.held = 0, cmos24Hours, calendar{}
}

// Save returns the state of a clock that nothing accesses.
func (c *CMOS) Save() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return proto.Marshal(&understudyv1.CMOSState{
		OffsetNs: c.offset, Index: uint32(c.index), Control: uint32(c.control),
		Held: c.held.pack(), Memory: c.memory[:],
	})
}

// Prepare checks a saved state and returns the function that puts it into the
// clock, which cannot fail.
func (c *CMOS) Prepare(saved []byte) (commit func(), err error) {
	var s understudyv1.CMOSState
	if err := proto.Unmarshal(saved, &s); err != nil {
		return nil, fmt.Errorf("decode real-time clock state: %w", err)
	}
	if s.Index >= cmosBytes || s.Control&^cmosBKept != 0 || len(s.Memory) != cmosBytes {
		return nil, fmt.Errorf("real-time clock state is out of range")
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.offset, c.index, c.control, c.held = s.OffsetNs, uint8(s.Index), uint8(s.Control), unpackCalendar(s.Held)
		c.memory = [cmosBytes]byte(s.Memory)
	}, nil
}

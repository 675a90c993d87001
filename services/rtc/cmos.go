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
	control uint8 // register B
	held    int64 // Unix time that the registers show while control has cmosSet
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
	t := time.Unix(c.now(), 0).UTC()
	switch index {
	case cmosSeconds:
		return c.encode(t.Second())
	case cmosMinutes:
		return c.encode(t.Minute())
	case cmosHours:
		return c.encode(t.Hour())
	case cmosWeekday:
		return c.encode(int(t.Weekday()) + 1)
	case cmosDay:
		return c.encode(t.Day())
	case cmosMonth:
		return c.encode(int(t.Month()))
	case cmosYear:
		return c.encode(t.Year() % 100)
	case cmosCentury:
		return c.encode(t.Year() / 100 % 100)
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
	t := time.Unix(c.now(), 0).UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	switch n := c.decode(v); index {
	case cmosSeconds:
		second = n
	case cmosMinutes:
		minute = n
	case cmosHours:
		hour = n
	case cmosDay:
		day = n
	case cmosMonth:
		month = time.Month(n)
	case cmosYear:
		year = year/100*100 + n
	case cmosCentury:
		year = n*100 + year%100
	case cmosB:
		c.setControl(v)
		return
	case cmosWeekday, cmosA, cmosC, cmosD:
		return
	default:
		c.memory[index] = v
		return
	}
	// Days that a month lacks run over into the next: the guest writes the
	// fields one by one, and the last decides.
	seconds := time.Date(year, month, day, hour, minute, second, 0, time.UTC).Unix()
	if c.control&cmosSet != 0 {
		c.held = seconds
		return
	}
	c.offset += (seconds - c.now()) * int64(time.Second)
}

// setControl begins or ends a time in which the registers stand still.
func (c *CMOS) setControl(v uint8) {
	now := c.now()
	if c.control&cmosSet != 0 && v&cmosSet == 0 {
		c.offset = now*int64(time.Second) - int64(c.guest.Now())
	}
	c.control = v&cmosBKept | cmos24Hours
	c.held = now
}

// now is what the registers show, in Unix seconds.
func (c *CMOS) now() int64 {
	if c.control&cmosSet != 0 {
		return c.held
	}
	return floorDiv(int64(c.guest.Now())+c.offset, int64(time.Second))
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
	c.index, c.control, c.held = 0, cmos24Hours, 0
}

// Save returns the state of a clock that nothing accesses.
func (c *CMOS) Save() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return proto.Marshal(&understudyv1.CMOSState{
		OffsetNs: c.offset, Index: uint32(c.index), Control: uint32(c.control),
		HeldSeconds: c.held, Memory: c.memory[:],
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
		c.offset, c.index, c.control, c.held = s.OffsetNs, uint8(s.Index), uint8(s.Control), s.HeldSeconds
		c.memory = [cmosBytes]byte(s.Memory)
	}, nil
}

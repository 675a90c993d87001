// Package rtc holds the real-time clocks from which a guest takes the wall-clock
// time at boot: Clock, a Goldfish clock (Linux drivers/rtc/rtc-goldfish.c, QEMU
// hw/rtc/goldfish_rtc.c), and CMOS, that of a PC.
//
// Wall time is guest time plus an offset, so that both copies of a guest read
// the same. The offset is that of the first host's clock at power-on and travels
// with the state; a reset keeps it, as a battery would.
//
// All methods may be called from several goroutines. Clock calls its
// interrupt line with its lock held: it must not call back.
package rtc

import (
	"fmt"
	"math"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Size is the number of bytes of the register window.
const Size = 0x24

// StateVersion is the version of the saved state.
const StateVersion = 1

// Registers of 32 bits. Reading the low half of the time latches the high
// half; writing a low half acts with the high half written before.
const (
	regTimeLow        = 0x00
	regTimeHigh       = 0x04
	regAlarmLow       = 0x08
	regAlarmHigh      = 0x0c
	regIRQEnabled     = 0x10
	regClearAlarm     = 0x14
	regAlarmStatus    = 0x18
	regClearInterrupt = 0x1c
)

// GuestClock tells guest time in nanoseconds.
type GuestClock interface{ Now() uint64 }

// Clock is a real-time clock.
type Clock struct {
	guest GuestClock
	irq   func(level bool)

	mu     sync.Mutex
	paused bool
	timer  *time.Timer
	state  state
}

// state is what the guest can see of the clock.
type state struct {
	// offset is Unix time minus guest time, in nanoseconds.
	offset         int64
	alarm          uint64
	alarmArmed     bool
	irqEnabled     bool
	irqPending     bool
	timeHighRead   uint32
	timeHighWrite  uint32
	alarmHighWrite uint32
}

// New returns a paused clock that reads now, in Unix time.
func New(guest GuestClock, now time.Time, irq func(level bool)) *Clock {
	c := &Clock{guest: guest, irq: irq, paused: true}
	c.state.offset = now.UnixNano() - int64(guest.Now())
	c.timer = time.AfterFunc(math.MaxInt64, c.fire)
	c.timer.Stop()
	return c
}

// Read reads a register; accesses of other sizes than 4 bytes read 0.
func (c *Clock) Read(off uint64, size int) uint64 {
	if size != 4 {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch off {
	case regTimeLow:
		now := c.now()
		c.state.timeHighRead = uint32(now >> 32)
		return now & math.MaxUint32
	case regTimeHigh:
		return uint64(c.state.timeHighRead)
	case regAlarmLow:
		return c.state.alarm & math.MaxUint32
	case regAlarmHigh:
		return c.state.alarm >> 32
	case regIRQEnabled:
		return toUint(c.state.irqEnabled)
	case regAlarmStatus:
		return toUint(c.state.alarmArmed)
	}
	return 0
}

// Write writes a register; accesses of other sizes than 4 bytes do nothing.
func (c *Clock) Write(off uint64, size int, v uint64) {
	if size != 4 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.state
	switch off {
	case regTimeLow:
		s.offset = int64(uint64(s.timeHighWrite)<<32|v) - int64(c.guest.Now())
	case regTimeHigh:
		s.timeHighWrite = uint32(v)
	case regAlarmLow:
		s.alarm, s.alarmArmed = uint64(s.alarmHighWrite)<<32|v, true
	case regAlarmHigh:
		s.alarmHighWrite = uint32(v)
	case regIRQEnabled:
		s.irqEnabled = v&1 != 0
	case regClearAlarm:
		s.alarmArmed = false
	case regClearInterrupt:
		s.irqPending = false
	}
	c.arm()
}

// now is the wall time in nanoseconds.
func (c *Clock) now() uint64 { return c.guest.Now() + uint64(c.state.offset) }

// arm raises a due alarm, sets the host's timer for one to come, and drives the
// interrupt line.
func (c *Clock) arm() {
	s := &c.state
	c.timer.Stop()
	if s.alarmArmed && !c.paused {
		if wait := int64(s.alarm - c.now()); wait > 0 {
			c.timer.Reset(time.Duration(wait))
		} else {
			s.alarmArmed, s.irqPending = false, true
		}
	}
	c.irq(s.irqPending && s.irqEnabled)
}

func (c *Clock) fire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		c.arm()
	}
}

// Pause holds alarms back until Resume.
func (c *Clock) Pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = true
	c.timer.Stop()
}

// Resume lets alarms happen, at once those that fell due meanwhile.
func (c *Clock) Resume() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = false
	c.arm()
}

// Reset brings the clock to its power-on state; it keeps the time.
func (c *Clock) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.state = state{offset: c.state.offset}
	c.arm()
}

// Save returns the state of a paused clock.
func (c *Clock) Save() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := &c.state
	return proto.Marshal(&understudyv1.RTCState{
		OffsetNs:         s.offset,
		AlarmArmed:       s.alarmArmed,
		AlarmNs:          s.alarm,
		InterruptEnabled: s.irqEnabled,
		InterruptPending: s.irqPending,
		TimeHighRead:     s.timeHighRead,
		TimeHighWrite:    s.timeHighWrite,
		AlarmHighWrite:   s.alarmHighWrite,
	})
}

// Prepare checks a saved state and returns the function that puts it into the
// clock, which cannot fail.
func (c *Clock) Prepare(saved []byte) (commit func(), err error) {
	var s understudyv1.RTCState
	if err := proto.Unmarshal(saved, &s); err != nil {
		return nil, fmt.Errorf("decode real-time clock state: %w", err)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.state = state{
			offset: s.OffsetNs, alarm: s.AlarmNs, alarmArmed: s.AlarmArmed,
			irqEnabled: s.InterruptEnabled, irqPending: s.InterruptPending,
			timeHighRead: s.TimeHighRead, timeHighWrite: s.TimeHighWrite, alarmHighWrite: s.AlarmHighWrite,
		}
		c.arm()
	}, nil
}

func toUint(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

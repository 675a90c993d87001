package rtc

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func newCMOS(at string) (*CMOS, *guestTime) {
	now, err := time.Parse(time.DateTime, at)
	if err != nil {
		panic(err)
	}
	g := &guestTime{}
	g.ns.Store(5e9)
	return NewCMOS(g, now), g
}

func (c *CMOS) get(index uint64) uint64 {
	c.Write(0, 1, index)
	return c.Read(1, 1)
}

func (c *CMOS) put(index, v uint64) {
	c.Write(0, 1, index)
	c.Write(1, 1, v)
}

// wall is the time that the registers show, as Linux reads it.
func (c *CMOS) wall() string {
	return fmt.Sprintf("%02x%02x-%02x-%02x %02x:%02x:%02x day %x", c.get(cmosCentury), c.get(cmosYear), c.get(cmosMonth),
		c.get(cmosDay), c.get(cmosHours), c.get(cmosMinutes), c.get(cmosSeconds), c.get(cmosWeekday))
}

func TestCMOSFollowsTheGuest(t *testing.T) {
	c, g := newCMOS("2026-12-31 23:59:58")
	for _, want := range []string{"2026-12-31 23:59:58 day 5", "2026-12-31 23:59:59 day 5", "2027-01-01 00:00:00 day 6"} {
		if got := c.wall(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		g.ns.Add(1e9)
	}
	if a, d := c.get(cmosA), c.get(cmosD); a&0x80 != 0 || d != 0x80 {
		t.Errorf("A %#x, D %#x", a, d)
	}
	if v := c.Read(0, 1); v != 0xff {
		t.Errorf("the index port reads %#x", v)
	}
}

// The guest sets the clock as Linux does: with the registers held, and without.
func TestCMOSIsSet(t *testing.T) {
	c, g := newCMOS("2026-12-31 23:59:58")
	c.put(cmosB, 0x82)
	for index, v := range map[uint64]uint64{cmosCentury: 0x20, cmosYear: 0x31, cmosMonth: 0x02, cmosDay: 0x03, cmosHours: 0x04, cmosMinutes: 0x05, cmosSeconds: 0x06} {
		c.put(index, v)
	}
	g.ns.Add(100e9)
	if got := c.wall(); got != "2031-02-03 04:05:06 day 2" {
		t.Errorf("held: %s", got)
	}
	c.put(cmosB, 0x02)
	g.ns.Add(2e9)
	if got := c.wall(); got != "2031-02-03 04:05:08 day 2" {
		t.Errorf("set: %s", got)
	}
	c.put(cmosMinutes, 0x59)
	if got := c.wall(); got != "2031-02-03 04:59:08 day 2" {
		t.Errorf("set while it runs: %s", got)
	}
	c.put(cmosB, 0x06)
	if got := c.get(cmosMinutes); got != 59 {
		t.Errorf("minutes in binary: %d", got)
	}
	c.Reset()
	if got := c.wall(); got != "2031-02-03 04:59:08 day 2" {
		t.Errorf("after a reset: %s", got)
	}
}

func TestCMOSState(t *testing.T) {
	c, _ := newCMOS("2026-12-31 23:59:58")
	c.put(0x40, 0xab)
	c.put(cmosB, 0x86)
	c.put(cmosSeconds, 7)
	c.Write(0, 1, 0x40)
	state, err := c.Save()
	if err != nil {
		t.Fatal(err)
	}
	d, _ := newCMOS("2000-01-01 00:00:00")
	commit, err := d.Prepare(state)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	if v := d.Read(1, 1); v != 0xab {
		t.Errorf("memory reads %#x", v)
	}
	d.put(cmosB, 0x02)
	if got := d.wall(); got != "2026-12-31 23:59:07 day 5" {
		t.Errorf("%s", got)
	}
	for name, change := range map[string]func(*understudyv1.CMOSState){
		"index":   func(s *understudyv1.CMOSState) { s.Index = 128 },
		"control": func(s *understudyv1.CMOSState) { s.Control = 0x10 },
		"memory":  func(s *understudyv1.CMOSState) { s.Memory = nil },
	} {
		var s understudyv1.CMOSState
		if err := proto.Unmarshal(state, &s); err != nil {
			t.Fatal(err)
		}
		change(&s)
		bad, err := proto.Marshal(&s)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Prepare(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := d.Prepare([]byte{0xff}); err == nil {
		t.Error("garbage accepted")
	}
}

// FuzzCMOS: no sequence of accesses and no state makes it panic.
func FuzzCMOS(f *testing.F) {
	f.Add([]byte{0x32, 0xff, 0x0b, 0x82, 0x09, 0x99, 0x08, 0xff, 0x0b, 0x02, 0x00, 0x00}, []byte{})
	c, _ := newCMOS("2026-12-31 23:59:58")
	state, err := c.Save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{}, state)
	f.Fuzz(func(t *testing.T, writes, state []byte) {
		c, g := newCMOS("2026-12-31 23:59:58")
		if commit, err := c.Prepare(state); err == nil {
			commit()
		}
		for ; len(writes) > 1; writes = writes[2:] {
			c.put(uint64(writes[0]), uint64(writes[1]))
			g.ns.Add(1e9)
			_ = c.wall()
		}
	})
}

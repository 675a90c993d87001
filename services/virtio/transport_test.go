package virtio

import (
	"errors"
	"strings"
	"testing"
)

func TestIdentity(t *testing.T) {
	d := newDriver(t, NewRNG([32]byte{}))
	for _, tt := range []struct {
		name string
		off  uint64
		want uint32
	}{
		{"magic", regMagic, 0x74726976},
		{"version", regVersion, 2},
		{"device", regDeviceID, 4},
		{"status", regStatus, 0},
		{"queue size", regQueueSizeMax, rngQueueSize},
		{"no shared memory", regSHMLenLow, 0xffffffff},
		{"unknown register", 0x0cc, 0},
	} {
		if got := d.reg(tt.off); got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.name, got, tt.want)
		}
	}
	d.setReg(regQueueSel, 1)
	if got := d.reg(regQueueSizeMax); got != 0 {
		t.Errorf("size of a queue that does not exist: %d", got)
	}
}

func TestConfigSpace(t *testing.T) {
	d := newDriver(t, NewNet([6]byte{0x52, 0x54, 0, 1, 2, 3}, nil, nil))
	for _, tt := range []struct {
		off  uint64
		size int
		want uint64
	}{
		{0, 1, 0x52}, {5, 1, 3}, {0, 4, 0x01005452}, {6, 2, netStatusLinkUp},
		{4, 8, 0x0000_0000_0001_0302}, {8, 4, 0}, {0xff, 1, 0}, {0xff, 8, 0},
	} {
		if got := d.dev.Read(regConfig+tt.off, tt.size); got != tt.want {
			t.Errorf("%d bytes at %d: %#x, want %#x", tt.size, tt.off, got, tt.want)
		}
	}
	d.dev.Write(regConfig, 1, 0xff)
	if d.dev.Read(regConfig, 1) != 0x52 || d.broken() {
		t.Error("a write to the configuration had an effect")
	}
}

// The status register goes through its steps in order, and otherwise the driver
// has offended.
func TestStatusOrder(t *testing.T) {
	const (
		a, d, f, ok = StatusAcknowledge, StatusDriver, StatusFeaturesOK, StatusDriverOK
	)
	for _, tt := range []struct {
		name   string
		writes []uint32
		broken bool
	}{
		{"in order", []uint32{a, a | d, a | d | f, a | d | f | ok}, false},
		{"acknowledge and driver at once", []uint32{a | d}, false},
		{"given up", []uint32{a, a | d | StatusFailed}, false},
		{"reset between", []uint32{a, a | d, 0, a}, false},
		{"driver without acknowledge", []uint32{d}, true},
		{"features before driver", []uint32{a, a | f}, true},
		{"started without features", []uint32{a, a | d, a | d | ok}, true},
		{"bit taken back", []uint32{a, a | d, a}, true},
		{"needs reset set by the driver", []uint32{a | StatusNeedsReset}, true},
		{"unknown bit", []uint32{a | 16}, true},
		{"32 bits", []uint32{0xffffffff}, true},
	} {
		dr := newDriver(t, NewRNG([32]byte{}))
		for i, w := range tt.writes {
			if w == a|d|f {
				dr.negotiate(FeatureVersion1)
			}
			dr.setReg(regStatus, w)
			if last := i == len(tt.writes)-1; !last && dr.broken() {
				t.Errorf("%s: broken after %#x", tt.name, w)
			}
		}
		if dr.broken() != tt.broken {
			t.Errorf("%s: broken %v, want %v; log: %s", tt.name, dr.broken(), tt.broken, dr.log)
		}
	}
}

func TestFeaturesRefused(t *testing.T) {
	for name, features := range map[string]uint64{
		"no version 1":      FeatureEventIdx,
		"not offered":       FeatureVersion1 | 1<<33,
		"of another device": FeatureVersion1 | netFeatureMAC,
	} {
		d := newDriver(t, NewRNG([32]byte{}))
		d.setReg(regStatus, StatusAcknowledge|StatusDriver)
		for sel := range uint32(2) {
			d.setReg(regDriverFeaturesSel, sel)
			d.setReg(regDriverFeatures, uint32(features>>(32*sel)))
		}
		d.setReg(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK)
		if got := d.reg(regStatus); got != StatusAcknowledge|StatusDriver {
			t.Errorf("%s: status %#x, want FEATURES_OK refused", name, got)
		}
		d.negotiate(0)
		d.setReg(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK)
		if d.reg(regStatus)&StatusFeaturesOK == 0 || d.broken() {
			t.Errorf("%s: second attempt failed", name)
		}
	}
}

// ready is a device whose features are accepted and whose queue 0 is selected.
func ready(t *testing.T) *driver {
	d := newDriver(t, NewRNG([32]byte{}))
	d.setReg(regStatus, StatusAcknowledge|StatusDriver)
	d.negotiate(0)
	d.setReg(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK)
	return d
}

func TestQueueSetUp(t *testing.T) {
	const end = memBase + memSize
	type setUp struct {
		size              uint32
		desc, avail, used uint64
	}
	good := setUp{16, memBase, memBase + 0x1000, memBase + 0x2000}
	for _, tt := range []struct {
		name   string
		change func(*setUp)
		broken bool
	}{
		{"good", func(*setUp) {}, false},
		{"greatest size", func(s *setUp) { s.size = rngQueueSize }, false},
		{"size 1", func(s *setUp) { s.size = 1 }, false},
		{"table at the end of memory", func(s *setUp) { s.desc = end - 16*16 }, false},
		{"available ring at the end", func(s *setUp) { s.avail = end - (4 + 2*16 + 2) }, false},
		{"used ring at the end", func(s *setUp) { s.used = end - (4 + 8*16 + 4) }, false},
		{"size 0", func(s *setUp) { s.size = 0 }, true},
		{"size no power of two", func(s *setUp) { s.size = 15 }, true},
		{"size too great", func(s *setUp) { s.size = 2 * rngQueueSize }, true},
		{"size of more than 16 bits", func(s *setUp) { s.size = 1<<16 | 16 }, true},
		{"table misaligned", func(s *setUp) { s.desc += 8 }, true},
		{"available ring misaligned", func(s *setUp) { s.avail++ }, true},
		{"used ring misaligned", func(s *setUp) { s.used += 2 }, true},
		{"table over the end", func(s *setUp) { s.desc = end - 15*16 }, true},
		{"available ring over the end", func(s *setUp) { s.avail = end - 4 - 2*16 }, true},
		{"used ring over the end", func(s *setUp) { s.used = end - 4 - 8*16 }, true},
		{"table below memory", func(s *setUp) { s.desc = memBase - 16 }, true},
		{"table that wraps", func(s *setUp) { s.desc = ^uint64(15) }, true},
		{"nothing set", func(s *setUp) { *s = setUp{size: 16} }, true},
	} {
		d, s := ready(t), good
		tt.change(&s)
		d.setReg(regQueueSize, s.size)
		for reg, addr := range map[uint64]uint64{regDescriptorsLow: s.desc, regAvailableLow: s.avail, regUsedLow: s.used} {
			d.setReg(reg, uint32(addr))
			d.setReg(reg+4, uint32(addr>>32))
		}
		d.setReg(regQueueReady, 1)
		if d.broken() != tt.broken || (d.reg(regQueueReady) == 1) == tt.broken {
			t.Errorf("%s: broken %v, ready %d; log: %s", tt.name, d.broken(), d.reg(regQueueReady), d.log)
		}
	}
}

func TestRegisterOffences(t *testing.T) {
	for _, tt := range []struct {
		name string
		do   func(d *driver)
	}{
		{"byte read", func(d *driver) { d.dev.Read(regMagic, 1) }},
		{"8-byte read", func(d *driver) { d.dev.Read(regDescriptorsLow, 8) }},
		{"misaligned read", func(d *driver) { d.dev.Read(regStatus+2, 4) }},
		{"read of no bytes", func(d *driver) { d.dev.Read(regStatus, 0) }},
		{"byte write", func(d *driver) { d.dev.Write(regStatus, 1, 0) }},
		{"8-byte write", func(d *driver) { d.dev.Write(regDescriptorsLow, 8, 0) }},
		{"misaligned write", func(d *driver) { d.dev.Write(regQueueSel+1, 4, 0) }},
		{"notification of a queue that does not exist", func(d *driver) { d.setReg(regQueueNotify, 1) }},
		{"set-up of a queue that does not exist", func(d *driver) { d.setReg(regQueueSel, 7); d.setReg(regQueueSize, 1) }},
		{"set-up of a running queue", func(d *driver) { d.setReg(regUsedLow, memBase) }},
		{"set-up of a stopped queue of a running device", func(d *driver) { d.setReg(regQueueReady, 0); d.setReg(regUsedLow, memBase) }},
		{"features of a running device", func(d *driver) { d.setReg(regDriverFeatures, 0) }},
	} {
		d := started(t, NewRNG([32]byte{}), 0)
		tt.do(d)
		if !d.broken() {
			t.Errorf("%s: the device did not mind", tt.name)
		}
	}
}

// A device that stopped for an offence does nothing until it is reset, writes
// no further log line, and works again afterwards.
func TestNeedsReset(t *testing.T) {
	d := started(t, NewRNG([32]byte{}), 0)
	d.setReg(regQueueNotify, 99)
	if !d.broken() {
		t.Fatal("the device did not mind")
	}
	if n := strings.Count(d.log.String(), "\n"); n != 1 {
		t.Errorf("%d log lines: %s", n, d.log)
	}
	logged := d.log.String()

	r := d.add(0, nil, d.room(64, 64), 99)
	d.setReg(regQueueNotify, 0)
	d.setReg(regQueueNotify, 99)
	d.dev.Read(regStatus, 1)
	d.setReg(regQueueSel, 5)
	if d.collect(0); r.done {
		t.Error("a stopped device worked")
	}
	if d.log.String() != logged {
		t.Errorf("log went on: %s", d.log)
	}
	d.setReg(regInterruptACK, interruptConfig)
	if d.irq {
		t.Error("interrupt stays after it was acknowledged")
	}
	if d.reg(regStatus)&StatusNeedsReset == 0 {
		t.Error("acknowledging the interrupt took NEEDS_RESET away")
	}
	// A driver that gives up writes back what it read.
	d.setReg(regStatus, d.reg(regStatus)|StatusFailed)
	if got := d.reg(regStatus); got&(StatusFailed|StatusNeedsReset) != StatusFailed|StatusNeedsReset {
		t.Errorf("status %#x", got)
	}

	d.setReg(regStatus, 0)
	if d.reg(regStatus) != 0 || d.irq || d.reg(regInterruptStatus) != 0 {
		t.Error("reset left something behind")
	}
	d.log.Reset()
	d.start(0)
	if r := d.do(0, nil, 64); r.written != 64 {
		t.Errorf("after the reset: %d bytes", r.written)
	}
}

// A guest that does nothing but offend gets fewer and fewer lines.
func TestOffencesDoNotFloodTheLog(t *testing.T) {
	d := newDriver(t, NewRNG([32]byte{}))
	for range 1000 {
		d.setReg(regQueueNotify, 99)
		d.setReg(regStatus, 0)
	}
	if n := strings.Count(d.log.String(), "\n"); n != 10 {
		t.Errorf("%d log lines for 1000 offences, want 10", n)
	}
}

func TestInterruptIsLevelTriggered(t *testing.T) {
	d := started(t, NewRNG([32]byte{}), 0)
	if d.irq {
		t.Fatal("interrupt without a cause")
	}
	d.do(0, nil, 16)
	if !d.irq || d.reg(regInterruptStatus) != interruptUsed {
		t.Fatal("no interrupt for a completed request")
	}
	d.setReg(regInterruptACK, interruptConfig)
	if !d.irq {
		t.Error("acknowledging another cause lowered the line")
	}
	d.setReg(regInterruptACK, interruptUsed)
	if d.irq {
		t.Error("line stays high")
	}
}

func TestNotificationBeforeStartDoesNothing(t *testing.T) {
	d := ready(t)
	d.dev.Resume()
	d.setReg(regQueueNotify, 0)
	if d.broken() {
		t.Error(d.log)
	}
}

// Machine reset is power-on, whatever the device was at.
func TestPowerOn(t *testing.T) {
	d := started(t, NewRNG([32]byte{}), FeatureEventIdx)
	d.do(0, nil, 16)
	d.dev.Pause()
	d.dev.Reset()
	if d.irq || d.reg(regStatus) != 0 || d.reg(regInterruptStatus) != 0 || d.dev.driverFeatures != 0 || d.dev.queues[0].ready {
		t.Error("reset left something behind")
	}
}

func TestSaveNeedsPause(t *testing.T) {
	d := started(t, NewRNG([32]byte{}), 0)
	if _, err := d.dev.Save(); !errors.Is(err, errNotPaused) {
		t.Errorf("Save of a running device: %v", err)
	}
	d.dev.Pause()
	state, err := d.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	d.dev.Resume()
	if _, err := d.dev.Prepare(state); !errors.Is(err, errNotPaused) {
		t.Errorf("Prepare of a running device: %v", err)
	}
}

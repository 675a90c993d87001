package virtio

import "encoding/binary"

// WindowSize is the number of bytes of a transport's register window.
const WindowSize = 0x200

// Registers (section 4.2.2).
const (
	regMagic             = 0x000
	regVersion           = 0x004
	regDeviceID          = 0x008
	regVendorID          = 0x00c
	regDeviceFeatures    = 0x010
	regDeviceFeaturesSel = 0x014
	regDriverFeatures    = 0x020
	regDriverFeaturesSel = 0x024
	regQueueSel          = 0x030
	regQueueSizeMax      = 0x034
	regQueueSize         = 0x038
	regQueueReady        = 0x044
	regQueueNotify       = 0x050
	regInterruptStatus   = 0x060
	regInterruptACK      = 0x064
	regStatus            = 0x070
	regDescriptorsLow    = 0x080
	regDescriptorsHigh   = 0x084
	regAvailableLow      = 0x090
	regAvailableHigh     = 0x094
	regUsedLow           = 0x0a0
	regUsedHigh          = 0x0a4
	regSHMLenLow         = 0x0b0
	regSHMLenHigh        = 0x0b4
	regSHMBaseLow        = 0x0b8
	regSHMBaseHigh       = 0x0bc
	regConfigGeneration  = 0x0fc
	regConfig            = 0x100
)

const (
	mmioMagic   = 0x74726976 // "virt"
	mmioVersion = 2
	vendorID    = 0x53444e55 // "UNDS"

	interruptUsed   = 1
	interruptConfig = 2
)

// Read reads size bytes at register offset off.
func (t *Transport) Read(off uint64, size int) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if off >= regConfig {
		return t.readConfig(off-regConfig, size)
	}
	if size != 4 || off%4 != 0 {
		t.offendf("read of %d bytes at register %#x", size, off)
		return 0
	}
	return uint64(t.readRegister(off))
}

func (t *Transport) readConfig(off uint64, size int) uint64 {
	var b [8]byte
	if cfg := t.device.Config(); size >= 0 && size <= len(b) && off < uint64(len(cfg)) {
		copy(b[:size], cfg[off:])
	}
	return binary.LittleEndian.Uint64(b[:])
}

func (t *Transport) readRegister(off uint64) uint32 {
	switch off {
	case regMagic:
		return mmioMagic
	case regVersion:
		return mmioVersion
	case regDeviceID:
		return t.device.Info().Type
	case regVendorID:
		return vendorID
	case regDeviceFeatures:
		switch t.deviceFeaturesSel {
		case 0:
			return uint32(t.Features())
		case 1:
			return uint32(t.Features() >> 32)
		}
	case regQueueSizeMax:
		if q := t.selected(); q != nil {
			return uint32(q.max)
		}
	case regQueueReady:
		if q := t.selected(); q != nil && q.ready {
			return 1
		}
	case regInterruptStatus:
		return t.interruptStatus
	case regStatus:
		return t.status
	case regSHMLenLow, regSHMLenHigh, regSHMBaseLow, regSHMBaseHigh:
		return 0xffffffff // no shared memory region
	}
	return 0
}

// Write writes size bytes at register offset off. Writes to the configuration
// space have no effect: no device has a writable field.
func (t *Transport) Write(off uint64, size int, v uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if off >= regConfig {
		return
	}
	if size != 4 || off%4 != 0 {
		t.offendf("write of %d bytes at register %#x", size, off)
		return
	}
	t.writeRegister(off, uint32(v))
}

func (t *Transport) writeRegister(off uint64, v uint32) {
	switch {
	case off == regStatus:
		t.writeStatus(v)
		return
	case off == regInterruptACK:
		t.interruptStatus &^= v
		t.cfg.IRQ(t.interruptStatus != 0)
		return
	case t.status&StatusNeedsReset != 0:
		return
	}
	switch off {
	case regDeviceFeaturesSel:
		t.deviceFeaturesSel = v
	case regDriverFeaturesSel:
		t.driverFeaturesSel = v
	case regQueueSel:
		t.queueSel = v
	case regDriverFeatures:
		t.writeFeatures(v)
	case regQueueNotify:
		if v >= uint32(len(t.queues)) {
			t.offendf("notification of queue %d of %d", v, len(t.queues))
			return
		}
		t.process(int(v))
	case regQueueSize, regQueueReady, regDescriptorsLow, regDescriptorsHigh,
		regAvailableLow, regAvailableHigh, regUsedLow, regUsedHigh:
		t.writeQueue(off, v)
	}
}

// writeStatus lets the driver set bits in the order of section 3.1.1, or reset
// the device.
func (t *Transport) writeStatus(v uint32) {
	if v == 0 {
		t.reset()
		return
	}
	if t.status&StatusNeedsReset != 0 {
		t.status |= v & StatusFailed
		return
	}
	added := v &^ t.status
	if v&^statusKnown != 0 || v&StatusNeedsReset != 0 || t.status&^v != 0 || !statusInOrder(v) {
		t.offendf("status changed from %#x to %#x", t.status, v)
		return
	}
	if added&StatusFeaturesOK != 0 {
		if !t.acceptFeatures() {
			v &^= StatusFeaturesOK
		}
		if v&StatusDriverOK != 0 {
			t.offendf("driver started before it saw its features accepted")
			return
		}
	}
	t.status = v
	if added&StatusDriverOK != 0 {
		for i := range t.queues {
			t.process(i)
		}
	}
}

// statusInOrder tells whether each step that a status names has the one before.
func statusInOrder(v uint32) bool {
	for _, step := range [...]struct{ bit, before uint32 }{
		{StatusDriver, StatusAcknowledge}, {StatusFeaturesOK, StatusDriver}, {StatusDriverOK, StatusFeaturesOK},
	} {
		if v&step.bit != 0 && v&step.before == 0 {
			return false
		}
	}
	return true
}

// acceptFeatures judges what the driver chose.
func (t *Transport) acceptFeatures() bool {
	return t.driverFeatures&^t.Features() == 0 && t.driverFeatures&FeatureVersion1 != 0
}

func (t *Transport) writeFeatures(v uint32) {
	if t.status&(StatusDriver|StatusFeaturesOK) != StatusDriver {
		t.offendf("features written in status %#x", t.status)
		return
	}
	switch t.driverFeaturesSel {
	case 0:
		t.driverFeatures = t.driverFeatures&^0xffffffff | uint64(v)
	case 1:
		t.driverFeatures = t.driverFeatures&0xffffffff | uint64(v)<<32
	default:
		if v != 0 {
			t.offendf("features written beyond bit 63")
		}
	}
}

// selected is the queue that the queue registers act on, if there is one.
func (t *Transport) selected() *Queue {
	if t.queueSel < uint32(len(t.queues)) {
		return &t.queues[t.queueSel]
	}
	return nil
}

func (t *Transport) writeQueue(off uint64, v uint32) {
	q := t.selected()
	if q == nil {
		t.offendf("set-up of queue %d of %d", t.queueSel, len(t.queues))
		return
	}
	if off == regQueueReady && v == 0 {
		q.ready = false
		return
	}
	if t.status&(StatusFeaturesOK|StatusDriverOK) != StatusFeaturesOK || q.ready {
		t.offendf("queue %d set up in status %#x, ready %v", t.queueSel, t.status, q.ready)
		return
	}
	switch off {
	case regQueueSize:
		if v > uint32(q.max) {
			t.offendf("queue size %d, at most %d", v, q.max)
			return
		}
		q.size = uint16(v)
	case regQueueReady:
		q.indirect = t.negotiated(FeatureIndirectDesc)
		q.eventIdx = t.negotiated(FeatureEventIdx)
		if err := q.validate(); err != nil {
			t.offend(err)
			return
		}
		q.nextAvailable, q.nextUsed, q.completed = 0, 0, 0
		q.ready = true
	case regDescriptorsLow:
		setLow(&q.descriptors, v)
	case regDescriptorsHigh:
		setHigh(&q.descriptors, v)
	case regAvailableLow:
		setLow(&q.available, v)
	case regAvailableHigh:
		setHigh(&q.available, v)
	case regUsedLow:
		setLow(&q.used, v)
	case regUsedHigh:
		setHigh(&q.used, v)
	}
}

func setLow(addr *uint64, v uint32)  { *addr = *addr&^0xffffffff | uint64(v) }
func setHigh(addr *uint64, v uint32) { *addr = *addr&0xffffffff | uint64(v)<<32 }

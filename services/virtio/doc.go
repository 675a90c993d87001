// Package virtio is the device side of virtio 1.2 over MMIO: the transport, split
// virtqueues, and the devices net, block, console and rng.
//
// A Transport holds what all devices share: registers, negotiation, queues,
// interrupt. A Device adds its kind: configuration, and what to do with the
// chains of its queues.
//
// # Hostile guests
//
// Every register access, address, index, length and chain comes from the guest
// and is checked. What the specification forbids a driver is an offence: the
// device sets DEVICE_NEEDS_RESET, raises a configuration interrupt, writes a
// log line, and does nothing more until the driver resets it. Other devices and
// the process go on. A feature set that the device cannot accept is no offence
// but answered by clearing FEATURES_OK.
//
// # Concurrency
//
// Each device has one lock. Queues are processed on the goroutine that notifies:
// a vCPU's, or the host's that brings a frame. The host's callbacks (Transmit,
// Ready, console output, interrupt line) are called with that lock held: they
// must be quick and must not call into the device.
//
// # Pause and state
//
// Requests complete before the call that began them returns, so that nothing is
// in flight between calls. From Pause until Resume a device touches neither
// guest memory nor its own state except for register accesses: notifications
// stay in the queues, Deliver and Input refuse. Resume looks at all queues.
//
// Guest memory is written through mem.Memory, which marks pages dirty.
//
// Limits: packed queues, queue reset, notification data, device-side
// configuration changes and network offloads are not offered.
package virtio

import "errors"

// ErrOffence is wrapped by errors about what a driver must not do.
var ErrOffence = errors.New("driver broke the virtio protocol")

// ErrState is wrapped by errors about a saved state that does not fit.
var ErrState = errors.New("device state does not fit this device")

// Feature bits that do not belong to a device type (section 6).
const (
	FeatureIndirectDesc = 1 << 28
	FeatureEventIdx     = 1 << 29
	FeatureVersion1     = 1 << 32

	transportFeatures = FeatureIndirectDesc | FeatureEventIdx | FeatureVersion1
)

// Device status bits (section 2.1).
const (
	StatusAcknowledge = 1
	StatusDriver      = 2
	StatusDriverOK    = 4
	StatusFeaturesOK  = 8
	StatusNeedsReset  = 64
	StatusFailed      = 128

	statusKnown = StatusAcknowledge | StatusDriver | StatusDriverOK | StatusFeaturesOK | StatusNeedsReset | StatusFailed
)

package vmmtest

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"
)

// DeviceSize is the size of a Device in the guest's address space.
const DeviceSize = 0x1000

// Registers of a Device.
const (
	regLog   = 0x08
	regCount = 0x10
	regAck   = 0x20
)

// maxLog bounds what a guest can make a Device keep.
const maxLog = 1 << 20

// Device is a vmm.Bus with one device at base. It outlives the machines that a
// guest moves between.
type Device struct {
	base uint64
	// ack is called when the guest acknowledges an interrupt.
	ack func()

	mu    sync.Mutex
	grown sync.Cond
	log   []uint64
	count uint64
}

// NewDevice returns a device at base.
func NewDevice(base uint64) *Device {
	d := &Device{base: base}
	d.grown.L = &d.mu
	return d
}

// Read implements vmm.Bus. The count register gives another number after each
// access, so that a lost or repeated one changes what the guest computes.
func (d *Device) Read(addr uint64, size int) (uint64, bool) {
	if addr != d.base+regCount || size != 8 {
		return 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.count++
	return d.count * 0x9e3779b97f4a7c15, true
}

// Write implements vmm.Bus.
func (d *Device) Write(addr uint64, _ int, v uint64) bool {
	switch addr - d.base {
	case regLog:
		d.mu.Lock()
		d.count++
		if len(d.log) < maxLog {
			d.log = append(d.log, v)
		}
		d.grown.Broadcast()
		d.mu.Unlock()
	case regAck:
		if d.ack != nil {
			d.ack()
		}
	default:
		return false
	}
	return true
}

// Log returns what the guest logged so far.
func (d *Device) Log() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

// Await returns the log once it has n entries.
func (d *Device) Await(t testing.TB, n int) []uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.grown.Broadcast()
	})()
	d.mu.Lock()
	defer d.mu.Unlock()
	for len(d.log) < n {
		if ctx.Err() != nil {
			t.Fatalf("the guest logged %d of %d numbers in %v: %x", len(d.log), n, patience, d.log)
		}
		d.grown.Wait()
	}
	return slices.Clone(d.log)
}

// patience is how long the tests wait for a guest on a busy host.
const patience = 30 * time.Second

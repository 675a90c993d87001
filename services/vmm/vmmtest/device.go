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

	mu    sync.Mutex
	ack   func() // called when the guest acknowledges an interrupt
	grown sync.Cond
	log   []uint64
	count uint64
	// Of all numbers logged, also those that the log had no room for.
	logged    int
	last      uint64
	backwards int // how many were lower than the one before
}

// NewDevice returns a device at base.
func NewDevice(base uint64) *Device {
	d := &Device{base: base}
	d.grown.L = &d.mu
	return d
}

// OnAck replaces what is called when the guest acknowledges an interrupt.
func (d *Device) OnAck(ack func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ack = ack
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
		if v < d.last {
			d.backwards++
		}
		d.logged++
		d.last = v
		d.grown.Broadcast()
		d.mu.Unlock()
	case regAck:
		d.mu.Lock()
		ack := d.ack
		d.mu.Unlock()
		if ack != nil {
			ack()
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

// Logged returns how many numbers were logged so far, and the last.
func (d *Device) Logged() (n int, last uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.logged, d.last
}

// Await returns the log once n numbers were logged.
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
	for d.logged < n {
		if ctx.Err() != nil {
			t.Fatalf("the guest logged %d of %d numbers in %v", d.logged, n, patience)
		}
		d.grown.Wait()
	}
	return slices.Clone(d.log)
}

// patience is how long the tests wait for a guest on a busy host.
const patience = 30 * time.Second

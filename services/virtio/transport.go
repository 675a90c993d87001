package virtio

import (
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/go-hclog"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"
)

// Device is one kind of virtio device. All methods are called with the
// transport's lock held.
type Device interface {
	Info() Info
	// Config is the configuration space, which drivers only read.
	Config() []byte
	// Attach is called once, by NewTransport.
	Attach(*Transport)
	// Process works on what is in a ready queue. It returns more where it
	// stopped before the end, to be called again. An error is an offence.
	Process(queue int) (more bool, err error)
	// PowerOn brings the device to its state of before the first start. A
	// driver's reset does not call it: it resets the transport only.
	PowerOn()
	// Changed is called after a Resume, a reset by the driver and an offence.
	Changed()
	// Save writes the device's own state into the transport's; Prepare checks
	// such a state and returns the function that takes it over.
	Save(*understudyv1.VirtioState) error
	Prepare(*understudyv1.VirtioState) (commit func(), err error)
}

// Info is what never changes about a device.
type Info struct {
	// Type is the device type (section 5).
	Type uint32
	// Features are the feature bits that the device offers of its own.
	Features uint64
	// QueueSizes has the greatest size of each queue, a power of two.
	QueueSizes []uint16
}

// Config says where a transport sits.
type Config struct {
	// Name of the device in log lines.
	Name   string
	Memory *mem.Memory
	// IRQ drives the device's interrupt line.
	IRQ func(level bool)
	Log hclog.Logger
}

// Transport is a virtio-mmio device (section 4.2). It begins paused.
type Transport struct {
	cfg    Config
	device Device

	// paused is set before the lock is taken, to end a long drain.
	paused atomic.Bool

	mu                sync.Mutex
	status            uint32
	driverFeatures    uint64
	deviceFeaturesSel uint32
	driverFeaturesSel uint32
	queueSel          uint32
	interruptStatus   uint32
	queues            []Queue
	offences          uint64
}

// NewTransport returns a paused transport with the device behind it.
func NewTransport(cfg Config, device Device) *Transport {
	t := &Transport{cfg: cfg, device: device}
	t.paused.Store(true)
	for _, size := range device.Info().QueueSizes {
		t.queues = append(t.queues, Queue{memory: cfg.Memory, max: size})
	}
	t.reset()
	device.Attach(t)
	return t
}

// Features returns all offered features.
func (t *Transport) Features() uint64 { return transportFeatures | t.device.Info().Features }

// negotiated tells whether the driver accepted a feature.
func (t *Transport) negotiated(feature uint64) bool { return t.driverFeatures&feature != 0 }

// live tells whether the driver runs the device.
func (t *Transport) live() bool {
	return t.status&(StatusDriverOK|StatusNeedsReset) == StatusDriverOK
}

// usable tells whether the device may work on a queue.
func (t *Transport) usable(queue int) bool { return t.live() && t.queues[queue].ready }

// process works on one queue.
func (t *Transport) process(queue int) {
	if !t.usable(queue) || t.paused.Load() {
		return
	}
	more, err := t.device.Process(queue)
	t.settle(err)
	if q := &t.queues[queue]; more && !q.again {
		q.again = true
		go t.processAgain(queue)
	}
}

// processAgain goes on with a queue after others had a chance to get the lock.
// A pause in between makes it do nothing: Resume looks at all queues.
func (t *Transport) processAgain(queue int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.queues[queue].again = false
	t.process(queue)
}

// settle follows work on queues: it interrupts the driver or notes its offence.
func (t *Transport) settle(err error) {
	if err == nil && t.live() {
		for i := range t.queues {
			q := &t.queues[i]
			if !q.ready {
				continue
			}
			wants, qerr := q.wantsInterrupt()
			if qerr != nil {
				err = qerr
				break
			}
			if wants {
				t.interrupt(interruptUsed)
			}
		}
	}
	if err != nil {
		t.offend(err)
	}
}

// offend stops the device until the driver resets it. A guest that repeats its
// offences gets a log line for the first, second, fourth, eighth, …
func (t *Transport) offend(err error) {
	if t.status&StatusNeedsReset != 0 {
		return
	}
	t.status |= StatusNeedsReset
	if t.status&StatusDriverOK != 0 {
		t.interrupt(interruptConfig)
	}
	t.offences++
	if t.offences&(t.offences-1) == 0 {
		t.cfg.Log.Warn("device stopped until its driver resets it", "device", t.cfg.Name, "offences", t.offences, "error", err)
	}
	t.device.Changed()
}

func (t *Transport) offendf(format string, args ...any) {
	t.offend(fmt.Errorf(format+": %w", append(args, ErrOffence)...))
}

func (t *Transport) interrupt(cause uint32) {
	t.interruptStatus |= cause
	t.cfg.IRQ(true)
}

// reset is what a driver's write of 0 to the status register does.
func (t *Transport) reset() {
	t.status, t.driverFeatures = 0, 0
	t.deviceFeaturesSel, t.driverFeaturesSel, t.queueSel = 0, 0, 0
	t.interruptStatus = 0
	for i := range t.queues {
		t.queues[i].reset()
	}
	t.cfg.IRQ(false)
	t.device.Changed()
}

// Pause returns when the device touches neither guest memory nor its state any
// more, except for register accesses, which the caller stops by pausing the
// vCPUs afterwards.
func (t *Transport) Pause() {
	t.paused.Store(true) // ends a drain that the guest could keep going for ever
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused.Store(true) // a Resume may have come between
}

// Resume lets the device work, first on what has come into its queues.
func (t *Transport) Resume() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused.Store(false)
	for i := range t.queues {
		t.process(i)
	}
	t.device.Changed()
}

// Reset brings transport and device to their power-on state.
func (t *Transport) Reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.reset()
	t.device.PowerOn()
}

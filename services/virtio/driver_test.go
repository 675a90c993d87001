package virtio

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/mem"
)

const (
	memBase = 0x8000_0000
	memSize = 1 << 20
)

// driver plays the guest's side of one device: it finds the device through its
// registers, sets it up, and works its queues through guest memory. It breaks
// off the test where the device breaks the specification.
type driver struct {
	t      testing.TB
	memory *mem.Memory
	dev    *Transport
	log    *bytes.Buffer
	// irq is the interrupt line.
	irq    bool
	queues []*driverQueue
	// next is where the next buffer goes.
	next uint64
}

type driverQueue struct {
	size               uint16
	desc, avail, used  uint64
	eventIdx, indirect bool
	nextAvail, seen    uint16 // seen: used entries taken
	kicked             uint16 // nextAvail at the last decision to notify
	free               []uint16
	chains             map[uint16]*request
}

// request is a chain that the driver made available.
type request struct {
	head  uint16
	descs []uint16
	in    []segment
	// written is the device's word of how much it wrote, once it is done.
	done    bool
	written uint32
}

// entry is a descriptor to be.
type entry struct {
	segment
	flags uint16
}

// newDriver puts a device on a bus of its own.
func newDriver(t testing.TB, device Device) *driver {
	t.Helper()
	memory, err := mem.New(memBase, memSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { memory.Close() })
	return newDriverIn(t, device, memory)
}

func newDriverIn(t testing.TB, device Device, memory *mem.Memory) *driver {
	d := &driver{t: t, memory: memory, log: new(bytes.Buffer)}
	d.dev = NewTransport(Config{
		Name:   "dev",
		Memory: memory,
		IRQ:    func(level bool) { d.irq = level },
		Log:    hclog.New(&hclog.LoggerOptions{Output: d.log}),
	}, device)
	return d
}

// started returns a driver that runs its device with all of the given features
// that it offers.
func started(t testing.TB, device Device, features uint64) *driver {
	t.Helper()
	d := newDriver(t, device)
	d.dev.Resume()
	d.start(features)
	return d
}

func (d *driver) reg(off uint64) uint32       { return uint32(d.dev.Read(off, 4)) }
func (d *driver) setReg(off uint64, v uint32) { d.dev.Write(off, 4, uint64(v)) }

// start initializes the device (section 3.1.1) with queues at fixed places.
func (d *driver) start(features uint64) {
	d.t.Helper()
	d.setReg(regStatus, 0)
	d.setReg(regStatus, StatusAcknowledge)
	d.setReg(regStatus, StatusAcknowledge|StatusDriver)
	features = d.negotiate(features)
	d.setReg(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK)
	if d.reg(regStatus)&StatusFeaturesOK == 0 {
		d.t.Fatalf("device refuses features %#x", features)
	}
	d.queues, d.next = nil, memBase
	for i := range d.dev.queues {
		d.setReg(regQueueSel, uint32(i))
		if d.reg(regQueueReady) != 0 {
			d.t.Fatalf("queue %d is ready before it is set up", i)
		}
		q := &driverQueue{
			size:     uint16(min(d.reg(regQueueSizeMax), 16)),
			eventIdx: features&FeatureEventIdx != 0, indirect: features&FeatureIndirectDesc != 0,
			chains: map[uint16]*request{},
		}
		q.desc, q.avail, q.used = d.alloc(16*16), d.alloc(64), d.alloc(256)
		for n := range q.size {
			q.free = append(q.free, n)
		}
		d.queues = append(d.queues, q)
		d.setReg(regQueueSize, uint32(q.size))
		for _, a := range []struct {
			reg  uint64
			addr uint64
		}{{regDescriptorsLow, q.desc}, {regAvailableLow, q.avail}, {regUsedLow, q.used}} {
			d.setReg(a.reg, uint32(a.addr))
			d.setReg(a.reg+4, uint32(a.addr>>32))
		}
		d.setReg(regQueueReady, 1)
	}
	d.setReg(regStatus, StatusAcknowledge|StatusDriver|StatusFeaturesOK|StatusDriverOK)
	if got := d.reg(regStatus); got != 0xf {
		d.t.Fatalf("status %#x after start; log: %s", got, d.log)
	}
}

// negotiate accepts those of the features that are offered.
func (d *driver) negotiate(features uint64) uint64 {
	var offered uint64
	for sel := range uint32(2) {
		d.setReg(regDeviceFeaturesSel, sel)
		offered |= uint64(d.reg(regDeviceFeatures)) << (32 * sel)
	}
	features = (features | FeatureVersion1) & offered
	for sel := range uint32(2) {
		d.setReg(regDriverFeaturesSel, sel)
		d.setReg(regDriverFeatures, uint32(features>>(32*sel)))
	}
	return features
}

// alloc returns zeroed guest memory, aligned for every use.
func (d *driver) alloc(n uint64) uint64 {
	d.t.Helper()
	addr := d.next
	d.next += (n + 15) &^ 15
	if d.next > memBase+memSize {
		d.next = memBase + 16<<10 // buffers of long ago
		return d.alloc(n)
	}
	return addr
}

// place copies data into guest memory in pieces of at most piece bytes.
func (d *driver) place(data []byte, piece int) []segment {
	var s []segment
	for len(data) > 0 {
		n := min(piece, len(data))
		addr := d.alloc(uint64(n))
		copy(d.memory.Bytes()[addr-memBase:], data[:n])
		s = append(s, segment{addr, uint64(n)})
		data = data[n:]
	}
	return s
}

// room makes empty buffers of n bytes in pieces.
func (d *driver) room(n, piece int) []segment { return d.place(make([]byte, n), piece) }

// add makes a chain available without a notification; nil if the queue has no
// descriptors left. Where indirect descriptors are negotiated, all but the
// first `direct` descriptors go into a table.
func (d *driver) add(queue int, out, in []segment, direct int) *request {
	d.t.Helper()
	q := d.queues[queue]
	var descs []entry
	for _, b := range out {
		descs = append(descs, entry{b, 0})
	}
	for _, b := range in {
		descs = append(descs, entry{b, descWrite})
	}
	if q.indirect && direct < len(descs) {
		table := descs[direct:]
		at := segment{d.alloc(uint64(len(table)) * descSize), uint64(len(table)) * descSize}
		for i, e := range table {
			d.writeDesc(at.addr, uint16(i), e.segment, e.flags|nextFlag(i, len(table)), uint16(i+1))
		}
		descs = append(descs[:direct:direct], entry{at, descIndirect})
	}
	if len(descs) > len(q.free) {
		return nil
	}
	r := &request{head: q.free[0], descs: q.free[:len(descs):len(descs)], in: in}
	q.free = q.free[len(descs):]
	for i, e := range descs {
		next := uint16(0)
		if i+1 < len(descs) {
			next = r.descs[i+1]
		}
		d.writeDesc(q.desc, r.descs[i], e.segment, e.flags|nextFlag(i, len(descs)), next)
	}
	q.chains[r.head] = r
	d.put16(q.avail+4+2*uint64(q.nextAvail%q.size), r.head)
	q.nextAvail++
	d.put16(q.avail+2, q.nextAvail)
	return r
}

func nextFlag(i, n int) uint16 {
	if i+1 < n {
		return descNext
	}
	return 0
}

func (d *driver) writeDesc(table uint64, i uint16, s segment, flags, next uint16) {
	b := d.memory.Bytes()[table-memBase+uint64(i)*descSize:]
	binary.LittleEndian.PutUint64(b, s.addr)
	binary.LittleEndian.PutUint32(b[8:], uint32(s.size))
	binary.LittleEndian.PutUint16(b[12:], flags)
	binary.LittleEndian.PutUint16(b[14:], next)
}

func (d *driver) put16(addr uint64, v uint16) {
	binary.LittleEndian.PutUint16(d.memory.Bytes()[addr-memBase:], v)
}

func (d *driver) get16(addr uint64) uint16 {
	return binary.LittleEndian.Uint16(d.memory.Bytes()[addr-memBase:])
}

// kick notifies the device of what was added, if it asked to be told.
func (d *driver) kick(queue int) (notified bool) {
	q := d.queues[queue]
	old := q.kicked
	q.kicked = q.nextAvail
	if q.eventIdx {
		event := d.get16(q.used + 4 + 8*uint64(q.size))
		if q.nextAvail-event-1 >= q.nextAvail-old {
			return false
		}
	} else if d.get16(q.used)&1 != 0 {
		return false
	}
	d.setReg(regQueueNotify, uint32(queue))
	return true
}

// wishInterrupt asks for an interrupt at the next used entry.
func (d *driver) wishInterrupt(queue int) {
	q := d.queues[queue]
	d.put16(q.avail+4+2*uint64(q.size), q.seen)
}

// collect takes what the device gave back.
func (d *driver) collect(queue int) []*request {
	d.t.Helper()
	q := d.queues[queue]
	var done []*request
	for idx := d.get16(q.used + 2); q.seen != idx; q.seen++ {
		e := d.memory.Bytes()[q.used-memBase+4+8*uint64(q.seen%q.size):]
		head, written := binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:])
		r := q.chains[uint16(head)]
		if r == nil || head > 0xffff {
			d.t.Fatalf("queue %d: device gave back chain %d, which it was not given", queue, head)
		}
		delete(q.chains, r.head)
		q.free = append(q.free, r.descs...)
		r.done, r.written = true, written
		done = append(done, r)
	}
	d.wishInterrupt(queue)
	return done
}

// content is what the device may have written, from the start of r's buffers.
func (d *driver) content(r *request) []byte {
	var b []byte
	for _, s := range r.in {
		b = append(b, d.memory.Bytes()[s.addr-memBase:][:s.size]...)
	}
	return b
}

// do runs one request to its end.
func (d *driver) do(queue int, out []byte, in int) *request {
	d.t.Helper()
	r := d.add(queue, d.place(out, 4096), d.room(in, 4096), 99)
	if r == nil {
		d.t.Fatal("no descriptors left")
	}
	d.kick(queue)
	d.collect(queue)
	if !r.done {
		d.t.Fatalf("request was not completed; log: %s", d.log)
	}
	return r
}

// broken tells whether the device stopped for an offence, and checks that it
// says so in every way it should.
func (d *driver) broken() bool {
	d.t.Helper()
	broken := d.reg(regStatus)&StatusNeedsReset != 0
	if broken != (d.log.Len() > 0) {
		d.t.Fatalf("needs reset: %v, but the log says %q", broken, d.log)
	}
	if broken && d.reg(regStatus)&StatusDriverOK != 0 && (!d.irq || d.reg(regInterruptStatus)&interruptConfig == 0) {
		d.t.Fatal("device needs a reset and does not interrupt")
	}
	return broken
}

// moved saves the paused device's state and returns a driver that goes on with
// another device, given that state and the same memory.
func (d *driver) moved(device Device) *driver {
	d.t.Helper()
	d.dev.Pause()
	state, err := d.dev.Save()
	if err != nil {
		d.t.Fatal(err)
	}
	n := newDriverIn(d.t, device, d.memory)
	n.queues, n.next = d.queues, d.next
	commit, err := n.dev.Prepare(state)
	if err != nil {
		d.t.Fatalf("state of a device is refused: %v", err)
	}
	commit()
	again, err := n.dev.Save()
	if err != nil {
		d.t.Fatal(err)
	}
	if !bytes.Equal(state, again) {
		d.t.Fatalf("state changed by a round trip:\n%x\n%x", state, again)
	}
	if n.irq != d.irq {
		d.t.Fatalf("interrupt line %v after loading, %v before", n.irq, d.irq)
	}
	n.dev.Resume()
	return n
}

// queueFeatures are the features of the transport that change how queues work.
var queueFeatures = []uint64{0, FeatureIndirectDesc, FeatureEventIdx, FeatureIndirectDesc | FeatureEventIdx}

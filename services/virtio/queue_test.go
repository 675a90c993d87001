package virtio

import (
	"bytes"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestHostileChains lets the driver write what it must not. The queue has 16
// descriptors, of which the first four are as in `table`; the chain begins at
// descriptor 0, or where `do` says.
func TestHostileChains(t *testing.T) {
	const buf = memBase + 0x8000
	type desc struct {
		addr  uint64
		size  uint32
		flags uint16
		next  uint16
	}
	in := desc{buf, 64, descWrite, 0}
	for _, tt := range []struct {
		name  string
		table []desc
		do    func(d *driver, q *driverQueue)
		good  bool
	}{
		{name: "one buffer", table: []desc{in}, good: true},
		{name: "last byte of memory", table: []desc{{memBase + memSize - 1, 1, descWrite, 0}}, good: true},
		{name: "empty buffer beside another", table: []desc{{buf, 0, descWrite | descNext, 1}, in}, good: true},
		{name: "indirect", table: []desc{{buf, 16, descIndirect, 0}},
			do: func(d *driver, _ *driverQueue) { d.writeDesc(buf, 0, segment{buf, 64}, descWrite, 0) }, good: true},
		{name: "indirect after direct", table: []desc{in, {buf + 64, 16, descIndirect, 0}},
			do: func(d *driver, q *driverQueue) {
				d.writeDesc(q.desc, 0, segment{buf, 64}, descWrite|descNext, 1)
				d.writeDesc(buf+64, 0, segment{buf, 64}, descWrite, 0)
			}, good: true},

		{name: "buffer over the end of memory", table: []desc{{memBase + memSize - 1, 2, descWrite, 0}}},
		{name: "buffer below memory", table: []desc{{memBase - 1, 2, descWrite, 0}}},
		{name: "buffer that wraps", table: []desc{{^uint64(0), 64, descWrite, 0}}},
		{name: "buffer of 4 GiB", table: []desc{{buf, 0xffffffff, descWrite, 0}}},
		{name: "no room at all", table: []desc{{buf, 0, descWrite, 0}}},
		{name: "loop", table: []desc{{buf, 1, descWrite | descNext, 0}}},
		{name: "longer loop", table: []desc{{buf, 1, descWrite | descNext, 1}, {buf, 1, descWrite | descNext, 2}, {buf, 1, descWrite | descNext, 1}}},
		{name: "next beyond the table", table: []desc{{buf, 1, descWrite | descNext, 16}}},
		{name: "next far beyond", table: []desc{{buf, 1, descWrite | descNext, 0xffff}}},
		{name: "to read after to write", table: []desc{{buf, 1, descWrite | descNext, 1}, {buf, 1, 0, 0}}},
		{name: "indirect with next", table: []desc{{buf, 16, descIndirect | descNext, 1}, in},
			do: func(d *driver, _ *driverQueue) { d.writeDesc(buf, 0, segment{buf, 64}, descWrite, 0) }},
		{name: "indirect in indirect", table: []desc{{buf, 16, descIndirect, 0}},
			do: func(d *driver, _ *driverQueue) { d.writeDesc(buf, 0, segment{buf, 16}, descIndirect, 0) }},
		{name: "indirect table of no bytes", table: []desc{{buf, 0, descIndirect, 0}}},
		{name: "indirect table of odd size", table: []desc{{buf, 17, descIndirect, 0}}},
		{name: "indirect table outside memory", table: []desc{{memBase + memSize - 16, 32, descIndirect, 0}}},
		{name: "indirect loop", table: []desc{{buf, 16, descIndirect, 0}},
			do: func(d *driver, _ *driverQueue) { d.writeDesc(buf, 0, segment{buf, 64}, descWrite|descNext, 0) }},
		{name: "indirect next beyond its table", table: []desc{{buf, 16, descIndirect, 0}},
			do: func(d *driver, _ *driverQueue) { d.writeDesc(buf, 0, segment{buf, 64}, descWrite|descNext, 1) }},
		{name: "indirect chain longer than the queue", table: []desc{{buf, 17 * 16, descIndirect, 0}},
			do: func(d *driver, _ *driverQueue) {
				for i := range uint16(17) {
					d.writeDesc(buf, i, segment{buf, 1}, descWrite|nextFlag(int(i), 17), i+1)
				}
			}},
		{name: "head beyond the table", do: func(d *driver, q *driverQueue) { d.put16(q.avail+4, 16) }},
		{name: "available index runs ahead", table: []desc{in}, do: func(d *driver, q *driverQueue) { d.put16(q.avail+2, 17) }},
		{name: "available index runs back", table: []desc{in}, do: func(d *driver, q *driverQueue) { d.put16(q.avail+2, 0xffff) }},
	} {
		d := started(t, NewRNG([32]byte{}), FeatureIndirectDesc)
		q := d.queues[0]
		for i, e := range tt.table {
			d.writeDesc(q.desc, uint16(i), segment{e.addr, uint64(e.size)}, e.flags, e.next)
		}
		d.put16(q.avail+2, 1)
		if tt.do != nil {
			tt.do(d, q)
		}
		d.setReg(regQueueNotify, 0)
		if d.broken() == tt.good {
			t.Errorf("%s: broken %v; log: %s", tt.name, d.broken(), d.log)
		}
		if used := d.get16(q.used + 2); (used == 1) != tt.good {
			t.Errorf("%s: used index %d", tt.name, used)
		}
	}
}

func TestIndirectMustBeNegotiated(t *testing.T) {
	d := started(t, NewRNG([32]byte{}), 0)
	d.writeDesc(d.queues[0].desc, 0, segment{memBase + 0x8000, 16}, descIndirect, 0)
	d.writeDesc(memBase+0x8000, 0, segment{memBase, 64}, descWrite, 0)
	d.put16(d.queues[0].avail+2, 1)
	d.setReg(regQueueNotify, 0)
	if !d.broken() {
		t.Error("an indirect descriptor was taken")
	}
}

// The driver that keeps to the rules of notification and interrupt suppression
// never waits in vain, over any sequence of its steps and past the wrap of the
// indices, also when the device moves between them.
func TestSuppressionLosesNothing(t *testing.T) {
	for _, features := range queueFeatures {
		t.Run(fmt.Sprintf("features=%#x", features), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				d := started(t, NewRNG([32]byte{1}), features)
				// Begin close to the wrap of the 16-bit indices.
				q, start := d.queues[0], uint16(rapid.IntRange(0xffe0, 0xffff).Draw(rt, "start"))
				q.nextAvail, q.seen, q.kicked = start, start, start
				d.put16(q.avail+2, start)
				d.put16(q.used+2, start)
				d.dev.queues[0].nextAvailable, d.dev.queues[0].nextUsed = start, start
				d.put16(q.used+4+8*uint64(q.size), start) // what the device asked for last
				d.wishInterrupt(0)

				var open []*request
				for range rapid.IntRange(1, 60).Draw(rt, "steps") {
					switch rapid.SampledFrom([]string{"add", "add", "kick", "interrupt", "move"}).Draw(rt, "step") {
					case "add":
						pieces := rapid.IntRange(1, 5).Draw(rt, "pieces")
						if r := d.add(0, nil, d.room(8*pieces, 8), rapid.IntRange(0, 5).Draw(rt, "direct")); r != nil {
							open = append(open, r)
						}
					case "kick":
						d.kick(0)
					case "interrupt":
						// A driver looks at the ring only when it is interrupted.
						if d.irq {
							d.setReg(regInterruptACK, interruptUsed)
							d.collect(0)
						}
					case "move":
						d = d.moved(NewRNG([32]byte{2}))
					}
				}
				d.kick(0)
				if d.irq {
					d.setReg(regInterruptACK, interruptUsed)
					d.collect(0)
				}
				for _, r := range open {
					if !r.done {
						rt.Fatalf("a request was never completed or never announced; log: %s", d.log)
					}
					if want := uint32(len(d.content(r))); r.written != want {
						rt.Fatalf("%d bytes written, want %d", r.written, want)
					}
				}
			})
		})
	}
}

// endless returns a device whose guest, as another vCPU could, makes a chain
// available for each one that is done, and a channel that tells of each.
func endless(t *testing.T) (d *driver, rounds chan struct{}) {
	rounds = make(chan struct{}, 1)
	n := NewNet([6]byte{2}, func([]byte) {
		d.collect(netQueueTransmit)
		d.add(netQueueTransmit, d.place(make([]byte, netHeaderSize+60), 4096), nil, 99)
		select {
		case rounds <- struct{}{}:
		default:
		}
	}, func() {})
	d = started(t, n, 0)
	d.add(netQueueTransmit, d.place(make([]byte, netHeaderSize+60), 4096), nil, 99)
	return d, rounds
}

// A guest that makes chains available for ever can neither hold the lock nor
// keep the machine from pausing, and is served on after the pause.
func TestEndlessQueue(t *testing.T) {
	d, rounds := endless(t)
	for range 3 {
		d.setReg(regQueueNotify, netQueueTransmit)
		for range 1000 {
			<-rounds
		}
		if d.reg(regStatus) != 0xf {
			t.Fatal(d.log)
		}
		d.dev.Pause()
		state, err := d.dev.Save()
		if err != nil {
			t.Fatal(err)
		}
		again, err := d.dev.Save()
		if err != nil || !bytes.Equal(state, again) {
			t.Fatalf("a paused device goes on: %v", err)
		}
		select {
		case <-rounds:
		default:
		}
		d.dev.Resume()
	}
	for range 1000 {
		<-rounds
	}
	d.dev.Pause()
}

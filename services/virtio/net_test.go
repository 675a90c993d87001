package virtio

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

// wire is the host's side of a network device.
type wire struct {
	*Net
	sent  [][]byte
	ready int
}

func newWire() *wire {
	w := &wire{}
	w.Net = NewNet([6]byte{2, 0, 0, 0, 0, 1},
		func(f []byte) { w.sent = append(w.sent, bytes.Clone(f)) },
		func() { w.ready++ })
	return w
}

// frame makes a frame of n bytes that tells its number.
func frame(i, n int) []byte {
	f := bytes.Repeat([]byte{byte(i)}, n)
	binary.BigEndian.PutUint32(f, uint32(i))
	return f
}

// send transmits frames with one notification.
func (d *driver) send(t *testing.T, header []byte, piece int, frames ...[]byte) {
	t.Helper()
	for _, f := range frames {
		if d.add(netQueueTransmit, d.place(append(bytes.Clone(header), f...), piece), nil, 0) == nil {
			t.Fatal("no descriptors left")
		}
	}
	d.kick(netQueueTransmit)
	d.collect(netQueueTransmit)
}

// post makes n receive buffers of size bytes available.
func (d *driver) post(n, size int) {
	for range n {
		if d.add(netQueueReceive, nil, d.room(size, 4096), 99) == nil {
			d.t.Fatal("no descriptors left")
		}
	}
	d.kick(netQueueReceive)
}

// received takes the frames that have come, as a driver with mergeable buffers
// does: the first buffer says over how many the frame goes.
func (d *driver) received(t *testing.T) [][]byte {
	t.Helper()
	var frames [][]byte
	for done := d.collect(netQueueReceive); len(done) > 0; {
		head := d.content(done[0])[:done[0].written]
		if !bytes.Equal(head[:10], make([]byte, 10)) {
			t.Fatalf("header %x", head[:netHeaderSize])
		}
		n := int(binary.LittleEndian.Uint16(head[10:]))
		if n < 1 || n > len(done) {
			t.Fatalf("frame over %d buffers, of which %d came", n, len(done))
		}
		f := head[netHeaderSize:]
		for _, r := range done[1:n] {
			f = append(f, d.content(r)[:r.written]...)
		}
		frames, done = append(frames, f), done[n:]
	}
	return frames
}

func TestTransmit(t *testing.T) {
	for _, features := range queueFeatures {
		w := newWire()
		d := started(t, w, features)
		var want [][]byte
		for i, size := range []int{14, 60, 1514, 9000, MaxFrame} {
			f := frame(i, size)
			d.send(t, make([]byte, netHeaderSize), 8192, f)
			want = append(want, f)
		}
		d.send(t, make([]byte, netHeaderSize), 12, frame(9, 60), frame(10, 60)) // header apart, in pieces
		want = append(want, frame(9, 60), frame(10, 60))
		if !slices.EqualFunc(w.sent, want, bytes.Equal) || d.broken() {
			t.Errorf("features %#x: sent %d frames, want %d equal ones; log: %s", features, len(w.sent), len(want), d.log)
		}
	}
}

func TestTransmitOffences(t *testing.T) {
	header := make([]byte, netHeaderSize)
	with := func(i int, v byte) []byte {
		h := bytes.Clone(header)
		h[i] = v
		return h
	}
	for name, packet := range map[string][]byte{
		"part of a header":    header[:11],
		"checksum offload":    append(with(0, 1), frame(0, 60)...),
		"segmentation":        append(with(1, 1), frame(0, 60)...),
		"larger than a frame": append(header, frame(0, MaxFrame+1)...),
	} {
		w := newWire()
		d := started(t, w, 0)
		d.add(netQueueTransmit, d.place(packet, 8192), nil, 99)
		d.kick(netQueueTransmit)
		if !d.broken() || len(w.sent) > 0 {
			t.Errorf("%s: broken %v, %d frames sent", name, d.broken(), len(w.sent))
		}
	}
}

func TestDeliver(t *testing.T) {
	for _, merge := range []uint64{0, netFeatureMergeRX} {
		for _, features := range queueFeatures {
			w := newWire()
			d := started(t, w, features|merge)
			d.post(8, 2048)
			var want [][]byte
			for i := range 5 {
				f := frame(i, 60+300*i)
				if w.Deliver(f) == 0 {
					t.Fatal("refused")
				}
				want = append(want, bytes.Clone(f))
				clear(f) // the device has its own copy
			}
			if got := d.received(t); !slices.EqualFunc(got, want, bytes.Equal) {
				t.Errorf("features %#x: got %d frames", features|merge, len(got))
			}
			if !d.irq {
				t.Error("no interrupt")
			}
		}
	}
}

// A frame larger than a buffer goes over several, and waits until they are
// there.
func TestMergedBuffers(t *testing.T) {
	for _, features := range queueFeatures {
		w := newWire()
		d := started(t, w, features|netFeatureMergeRX)
		large := frame(1, 9000)
		d.post(2, 2048)
		if w.Deliver(large) == 0 || w.Deliver(frame(2, 60)) == 0 {
			t.Fatal("refused")
		}
		if got := d.received(t); len(got) != 0 {
			t.Fatalf("features %#x: %d frames over too few buffers", features, len(got))
		}
		d.post(1, 2048)
		d.post(2, 2048)
		if got := d.received(t); !slices.EqualFunc(got, [][]byte{large}, bytes.Equal) {
			t.Fatalf("features %#x: got %d frames", features, len(got))
		}
		d.post(1, 2048)
		if got := d.received(t); !slices.EqualFunc(got, [][]byte{frame(2, 60)}, bytes.Equal) {
			t.Errorf("features %#x: the frame behind it was lost", features)
		}
	}
}

func TestFrameThatNeverFitsIsDropped(t *testing.T) {
	for _, merge := range []uint64{0, netFeatureMergeRX} {
		w := newWire()
		d := started(t, w, merge)
		d.post(16, 64)
		if w.Deliver(frame(1, 2000)) == 0 || w.Deliver(frame(2, 40)) == 0 {
			t.Fatal("refused")
		}
		if got := d.received(t); !slices.EqualFunc(got, [][]byte{frame(2, 40)}, bytes.Equal) || w.dropped != 1 || d.broken() {
			t.Errorf("merge %#x: got %d frames, dropped %d", merge, len(got), w.dropped)
		}
	}
}

func TestReceiveOffences(t *testing.T) {
	for name, add := range map[string]func(*driver){
		"buffer to read":     func(d *driver) { d.add(netQueueReceive, d.place(make([]byte, 2048), 4096), nil, 99) },
		"buffer of no bytes": func(d *driver) { d.add(netQueueReceive, nil, []segment{{memBase, 0}}, 99) },
	} {
		w := newWire()
		d := started(t, w, 0)
		add(d)
		d.kick(netQueueReceive)
		w.Deliver(frame(1, 60))
		if !d.broken() {
			t.Errorf("%s: the device did not mind", name)
		}
	}
}

// Back-pressure: a full device refuses and says when there is room again.
func TestPendingFrames(t *testing.T) {
	w := newWire()
	d := started(t, w, netFeatureMergeRX|FeatureEventIdx)
	for i := range MaxPendingFrames {
		if w.Deliver(frame(i, 60)) == 0 {
			t.Fatalf("frame %d refused", i)
		}
	}
	for range 2 {
		if w.Deliver(frame(999, 60)) != 0 || w.Room() != 0 {
			t.Fatal("a full device takes frames")
		}
	}
	if w.ready != 0 {
		t.Fatal("ready while full")
	}
	var got int
	for got < MaxPendingFrames {
		d.post(4, 128)
		for _, f := range d.received(t) {
			if !bytes.Equal(f, frame(got, 60)) {
				t.Fatalf("frame %d is %x", got, f[:4])
			}
			got++
		}
		if w.ready != 1 {
			t.Fatalf("ready was called %d times, want once", w.ready)
		}
	}
	if w.Deliver(frame(1000, 60)) == 0 {
		t.Error("refused after ready")
	}
}

// While nobody listens frames wait, and too many of them are dropped rather
// than held up.
func TestNoDriver(t *testing.T) {
	w := newWire()
	d := newDriver(t, w)
	d.dev.Resume()
	for i := range MaxPendingFrames + 10 {
		if w.Deliver(frame(i, 60)) == 0 {
			t.Fatalf("frame %d refused", i)
		}
	}
	if w.dropped != 10 || w.ready != 0 {
		t.Errorf("dropped %d, ready %d", w.dropped, w.ready)
	}
	d.start(0)
	d.post(4, 128)
	if got := d.received(t); len(got) != 4 || !bytes.Equal(got[0], frame(0, 60)) {
		t.Errorf("got %d frames after the driver came", len(got))
	}
	d.dev.Pause()
	d.dev.Reset()
	if len(w.pending) != 0 {
		t.Error("frames survive a reset of the machine")
	}
}

// Whoever was refused hears when the driver goes away, too.
func TestReadyWhenDriverLeaves(t *testing.T) {
	for name, leave := range map[string]func(*driver){
		"reset":   func(d *driver) { d.setReg(regStatus, 0) },
		"offence": func(d *driver) { d.setReg(regQueueNotify, 99) },
		"machine": func(d *driver) { d.dev.Pause(); d.dev.Reset(); d.dev.Resume() },
	} {
		w := newWire()
		d := started(t, w, 0)
		for w.Deliver(frame(0, 60)) == 1 {
		}
		leave(d)
		if w.ready != 1 || w.Deliver(frame(0, 60)) == 0 {
			t.Errorf("%s: ready %d", name, w.ready)
		}
	}
}

func TestPausedDeviceRefuses(t *testing.T) {
	w := newWire()
	d := started(t, w, 0)
	d.post(4, 128)
	d.dev.Pause()
	before := bytes.Clone(d.memory.Bytes())
	state, _ := d.dev.Save()
	if w.Deliver(frame(1, 60)) == 1 {
		t.Fatal("a paused device takes frames")
	}
	d.add(netQueueTransmit, d.place(append(make([]byte, netHeaderSize), frame(7, 60)...), 4096), nil, 99)
	copy(before, d.memory.Bytes()) // the driver's own writes
	d.setReg(regQueueNotify, netQueueTransmit)
	after, _ := d.dev.Save()
	if !bytes.Equal(before, d.memory.Bytes()) || !bytes.Equal(state, after) || len(w.sent) > 0 {
		t.Fatal("a paused device worked")
	}
	d.dev.Resume()
	if w.ready != 1 || len(w.sent) != 1 {
		t.Errorf("after Resume: ready %d, sent %d", w.ready, len(w.sent))
	}
	if w.Deliver(frame(1, 60)) == 0 || len(d.received(t)) != 1 {
		t.Error("the device does not work after Resume")
	}
}

func TestOddFramesAreDropped(t *testing.T) {
	w := newWire()
	started(t, w, 0)
	if w.Deliver(nil) == 0 || w.Deliver(make([]byte, MaxFrame+1)) == 0 || w.dropped != 2 {
		t.Errorf("dropped %d", w.dropped)
	}
}

// Frames arrive once, in order and whole, whatever the sizes of frames and
// buffers, and also over moves to another host.
func TestReceiveModel(t *testing.T) {
	for _, features := range queueFeatures {
		t.Run(fmt.Sprintf("features=%#x", features), func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				w := newWire()
				d := started(t, w, features|netFeatureMergeRX)
				var want, got [][]byte
				for i := range rapid.IntRange(1, 40).Draw(rt, "steps") {
					switch rapid.SampledFrom([]string{"deliver", "deliver", "post", "receive", "move"}).Draw(rt, "step") {
					case "deliver":
						f := frame(i, rapid.IntRange(14, 1500).Draw(rt, "size"))
						if w.Deliver(f) == 1 {
							want = append(want, f)
						}
					case "post":
						if len(d.queues[netQueueReceive].free) > 0 {
							d.post(1, rapid.IntRange(128, 2000).Draw(rt, "buffer"))
						}
					case "receive":
						got = append(got, d.received(t)...)
					case "move":
						moved := newWire()
						d = d.moved(moved)
						w = moved
					}
				}
				for i := 0; len(got) < len(want) && i < 100; i++ {
					got = append(got, d.received(t)...)
					for len(d.queues[netQueueReceive].free) > 0 {
						d.post(1, 2000)
					}
				}
				if !slices.EqualFunc(got, want, bytes.Equal) || d.broken() {
					rt.Fatalf("got %d frames, want %d; log: %s", len(got), len(want), d.log)
				}
			})
		})
	}
}

// Deliver, notifications, pauses and saves come from different goroutines.
func TestConcurrency(t *testing.T) {
	const frames = 2000
	w := newWire()
	ready := make(chan struct{}, 1)
	w.Net.ready = func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	}
	d := started(t, w, netFeatureMergeRX|FeatureEventIdx)
	// Guest memory is shared with the device as on a real machine; the test's
	// driver takes the device's lock so that the race detector sees no race.
	guest := func(f func()) {
		d.dev.mu.Lock()
		defer d.dev.mu.Unlock()
		f()
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range frames {
			for w.Deliver(frame(i, 60)) == 0 {
				<-ready
			}
		}
	})
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			d.dev.Pause()
			if _, err := d.dev.Save(); err != nil {
				t.Error(err)
			}
			d.dev.Resume()
		}
	})
	for got := 0; got < frames; {
		guest(func() {
			for _, r := range d.collect(netQueueReceive) {
				f := d.content(r)[netHeaderSize:r.written]
				if !bytes.Equal(f, frame(got, 60)) {
					t.Errorf("frame %d is %x", got, f[:4])
				}
				got++
			}
			for len(d.queues[netQueueReceive].free) > 0 {
				d.add(netQueueReceive, nil, d.room(128, 4096), 99)
			}
		})
		d.setReg(regQueueNotify, netQueueReceive)
	}
	close(done)
	wg.Wait()
	d.dev.Pause()
}

package virtio

import (
	"bytes"
	"strings"
	"testing"
)

func TestConsoleOutput(t *testing.T) {
	var out bytes.Buffer
	d := started(t, NewConsole(&out), FeatureIndirectDesc)
	want := strings.Repeat("all the guest says ", 1000)
	d.add(consoleQueueTransmit, d.place([]byte(want), 1500), nil, 0)
	d.kick(consoleQueueTransmit)
	if d.collect(consoleQueueTransmit); out.String() != want {
		t.Errorf("%d bytes came out, want %d", out.Len(), len(want))
	}
}

func TestConsoleOutputIsBounded(t *testing.T) {
	var out bytes.Buffer
	d := started(t, NewConsole(&out), 0)
	all := segment{memBase, memSize}
	d.add(consoleQueueTransmit, []segment{all, all}, nil, 99)
	d.kick(consoleQueueTransmit)
	if !d.broken() || out.Len() > 0 {
		t.Errorf("broken %v, %d bytes written", d.broken(), out.Len())
	}
}

func TestConsoleInput(t *testing.T) {
	for _, features := range queueFeatures {
		c := NewConsole(&bytes.Buffer{})
		d := newDriver(t, c)
		d.dev.Resume()
		if c.Input([]byte("x")) != 0 {
			t.Error("input without a driver was taken")
		}
		d.start(features)
		long := bytes.Repeat([]byte("0123456789"), 500)
		if got := c.Input(long); got != consoleMaxPending {
			t.Errorf("took %d bytes, want %d", got, consoleMaxPending)
		}
		var got []byte
		for range 200 {
			d.add(consoleQueueReceive, nil, d.room(100, 30), 99)
			d.kick(consoleQueueReceive)
			for _, r := range d.collect(consoleQueueReceive) {
				got = append(got, d.content(r)[:r.written]...)
			}
			if len(got) == 300 {
				c = NewConsole(&bytes.Buffer{}) // goes on elsewhere
				d = d.moved(c)
			}
		}
		if !bytes.Equal(got, long[:consoleMaxPending]) || d.broken() {
			t.Errorf("features %#x: read %d bytes; log: %s", features, len(got), d.log)
		}
		d.dev.Pause()
		if c.Input([]byte("x")) != 0 {
			t.Error("a paused console takes input")
		}
	}
}

func TestConsoleBufferOfNoBytes(t *testing.T) {
	c := NewConsole(&bytes.Buffer{})
	d := started(t, c, 0)
	d.add(consoleQueueReceive, d.place([]byte("x"), 1), nil, 99)
	d.kick(consoleQueueReceive)
	if c.Input([]byte("x")); !d.broken() {
		t.Error("the device did not mind")
	}
}

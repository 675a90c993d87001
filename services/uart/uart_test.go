package uart

import (
	"bytes"
	"io"
	"testing"
)

// bench is a port with what it is connected to.
type bench struct {
	*Port
	out bytes.Buffer
	irq bool
}

func newBench() *bench {
	b := &bench{}
	b.Port = New(&b.out, func(level bool) { b.irq = level })
	b.Resume()
	return b
}

func (b *bench) get(off uint64) uint8    { return uint8(b.Read(off, 1)) }
func (b *bench) set(off uint64, v uint8) { b.Write(off, 1, uint64(v)) }

func TestPowerOn(t *testing.T) {
	b := newBench()
	for off, want := range map[uint64]uint8{
		regIER: 0, regIIR: iirNone, regLCR: 0, regLSR: lsrEmpty, regMSR: msrCTS | msrDSR | msrDCD, regSCR: 0, 99: 0,
	} {
		if got := b.get(off); got != want {
			t.Errorf("register %d: %#x, want %#x", off, got, want)
		}
	}
	if b.irq {
		t.Error("interrupt at power-on")
	}
}

func TestOutput(t *testing.T) {
	b := newBench()
	for _, c := range []byte("hello\n") {
		if b.get(regLSR)&lsrEmpty != lsrEmpty {
			t.Fatal("transmitter is not empty")
		}
		b.set(regData, c)
	}
	if b.out.String() != "hello\n" {
		t.Errorf("out came %q", b.out.String())
	}
}

func TestInput(t *testing.T) {
	b := newBench()
	b.set(regIER, ierData)
	if b.Input([]byte("ab")) != 2 || !b.irq || b.get(regIIR) != iirData {
		t.Fatal("input does not interrupt")
	}
	for _, want := range []byte("ab") {
		if b.get(regLSR)&lsrData == 0 || b.get(regData) != want {
			t.Errorf("%q is not there", want)
		}
	}
	if b.irq || b.get(regLSR)&lsrData != 0 || b.get(regData) != 0 {
		t.Error("more came than was sent")
	}
}

func TestInputIsBounded(t *testing.T) {
	b := newBench()
	if n := b.Input(make([]byte, 2*maxPending)); n != maxPending {
		t.Errorf("took %d bytes", n)
	}
	if n := b.Input([]byte{1}); n != 0 {
		t.Errorf("took %d bytes more", n)
	}
	b.Pause()
	b.get(regData)
	if n := b.Input([]byte{1}); n != 0 {
		t.Error("a paused port takes input")
	}
	b.Resume()
	if n := b.Input([]byte{1, 2}); n != 1 {
		t.Errorf("took %d bytes into the room of one", n)
	}
}

// What the Linux driver tests at start-up: the transmitter interrupt comes each
// time it is enabled, and reading its identification takes it away.
func TestTransmitterInterrupt(t *testing.T) {
	b := newBench()
	for range 2 {
		b.set(regIER, ierEmpty)
		if !b.irq {
			t.Fatal("no interrupt when enabled")
		}
		if id := b.get(regIIR); id != iirEmpty {
			t.Fatalf("identification %#x", id)
		}
		if b.irq || b.get(regIIR) != iirNone {
			t.Fatal("reading the identification did not clear it")
		}
		b.set(regIER, 0)
	}
	b.set(regIER, ierEmpty)
	b.get(regIIR)
	b.set(regData, 'x')
	if !b.irq {
		t.Error("no interrupt after a byte went out")
	}
}

func TestInterruptPriority(t *testing.T) {
	b := newBench()
	b.set(regIER, ierData|ierEmpty)
	b.Input([]byte("a"))
	if id := b.get(regIIR); id != iirData {
		t.Errorf("identification %#x, want data first", id)
	}
	b.get(regData)
	if id := b.get(regIIR); id != iirEmpty {
		t.Errorf("identification %#x, want the transmitter next", id)
	}
}

func TestFIFOControl(t *testing.T) {
	b := newBench()
	b.set(regIIR, fcrEnable)
	if b.get(regIIR)&iirFIFO != iirFIFO {
		t.Error("FIFOs are not announced")
	}
	b.Input([]byte("abc"))
	b.set(regIIR, fcrEnable|fcrClearRead)
	if b.get(regLSR)&lsrData != 0 {
		t.Error("clearing the FIFO left data")
	}
}

func TestDivisorLatch(t *testing.T) {
	b := newBench()
	b.set(regLCR, lcrDivisor|3)
	b.set(0, 0x34)
	b.set(1, 0x12)
	if b.get(0) != 0x34 || b.get(1) != 0x12 {
		t.Error("divisor does not read back")
	}
	b.set(regLCR, 3)
	if b.get(regIER) != 0 || b.out.Len() > 0 {
		t.Error("the latch reached other registers")
	}
}

// What drivers look for to find a port.
func TestLoopback(t *testing.T) {
	b := newBench()
	for out, in := range map[uint8]uint8{mcrRTS: msrCTS, mcrDTR: msrDSR, mcrOut1: msrRI, mcrOut2: msrDCD, mcrOut2 | mcrRTS: msrDCD | msrCTS} {
		b.set(regMCR, mcrLoop|out)
		if got := b.get(regMSR); got != in {
			t.Errorf("modem control %#x: status %#x, want %#x", out, got, in)
		}
	}
	b.set(regData, 'x')
	if b.get(regData) != 'x' || b.out.Len() > 0 {
		t.Error("a looped byte went elsewhere")
	}
	b.set(regIER, ierLine)
	for range maxPending + 1 {
		b.set(regData, 'x')
	}
	if b.get(regIIR) != iirLine || b.get(regLSR)&lsrOverrun == 0 || b.irq {
		t.Error("no overrun")
	}
}

// A port goes on elsewhere with every register as it was.
func TestSaveAndLoad(t *testing.T) {
	b := newBench()
	b.set(regLCR, lcrDivisor)
	b.set(0, 7)
	b.set(regLCR, 3)
	b.set(regIIR, fcrEnable)
	b.set(regMCR, mcrDTR)
	b.set(regSCR, 0x5a)
	b.set(regIER, ierData|ierEmpty)
	b.Input([]byte("typed ahead"))
	b.Pause()
	state, err := b.Save()
	if err != nil {
		t.Fatal(err)
	}
	c := newBench()
	commit, err := c.Prepare(state)
	if err != nil {
		t.Fatal(err)
	}
	if c.irq {
		t.Fatal("Prepare changed the port")
	}
	commit()
	if again, err := c.Save(); err != nil || !bytes.Equal(state, again) {
		t.Fatalf("state changed by a round trip: %v", err)
	}
	if !c.irq || c.get(regData) != 't' || c.get(regSCR) != 0x5a {
		t.Error("the port is not as it was")
	}
	c.Reset()
	if c.irq || c.get(regSCR) != 0 || c.get(regLSR) != lsrEmpty {
		t.Error("reset left something behind")
	}
}

// FuzzPort writes anything anywhere and loads anything.
func FuzzPort(f *testing.F) {
	f.Add([]byte{1, 3, 0x80, 0, 3, 3, 2, 4, 0x10}, []byte{})
	state, err := New(io.Discard, func(bool) {}).Save()
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte{0, 1, 2}, state)
	f.Fuzz(func(t *testing.T, script, state []byte) {
		p := New(io.Discard, func(bool) {})
		p.Resume()
		if commit, err := p.Prepare(state); err == nil {
			commit()
		}
		for ; len(script) >= 3; script = script[3:] {
			switch script[0] % 3 {
			case 0:
				p.Write(uint64(script[1]%16), 1, uint64(script[2]))
			case 1:
				p.Read(uint64(script[1]%16), 1)
			case 2:
				p.Input(script[1:])
			}
		}
		saved, err := p.Save()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.Prepare(saved); err != nil {
			t.Fatalf("a reachable state is refused: %v", err)
		}
	})
}

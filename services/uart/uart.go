// Package uart is a 16550A serial port (National Semiconductor PC16550D data
// sheet) with byte-wide registers at consecutive addresses.
//
// The line is infinitely fast: a transmitted byte is at the host at once, so
// that the transmitter is always empty. The character time-out interrupt is not
// told apart from the data interrupt, and the receive trigger level is always
// one byte: drivers cannot depend on either.
//
// All methods may be called from several goroutines. The port calls its output
// and its interrupt line with its lock held: they must neither block for long
// nor call back.
package uart

import (
	"fmt"
	"io"
	"sync"

	"google.golang.org/protobuf/proto"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Size is the number of bytes of the register window.
const Size = 8

// StateVersion is the version of the saved state.
const StateVersion = 1

// maxPending bounds the input that waits for the guest, in bytes. A real
// receiver holds 16; the host's paste does not care for that.
const maxPending = 4096

// Registers, by offset. With the divisor latch open, 0 and 1 are the divisor.
const (
	regData = iota // receive buffer, transmit holding
	regIER         // interrupt enable
	regIIR         // interrupt identification; FIFO control when written
	regLCR         // line control
	regMCR         // modem control
	regLSR         // line status
	regMSR         // modem status
	regSCR         // scratch
)

const (
	ierData  = 1 << 0
	ierEmpty = 1 << 1
	ierLine  = 1 << 2
	ierMask  = 0x0f

	iirNone  = 0x01
	iirEmpty = 0x02
	iirData  = 0x04
	iirLine  = 0x06
	iirFIFO  = 0xc0

	fcrEnable    = 1 << 0
	fcrClearRead = 1 << 1
	fcrKept      = 0xc9 // what the port remembers of a write

	lcrDivisor = 1 << 7

	mcrDTR  = 1 << 0
	mcrRTS  = 1 << 1
	mcrOut1 = 1 << 2
	mcrOut2 = 1 << 3
	mcrLoop = 1 << 4
	mcrMask = 0x1f

	lsrData    = 1 << 0
	lsrOverrun = 1 << 1
	lsrEmpty   = 0x60 // holding register and shift register

	msrCTS = 1 << 4
	msrDSR = 1 << 5
	msrRI  = 1 << 6
	msrDCD = 1 << 7
)

// Port is a serial port.
type Port struct {
	out io.Writer
	irq func(level bool)

	mu      sync.Mutex
	paused  bool
	ier     uint8
	fcr     uint8
	lcr     uint8
	mcr     uint8
	scr     uint8
	divisor uint16
	// emptyPending is the transmitter-empty interrupt, which reading IIR clears.
	emptyPending bool
	overrun      bool
	pending      []byte
}

// New returns a paused port at its power-on state. Output goes to out, whose
// errors are ignored like those of a loose cable; irq drives the interrupt line.
func New(out io.Writer, irq func(level bool)) *Port {
	p := &Port{out: out, irq: irq, paused: true}
	p.powerOn()
	return p
}

// Read reads a register. Accesses wider than a byte read its byte only.
func (p *Port) Read(off uint64, _ int) uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	v := p.read(off)
	p.drive()
	return uint64(v)
}

func (p *Port) read(off uint64) uint8 {
	if p.lcr&lcrDivisor != 0 && off <= regIER {
		return uint8(p.divisor >> (8 * off))
	}
	switch off {
	case regData:
		if len(p.pending) == 0 {
			return 0
		}
		b := p.pending[0]
		p.pending = p.pending[1:]
		return b
	case regIER:
		return p.ier
	case regIIR:
		id := p.cause()
		if id == iirEmpty {
			p.emptyPending = false
		}
		if p.fcr&fcrEnable != 0 {
			id |= iirFIFO
		}
		return id
	case regLCR:
		return p.lcr
	case regMCR:
		return p.mcr
	case regLSR:
		v := uint8(lsrEmpty)
		if len(p.pending) > 0 {
			v |= lsrData
		}
		if p.overrun {
			v |= lsrOverrun
			p.overrun = false
		}
		return v
	case regMSR:
		return p.modemStatus()
	case regSCR:
		return p.scr
	}
	return 0
}

// Write writes a register. Accesses wider than a byte write its byte only.
func (p *Port) Write(off uint64, _ int, v uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.write(off, uint8(v))
	p.drive()
}

func (p *Port) write(off uint64, v uint8) {
	if p.lcr&lcrDivisor != 0 && off <= regIER {
		shift := 8 * off
		p.divisor = p.divisor&^(0xff<<shift) | uint16(v)<<shift
		return
	}
	switch off {
	case regData:
		p.emptyPending = true
		if p.mcr&mcrLoop != 0 {
			p.receive(v)
		} else {
			p.out.Write([]byte{v})
		}
	case regIER:
		if v&ierEmpty != 0 && p.ier&ierEmpty == 0 {
			p.emptyPending = true
		}
		p.ier = v & ierMask
	case regIIR:
		if v&fcrClearRead != 0 || (v^p.fcr)&fcrEnable != 0 {
			p.pending = nil
		}
		p.fcr = v & fcrKept
	case regLCR:
		p.lcr = v
	case regMCR:
		p.mcr = v & mcrMask
	case regSCR:
		p.scr = v
	}
}

// Input gives the guest bytes to read and returns how many were taken: fewer
// while the port's buffer is full, none while it is paused.
func (p *Port) Input(b []byte) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.paused {
		return 0
	}
	n := min(len(b), maxPending-len(p.pending))
	p.pending = append(p.pending, b[:n]...)
	p.drive()
	return n
}

// receive takes one looped-back byte.
func (p *Port) receive(b uint8) {
	if len(p.pending) >= maxPending {
		p.overrun = true
		return
	}
	p.pending = append(p.pending, b)
}

// cause is the identification of the highest-priority enabled interrupt.
func (p *Port) cause() uint8 {
	switch {
	case p.ier&ierLine != 0 && p.overrun:
		return iirLine
	case p.ier&ierData != 0 && len(p.pending) > 0:
		return iirData
	case p.ier&ierEmpty != 0 && p.emptyPending:
		return iirEmpty
	}
	return iirNone
}

func (p *Port) drive() { p.irq(p.cause() != iirNone) }

// modemStatus is a connected peer that is always ready, or in loop mode the
// port's own modem control outputs.
func (p *Port) modemStatus() uint8 {
	if p.mcr&mcrLoop == 0 {
		return msrCTS | msrDSR | msrDCD
	}
	var v uint8
	for _, m := range [...]struct{ out, in uint8 }{{mcrRTS, msrCTS}, {mcrDTR, msrDSR}, {mcrOut1, msrRI}, {mcrOut2, msrDCD}} {
		if p.mcr&m.out != 0 {
			v |= m.in
		}
	}
	return v
}

// Pause makes the port refuse input until Resume.
func (p *Port) Pause() { p.setPaused(true) }

// Resume lets the port take input.
func (p *Port) Resume() { p.setPaused(false) }

func (p *Port) setPaused(v bool) {
	p.mu.Lock()
	p.paused = v
	p.mu.Unlock()
}

// Reset brings the port to its power-on state.
func (p *Port) Reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.powerOn()
	p.drive()
}

func (p *Port) powerOn() {
	p.ier, p.fcr, p.lcr, p.mcr, p.scr = 0, 0, 0, mcrOut2, 0
	p.divisor = 12
	p.emptyPending, p.overrun, p.pending = false, false, nil
}

// Save returns the state of a port that nothing accesses.
func (p *Port) Save() ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return proto.Marshal(&understudyv1.UARTState{
		InterruptEnable:      uint32(p.ier),
		FifoControl:          uint32(p.fcr),
		LineControl:          uint32(p.lcr),
		ModemControl:         uint32(p.mcr),
		Scratch:              uint32(p.scr),
		Divisor:              uint32(p.divisor),
		TransmitEmptyPending: p.emptyPending,
		Overrun:              p.overrun,
		Pending:              p.pending,
	})
}

// Prepare checks a saved state and returns the function that puts it into the
// port, which cannot fail.
func (p *Port) Prepare(state []byte) (commit func(), err error) {
	var s understudyv1.UARTState
	if err := proto.Unmarshal(state, &s); err != nil {
		return nil, fmt.Errorf("decode serial port state: %w", err)
	}
	if s.InterruptEnable > ierMask || s.FifoControl&^fcrKept != 0 || s.LineControl > 0xff ||
		s.ModemControl > mcrMask || s.Scratch > 0xff || s.Divisor > 0xffff || len(s.Pending) > maxPending {
		return nil, fmt.Errorf("serial port state is out of range")
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ier, p.fcr, p.lcr = uint8(s.InterruptEnable), uint8(s.FifoControl), uint8(s.LineControl)
		p.mcr, p.scr, p.divisor = uint8(s.ModemControl), uint8(s.Scratch), uint16(s.Divisor)
		p.emptyPending, p.overrun, p.pending = s.TransmitEmptyPending, s.Overrun, s.Pending
		p.drive()
	}, nil
}

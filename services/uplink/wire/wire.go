// Package wire is the framing between a replica's uplink and the user-mode
// gateway: a byte stream of messages, each a length, a kind and a body.
//
//	2 bytes  length of kind and body, big endian, at least 1
//	1 byte   kind
//	n bytes  body
//
// Each side sends a Hello first and takes one within its own deadline. After
// that the replica's side sends frames and, whenever it is muted or unmuted, a
// Mode; the gateway sends frames. A replica's port is muted until a Mode says
// otherwise.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Kind says what a message is.
type Kind uint8

// The kinds of message.
const (
	Hello Kind = 1 // body: magic and version
	Mode  Kind = 2 // body: 1 byte, 0 live or 1 muted
	Frame Kind = 3 // body: an Ethernet frame without its check sequence
)

// Bounds of a frame, in bytes.
const (
	MinFrame = 14 // an Ethernet header
	MaxFrame = 1<<16 - 2
)

const (
	headerLen = 3
	version   = 1
	magic     = "understudy-uplink"
)

// Errors of what the other side sent. The stream cannot be used any more.
var (
	ErrMalformed = errors.New("malformed message")
	ErrNoPeer    = errors.New("the other side does not speak the uplink protocol")
	ErrVersion   = errors.New("the other side speaks another version of the uplink protocol")
)

// AppendHello appends the message that opens a connection.
func AppendHello(b []byte) []byte {
	return appendMessage(b, Hello, append([]byte(magic), version))
}

// AppendMode appends the message that says whether the port is muted.
func AppendMode(b []byte, muted bool) []byte {
	body := []byte{0}
	if muted {
		body[0] = 1
	}
	return appendMessage(b, Mode, body)
}

// AppendFrame appends a frame, whose length must be within the bounds.
func AppendFrame(b, frame []byte) []byte {
	return appendMessage(b, Frame, frame)
}

func appendMessage(b []byte, k Kind, body []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)+1))
	b = append(b, byte(k))
	return append(b, body...)
}

// A Message is one message as it was read.
type Message struct {
	Kind Kind
	// Muted is what a Mode says.
	Muted bool
	// Frame is the frame, which the reader's caller owns.
	Frame []byte
}

// A Reader takes messages off a stream. It allocates one frame at a time, at
// most MaxFrame bytes, whatever the stream holds.
type Reader struct {
	r    io.Reader
	head [headerLen]byte
}

// NewReader returns a Reader on r, which should be buffered.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next message. It returns io.EOF only at a message's end,
// ErrMalformed for what no peer of this version sends, and the stream's errors.
func (r *Reader) Next() (Message, error) {
	if _, err := io.ReadFull(r.r, r.head[:]); err != nil {
		return Message{}, err
	}
	n := int(binary.BigEndian.Uint16(r.head[:])) - 1
	m := Message{Kind: Kind(r.head[2])}
	if n < 0 {
		return Message{}, fmt.Errorf("%w: length 0", ErrMalformed)
	}
	if m.Kind != Hello && m.Kind != Mode && m.Kind != Frame {
		return Message{}, fmt.Errorf("%w: kind %d", ErrMalformed, m.Kind)
	}
	if m.Kind == Mode && n != 1 || m.Kind == Frame && n < MinFrame {
		return Message{}, fmt.Errorf("%w: kind %d of %d bytes", ErrMalformed, m.Kind, n)
	}
	if m.Kind == Hello && n > 64 {
		return Message{}, ErrNoPeer
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r.r, body); err != nil {
		return Message{}, noEOF(err)
	}
	switch m.Kind {
	case Hello:
		if n < len(magic)+1 || string(body[:len(magic)]) != magic {
			return Message{}, ErrNoPeer
		}
		if body[len(magic)] != version {
			return Message{}, fmt.Errorf("%w (%d, not %d)", ErrVersion, body[len(magic)], version)
		}
	case Mode:
		if body[0] > 1 {
			return Message{}, fmt.Errorf("%w: mode %d", ErrMalformed, body[0])
		}
		m.Muted = body[0] == 1
	case Frame:
		m.Frame = body
	}
	return m, nil
}

// Expect reads the Hello that begins a connection.
func (r *Reader) Expect() error {
	m, err := r.Next()
	if errors.Is(err, ErrMalformed) || err == nil && m.Kind != Hello {
		return ErrNoPeer
	}
	return noEOF(err)
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

package wire

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestMessagesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := []Message{{Kind: Hello}}
		stream := AppendHello(nil)
		for range rapid.IntRange(0, 20).Draw(t, "messages") {
			if rapid.Bool().Draw(t, "mode") {
				muted := rapid.Bool().Draw(t, "muted")
				stream, want = AppendMode(stream, muted), append(want, Message{Kind: Mode, Muted: muted})
				continue
			}
			frame := make([]byte, rapid.OneOf(rapid.IntRange(MinFrame, 2000), rapid.Just(MaxFrame)).Draw(t, "length"))
			for i := range frame {
				frame[i] = byte(i * len(frame))
			}
			stream, want = AppendFrame(stream, frame), append(want, Message{Kind: Frame, Frame: frame})
		}
		r := NewReader(bytes.NewReader(stream))
		for i, w := range want {
			m, err := r.Next()
			if err != nil || m.Kind != w.Kind || m.Muted != w.Muted || !bytes.Equal(m.Frame, w.Frame) {
				t.Fatalf("message %d: %v %v %d bytes, %v", i, m.Kind, m.Muted, len(m.Frame), err)
			}
		}
		if _, err := r.Next(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
		// Cut anywhere inside a message, the stream ends in an error that says so.
		cut := rapid.IntRange(1, len(stream)-1).Draw(t, "cut")
		r = NewReader(bytes.NewReader(stream[:cut]))
		var err error
		n := 0
		for err == nil {
			_, err = r.Next()
			n++
		}
		if n > len(want) || err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("cut at %d: %d messages, %v", cut, n, err)
		}
	})
}

func TestWhatNoPeerSends(t *testing.T) {
	hello := AppendHello(nil)
	other := slices.Clone(hello)
	other[len(other)-1]++
	for name, c := range map[string]struct {
		stream []byte
		next   error // of Next
		expect error // of Expect
	}{
		"length 0":         {[]byte{0, 0, 3}, ErrMalformed, ErrNoPeer},
		"unknown kind":     {[]byte{0, 1, 9}, ErrMalformed, ErrNoPeer},
		"kind 0":           {[]byte{0, 1, 0}, ErrMalformed, ErrNoPeer},
		"short frame":      {[]byte{0, 3, 3, 1, 2}, ErrMalformed, ErrNoPeer},
		"mode 2":           {[]byte{0, 2, 2, 2}, ErrMalformed, ErrNoPeer},
		"empty mode":       {[]byte{0, 1, 2}, ErrMalformed, ErrNoPeer},
		"HTTP":             {[]byte("GET / HTTP/1.1\r\n"), ErrMalformed, ErrNoPeer},
		"TLS":              {[]byte{22, 3, 1, 2, 0, 1, 0, 1, 252}, ErrNoPeer, ErrNoPeer},
		"other magic":      {append([]byte{0, 19, 1}, "understudy-UPLINK\x01"...), ErrNoPeer, ErrNoPeer},
		"long hello":       {append([]byte{1, 0, 1}, make([]byte, 255)...), ErrNoPeer, ErrNoPeer},
		"other version":    {other, ErrVersion, ErrVersion},
		"frame, not hello": {AppendFrame(nil, make([]byte, MinFrame)), nil, ErrNoPeer},
		"nothing":          {nil, io.EOF, io.ErrUnexpectedEOF},
	} {
		if _, err := NewReader(bytes.NewReader(c.stream)).Next(); !errors.Is(err, c.next) {
			t.Errorf("%s: Next gives %v, want %v", name, err, c.next)
		}
		if err := NewReader(bytes.NewReader(c.stream)).Expect(); !errors.Is(err, c.expect) {
			t.Errorf("%s: Expect gives %v, want %v", name, err, c.expect)
		}
	}
}

// Whatever comes in, a reader ends with an error or returns what encodes to
// the bytes that it read.
func FuzzReader(f *testing.F) {
	f.Add(AppendFrame(AppendMode(AppendHello(nil), true), make([]byte, 60)))
	f.Add([]byte{0, 0, 3})
	f.Add([]byte{0xff, 0xff, 3, 1})
	f.Fuzz(func(t *testing.T, stream []byte) {
		r := NewReader(bytes.NewReader(stream))
		var again []byte
		for {
			m, err := r.Next()
			if err != nil {
				break
			}
			switch m.Kind {
			case Hello:
				// A later version's greeting may have more to say.
				again = append(again, stream[len(again):len(again)+3+int(stream[len(again)+1])-1]...)
			case Mode:
				again = AppendMode(again, m.Muted)
			case Frame:
				again = AppendFrame(again, m.Frame)
			}
		}
		if !bytes.HasPrefix(stream, again) {
			t.Fatalf("read %x from %x", again, stream)
		}
	})
}

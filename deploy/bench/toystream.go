package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/mem"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/feed"
)

var toyCodec = feed.Codec()

// toyStream is a replica's stream to an arbiter on a connection of its own:
// gRPC on the wire, with one system call and no goroutine to send a message. Two
// thousand clients of package grpc want more than a core for what the arbiter is
// asked in this benchmark, which is to be measured and not they.
type toyStream struct {
	conn   net.Conn
	framer *http2.Framer

	mu   sync.Mutex
	room sync.Cond
	out  []byte // memory for what is sent
	// window and all are what the arbiter has room for, of the stream's and of the
	// connection's bytes; initial is what the arbiter lets a stream begin with.
	window, all, initial int64
	err                  error // why the stream has ended
}

const (
	toyStreamID = 1
	// toyWindow, in bytes, is more than an arbiter sends to a toy.
	toyWindow = 1 << 30
	// http2Window and http2Frame, in bytes, hold where nothing else was said.
	http2Window = 65535
	http2Frame  = 16384
	// frameHead and messageHead are bytes before a frame's data and a message's.
	frameHead   = 9
	messageHead = 5
)

// openToyStream opens a stream by its first message. received is called for
// each message that comes, ended once when none will come any more. ctx bounds the
// opening.
func openToyStream(ctx context.Context, arbiter string, hello *pb.FromReplica, received func(*pb.ToReplica), ended func(error)) (*toyStream, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", arbiter)
	if err != nil {
		return nil, err
	}
	s := &toyStream{conn: conn, framer: http2.NewFramer(conn, bufio.NewReader(conn)), window: http2Window, all: http2Window, initial: http2Window}
	s.room.L = &s.mu
	s.framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var head bytes.Buffer
	enc := hpack.NewEncoder(&head)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", pb.Arbiter_Attach_FullMethodName}, {":authority", arbiter},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		err = errors.Join(err, enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	_, preface := conn.Write([]byte(http2.ClientPreface))
	err = errors.Join(err, preface,
		s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: toyWindow}),
		s.framer.WriteWindowUpdate(0, toyWindow),
		s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: toyStreamID, BlockFragment: head.Bytes(), EndHeaders: true}),
		s.send(hello))
	if err != nil {
		_ = conn.Close() // the error is the one that counts
		return nil, err
	}
	go func() {
		err := s.read(received)
		s.mu.Lock()
		s.err = err
		s.room.Broadcast()
		s.mu.Unlock()
		ended(err)
	}()
	return s, nil
}

// send sends a message. Where the arbiter does not read it waits.
func (s *toyStream) send(m *pb.FromReplica) error {
	parts, err := toyCodec.Marshal(m)
	if err != nil {
		return err
	}
	defer parts.Free()
	n := parts.Len()
	if n > http2Frame-messageHead {
		return fmt.Errorf("a message of %d bytes is longer than a frame", n)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size := int64(messageHead + n)
	for s.err == nil && min(s.window, s.all) < size {
		s.room.Wait()
	}
	if s.err != nil {
		return s.err
	}
	s.window -= size
	s.all -= size
	b := append(s.out[:0], byte(size>>16), byte(size>>8), byte(size), byte(http2.FrameData), 0)
	b = binary.BigEndian.AppendUint32(b, toyStreamID)
	b = binary.BigEndian.AppendUint32(append(b, 0), uint32(n))
	for _, p := range parts {
		b = append(b, p.ReadOnlyData()...)
	}
	s.out = b
	_, err = s.conn.Write(b)
	return err
}

// read takes what the arbiter sends until the stream's end, and returns why it
// has ended.
func (s *toyStream) read(received func(*pb.ToReplica)) error {
	var data []byte
	for {
		frame, err := s.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.DataFrame:
			if data, err = messages(append(data, f.Data()...), received); err != nil {
				return err
			}
		case *http2.WindowUpdateFrame:
			s.widen(f.StreamID, int64(f.Increment))
		case *http2.SettingsFrame:
			err = s.settings(f)
		case *http2.PingFrame:
			if !f.IsAck() {
				s.mu.Lock()
				err = s.framer.WritePing(true, f.Data)
				s.mu.Unlock()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				return fmt.Errorf("the arbiter ends the stream: %v", f.RegularFields())
			}
		case *http2.RSTStreamFrame:
			return fmt.Errorf("the arbiter ends the stream: %v", f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Errorf("the arbiter ends the connection: %v", f.ErrCode)
		}
		if err != nil {
			return err
		}
	}
}

// messages takes whole messages off data and returns what is left.
func messages(data []byte, received func(*pb.ToReplica)) ([]byte, error) {
	for len(data) >= messageHead {
		n := int64(binary.BigEndian.Uint32(data[1:]))
		if int64(len(data)-messageHead) < n {
			break
		}
		m := &pb.ToReplica{}
		if err := toyCodec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data[messageHead : messageHead+n])}, m); err != nil {
			return nil, err
		}
		received(m)
		data = data[messageHead+n:]
	}
	if len(data) == 0 {
		return nil, nil
	}
	return data, nil
}

func (s *toyStream) widen(stream uint32, by int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if stream == 0 {
		s.all += by
	} else {
		s.window += by
	}
	s.room.Broadcast()
}

func (s *toyStream) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		s.window += int64(v) - s.initial
		s.initial = int64(v)
		s.room.Broadcast()
	}
	return s.framer.WriteSettingsAck()
}

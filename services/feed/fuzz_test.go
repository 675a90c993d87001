package feed

import (
	"context"
	"encoding/binary"
	"io"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// saidStream is a feed whose active has said what it had to and is gone.
type saidStream struct {
	grpc.ServerStream
	ctx  context.Context
	said []*pb.FromActive
	sent []*pb.FromStandby
}

func (s *saidStream) Context() context.Context { return s.ctx }

func (s *saidStream) Recv() (*pb.FromActive, error) {
	if len(s.said) == 0 {
		return nil, io.EOF
	}
	m := s.said[0]
	s.said = s.said[1:]
	return m, nil
}

func (s *saidStream) RecvMsg(v any) error {
	m, err := s.Recv()
	if err != nil {
		return err
	}
	data, err := newCodec().Marshal(&outgoing{msg: m})
	if err != nil {
		return err
	}
	return newCodec().Unmarshal(data, v)
}

func (s *saidStream) Send(m *pb.FromStandby) error {
	s.sent = append(s.sent, m)
	return nil
}

// strictEnd checks what reaches a standby's owner.
type strictEnd struct {
	t    *testing.T
	term uint64
	down int
}

func (e *strictEnd) OnMessage(m *pb.FromActive, _ func()) {
	if m.Term != e.term || m.Body == nil || m.GetHello() != nil || m.GetPing() != nil {
		e.t.Errorf("got %v in a feed of term %d", m, e.term)
	}
	if e.down > 0 {
		e.t.Error("a message after the end")
	}
}

func (e *strictEnd) OnDown(err error) {
	if e.down++; err == nil {
		e.t.Error("ended without a cause")
	}
}

// FuzzFeed gives the Feed service messages in any order, of any content. A feed
// begins with a hello or not at all, its owner hears what belongs into it and
// then its end, once, and it leaves no goroutine behind.
func FuzzFeed(f *testing.F) {
	say := func(messages ...*pb.FromActive) (data []byte) {
		for _, m := range messages {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			data = append(binary.BigEndian.AppendUint16(data, uint16(len(b))), b...)
		}
		return data
	}
	begin := &pb.FromActive{Term: 3, Body: &pb.FromActive_Hello{Hello: hello}}
	ping := &pb.FromActive{Term: 3, Body: &pb.FromActive_Ping{Ping: &pb.FeedPing{Sequence: 1, GuestNs: ^uint64(0), PongStampNs: 1 << 62, HeldNs: -1 << 63}}}
	inputs := &pb.FromActive{Term: 3, Body: &pb.FromActive_Inputs{Inputs: &pb.Inputs{First: ^uint64(0), Frames: [][]byte{nil, []byte("x")}}}}
	f.Add(say(begin, ping, inputs))
	f.Add(say(begin, begin))
	f.Add(say(inputs))
	f.Add(say(begin, &pb.FromActive{Term: 4, Body: inputs.Body}))
	f.Add(say(begin, &pb.FromActive{Term: 3}))
	f.Add(say(&pb.FromActive{Term: 3, Body: &pb.FromActive_Hello{}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		stream := &saidStream{ctx: t.Context()}
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			m := new(pb.FromActive)
			if proto.Unmarshal(data[2:2+n], m) == nil {
				stream.said = append(stream.said, m)
			}
			data = data[2+n:]
		}
		var first *pb.FromActive
		if len(stream.said) > 0 {
			first = stream.said[0]
		}
		var end *strictEnd
		var standby *Standby
		server := NewServer(func(s *Standby, term uint64, h *pb.FeedHello) (StandbyHandler, *pb.FeedWelcome, error) {
			if end != nil || h == nil {
				t.Errorf("asked about %v, a second time: %v", h, end != nil)
			}
			end, standby = &strictEnd{t: t, term: term}, s
			return end, &pb.FeedWelcome{}, nil
		}, testConfig())
		if err := server.Feed(stream); err == nil {
			t.Error("the feed's end has no cause")
		}
		if begun := first.GetHello() != nil; begun != (end != nil) {
			t.Fatalf("began with %v, accepted: %v", first, end != nil)
		}
		if end == nil {
			return
		}
		<-standby.Done()
		if end.down != 1 {
			t.Errorf("ended %d times", end.down)
		}
		standby.GuestTime()
	})
}

package checkpoint

import (
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// script is a sequence of encoded messages, each behind its length.
func script(t testing.TB, ms []proto.Message) []byte {
	var out []byte
	for _, m := range ms {
		b, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(b))), b...)
	}
	return out
}

// next cuts the first message off a script.
func next(script []byte, m proto.Message) (rest []byte, ok bool) {
	if len(script) < 4 {
		return nil, false
	}
	n := int(binary.LittleEndian.Uint32(script))
	script = script[4:]
	if n < 0 || n > len(script) {
		n = len(script)
	}
	return script[n:], proto.Unmarshal(script[:n], m) == nil
}

func FuzzReceiverHandle(f *testing.F) {
	for _, precopy := range []bool{false, true} {
		p := synced(f, 40, 10, SenderConfig{Compress: precopy, Nonce: func() uint64 { return 5 }}, ReceiverConfig{})
		p.active.writePage(3, 1, 1)
		p.active.writePage(4, 1, 1)
		p.active.writeBlock(5, 1)
		p.standby.writePage(4, 2, 1)
		p.standby.writeBlock(6, 2)
		var ms []proto.Message
		p.tamper = func(m *pb.FromActive) (messages, error) {
			ms = append(ms, proto.Clone(m))
			return messages{m}, nil
		}
		if precopy {
			if err := p.sender.Precopy(f.Context(), p.begin()); err != nil {
				f.Fatal(err)
			}
			p.active.writePage(4, 3, 1)
		}
		p.mustFinal()
		f.Add(script(f, ms))
	}
	for _, m := range []*pb.FromActive{
		{Body: &pb.FromActive_CheckpointBegin{}},
		{Body: &pb.FromActive_Pages{}},
		{Body: &pb.FromActive_Commit{}},
	} {
		begin := &pb.FromActive{Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: &pb.CheckpointBegin{Nonce: 1, Live: true}}}
		f.Add(script(f, []proto.Message{begin, m}))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		guest := newToy(t, 40, 10)
		guest.garbage(2)
		before := guest.clone(t)
		r := NewReceiver(guest, ReceiverConfig{SpillBytes: 20 * BlockSize, SpillDir: t.TempDir(), MaxStateBytes: 1 << 16})
		lent := 0
		defer func() {
			if r.Drop(); lent != 0 {
				t.Errorf("%d messages not freed", lent)
			}
		}()
		live := false
		for range 100 {
			m := &pb.FromActive{}
			var ok bool
			if in, ok = next(in, m); !ok {
				break
			}
			live = live || m.GetCheckpointBegin().GetLive()
			lent++
			_ = r.Handle(t.Context(), m, func() { lent-- }, func(m *pb.FromStandby) error {
				in := newInbox(m.GetDirtyPages().GetEpoch(), m.GetDirtyPages().GetNonce(), &r.sp)
				in.put(m.GetDirtyPages())
				if in.err != nil {
					t.Errorf("the receiver's answer breaks the protocol: %v", in.err)
				}
				return nil
			})
			if stage, ok := r.Staged(); ok {
				if err := stage.Apply(); err != nil {
					t.Fatalf("a checked stage failed: %v", err)
				}
				return
			}
			if !live && !before.equal(guest) {
				t.Fatal("the guest changed and nothing was staged")
			}
		}
	})
}

func FuzzSenderAnswer(f *testing.F) {
	good := &pb.DirtyPages{
		Epoch: 2, Nonce: 5, Last: true, Pages: []uint64{1, 7}, PageDigests: make([]byte, 32),
		Blocks: []uint64{0}, BlockDigests: make([]byte, 16),
	}
	f.Add(script(f, []proto.Message{good}))
	f.Add(script(f, []proto.Message{
		&pb.DirtyPages{Epoch: 2, Nonce: 5, Pages: []uint64{39}, PageDigests: make([]byte, 16)},
		&pb.DirtyPages{Epoch: 2, Nonce: 5, Blocks: []uint64{9}, BlockDigests: make([]byte, 16)},
		&pb.DirtyPages{Epoch: 2, Nonce: 5, Last: true},
	}))
	f.Add(script(f, []proto.Message{&pb.DirtyPages{Epoch: 2, Nonce: 5, Last: true, Pages: []uint64{1 << 60}, PageDigests: make([]byte, 16)}}))
	f.Add(script(f, []proto.Message{&pb.DirtyPages{Epoch: 2, Nonce: 5, Last: true, Pages: []uint64{1}, PageDigests: make([]byte, 3)}}))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := synced(t, 40, 10, SenderConfig{Nonce: func() uint64 { return 5 }}, ReceiverConfig{})
		p.active.writePage(1, 1, 1)
		p.active.writeBlock(9, 1)
		// The answer comes from the script, then the standby ends it.
		p.tamper = func(m *pb.FromActive) (messages, error) {
			if m.GetCheckpointBegin() == nil {
				return nil, nil
			}
			for range 100 {
				answer := &pb.DirtyPages{}
				var ok bool
				if in, ok = next(in, answer); !ok {
					break
				}
				p.sender.Answer(answer)
			}
			p.sender.Answer(&pb.DirtyPages{Epoch: 2, Nonce: 5, Last: true})
			return nil, nil
		}
		_, _ = p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil })
		p.tamper = nil
		p.mustFinal()
	})
}

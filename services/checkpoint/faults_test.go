package checkpoint

import (
	"context"
	"errors"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

var errCut = errors.New("the wire is cut")

// corrupt changes one thing about a message.
func corrupt(m *pb.FromActive) {
	switch b := m.Body.(type) {
	case *pb.FromActive_CheckpointBegin:
		b.CheckpointBegin.ThroughInput++
	case *pb.FromActive_Pages:
		if len(b.Pages.Data) > 0 {
			b.Pages.Data[len(b.Pages.Data)-1] ^= 1
		} else {
			b.Pages.Numbers[0]++
		}
	case *pb.FromActive_Blocks:
		if len(b.Blocks.Data) > 0 {
			b.Blocks.Data[0] ^= 0x80
		} else {
			b.Blocks.Numbers[0]++
		}
	case *pb.FromActive_State:
		b.State.Data[0] ^= 1
	case *pb.FromActive_Commit:
		b.Commit.Digest[3] ^= 1
	}
}

// foreignEpoch puts a message into another epoch.
func foreignEpoch(m *pb.FromActive) {
	switch b := m.Body.(type) {
	case *pb.FromActive_CheckpointBegin:
		b.CheckpointBegin.Epoch++
	case *pb.FromActive_Pages:
		b.Pages.Epoch++
	case *pb.FromActive_Blocks:
		b.Blocks.Epoch--
	case *pb.FromActive_State:
		b.State.Epoch++
	case *pb.FromActive_Commit:
		b.Commit.Epoch--
	}
}

type messages = []*pb.FromActive

// Each fault meets message number at of a transfer.
var faults = map[string]func(at int) func(m *pb.FromActive) (messages, error){
	"cut": once(func(*pb.FromActive) (messages, error) { return nil, errCut }),
	"lost": func(at int) func(m *pb.FromActive) (messages, error) {
		return once(func(*pb.FromActive) (messages, error) { return nil, nil })(at)
	},
	"twice": once(func(m *pb.FromActive) (messages, error) {
		return messages{m, proto.Clone(m).(*pb.FromActive)}, nil
	}),
	"corrupt":       once(func(m *pb.FromActive) (messages, error) { corrupt(m); return messages{m}, nil }),
	"foreign epoch": once(func(m *pb.FromActive) (messages, error) { foreignEpoch(m); return messages{m}, nil }),
	"foreign term":  once(func(m *pb.FromActive) (messages, error) { m.Term--; return messages{m}, nil }),
	"swapped": func(at int) func(m *pb.FromActive) (messages, error) {
		var held *pb.FromActive
		i := -1
		return func(m *pb.FromActive) (messages, error) {
			i++
			switch {
			case i == at:
				held = m
				return nil, nil
			case held != nil:
				both := messages{m, held}
				held = nil
				return both, nil
			}
			return messages{m}, nil
		}
	},
}

func once(f func(m *pb.FromActive) (messages, error)) func(at int) func(m *pb.FromActive) (messages, error) {
	return func(at int) func(m *pb.FromActive) (messages, error) {
		i := -1
		return func(m *pb.FromActive) (messages, error) {
			if i++; i == at {
				return f(m)
			}
			return messages{m}, nil
		}
	}
}

// diverge writes on both sides, enough for several messages of each kind.
func (p *pair) diverge(salt byte) {
	for n := range uint64(300) {
		p.active.writePage(2*n, byte(n)+salt, 10)
		p.standby.writePage(3*n, byte(n)+salt+1, 10)
	}
	for n := range uint64(40) {
		p.active.writeBlock(2*n, byte(n)+salt)
		p.standby.writeBlock(2*n, byte(n)+salt+byte(n%2))
		p.standby.writeBlock(2*n+1, salt)
	}
}

func TestFaultAtEveryMessageLeavesTheOldState(t *testing.T) {
	for name, fault := range faults {
		for _, precopy := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				p := synced(t, 1000, 100, SenderConfig{}, ReceiverConfig{SpillBytes: 200 * BlockSize, SpillDir: t.TempDir()})
				total := 0
				for at := 0; ; at++ {
					p.diverge(byte(3 * at))
					before := p.standby.clone(t)
					hit := false
					f := fault(at)
					seen := 0
					ctx, cancel := context.WithCancel(t.Context())
					p.tamper = func(m *pb.FromActive) (messages, error) {
						seen++
						hit = hit || seen > at
						b := m.GetCheckpointBegin()
						out, err := f(m)
						if b != nil && (len(out) == 0 || b.Epoch != p.epoch+1) {
							cancel() // nobody will answer
						}
						return out, err
					}
					var err error
					if precopy {
						err = p.sender.Precopy(ctx, p.begin())
					}
					if err == nil {
						_, err = p.sender.Final(ctx, p.begin(), func() ([]byte, error) { return []byte("state"), nil })
					}
					cancel()
					p.tamper = nil
					if !hit {
						if err != nil {
							t.Fatalf("before message %d: %v", at, err)
						}
						total = at
						break
					}
					if stage, ok := p.recv.Staged(); ok && !(at == seen-1 && name == "twice") {
						t.Fatalf("message %d of %d: staged epoch %d", at, seen, stage.Epoch())
					} else if ok {
						// Only the commit's repetition was refused.
						stage.Drop()
					} else if err == nil && at != seen-1 {
						t.Fatalf("message %d of %d: the sender saw no error", at, seen)
					}
					if !before.equal(p.standby) {
						t.Fatalf("message %d: the standby's old state is gone", at)
					}
					p.sender.Abort()
					p.recv.Drop()
					p.mustFinal()
				}
				if total < 6 {
					t.Fatalf("only %d messages were tampered with", total)
				}
			})
		}
	}
}

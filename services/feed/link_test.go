package feed

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// What fails at the very moment at which its time runs out has failed: whoever
// asked would go on with what is not there.
func TestWithinNeverTakesAFailureForSuccess(t *testing.T) {
	failure := errors.New("connection refused")
	for i := range 20000 {
		l := newLink[pb.FromReplica, pb.ToReplica](t.Context(), Config{}, nil)
		d := time.Duration(i % 50 * int(time.Microsecond))
		begin := time.Now()
		err := l.within(d, "handshake", func() error {
			for time.Since(begin) < d { // until the timer is about to fire
			}
			return failure
		})
		if err == nil {
			t.Fatalf("no error at attempt %d", i)
		}
		l.fail(ErrClosed)
	}
}

// stuck is the stream to a peer that reads nothing before it is released, and
// never says anything.
type stuck struct {
	ended    <-chan struct{}
	released chan struct{}
}

func (s stuck) Send(_ *pb.FromActive, done func()) error {
	defer call(done)
	select {
	case <-s.released:
		return nil
	case <-s.ended:
		return ErrClosed
	}
}

func (s stuck) Recv() (*pb.FromStandby, func(), error) {
	<-s.ended
	return nil, nil, ErrClosed
}

func TestFullQueueHoldsTheOwnerUpForItsDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{QueueBytes: 10_000, SilentAfter: time.Hour, SendTimeout: 30 * time.Millisecond}
		cfg.setDefaults()
		a := &Active{term: 3, link: newLink[pb.FromActive, pb.FromStandby](t.Context(), cfg, nil)}
		peer := stuck{a.ctx.Done(), make(chan struct{})}
		over := make(chan error, 1)
		go func() { over <- a.run(peer, a.receive) }()
		defer func() { a.Close(nil); <-over }()

		image := func() *pb.FromActive { // as large as the queue
			return &pb.FromActive{Body: &pb.FromActive_BootImage{BootImage: &pb.BootImage{Data: make([]byte, 10_000)}}}
		}
		// held checks that a call fails, and after how long.
		held := func(what string, want error, after time.Duration, send func() error) {
			t.Helper()
			begun := time.Now()
			if err := send(); !errors.Is(err, want) || time.Since(begun) != after {
				t.Errorf("%s: %v after %v, want %v after %v", what, err, time.Since(begun), want, after)
			}
		}
		held("into an empty queue", nil, 0, func() error { return a.Send(t.Context(), image(), nil) })
		held("message", ErrFull, cfg.SendTimeout, func() error { return a.Send(t.Context(), image(), nil) })
		held("input", ErrFull, cfg.SendTimeout, func() error { return a.Input(t.Context(), 1, make([]byte, 9_000)) })
		short, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		held("message in a hurry", context.DeadlineExceeded, time.Millisecond, func() error { return a.Send(short, image(), nil) })
		if a.Queued() == 0 {
			t.Error("nothing is queued")
		}

		// The peer reads on: so does the owner. An input that found no room has not
		// taken its number.
		time.AfterFunc(cfg.SendTimeout/2, func() { close(peer.released) })
		held("input that waits for room", nil, cfg.SendTimeout/2, func() error { return a.Input(t.Context(), 1, make([]byte, 9_000)) })
		held("flush", nil, 0, func() error { return a.Flush(t.Context()) })
		held("input", nil, 0, func() error { return a.Input(t.Context(), 2, []byte("frame")) })
		if a.Context().Err() != nil {
			t.Error("the feed ended")
		}
	})
}

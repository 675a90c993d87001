package feed

import (
	"errors"
	"testing"
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

package role

import (
	"testing"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
)

// The active takes what the standby has chosen for the feed, if it can.
func TestWelcomed(t *testing.T) {
	speaks := protocol.Spoken()
	for _, tc := range []struct {
		name   string
		chosen uint32
		want   uint32
		wrong  bool
	}{
		{"one that knew no range", 0, speaks.Min, false},
		{"the lowest", speaks.Min, speaks.Min, false},
		{"the highest", speaks.Max, speaks.Max, false},
		{"newer than this build", speaks.Max + 1, 0, true},
	} {
		got, err := Welcomed(&pb.FeedWelcome{Protocol: tc.chosen})
		if got != tc.want || (err != nil) != tc.wrong {
			t.Errorf("%s: version %d, error %v", tc.name, got, err)
		}
	}
}

package story

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Narrate prints the arbiter's events as they happen, until ctx ends.
func (s *Story) Narrate(ctx context.Context) {
	var after uint64
	for ctx.Err() == nil {
		stream, err := s.Admin.WatchEvents(ctx, &pb.WatchEventsRequest{Vm: s.Name, After: after})
		for err == nil {
			var e *pb.Event
			if e, err = stream.Recv(); err == nil {
				after = e.GetSequence()
				s.tell(e)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond): // the arbiter is not up yet
		}
	}
}

func (s *Story) tell(e *pb.Event) {
	what := strings.ToLower(strings.TrimPrefix(e.GetType().String(), "EVENT_TYPE_"))
	line := fmt.Sprintf("  · term %d epoch %d: %s", e.GetTerm(), e.GetEpoch(), strings.ReplaceAll(what, "_", " "))
	if e.GetReason() != pb.Reason_REASON_UNSPECIFIED {
		line += " (" + strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(e.GetReason().String(), "REASON_")), "_", " ") + ")"
	}
	if st := e.GetStats(); st != nil {
		line += fmt.Sprintf(", paused %.1f ms, %d pages compared, %d sent", float64(st.GetPauseUs())/1000, st.GetPagesCompared(), st.GetPagesSent())
	}
	if e.GetDetail() != "" {
		line += ": " + e.GetDetail()
	}
	s.Say("%s", line)
}

package events

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func details(es []*pb.Event) []string {
	var out []string
	for _, e := range es {
		out = append(out, e.Detail)
	}
	return out
}

func TestRingKeepsTheLast(t *testing.T) {
	l := New(3)
	if got := l.Last("", 10); len(got) != 0 {
		t.Errorf("empty log has %v", got)
	}
	for i := range 5 {
		l.Add(&pb.Event{Vm: fmt.Sprint("vm", i%2), Detail: fmt.Sprint(i)})
	}
	for _, tc := range []struct {
		vm   string
		n    int
		want []string
	}{
		{"", 10, []string{"4", "3", "2"}}, {"", 2, []string{"4", "3"}}, {"vm0", 10, []string{"4", "2"}}, {"none", 10, nil},
	} {
		if got := details(l.Last(tc.vm, tc.n)); !slices.Equal(got, tc.want) {
			t.Errorf("%q %d: %v, want %v", tc.vm, tc.n, got, tc.want)
		}
	}
	last := l.Last("", 3)
	if last[0].Sequence != last[2].Sequence+2 || last[0].UnixMs == 0 {
		t.Errorf("sequence numbers %v and %v", last[0], last[2])
	}
}

func TestFollowGivesKeptThenLiveEvents(t *testing.T) {
	l := New(4)
	for i := range 6 {
		l.Add(&pb.Event{Vm: fmt.Sprint("vm", i%2), Detail: fmt.Sprint(i)})
	}
	seen := l.Last("", 1)[0].Sequence - 2
	for _, tc := range []struct {
		vm    string
		after uint64
		want  []string
	}{
		{"", 0, []string{"2", "3", "4", "5", "live0", "live1"}},
		{"", seen, []string{"4", "5", "live0", "live1"}},
		{"vm1", seen, []string{"5", "live1"}},
		{"", seen + 100, nil},
	} {
		log := New(8)
		log.first, log.next = l.first, l.first
		for _, e := range slices.Backward(l.Last("", 4)) {
			log.Add(e)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		live := 0
		addLive := func() {
			for ; live < 2; live++ {
				log.Add(&pb.Event{Vm: fmt.Sprint("vm", live), Detail: fmt.Sprint("live", live)})
			}
		}
		if tc.want == nil {
			addLive()
			cancel()
		}
		err := log.Follow(ctx, tc.vm, tc.after, func(e *pb.Event) error {
			got = append(got, e.Detail)
			addLive() // from within: while the follower is behind
			if e.Detail == "live1" {
				cancel()
			}
			return nil
		})
		cancel()
		if !errors.Is(err, context.Canceled) || !slices.Equal(got, tc.want) {
			t.Errorf("%q after %d: %v, %v; want %v", tc.vm, tc.after, got, err, tc.want)
		}
	}
	stop := errors.New("stop")
	if err := l.Follow(t.Context(), "", 0, func(*pb.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
}

func TestSlowFollowerSkips(t *testing.T) {
	l := New(2)
	l.Add(&pb.Event{Detail: "first"})
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	l.Follow(ctx, "", 0, func(e *pb.Event) error {
		got = append(got, e.Detail)
		if e.Detail == "first" {
			for i := range 5 {
				l.Add(&pb.Event{Detail: fmt.Sprint(i)})
			}
		}
		if e.Detail == "4" {
			cancel()
		}
		return nil
	})
	if want := []string{"first", "3", "4"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

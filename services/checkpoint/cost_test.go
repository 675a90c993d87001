package checkpoint

import (
	"context"
	"runtime"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// TestCostOfACheckpoint bounds, with a factor of three of room, what pages cost
// beside their bytes: messages, and allocations of both ends and the feed
// between them.
func TestCostOfACheckpoint(t *testing.T) {
	const (
		differ          = 8192 // 32 MiB
		messagesPerMiB  = 1.2  // while paused
		runningPerMiB   = 8.3  // while guests run
		allocsPerPaused = 82   // of few messages, with all that a checkpoint costs once
		allocsPerAhead  = 21
	)
	active, standby := newToy(t, differ, 0), newToy(t, differ, 0)
	w := wire(t, active, standby, SenderConfig{}, ReceiverConfig{MemoryZero: true})
	messages := 0
	send := w.sender.send
	w.sender.send = func(ctx context.Context, m *pb.FromActive, done func()) error {
		messages++
		return send(ctx, m, done)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	fill := byte(0)
	diverge := func() {
		fill++
		for n := range uint64(differ) {
			active.writePage(n, fill, 0)
		}
	}
	epoch := uint64(0)
	final := func() {
		epoch++
		if _, err := w.final(ctx, epoch); err != nil {
			t.Fatal(err)
		}
	}
	final()
	measure := func(what string, perMiB, perMessage float64, send func()) {
		diverge()
		var before, after runtime.MemStats
		messages = 0
		runtime.ReadMemStats(&before)
		send()
		runtime.ReadMemStats(&after)
		got := float64(messages) / (differ * BlockSize >> 20)
		allocs := float64(after.Mallocs-before.Mallocs) / float64(messages)
		t.Logf("%s: %.2f messages per MiB, %.1f allocations per message", what, got, allocs)
		if got > 3*perMiB {
			t.Errorf("%s: %.2f messages per MiB, %.2f were right", what, got, perMiB)
		}
		if allocs > 3*perMessage {
			t.Errorf("%s: %.1f allocations per message, %.1f were right", what, allocs, perMessage)
		}
	}
	measure("paused", messagesPerMiB, allocsPerPaused, final)
	// The last is answered behind the stage before it.
	measure("ahead", runningPerMiB, allocsPerAhead, func() {
		if _, err := w.sender.Ahead(ctx, &pb.CheckpointBegin{Epoch: epoch + 1}, nil); err != nil {
			t.Fatal(err)
		}
	})
}

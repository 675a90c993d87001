package load

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Client is one connection of a closed loop: it asks again when it has its
// answer.
type Client interface {
	// Do asks once and returns how many units its answer counts: requests of a
	// pipeline, bytes of a transfer. It gives up at the deadline.
	Do(deadline time.Time) (units float64, err error)
	Close() error
}

// Loop is a load of several clients at once.
type Loop struct {
	Clients int
	// Open makes a client's connection. The clients are numbered from 0.
	Open func(client int) (Client, error)
}

// Sample is what one run of a loop measured.
type Sample struct {
	// PerSecond are units per second.
	PerSecond float64
	// Answers is their number; P50, P99 and Longest are the waits for them.
	Answers           int
	P50, P99, Longest time.Duration
}

// Run opens the connections, lets the clients ask for a span, and closes the
// connections. Of the answer that comes after the span, each client counts the
// part of the wait that lay within.
func (l Loop) Run(ctx context.Context, span time.Duration) (Sample, error) {
	var clients []Client
	defer func() {
		for _, c := range clients {
			_ = c.Close() // it has served
		}
	}()
	for i := range l.Clients {
		c, err := l.Open(i)
		if err != nil {
			return Sample{}, fmt.Errorf("open connection %d: %w", i, err)
		}
		clients = append(clients, c)
	}
	var (
		mu    sync.Mutex
		waits []time.Duration
		units float64
		first error
		wg    sync.WaitGroup
	)
	began := time.Now()
	end := began.Add(span)
	for _, c := range clients {
		wg.Go(func() {
			var own []time.Duration
			var sum float64
			var err error
			for last := began; ctx.Err() == nil && last.Before(end); {
				var n float64
				if n, err = c.Do(last.Add(replyTimeout)); err != nil {
					break
				}
				now := time.Now()
				if now.After(end) {
					n *= float64(end.Sub(last)) / float64(now.Sub(last))
				}
				own = append(own, now.Sub(last))
				sum += n
				last = now
			}
			mu.Lock()
			defer mu.Unlock()
			waits, units = append(waits, own...), units+sum
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	if first == nil {
		first = ctx.Err()
	}
	s := Sample{PerSecond: units / span.Seconds(), Answers: len(waits)}
	if len(waits) > 0 {
		slices.Sort(waits)
		s.P50, s.P99, s.Longest = waits[len(waits)/2], waits[len(waits)*99/100], waits[len(waits)-1]
	}
	return s, first
}

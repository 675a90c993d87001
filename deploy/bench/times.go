package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"syscall"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"

	"github.com/understudy-ft/understudy/deploy/cluster"
	clients "github.com/understudy-ft/understudy/deploy/load"
)

// boots measures from the start of the primary to Redis's first answer.
func (b *bench) boots(ctx context.Context) error {
	redisOnly := func(c *cluster.Config) { c.Service, c.Add = "redis", nil }
	for range b.rounds {
		began := time.Now()
		c, err := b.alone(ctx, func(c *cluster.Config) { redisOnly(c); c.NoArbiter = true })
		if err != nil {
			return err
		}
		b.report.note(figBoot, "s", time.Since(began).Seconds())
		c.Close()

		cfg, err := b.config(ctx)
		if err != nil {
			return err
		}
		redisOnly(&cfg)
		if c, err = cluster.Start(cfg); err != nil {
			return err
		}
		began = time.Now()
		if _, err = c.StartPrimary(); err == nil {
			_, err = c.StartSecondary()
		}
		if err == nil {
			err = serves(ctx, c)
		}
		if err == nil {
			b.report.note(figBootProtected, "s", time.Since(began).Seconds())
		}
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// budget is the pause that is allowed with a number of differing pages, in
// milliseconds: 3 ms and the pages at 1 GiB/s.
func budget(pages uint64) float64 { return 3 + float64(pages)*4096/(1<<30)*1000 }

// differing are the numbers of pages that are made to differ.
var differingPages = []uint64{256, 1024, 4096, 16384}

// pauses measures resynchronizations and the wait from digest to release.
func (b *bench) pauses(ctx context.Context) error {
	dir, err := b.scratch()
	if err != nil {
		return err
	}
	traces := [2]string{filepath.Join(dir, "active.trace"), filepath.Join(dir, "standby.trace")}
	c, w, end, err := b.watched(ctx, nil, []string{"--trace", traces[0]}, []string{"--trace", traces[1]})
	if err != nil {
		return err
	}
	defer end()
	var errs []error
	errs = append(errs, b.idlePauses(ctx, c, w))
	for _, n := range differingPages {
		for range max(1, b.resyncs/4) {
			errs = append(errs, b.pauseWith(ctx, c, w, n))
		}
	}
	for _, l := range []struct {
		figure  string
		clients int
	}{{figRelease, 1}, {figReleaseBusy, 8}} {
		from := [2]int64{size(traces[0]), size(traces[1])}
		if _, err := (clients.Loop{Clients: l.clients, Open: redis(1, '+', set)(c)}).Run(ctx, b.span); err != nil {
			errs = append(errs, err)
			continue
		}
		waits, err := releases(traces, from)
		errs = append(errs, err)
		b.report.note(l.figure, "µs", waits...)
	}
	return errors.Join(append(errs, b.busyPauses(ctx, c, w))...)
}

// idlePauses resynchronizes a guest that has nothing to do.
func (b *bench) idlePauses(ctx context.Context, c *cluster.Cluster, w *watch) error {
	for range b.resyncs {
		s, err := w.resync(ctx, c)
		if err != nil {
			return err
		}
		b.report.note(figIdlePause, "ms", float64(s.GetPauseUs())/1000)
		b.report.note(figIdlePages, "pages", float64(s.GetPagesSent()))
		pause(ctx, 50*time.Millisecond)
	}
	return nil
}

// pauseWith resynchronizes after both copies wrote n pages differently, because
// they give different answers then: the outside waits for it, so that nothing is
// copied ahead.
func (b *bench) pauseWith(ctx context.Context, c *cluster.Cluster, w *watch, n uint64) error {
	if _, err := clients.Number(c.Address(portOwn), n); err != nil {
		return fmt.Errorf("write %d pages: %w", n, err)
	}
	pause(ctx, 100*time.Millisecond) // the standby may be behind
	asker, err := differing(c.Address(portDiffer))(0)
	if err != nil {
		return err
	}
	defer func() { _ = asker.Close() }() // it has its answer
	w.heard()
	// The copies' clocks may show the same for once.
	var done *pb.Event
	for end := time.Now().Add(readyTimeout); done == nil; {
		if _, err := asker.Do(end); err != nil {
			return fmt.Errorf("get an answer that differs: %w", err)
		}
		pause(ctx, 20*time.Millisecond) // the event follows the answer
		for _, e := range w.heard() {
			if e.GetType() == pb.EventType_EVENT_TYPE_RESYNC_DONE && done == nil {
				done = e
			}
		}
	}
	s := done.GetStats()
	if s.GetPagesSent() < n {
		// The copies were made equal by another resynchronization just before.
		b.say("%d pages were written differently, %d were sent: not counted", n, s.GetPagesSent())
		return nil
	}
	took := float64(s.GetPauseUs()) / 1000
	b.report.note(fmt.Sprintf("pause, %d pages differ", n), "ms", took)
	b.report.note(figPageBudget, "", took/budget(s.GetPagesSent()))
	return nil
}

// busyPauses resynchronizes under load.
func (b *bench) busyPauses(ctx context.Context, c *cluster.Cluster, w *watch) error {
	l, err := clients.Start(c.Redis, 4, 4)
	if err != nil {
		return err
	}
	defer l.Stop()
	for range max(1, b.resyncs/4) {
		pause(ctx, 200*time.Millisecond)
		s, err := w.resync(ctx, c)
		if err != nil {
			return err
		}
		b.report.note(figLoadPause, "ms", float64(s.GetPauseUs())/1000)
	}
	return nil
}

// pause waits.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// failovers measures the longest wait of clients whose connections live through
// the loss of the active, again and again: killed, then stopped without a word.
func (b *bench) failovers(ctx context.Context) error {
	// What is measured here is how soon silence is noticed, too.
	c, err := b.protected(ctx, func(c *cluster.Config) { c.HeartbeatTimeout, c.Service, c.Add = "", "redis", nil }, nil, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	l, err := clients.Start(c.Redis, 4, 4)
	if err != nil {
		return err
	}
	defer l.Stop()
	var errs []error
	for i := range 2 * b.kills {
		figure, end := figGapKill, syscall.SIGKILL
		if i%2 == 1 {
			figure, end = figGapSilent, syscall.SIGSTOP
		}
		if err := b.failOver(ctx, c, l, figure, end); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", figure, err))
			if c.Gateway.Err() != nil || c.Arbiter.Err() != nil || ctx.Err() != nil {
				return errors.Join(errs...)
			}
		}
	}
	r := l.Stop()
	b.report.note(figBroken, "", float64(r.ConnectionsLost))
	lost, err := l.Verify(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	b.report.note(figLost, "", float64(lost+r.Wrong))
	if r.Problem != "" {
		errs = append(errs, errors.New(r.Problem))
	}
	return errors.Join(errs...)
}

// failOver ends the active and measures the gap. A new spare comes after it.
func (b *bench) failOver(ctx context.Context, c *cluster.Cluster, l *clients.Load, figure string, end syscall.Signal) error {
	s, err := b.steady(ctx, c)
	if err != nil {
		return err
	}
	active := c.Active(s)
	if active == nil {
		return fmt.Errorf("no process is %s", s.GetRecord().GetActive().GetId())
	}
	at := time.Now()
	if err := active.Signal(end); err != nil {
		return err
	}
	gone, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err = c.Wait(gone, "a take-over", func(n *pb.VMStatus) bool {
		return n.GetRecord().GetTerm() > s.GetRecord().GetTerm() && n.GetRecord().GetActive().GetId() != s.GetRecord().GetActive().GetId()
	})
	pause(ctx, time.Second) // load behind the fail-over
	if err == nil {
		b.report.note(figure, "ms", ms(l.LongestGap(at)))
	}
	_, startErr := c.StartSecondary()
	return errors.Join(err, active.Kill(), startErr)
}

// steady waits until the guest has been protected for a second.
func (b *bench) steady(ctx context.Context, c *cluster.Cluster) (*pb.VMStatus, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		s, err := c.Protected(ctx, 0)
		if err != nil {
			return nil, err
		}
		pause(ctx, time.Second)
		again, err := c.Status(ctx)
		if err == nil && again.GetRecord().GetMode() == pb.Mode_MODE_PROTECTED && again.GetRecord().GetTerm() == s.GetRecord().GetTerm() {
			return again, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// copyPages is the memory that the first copy has to bring, 1 GiB.
const copyPages = 1 << 18

// firstCopy measures a first copy to a new standby while the guest serves.
func (b *bench) firstCopy(ctx context.Context) error {
	cfg, err := b.config(ctx)
	if err != nil {
		return err
	}
	cfg.Memory = "1536M"
	c, err := cluster.Start(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.StartPrimary(); err != nil {
		return err
	}
	if err := serves(ctx, c); err != nil {
		return err
	}
	if _, err := clients.Number(c.Address(portSame), copyPages); err != nil {
		return fmt.Errorf("fill the guest's memory: %w", err)
	}
	w, err := watchFrom(ctx, c)
	if err != nil {
		return err
	}
	defer w.close()
	serving := clients.Loop{Clients: 8, Open: redis(1, '+', set)(c)}
	calm, err := serving.Run(ctx, max(b.span, 2*time.Second))
	if err != nil {
		return err
	}
	type result struct {
		clients.Sample
		err error
	}
	during := make(chan result, 1)
	busy, stop := context.WithCancel(ctx)
	defer stop()
	go func() {
		s, err := serving.Run(busy, readyTimeout)
		if busy.Err() != nil {
			err = nil // it was told to end
		}
		during <- result{s, err}
	}()
	if _, err := c.StartSecondary(); err != nil {
		return err
	}
	began, err := w.next(ctx, pb.EventType_EVENT_TYPE_SYNCING)
	if err != nil {
		return err
	}
	done, err := w.next(ctx, pb.EventType_EVENT_TYPE_PROTECTED)
	if err != nil {
		return err
	}
	stop()
	r := <-during
	seconds := float64(done.GetUnixMs()-began.GetUnixMs()) / 1000
	b.report.note(figCopy, "MiB/s", copyPages*4096/float64(1<<20)/seconds)
	b.report.note("first copy: pages sent", "pages", float64(done.GetStats().GetPagesSent()))
	b.report.note("first copy: pause at its end", "ms", float64(done.GetStats().GetPauseUs())/1000)
	b.report.note("first copy: client's p99 undisturbed", "ms", ms(calm.P99))
	b.report.note("first copy: client's p99 during it", "ms", ms(r.P99))
	b.report.note(figCopyClient, "", float64(r.P99)/float64(max(calm.P99, time.Microsecond)))
	return errors.Join(r.err, b.firstTouch())
}

// firstTouch measures what fresh memory costs on this machine, which may itself be
// virtual and be given it page by page. It follows the first copy, so that no
// memory that it leaves behind makes that faster.
func (b *bench) firstTouch() error {
	m, err := mem.New(0, copyPages*mem.PageSize)
	if err != nil {
		return err
	}
	began := time.Now()
	for n := range m.Pages() {
		m.Page(n)[0] = 1
	}
	b.report.note("first touch of 1 GiB, one core", "MiB/s", copyPages*mem.PageSize/float64(1<<20)/time.Since(began).Seconds())
	return m.Close()
}

package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	clients "github.com/understudy-ft/understudy/deploy/load"
)

// growths are what figures grow with.
var growths = []part{
	{"memory", "guest memory", (*bench).growMemory},
	{"dirty", "pages written a second", (*bench).growDirty},
	{"connections", "open connections of a guest", (*bench).growConnections},
	{"flows", "connections that a flow table knows", (*bench).growFlows},
	{"distance", "round-trip time between the hosts", (*bench).growDistance},
	{"vms", "VMs of one arbiter", (*bench).growVMs},
}

// growth measures how figures grow; one that fails does not keep the others.
func (b *bench) growth(ctx context.Context) error {
	chosen, err := choose("growth", b.options.growth.Values, growths)
	if err != nil {
		return err
	}
	if len(chosen) == 0 {
		chosen = growths
	}
	var errs []error
	for _, g := range chosen {
		b.say("growth with %s", g.what)
		if err := g.run(b, ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", g.name, err))
		}
	}
	return errors.Join(errs...)
}

// medianPause resynchronizes some times and returns the median of what was
// paused, in milliseconds, and of the pages sent.
func (b *bench) medianPause(ctx context.Context, c *cluster.Cluster, w *watch, between time.Duration) (paused, pages float64, err error) {
	var ps, ns []float64
	for range max(4, b.resyncs/4) {
		pause(ctx, between)
		s, err := w.resync(ctx, c)
		if err != nil {
			return 0, 0, err
		}
		ps, ns = append(ps, float64(s.GetPauseUs())/1000), append(ns, float64(s.GetPagesSent()))
	}
	return spreadOf(ps).Median, spreadOf(ns).Median, nil
}

// growMemory resynchronizes idle guests of several sizes.
func (b *bench) growMemory(ctx context.Context) error {
	curve := b.report.curve("growth-memory", "guest memory, MiB", "ms", true)
	var errs []error
	// The guest's images do not fit in 64 MiB.
	for _, mib := range []int{128, 256, 512, 1024, 2048, 4096} {
		err := func() error {
			c, w, end, err := b.watched(ctx, func(c *cluster.Config) {
				c.Memory, c.Service, c.Add = fmt.Sprintf("%dM", mib), "redis", nil
			}, nil, nil)
			if err != nil {
				return err
			}
			defer end()
			paused, _, err := b.medianPause(ctx, c, w, 50*time.Millisecond)
			if err != nil {
				return err
			}
			curve.add("pause of an idle guest", float64(mib), paused)
			began := time.Now()
			if _, err := c.StartSecondary(); err != nil {
				return err
			}
			s, err := b.steady(ctx, c)
			if err != nil {
				return err
			}
			// The spare becomes the standby.
			detach, cancel := context.WithTimeout(ctx, readyTimeout)
			defer cancel()
			w.heard()
			if _, err := c.Admin().Detach(detach, &pb.DetachRequest{Vm: c.VM, ReplicaId: s.GetRecord().GetStandby().GetId()}); err != nil {
				return fmt.Errorf("detach the standby after %v: %w", time.Since(began), err)
			}
			from, err := w.next(ctx, pb.EventType_EVENT_TYPE_SYNCING)
			if err != nil {
				return err
			}
			to, err := w.next(ctx, pb.EventType_EVENT_TYPE_PROTECTED)
			if err != nil {
				return err
			}
			curve.add("first copy of an idle guest", float64(mib), float64(to.GetUnixMs()-from.GetUnixMs()))
			return nil
		}()
		if err != nil {
			b.say("%d MiB FAILED: %v", mib, err)
			errs = append(errs, fmt.Errorf("%d MiB: %w", mib, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// growDirty resynchronizes once a second while the guest writes pages.
func (b *bench) growDirty(ctx context.Context) error {
	curve := b.report.curve("growth-dirty", "pages written a second", "ms", true)
	c, w, end, err := b.watched(ctx, nil, nil, nil)
	if err != nil {
		return err
	}
	defer end()
	for _, rate := range []uint64{50, 500, 5_000, 20_000, 50_000} {
		if _, err := clients.Number(c.Address(portRate), rate); err != nil {
			return err
		}
		paused, _, err := b.medianPause(ctx, c, w, time.Second)
		if err != nil {
			return fmt.Errorf("%d pages a second: %w", rate, err)
		}
		curve.add("pause, one a second", float64(rate), paused)
	}
	return nil
}

// growConnections resynchronizes a guest that holds connections open.
func (b *bench) growConnections(ctx context.Context) error {
	curve := b.report.curve("growth-connections", "open connections", "ms", true)
	c, w, end, err := b.watched(ctx, nil, nil, nil)
	if err != nil {
		return err
	}
	defer end()
	var open []clients.Client
	defer func() {
		for _, c := range open {
			_ = c.Close() // it was only held
		}
	}()
	for _, n := range []int{1, 10, 100, 1000, 3000} {
		for len(open) < n {
			line := []byte("are you there\n")
			one, err := clients.Exchange(c.Address(portEcho), line, len(line), 1)(0)
			if err != nil {
				return fmt.Errorf("open connection %d: %w", len(open)+1, err)
			}
			open = append(open, one)
			if _, err := one.Do(time.Now().Add(readyTimeout)); err != nil {
				return fmt.Errorf("connection %d: %w", len(open), err)
			}
		}
		paused, _, err := b.medianPause(ctx, c, w, 100*time.Millisecond)
		if err != nil {
			return fmt.Errorf("%d connections: %w", n, err)
		}
		curve.add("pause of an idle guest", float64(n), paused)
	}
	return nil
}

// distances are round-trip times between the hosts.
var distances = []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond, 20 * time.Millisecond}

// growDistance lets every message between replicas and from them to the arbiter
// take its time.
func (b *bench) growDistance(ctx context.Context) error {
	waits := b.report.curve("growth-distance", "round-trip time between hosts, ms", "ms", false)
	rates := b.report.curve("growth-distance-throughput", "round-trip time between hosts, ms", "requests/s", false)
	var errs []error
	for _, rtt := range distances {
		if ctx.Err() != nil {
			break
		}
		if err := b.atDistance(ctx, rtt, waits, rates); err != nil {
			errs = append(errs, fmt.Errorf("%v: %w", rtt, err))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) atDistance(ctx context.Context, rtt time.Duration, waits, rates *curve) error {
	dir, err := b.scratch()
	if err != nil {
		return err
	}
	cfg, err := b.config(ctx)
	if err != nil {
		return err
	}
	toArbiter, err := listenDelay(rtt / 2)
	if err != nil {
		return err
	}
	defer toArbiter.close()
	toStandby, err := listenDelay(rtt / 2)
	if err != nil {
		return err
	}
	defer toStandby.close()
	cfg.ArbiterAt = toArbiter.addr()
	c, err := cluster.Start(cfg)
	if err != nil {
		return err
	}
	defer c.Close()
	toArbiter.to(c.GRPC)
	feedAt, err := cluster.FreeAddress()
	if err != nil {
		return err
	}
	toStandby.to(feedAt)
	traces := [2]string{filepath.Join(dir, "far-active.trace"), filepath.Join(dir, "far-standby.trace")}
	if _, err := c.StartPrimary("--trace", traces[0]); err != nil {
		return err
	}
	if _, err := c.StartSecondary("--trace", traces[1], "--listen", feedAt, "--advertise", toStandby.addr()); err != nil {
		return err
	}
	if err := serves(ctx, c); err != nil {
		return err
	}
	if err := protectedNow(ctx, c); err != nil {
		return err
	}
	w, err := watchFrom(ctx, c)
	if err != nil {
		return err
	}
	defer w.close()
	x := ms(rtt)
	for _, n := range []int{1, 8, 50} {
		from := [2]int64{size(traces[0]), size(traces[1])}
		s, err := (clients.Loop{Clients: n, Open: redis(1, '+', set)(c)}).Run(ctx, b.span)
		if err != nil {
			return err
		}
		rates.add(fmt.Sprintf("SET, %d clients", n), x, s.PerSecond)
		if n == 1 {
			took, err := releases(traces, from)
			if err != nil {
				return err
			}
			waits.add("digest to release, median", x, spreadOf(took).Median/1000)
			waits.add("SET, median", x, ms(s.P50))
		}
	}
	paused, _, err := b.medianPause(ctx, c, w, 50*time.Millisecond)
	if err != nil {
		return err
	}
	waits.add("pause of an idle guest, median", x, paused)
	return nil
}

// growVMs loads one arbiter with ever more VMs.
func (b *bench) growVMs(ctx context.Context) error {
	cpu := b.report.curve("growth-vms", "VMs of one arbiter, 200 outputs/s each", "arbiter's cores", true)
	wait := b.report.curve("growth-vms-decision", "VMs of one arbiter, 200 outputs/s each", "ms", true)
	var errs []error
	for _, n := range []int{1, 10, 100, 250, 500, 1000, 2000} {
		if ctx.Err() != nil {
			break
		}
		r, err := b.manyVMs(ctx, n, quietBatch)
		if err != nil {
			errs = append(errs, fmt.Errorf("%d VMs: %w", n, err))
		}
		if r == nil {
			continue
		}
		cpu.add("cores used", float64(n), r.cores)
		cpu.add("outputs/s / 200,000", float64(n), r.perSecond/200_000)
		d := spreadOf(r.decisions)
		wait.add("decision, median", float64(n), d.Median)
		wait.add("decision, p99", float64(n), d.P99)
	}
	return errors.Join(errs...)
}

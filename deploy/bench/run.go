package main

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	clients "github.com/understudy-ft/understudy/deploy/load"
)

// readyTimeout bounds the wait for a guest.
const readyTimeout = 3 * time.Minute

type bench struct {
	bin, guest, memory string
	rounds, requests   int

	samples map[string]map[string][]sample // by load and variant
	times   map[string][]float64
	resyncs uint64
}

// sample is one measurement of redis-benchmark.
type sample struct{ perSecond, p50, p99 float64 }

// redisLoad is a load of redis-benchmark.
type redisLoad struct {
	name string
	args []string
}

var loads = []redisLoad{
	{"SET 1", []string{"-t", "set", "-c", "1"}},
	{"SET 8", []string{"-t", "set", "-c", "8"}},
	{"GET 8", []string{"-t", "get", "-c", "8"}},
	{"INCR 8", []string{"-t", "incr", "-c", "8"}},
	{"SET 50 P16", []string{"-t", "set", "-c", "50", "-P", "16"}},
}

func (b *bench) run(ctx context.Context) (*report, error) {
	b.samples = map[string]map[string][]sample{}
	b.times = map[string][]float64{}
	for round := range b.rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, b.rounds)
		for _, step := range []func(context.Context) error{b.standalone, b.protected} {
			if err := step(ctx); err != nil {
				return nil, err
			}
		}
	}
	r := &report{Date: today(), Commit: commit(), Machine: machineName(), Resyncs: b.resyncs}
	for _, l := range loads {
		out := load{Name: l.name, PerSecond: map[string]spread{}, P50Ms: map[string]spread{}, P99Ms: map[string]spread{}}
		for _, v := range variants {
			var rps, p50, p99 []float64
			for _, s := range b.samples[l.name][v] {
				rps, p50, p99 = append(rps, s.perSecond), append(p50, s.p50), append(p99, s.p99)
			}
			out.PerSecond[v], out.P50Ms[v], out.P99Ms[v] = newSpread("", rps), newSpread("", p50), newSpread("", p99)
		}
		r.Loads = append(r.Loads, out)
	}
	for _, name := range []string{timeBoot, timeProtect, timePause, timeGap} {
		r.Times = append(r.Times, newSpread(name, b.times[name]))
	}
	return r, nil
}

// Names of the single figures.
const (
	timeBoot    = "standalone: start to Redis answering"
	timeProtect = "protected: start to Redis answering"
	timePause   = "resynchronization under SET load: pause"
	timeGap     = "fail-over under load: longest wait of a client"
)

// start brings up a gateway and arbiter.
func (b *bench) start() (*cluster.Cluster, error) {
	return cluster.Start(cluster.Config{Bin: b.bin, Guest: b.guest, Memory: b.memory, LogLevel: "warn"})
}

// standalone measures one unprotected VM, then two at once.
func (b *bench) standalone(ctx context.Context) error {
	var twins []*cluster.Cluster
	for i := range 2 {
		c, err := b.start()
		if err != nil {
			return err
		}
		defer c.Close()
		began := time.Now()
		if _, err := c.StartStandalone(); err != nil {
			return err
		}
		if err := ready(ctx, c); err != nil {
			return err
		}
		twins = append(twins, c)
		if i == 0 {
			b.times[timeBoot] = append(b.times[timeBoot], ms(time.Since(began)))
			for _, l := range loads {
				if err := b.measure(ctx, l, "standalone", c.Redis); err != nil {
					return err
				}
			}
		}
	}
	for _, l := range loads {
		var wg sync.WaitGroup
		errs := make([]error, len(twins))
		for i, c := range twins {
			wg.Go(func() {
				s, err := b.redis(ctx, l, c.Redis)
				errs[i] = err
				if i == 0 && err == nil {
					b.note(l.name, "twin", s)
				}
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
	}
	return nil
}

// protected measures a protected VM, then its resynchronizations and a
// fail-over under load.
func (b *bench) protected(ctx context.Context) error {
	c, err := b.start()
	if err != nil {
		return err
	}
	defer c.Close()
	began := time.Now()
	if _, err := c.StartPrimary(); err != nil {
		return err
	}
	if _, err := c.StartSecondary(); err != nil {
		return err
	}
	if err := ready(ctx, c); err != nil {
		return err
	}
	b.times[timeProtect] = append(b.times[timeProtect], ms(time.Since(began)))
	wait, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	before, err := c.Protected(wait, 0)
	if err != nil {
		return err
	}
	for _, l := range loads {
		if err := b.measure(ctx, l, "protected", c.Redis); err != nil {
			return err
		}
	}
	after, err := c.Status(ctx)
	if err != nil {
		return err
	}
	b.resyncs += after.GetCounters().GetResyncs() - before.GetCounters().GetResyncs()
	return b.kill(ctx, c)
}

// kill measures pauses and the fail-over gap under load.
func (b *bench) kill(ctx context.Context, c *cluster.Cluster) error {
	l, err := clients.Start(c.Redis, 4, 4)
	if err != nil {
		return err
	}
	defer l.Stop()
	for range 10 {
		if _, err := c.Admin().Resync(ctx, &pb.ResyncRequest{Vm: c.VM}); err != nil {
			return fmt.Errorf("resynchronize: %w", err)
		}
		time.Sleep(200 * time.Millisecond) // load between two resynchronizations
	}
	s, err := c.Status(ctx)
	if err != nil {
		return err
	}
	for _, us := range s.GetCounters().GetRecentPausesUs() {
		b.times[timePause] = append(b.times[timePause], float64(us)/1000)
	}
	at := time.Now()
	if err := c.Active(s).Kill(); err != nil {
		return err
	}
	time.Sleep(2 * time.Second) // load behind the fail-over
	b.times[timeGap] = append(b.times[timeGap], ms(l.LongestGap(at)))
	if r := l.Stop(); r.ConnectionsLost > 0 || r.Wrong > 0 {
		return fmt.Errorf("the fail-over broke %d connections: %s", r.ConnectionsLost, r.Problem)
	}
	return nil
}

func ready(ctx context.Context, c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	return c.DialRedis(ctx)
}

func (b *bench) measure(ctx context.Context, l redisLoad, variant, addr string) error {
	s, err := b.redis(ctx, l, addr)
	if err != nil {
		return err
	}
	b.note(l.name, variant, s)
	return nil
}

func (b *bench) note(load, variant string, s sample) {
	if b.samples[load] == nil {
		b.samples[load] = map[string][]sample{}
	}
	b.samples[load][variant] = append(b.samples[load][variant], s)
}

// redis runs redis-benchmark once.
func (b *bench) redis(ctx context.Context, l redisLoad, addr string) (s sample, err error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return s, err
	}
	args := append([]string{"-h", host, "-p", port, "-n", strconv.Itoa(b.requests), "--csv"}, l.args...)
	out, err := exec.CommandContext(ctx, "redis-benchmark", args...).Output()
	if err != nil {
		return s, fmt.Errorf("redis-benchmark %s: %w", strings.Join(args, " "), err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(out))).ReadAll()
	if err != nil || len(rows) < 2 || len(rows[1]) < 7 {
		return s, fmt.Errorf("redis-benchmark printed %q: %w", out, err)
	}
	for i, into := range map[int]*float64{1: &s.perSecond, 4: &s.p50, 6: &s.p99} {
		if *into, err = strconv.ParseFloat(rows[1][i], 64); err != nil {
			return s, fmt.Errorf("redis-benchmark printed %q: %w", out, err)
		}
	}
	return s, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

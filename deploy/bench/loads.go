package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	clients "github.com/understudy-ft/understudy/deploy/load"
)

// Variants: one unprotected VM; two, each under the same load at once, which is
// what two copies cost on these cores without a protocol; a protected one.
var variants = []string{"standalone", "twin", "protected"}

// workload is a load that variants are compared under.
type workload struct {
	name, unit string
	clients    int
	open       func(*cluster.Cluster) func(int) (clients.Client, error)
	// disk: the guest has a disk, which Redis writes each command to.
	disk bool
	// soak: only divergences are measured.
	soak bool
}

func set(client int) []string {
	return []string{"SET", fmt.Sprintf("key:%d", client), "a value of some length"}
}
func get(client int) []string { return []string{"GET", fmt.Sprintf("key:%d", client)} }
func incr(int) []string       { return []string{"INCR", "counter"} }

// redis is a command with the first byte of its answer.
func redis(depth int, answer byte, command func(int) []string) func(*cluster.Cluster) func(int) (clients.Client, error) {
	return func(c *cluster.Cluster) func(int) (clients.Client, error) {
		return clients.Redis(c.Redis, depth, answer, command)
	}
}

// at is a load on one of the service's ports.
func at(port string, open func(string) func(int) (clients.Client, error)) func(*cluster.Cluster) func(int) (clients.Client, error) {
	return func(c *cluster.Cluster) func(int) (clients.Client, error) { return open(c.Address(port)) }
}

func page(path string) func(string) func(int) (clients.Client, error) {
	return func(addr string) func(int) (clients.Client, error) { return clients.HTTP(addr, path) }
}

func differing(addr string) func(int) (clients.Client, error) {
	return clients.Exchange(addr, []byte{1}, 16, 1)
}

// computing asks for rounds by the million.
func computing(addr string) func(int) (clients.Client, error) {
	const million = 80
	return clients.Exchange(addr, binary.LittleEndian.AppendUint64(nil, million*1_000_000), 8, million)
}

var loads = []workload{
	{name: "SET 1", unit: "/s", clients: 1, open: redis(1, '+', set)},
	{name: "SET 8", unit: "/s", clients: 8, open: redis(1, '+', set)},
	{name: "GET 8", unit: "/s", clients: 8, open: redis(1, '$', get)},
	{name: "SET 50", unit: "/s", clients: 50, open: redis(1, '+', set)},
	{name: "SET 50 P16", unit: "/s", clients: 50, open: redis(16, '+', set)},
	{name: "GET 50 P16", unit: "/s", clients: 50, open: redis(16, '$', get)},
	{name: "INCR 8", unit: "/s", clients: 8, open: redis(1, ':', incr)},
	{name: "HTTP 8", unit: "/s", clients: 8, open: at(portHTTP, page("/"))},
	{name: "TCP out", unit: "MiB/s", clients: 1, open: at(portDownload, clients.Download)},
	{name: "TCP in", unit: "MiB/s", clients: 1, open: at(portUpload, clients.Upload)},
	{name: "UDP", unit: "/s", clients: 1, open: at(portUDP, clients.UDP)},
	{name: "short", unit: "/s", clients: 4, open: at(portEcho, clients.Short)},
	{name: "CPU", unit: "M rounds/s", clients: 1, open: at(portCompute, computing)},
	{name: "divergent", unit: "/s", clients: 1, open: at(portDiffer, differing)},
	{name: "disk SET 8", unit: "/s", clients: 8, open: redis(1, '+', set), disk: true},
	{name: "HTTP dated 8", unit: "/s", clients: 8, open: at(portHTTP, page("/dated")), soak: true},
}

func loadNames() string {
	var s []string
	for _, l := range loads {
		s = append(s, l.name)
	}
	return strings.Join(s, ", ")
}

// chosen are the loads that --load names, with a disk or without.
func (b *bench) chosen(disk, soak bool) (some []workload) {
	for _, l := range loads {
		wanted := len(b.load.Values) == 0
		for _, name := range b.load.Values {
			wanted = wanted || name == l.name
		}
		if wanted && l.disk == disk && (soak || !l.soak) {
			some = append(some, l)
		}
	}
	return some
}

// loads measures the loads under all variants.
func (b *bench) loads(ctx context.Context) error {
	return errors.Join(b.sideBySide(ctx, b.chosen(false, false), nil), b.onDisks(ctx, func(disk func(*cluster.Config)) error {
		return b.sideBySide(ctx, b.chosen(true, false), disk)
	}))
}

// onDisks calls f with what gives a cluster a disk, if a chosen load needs one.
func (b *bench) onDisks(ctx context.Context, f func(func(*cluster.Config)) error) error {
	if len(b.chosen(true, false)) == 0 {
		return nil
	}
	dir, err := b.scratch()
	if err != nil {
		return err
	}
	empty := filepath.Join(dir, "ext4")
	if err := makeDisk(ctx, empty); err != nil {
		return err
	}
	n := 0
	return f(func(c *cluster.Config) {
		n++
		c.Disk = fmt.Sprintf("%s-%d", empty, n)
		c.Append = "ud.disk=/dev/vda"
		if data, err := os.ReadFile(empty); err == nil {
			err = os.WriteFile(c.Disk, data, 0o600)
			if err != nil {
				b.say("copy of an empty disk: %v", err) // the guest will say the rest
			}
		}
	})
}

// makeDisk makes an ext4 file system.
func makeDisk(ctx context.Context, name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(128<<20), f.Close()); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", name).CombinedOutput(); err != nil {
		return fmt.Errorf("the load that writes a disk needs mkfs.ext4 (package e2fsprogs): %w: %s", err, out)
	}
	return nil
}

// sideBySide measures loads under all variants, whose guests run all the time:
// each round measures each load under one after the other.
func (b *bench) sideBySide(ctx context.Context, some []workload, change func(*cluster.Config)) error {
	if len(some) == 0 {
		return nil
	}
	var twins [2]*cluster.Cluster
	for i := range twins {
		c, err := b.alone(ctx, change)
		if err != nil {
			return fmt.Errorf("start an unprotected guest: %w", err)
		}
		defer c.Close()
		twins[i] = c
	}
	copies, err := b.protected(ctx, change, nil, nil)
	if err != nil {
		return fmt.Errorf("start a protected guest: %w", err)
	}
	defer func() { copies.Close() }()
	w, err := watchFrom(ctx, copies)
	if err != nil {
		return err
	}
	defer func() { w.close() }()
	// What is read must be there.
	for _, c := range []*cluster.Cluster{twins[0], twins[1], copies} {
		l := clients.Loop{Clients: 50, Open: redis(1, '+', set)(c)}
		if _, err := l.Run(ctx, 100*time.Millisecond); err != nil {
			return fmt.Errorf("write what is to be read: %w", err)
		}
	}
	samples := map[string]map[string][]clients.Sample{}
	for _, l := range some {
		samples[l.name] = map[string][]clients.Sample{}
		b.report.Loads = append(b.report.Loads, &loaded{Name: l.name, Unit: l.unit})
	}
	var failed []error
	for round := range b.rounds {
		for _, l := range some {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			single, err := b.measure(ctx, l, twins[0])
			if err == nil {
				samples[l.name]["standalone"] = append(samples[l.name]["standalone"], single...)
				var both []clients.Sample
				if both, err = b.measure(ctx, l, twins[0], twins[1]); err == nil {
					both[0].PerSecond = (both[0].PerSecond + both[1].PerSecond) / 2
					samples[l.name]["twin"] = append(samples[l.name]["twin"], both[0])
				}
			}
			if err == nil {
				err = protectedNow(ctx, copies)
			}
			if err == nil {
				err = b.underProtection(ctx, l, copies, w, samples)
			}
			if err != nil {
				failed = append(failed, fmt.Errorf("%s, round %d: %w", l.name, round+1, err))
				b.say("%s, round %d FAILED: %v", l.name, round+1, err)
			}
		}
		b.say("round %d of %d of %d loads", round+1, b.rounds, len(some))
	}
	for _, l := range some {
		b.report.load(l.name).fill(samples[l.name])
	}
	return errors.Join(failed...)
}

// underProtection measures a load on the protected guest, and the arbiter.
func (b *bench) underProtection(ctx context.Context, l workload, c *cluster.Cluster, w *watch, samples map[string]map[string][]clients.Sample) error {
	w.heard()
	before, err := c.Status(ctx)
	if err != nil {
		return err
	}
	cpuBefore, err := cpuTime(c.Arbiter)
	if err != nil {
		return err
	}
	copies, err := b.measure(ctx, l, c)
	if err != nil {
		return err
	}
	cpuAfter, err := cpuTime(c.Arbiter)
	if err != nil {
		return err
	}
	after, err := c.Status(ctx)
	if err != nil {
		return err
	}
	samples[l.name]["protected"] = append(samples[l.name]["protected"], copies...)
	r := b.report.load(l.name)
	r.Seconds += b.span.Seconds()
	for _, e := range w.heard() {
		if e.GetType() == pb.EventType_EVENT_TYPE_RESYNC_STARTED {
			r.Resyncs++
		}
	}
	if n := after.GetCounters().GetOutputsCompared() - before.GetCounters().GetOutputsCompared(); l.name == "SET 50 P16" && n > 0 {
		b.report.note(figArbiterCPUVM, "µs", float64((cpuAfter-cpuBefore).Microseconds())/float64(n))
	}
	return nil
}

// measure puts a load on guests at once, for a span.
func (b *bench) measure(ctx context.Context, l workload, on ...*cluster.Cluster) ([]clients.Sample, error) {
	samples, errs := make([]clients.Sample, len(on)), make([]error, len(on))
	var wg sync.WaitGroup
	for i, c := range on {
		wg.Go(func() {
			samples[i], errs[i] = clients.Loop{Clients: l.clients, Open: l.open(c)}.Run(ctx, b.span)
		})
	}
	wg.Wait()
	return samples, errors.Join(errs...)
}

// fill sets the results from the samples of each variant.
func (l *loaded) fill(by map[string][]clients.Sample) {
	l.PerSecond, l.P50, l.P99 = map[string]spread{}, map[string]spread{}, map[string]spread{}
	for _, v := range variants {
		var rate, p50, p99 []float64
		for _, s := range by[v] {
			rate, p50, p99 = append(rate, s.PerSecond), append(p50, ms(s.P50)), append(p99, ms(s.P99))
		}
		l.PerSecond[v], l.P50[v], l.P99[v] = spreadOf(rate), spreadOf(p50), spreadOf(p99)
	}
}

// soak counts divergences by cause under each load.
func (b *bench) soak(ctx context.Context) error {
	run := func(some []workload, change func(*cluster.Config)) error {
		if len(some) == 0 {
			return nil
		}
		c, w, end, err := b.watched(ctx, change, nil, nil)
		if err != nil {
			return err
		}
		defer end()
		if _, err := (clients.Loop{Clients: 50, Open: redis(1, '+', set)(c)}).Run(ctx, time.Second); err != nil {
			return err
		}
		var failed []error
		for _, l := range some {
			if err := errors.Join(ctx.Err(), protectedNow(ctx, c)); err != nil {
				return errors.Join(append(failed, err)...)
			}
			w.heard()
			if _, err := (clients.Loop{Clients: l.clients, Open: l.open(c)}).Run(ctx, b.options.soak); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", l.name, err))
			}
			b.report.Causes = append(b.report.Causes, causes(l.name, b.options.soak, w.heard())...)
			b.say("%s soaked", l.name)
		}
		return errors.Join(failed...)
	}
	return errors.Join(run(b.chosen(false, true), nil), b.onDisks(ctx, func(disk func(*cluster.Config)) error {
		return run(b.chosen(true, true), disk)
	}))
}

// causes sorts the resynchronizations under a load by their reason.
func causes(load string, span time.Duration, events []*pb.Event) []cause {
	all := []cause{{Load: load, Reason: "all", Seconds: span.Seconds()}}
	for _, e := range events {
		if e.GetType() != pb.EventType_EVENT_TYPE_RESYNC_STARTED && e.GetType() != pb.EventType_EVENT_TYPE_FAILOVER {
			continue
		}
		all[0].Count++
		reason := strings.ToLower(strings.TrimPrefix(e.GetReason().String(), "REASON_"))
		i := 1
		for ; i < len(all) && all[i].Reason != reason; i++ {
		}
		if i == len(all) {
			all = append(all, cause{Load: load, Reason: reason, Seconds: span.Seconds(), Example: e.GetDetail()})
		}
		all[i].Count++
	}
	return all
}

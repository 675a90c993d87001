package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/initrd"
	clients "github.com/understudy-ft/understudy/deploy/load"
)

// readyTimeout bounds the wait for a guest, and for protection.
const readyTimeout = 3 * time.Minute

// Ports of the guest's service (see its package comment).
const (
	portHTTP     = "tcp:80"
	portDownload = "tcp:9000"
	portUpload   = "tcp:9001"
	portUDP      = "udp:9002"
	portEcho     = "tcp:9003"
	portDiffer   = "tcp:9004"
	portCompute  = "tcp:9005"
	portOwn      = "tcp:9006" // writes pages with contents of each copy's own
	portSame     = "tcp:9007"
	portRate     = "tcp:9008"
)

var ports = []string{portHTTP, portDownload, portUpload, portUDP, portEcho, portDiffer, portCompute, portOwn, portSame, portRate}

// service builds what the guest runs beside Redis.
func (b *bench) service(ctx context.Context) (string, error) {
	dir, err := b.scratch()
	if err != nil {
		return "", err
	}
	out := filepath.Join(dir, "service")
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, "./deploy/bench/service")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=riscv64")
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the guest's service: %w: %s", err, said)
	}
	return out, nil
}

// config is that of every guest of a run.
func (b *bench) config(ctx context.Context) (cluster.Config, error) {
	service, err := b.service(ctx)
	if err != nil {
		return cluster.Config{}, err
	}
	return cluster.Config{
		Bin: b.bin, Guest: b.guest, Memory: b.memory, LogLevel: "warn", Service: "redis,measured",
		Add: []initrd.File{{Name: "services/measured", From: service}}, Ports: ports, HeartbeatTimeout: b.heartbeat,
	}, nil
}

// alone starts an unprotected guest and waits until it serves.
func (b *bench) alone(ctx context.Context, change func(*cluster.Config)) (*cluster.Cluster, error) {
	cfg, err := b.config(ctx)
	if err != nil {
		return nil, err
	}
	cfg.NoArbiter = true
	if change != nil {
		change(&cfg)
	}
	c, err := cluster.Start(cfg)
	if err != nil {
		return nil, err
	}
	if _, err = c.StartStandalone(); err == nil {
		err = serves(ctx, c)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// protected starts a guest with two copies and waits until both are under the
// arbiter's gate and the guest serves. flags are of the primary and secondary.
func (b *bench) protected(ctx context.Context, change func(*cluster.Config), primary, secondary []string) (*cluster.Cluster, error) {
	cfg, err := b.config(ctx)
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&cfg)
	}
	c, err := cluster.Start(cfg)
	if err != nil {
		return nil, err
	}
	if _, err = c.StartPrimary(primary...); err == nil {
		_, err = c.StartSecondary(secondary...)
	}
	if err == nil {
		err = serves(ctx, c)
	}
	if err == nil {
		err = protectedNow(ctx, c)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// protectedNow waits until two copies are under the arbiter's gate.
func protectedNow(ctx context.Context, c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	_, err := c.Protected(ctx, 0)
	return err
}

// serves waits until the guest's Redis and its service answer.
func serves(ctx context.Context, c *cluster.Cluster) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.DialRedis(ctx); err != nil {
		return err
	}
	if !strings.Contains(c.Service, "measured") {
		return nil
	}
	for {
		_, err := clients.Number(c.Address(portRate), 0)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the guest's service: %w (%w)", err, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// watch is what the arbiter tells of a VM, event by event.
type watch struct {
	cancel context.CancelFunc
	events chan *pb.Event
}

// watched starts a protected guest and listens to its events; end ends both.
func (b *bench) watched(ctx context.Context, change func(*cluster.Config), primary, secondary []string) (c *cluster.Cluster, w *watch, end func(), err error) {
	c, err = b.protected(ctx, change, primary, secondary)
	if err != nil {
		return nil, nil, nil, err
	}
	w, err = watchFrom(ctx, c)
	if err != nil {
		c.Close()
		return nil, nil, nil, err
	}
	return c, w, func() { w.close(); c.Close() }, nil
}

// watchFrom begins to listen, from now on.
func watchFrom(ctx context.Context, c *cluster.Cluster) (*watch, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := c.Admin().WatchEvents(ctx, &pb.WatchEventsRequest{Vm: c.VM})
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch the VM: %w", err)
	}
	w := &watch{cancel: cancel, events: make(chan *pb.Event, 1<<14)}
	began := time.Now().UnixMilli()
	go func() {
		defer close(w.events)
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			if e.GetUnixMs() >= began {
				w.events <- e
			}
		}
	}()
	return w, nil
}

func (w *watch) close() { w.cancel() }

// next returns the next event of a kind.
func (w *watch) next(ctx context.Context, kind pb.EventType) (*pb.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				return nil, fmt.Errorf("wait for %v: the arbiter's events ended", kind)
			}
			if e.GetType() == kind {
				return e, nil
			}
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for %v: %w", kind, ctx.Err())
		}
	}
}

// heard returns the events so far.
func (w *watch) heard() (all []*pb.Event) {
	for {
		select {
		case e, ok := <-w.events:
			if !ok {
				return all
			}
			all = append(all, e)
		default:
			return all
		}
	}
}

// resync resynchronizes and returns what it took.
func (w *watch) resync(ctx context.Context, c *cluster.Cluster) (*pb.SyncStats, error) {
	w.heard()
	order, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := c.Watch().Resync(order); err != nil {
		return nil, fmt.Errorf("resynchronize: %w", err)
	}
	e, err := w.next(ctx, pb.EventType_EVENT_TYPE_RESYNC_DONE)
	return e.GetStats(), err
}

// cpuTime is what a process has used.
func cpuTime(p *cluster.Process) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid()))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold anything; the rest are numbers.
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat is %q", p.Pid(), b)
	}
	var ticks int64
	for _, f := range fields[11:13] { // utime and stime, of 10 ms
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// resident is a process's memory, in MiB.
func resident(p *cluster.Process) (float64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		var kib float64
		if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
			return kib / 1024, nil
		}
	}
	return 0, fmt.Errorf("/proc/%d/status names no VmRSS", p.Pid())
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/machine"
)

// engine measures the interpreter and the hashing of pages.
func (b *bench) engine(ctx context.Context) error {
	return errors.Join(b.loops(ctx), b.bootSpeed(ctx), b.hashing(ctx))
}

// loops runs the interpreter's own benchmarks of small guests.
func (b *bench) loops(ctx context.Context) error {
	for range b.rounds {
		slowest := 0.0
		err := goBench(ctx, "./services/rv64", "Guest", func(name, unit string, v float64) {
			if unit != "MIPS" {
				return
			}
			name = strings.TrimPrefix(name, "BenchmarkGuest/")
			b.report.note("loop "+name, "MIPS", v)
			if name == "sieve" || name == "crc" || name == "sort" {
				if slowest == 0 || v < slowest {
					slowest = v
				}
			}
		})
		if err != nil {
			return err
		}
		b.report.note(figLoops, "MIPS", slowest)
	}
	return nil
}

// hashing runs the benchmark of page digests.
func (b *bench) hashing(ctx context.Context) error {
	for range b.rounds {
		err := goBench(ctx, "./services/checkpoint", "Digest/cores=1$", func(_, unit string, v float64) {
			if unit == "MB/s" {
				b.report.note(figHash, "GiB/s", v*1e6/(1<<30))
			}
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// goBench runs Go benchmarks and calls f with each of their figures.
func goBench(ctx context.Context, pkg, pattern string, f func(name, unit string, v float64)) error {
	out, err := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", "500ms", pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("benchmarks of %s: %w: %s", pkg, err, out)
	}
	found := false
	for line := range strings.Lines(string(out)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
			continue
		}
		name := fields[0]
		if i := strings.LastIndexByte(name, '-'); i > 0 { // the number of threads
			if _, err := strconv.Atoi(name[i+1:]); err == nil && !strings.Contains(name[i:], "=") {
				name = name[:i]
			}
		}
		for i := 2; i+1 < len(fields); i += 2 {
			v, err := strconv.ParseFloat(fields[i], 64)
			if err != nil {
				return fmt.Errorf("benchmarks of %s printed %q", pkg, line)
			}
			found = true
			f(name, fields[i+1], v)
		}
	}
	if !found {
		return fmt.Errorf("benchmarks of %s printed no figure: %s", pkg, out)
	}
	return nil
}

// bootSpeed boots the guest in this process and counts instructions by CPU time,
// so that a busy host disturbs them less.
func (b *bench) bootSpeed(ctx context.Context) error {
	kernel, err := os.ReadFile(filepath.Join(b.guest, "Image"))
	if err != nil {
		return fmt.Errorf("guest image is missing, run `make guest`: %w", err)
	}
	initrd, err := os.ReadFile(filepath.Join(b.guest, "initrd"))
	if err != nil {
		return fmt.Errorf("guest image is missing, run `make guest`: %w", err)
	}
	for range b.rounds {
		if err := b.bootOnce(ctx, kernel, initrd); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) bootOnce(ctx context.Context, kernel, initrd []byte) error {
	line := "console=ttyS0 quiet"
	if words, err := os.ReadFile(filepath.Join(b.guest, "cmdline")); err == nil {
		line = strings.TrimSpace(string(words))
	}
	ready := &await{text: []byte("understudy-guest: ready"), found: make(chan struct{})}
	m, err := machine.New(machine.Config{
		Engine: machine.EngineRV64, MemoryBytes: 256 << 20, CPUs: 1, MAC: [6]byte{0x52, 0x54, 0, 0, 0, 9},
		Kernel: kernel, Initrd: initrd, Append: line + " ud.ip=10.9.0.2/24 ud.service=redis",
	}, machine.Host{Console: ready})
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // nothing is kept of it
	before, err := ownCPU()
	if err != nil {
		return err
	}
	if err := m.Start(); err != nil {
		return err
	}
	select {
	case <-ready.found:
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(readyTimeout):
		return errors.New("the guest does not become ready")
	}
	m.Pause()
	after, err := ownCPU()
	if err != nil {
		return err
	}
	state, err := m.Save()
	if err != nil {
		return err
	}
	rv := &pb.Rv64State{}
	if err := proto.Unmarshal(state.GetEngineState(), rv); err != nil || len(rv.GetHarts()) == 0 {
		return fmt.Errorf("read the engine's state: %w", err)
	}
	million := float64(rv.GetHarts()[0].GetInstret()) / 1e6
	b.report.note(figBootMIPS, "MIPS", million/(after-before).Seconds())
	b.report.note("instructions from entry to Redis listening", "M", million)
	return nil
}

// ownCPU is the CPU time of this process.
func ownCPU() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, err
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// await is a console that waits for a text.
type await struct {
	mu    sync.Mutex
	seen  []byte
	text  []byte
	found chan struct{}
	once  sync.Once
}

func (a *await) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.seen = append(a.seen, p...)
	if bytes.Contains(a.seen, a.text) {
		a.once.Do(func() { close(a.found) })
	}
	a.seen = a.seen[max(0, len(a.seen)-len(a.text)):]
	return len(p), nil
}

// Command bench measures, in one run, what protection costs: the same guest
// under the same load alone (standalone), as two unprotected VMs under load at
// once (twin: what two copies cost on these cores without a protocol), and
// protected. It prints ratios first, writes build/bench.json, and with --ledger
// appends a dated entry to docs/bench/ledger.md.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
)

func main() {
	cmd := cli.New("bench", "measures what protection costs, side by side")
	b := &bench{}
	cmd.StringVar(&b.bin, "bin", "bin", "`DIR` with the binaries")
	cmd.StringVar(&b.guest, "guest", "build/guest/rv64", "`DIR` with the guest's Image and initrd")
	cmd.StringVar(&b.memory, "memory", "256M", "`SIZE` of the guest's memory")
	cmd.IntVar(&b.rounds, "rounds", 3, "`NUMBER` of rounds; each measures every variant once")
	cmd.IntVar(&b.requests, "requests", 4000, "`NUMBER` of requests of each measurement")
	out := cmd.String("out", "build/bench.json", "`FILE` for the results")
	ledger := cmd.String("ledger", "", "`FILE` that a dated entry is appended to")
	cli.Main(cmd, func(ctx context.Context, _ hclog.Logger) error {
		if _, err := exec.LookPath("redis-benchmark"); err != nil {
			return fmt.Errorf("redis-benchmark is missing: install Debian's redis-tools (%w)", err)
		}
		if b.rounds < 1 || b.requests < 1 {
			return fmt.Errorf("--rounds and --requests must be at least 1 (%w)", cli.ErrUsage)
		}
		r, err := b.run(ctx)
		if err != nil {
			return err
		}
		text := r.table()
		fmt.Print(text)
		data, err := json.MarshalIndent(r, "", "  ")
		if err != nil {
			return err
		}
		if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(*out, append(data, '\n'), 0o644); err != nil {
			return fmt.Errorf("write the results: %w", err)
		}
		if *ledger == "" {
			return nil
		}
		f, err := os.OpenFile(*ledger, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("open the ledger: %w", err)
		}
		if _, err := fmt.Fprintf(f, "\n## %s, %s\n\n```\n%s```\n", r.Date, r.Commit, text); err != nil {
			return fmt.Errorf("write the ledger: %w", err)
		}
		return f.Close()
	})
}

// report is what one run measured.
type report struct {
	Date    string `json:"date"`
	Commit  string `json:"commit"`
	Machine string `json:"machine"`
	// Loads holds, by load and variant, the samples of all rounds.
	Loads []load `json:"loads"`
	// Times are single figures, in milliseconds: median, minimum and maximum.
	Times []spread `json:"times"`
	// Counts of the protected variant.
	Resyncs uint64 `json:"resyncs"`
}

type load struct {
	Name string `json:"name"`
	// PerSecond and P50Ms, P99Ms are medians by variant.
	PerSecond map[string]spread `json:"per_second"`
	P50Ms     map[string]spread `json:"p50_ms"`
	P99Ms     map[string]spread `json:"p99_ms"`
}

type spread struct {
	Name                string  `json:"name,omitempty"`
	Median, Lowest, Top float64 `json:",omitempty"`
}

func newSpread(name string, samples []float64) spread {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return spread{Name: name}
	}
	return spread{Name: name, Median: s[len(s)/2], Lowest: s[0], Top: s[len(s)-1]}
}

func (s spread) String() string {
	return fmt.Sprintf("%.4g (%.4g … %.4g)", s.Median, s.Lowest, s.Top)
}

var variants = []string{"standalone", "twin", "protected"}

// table is the report for people, ratios first.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\nthroughput, median of the rounds:\n%-14s %22s %22s\n", r.Machine, "", "protected/twin", "protected/standalone")
	for _, l := range r.Loads {
		p := l.PerSecond["protected"].Median
		fmt.Fprintf(&b, "%-14s %22.2f %22.2f\n", l.Name, p/l.PerSecond["twin"].Median, p/l.PerSecond["standalone"].Median)
	}
	fmt.Fprintf(&b, "\n%-14s %-12s %28s %28s %28s\n", "load", "variant", "requests/s (lowest … top)", "p50 ms", "p99 ms")
	for _, l := range r.Loads {
		for _, v := range variants {
			fmt.Fprintf(&b, "%-14s %-12s %28s %28s %28s\n", l.Name, v, l.PerSecond[v], l.P50Ms[v], l.P99Ms[v])
		}
	}
	b.WriteString("\n")
	for _, t := range r.Times {
		fmt.Fprintf(&b, "%-46s %28s ms\n", t.Name, t)
	}
	fmt.Fprintf(&b, "%-46s %28d\n", "resynchronizations under all protected loads", r.Resyncs)
	return b.String()
}

func machineName() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if strings.HasPrefix(line, "model name") {
				_, name, _ := strings.Cut(line, ":")
				model = strings.TrimSpace(name)
				break
			}
		}
	}
	return fmt.Sprintf("%d × %s, %s", runtime.NumCPU(), model, runtime.Version())
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown commit"
	}
	return strings.TrimSpace(string(out))
}

func today() string { return time.Now().UTC().Format("2006-01-02 15:04 UTC") }

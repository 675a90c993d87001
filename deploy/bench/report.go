package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// report is what one run measured.
type report struct {
	Date    string `json:"date"`
	Commit  string `json:"commit"`
	Machine string `json:"machine"`
	// Load is the machine's load average before and after the run: a figure of a
	// busy machine says little.
	Load    [2]string `json:"load_average"`
	Targets []target  `json:"targets"`
	Loads   []*loaded `json:"loads,omitempty"`
	Figures []*figure `json:"figures,omitempty"`
	Curves  []*curve  `json:"curves,omitempty"`
	Causes  []cause   `json:"divergences,omitempty"`
	Failed  []failure `json:"failed,omitempty"`
}

// failure is a part, or a piece of one, that could not be measured.
type failure struct {
	Part  string `json:"part"`
	Error string `json:"error"`
}

// loaded is a load under each variant.
type loaded struct {
	Name string `json:"name"`
	Unit string `json:"unit"`
	// By variant; times in milliseconds.
	PerSecond map[string]spread `json:"per_second"`
	P50       map[string]spread `json:"p50_ms"`
	P99       map[string]spread `json:"p99_ms"`
	// Resyncs are those under the protected variant, in Seconds.
	Resyncs int     `json:"resyncs"`
	Seconds float64 `json:"protected_seconds"`
}

// ratio is the protected variant's median to another's; NaN: not measured.
func (l *loaded) ratio(other string) float64 {
	p, o := l.PerSecond["protected"], l.PerSecond[other]
	if p.Samples == 0 || o.Samples == 0 {
		return math.NaN()
	}
	return p.Median / o.Median
}

// figure is a single figure with all its samples.
type figure struct {
	Name    string    `json:"name"`
	Unit    string    `json:"unit"`
	Spread  spread    `json:"spread"`
	Samples []float64 `json:"samples"`
}

// curve is how figures grow with something.
type curve struct {
	Name   string  `json:"name"`
	X      string  `json:"x"`
	Y      string  `json:"y"`
	Log    bool    `json:"log"`
	Series []*line `json:"series"`
}

type line struct {
	Name   string       `json:"name"`
	Points [][2]float64 `json:"points"`
}

// cause is why copies diverged under a load, and how often.
type cause struct {
	Load    string  `json:"load"`
	Reason  string  `json:"reason"`
	Count   int     `json:"count"`
	Seconds float64 `json:"seconds"`
	Example string  `json:"example"`
}

func (c cause) perMinute() float64 { return float64(c.Count) * 60 / c.Seconds }

// spread is the median of samples and what is around it.
type spread struct {
	Samples int     `json:"samples"`
	Median  float64 `json:"median"`
	Lowest  float64 `json:"lowest"`
	P99     float64 `json:"p99"`
	Top     float64 `json:"top"`
}

func spreadOf(samples []float64) spread {
	s := slices.Sorted(slices.Values(samples))
	if len(s) == 0 {
		return spread{}
	}
	return spread{Samples: len(s), Median: s[(len(s)-1)/2], Lowest: s[0], P99: s[(len(s)*99-1)/100], Top: s[len(s)-1]}
}

func (s spread) String() string {
	if s.Samples == 0 {
		return "not measured"
	}
	return fmt.Sprintf("%.4g (%.4g … %.4g)", s.Median, s.Lowest, s.Top)
}

func newReport(o options) *report {
	return &report{
		Date: time.Now().UTC().Format("2006-01-02 15:04 UTC"), Commit: commit(),
		Machine: fmt.Sprintf("%s; %d rounds of %v", machineName(), o.rounds, o.span), Load: [2]string{loadAverage()},
	}
}

// note adds samples to a figure.
func (r *report) note(name, unit string, samples ...float64) {
	f := r.figure(name)
	if f == nil {
		f = &figure{Name: name, Unit: unit}
		r.Figures = append(r.Figures, f)
	}
	f.Samples = append(f.Samples, samples...)
	f.Spread = spreadOf(f.Samples)
}

func (r *report) figure(name string) *figure {
	for _, f := range r.Figures {
		if f.Name == name {
			return f
		}
	}
	return nil
}

func (r *report) load(name string) *loaded {
	for _, l := range r.Loads {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// curve returns the curve of that name, made if need be.
func (r *report) curve(name, x, y string, log bool) *curve {
	for _, c := range r.Curves {
		if c.Name == name {
			return c
		}
	}
	c := &curve{Name: name, X: x, Y: y, Log: log}
	r.Curves = append(r.Curves, c)
	return c
}

func (c *curve) add(series string, x, y float64) {
	for _, l := range c.Series {
		if l.Name == series {
			l.Points = append(l.Points, [2]float64{x, y})
			return
		}
	}
	c.Series = append(c.Series, &line{Name: series, Points: [][2]float64{{x, y}}})
}

// table is the report for people, ratios first.
func (r *report) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, commit %s\n%s\nload average %s before, %s after\n", r.Date, r.Commit, r.Machine, r.Load[0], r.Load[1])
	for _, f := range r.Failed {
		fmt.Fprintf(&b, "FAILED: %s: %s\n", f.Part, f.Error)
	}
	if len(r.Loads) > 0 {
		fmt.Fprintf(&b, "\n%-14s %16s %22s %26s\n", "throughput", "protected/twin", "protected/standalone", "resynchronizations/minute")
		for _, l := range r.Loads {
			fmt.Fprintf(&b, "%-14s %16s %22s %26s\n", l.Name, orNone("%.2f", l.ratio("twin")), orNone("%.2f", l.ratio("standalone")),
				orNone("%.1f", float64(l.Resyncs)*60/l.Seconds))
		}
	}
	fmt.Fprintf(&b, "\n%-62s %-26s %-12s %s\n", "target", "wanted", "measured", "met")
	left := 0
	for _, t := range r.Targets {
		if t.Measured == nil {
			left++
			continue
		}
		fmt.Fprintf(&b, "%-62s %-26s %-12s %s\n", t.Name, t.Target, t.text(), t.verdict())
	}
	if left > 0 {
		fmt.Fprintf(&b, "%d targets were not measured in this run\n", left)
	}
	if len(r.Loads) > 0 {
		fmt.Fprintf(&b, "\n%-14s %-12s %34s %26s %26s\n", "load", "variant", "per second (lowest … top)", "p50 ms", "p99 ms")
		for _, l := range r.Loads {
			for _, v := range variants {
				if l.PerSecond[v].Samples > 0 {
					fmt.Fprintf(&b, "%-14s %-12s %34s %26s %26s\n", l.Name, v, l.PerSecond[v].String()+" "+l.Unit, l.P50[v], l.P99[v])
				}
			}
		}
	}
	if len(r.Figures) > 0 {
		fmt.Fprintf(&b, "\n%-58s %34s %12s %8s\n", "figure", "median (lowest … top)", "p99", "samples")
		for _, f := range r.Figures {
			fmt.Fprintf(&b, "%-58s %34s %12.4g %8d\n", f.Name, f.Spread.String()+" "+f.Unit, f.Spread.P99, f.Spread.Samples)
		}
	}
	for _, c := range r.Curves {
		fmt.Fprintf(&b, "\n%s: %s by %s\n", c.Name, c.Y, c.X)
		for _, l := range c.Series {
			fmt.Fprintf(&b, "  %-30s", l.Name)
			for _, p := range l.Points {
				fmt.Fprintf(&b, " %.4g:%.4g", p[0], p[1])
			}
			b.WriteString("\n")
		}
	}
	if len(r.Causes) > 0 {
		fmt.Fprintf(&b, "\n%-14s %-18s %8s %10s %s\n", "divergences", "reason", "number", "a minute", "example")
		for _, c := range r.Causes {
			fmt.Fprintf(&b, "%-14s %-18s %8d %10.2f %s\n", c.Load, c.Reason, c.Count, c.perMinute(), c.Example)
		}
	}
	return b.String()
}

// orNone formats a figure; "-" where it was not measured.
func orNone(format string, v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "-"
	}
	return fmt.Sprintf(format, v)
}

// save writes the file for machines.
func (r *report) save(name string) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.WriteFile(name, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// write writes the file for machines, the ledger and the plots.
func (r *report) write(o options) error {
	errs := []error{r.save(o.out)}
	if o.ledger != "" {
		errs = append(errs, r.appendLedger(o.ledger))
	}
	if o.plots != "" {
		errs = append(errs, r.plot(o.plots))
	}
	return errors.Join(errs...)
}

func (r *report) appendLedger(name string) error {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("open the ledger: %w", err)
	}
	if _, err := fmt.Fprintf(f, "\n## %s, %s\n\n```\n%s```\n", r.Date, r.Commit, r.table()); err != nil {
		return errors.Join(fmt.Errorf("write the ledger: %w", err), f.Close())
	}
	return f.Close()
}

// machineName says what the machine is, without its name.
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
	memory := "unknown memory"
	if info, err := os.ReadFile("/proc/meminfo"); err == nil {
		var kib uint64
		if _, err := fmt.Sscanf(string(info), "MemTotal: %d kB", &kib); err == nil {
			memory = fmt.Sprintf("%.0f GiB", float64(kib)/(1<<20))
		}
	}
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease") // empty: not Linux
	return fmt.Sprintf("%d × %s, %s, Linux %s, %s", runtime.NumCPU(), model, memory, strings.TrimSpace(string(kernel)), runtime.Version())
}

func loadAverage() string {
	b, err := os.ReadFile("/proc/loadavg")
	if fields := strings.Fields(string(b)); err == nil && len(fields) > 2 {
		return strings.Join(fields[:3], " ")
	}
	return "unknown"
}

func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown commit"
	}
	return strings.TrimSpace(string(out))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

package main

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/services/cli"
)

// The wait for a release counts from the later of both copies' digests, also
// where the copies cut a stream differently.
func TestReleases(t *testing.T) {
	dir := t.TempDir()
	traces := [2]string{filepath.Join(dir, "active"), filepath.Join(dir, "standby")}
	active := "output 1000 1 1 1 7 90 3\nrelease 1500 1 1\n" // of an earlier part of the trace
	from := [2]int64{int64(len(active)), 0}
	active += strings.Join([]string{
		"output 10000 2 1 1 7 100 5", // later at the standby, in two pieces
		"output 20000 2 2 1 7 200 5", // earlier at the standby
		"output 21000 2 3 3 0 0 0",   // not compared
		"output 22000 2 4 2 8 1 0",   // a datagram
		"output 23000 2 5 1 7 300 9", // the standby's trace ends before it
		"release 19000 2 1", "release 24000 2 2", "release 24000 2 3", "release 25000 2 4", "release 26000 2 5",
		"release 27", // being written
	}, "\n")
	standby := strings.Join([]string{
		"output 11000 2 1 1 7 60 5", "output 12000 2 2 1 7 100 4", "output 14000 2 3 1 7 210 5",
		"output 22500 2 4 2 8 1 0", "output 30000 2 5 1 7 300 8",
	}, "\n") + "\n"
	for i, text := range []string{active, standby} {
		if err := os.WriteFile(traces[i], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	waits, err := releases(traces, from)
	if want := []float64{5, 4, 2.5}; err != nil || !slices.Equal(waits, want) {
		t.Errorf("got %v, %v, want %v", waits, err, want)
	}
	if _, err := releases(traces, [2]int64{int64(len(active)), int64(len(standby))}); err == nil {
		t.Error("waits out of nothing")
	}
}

// full is a report in which everything was measured.
func full() *report {
	r := newReport(options{rounds: 1, span: time.Second})
	for _, name := range []string{"SET 8", "GET 8", "TCP out", "CPU", "divergent"} {
		per := map[string]spread{}
		for i, v := range variants {
			per[v] = spreadOf([]float64{100 - 10*float64(i), 90, 120})
		}
		r.Loads = append(r.Loads, &loaded{Name: name, Unit: "/s", PerSecond: per, P50: per, P99: per, Resyncs: 3, Seconds: 10})
	}
	for _, f := range []string{figRelease, figArbiterCPU, figDecision, figOutputs, figArbiterCores, figArbiterMemory, figIdlePause,
		figPageBudget, figHash, figGapKill, figGapSilent, figLost, figCopy, figCopyClient, figBoot, figBootMIPS, figLoops} {
		r.note(f, "units", 2, 1, 3)
	}
	r.curve("growth-test", "x & y", "ms", true).add("a <line>", 1, 2)
	r.curve("growth-test", "", "", true).add("a <line>", 1000, 0.5)
	r.curve("growth-flat", "x", "ms", false).add("one point", 0, 0)
	r.Causes = causes("SET 8", time.Minute, nil)
	r.Failed = []failure{{"copy", "it broke"}}
	r.judge()
	return r
}

// Every target has a figure, and one that was not measured is not met.
func TestTargets(t *testing.T) {
	r := full()
	for _, target := range r.Targets {
		if target.Measured == nil {
			t.Errorf("nothing measures %q", target.Name)
		}
	}
	met := func(name string) bool {
		i := slices.IndexFunc(r.Targets, func(t target) bool { return strings.HasPrefix(t.Name, name) })
		return r.Targets[i].Met
	}
	if !met("fail-over gap at the client, process death, p50") || met("hashing") || met("protected / twin throughput, bulk") == false {
		t.Errorf("judged wrongly: %+v", r.Targets)
	}
	empty := newReport(options{})
	empty.judge()
	for _, target := range empty.Targets {
		if target.Met || target.Measured != nil {
			t.Errorf("nothing was measured, but %+v", target)
		}
	}
}

// What is written can be read again, by machines and by people.
func TestWritten(t *testing.T) {
	dir := t.TempDir()
	o := options{out: filepath.Join(dir, "new", "bench.json"), ledger: filepath.Join(dir, "ledger.md"), plots: filepath.Join(dir, "plots")}
	r := full()
	if err := r.write(o); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(o.out)
	if err != nil {
		t.Fatal(err)
	}
	var again report
	if err := json.Unmarshal(data, &again); err != nil || len(again.Targets) != len(r.Targets) || *again.Targets[0].Measured != *r.Targets[0].Measured {
		t.Errorf("the results read back as %+v, %v", again.Targets, err)
	}
	ledger, err := os.ReadFile(o.ledger)
	if err != nil || !strings.Contains(string(ledger), "FAILED: copy: it broke") || !strings.Contains(string(ledger), "## "+r.Date+", "+r.Commit) {
		t.Errorf("the ledger says %s, %v", ledger, err)
	}
	plots, err := filepath.Glob(filepath.Join(o.plots, "*.svg"))
	if err != nil || len(plots) != 4 {
		t.Fatalf("plots: %v, %v", plots, err)
	}
	for _, name := range plots {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for d := xml.NewDecoder(f); ; {
			token, err := d.Token()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if e, ok := token.(xml.StartElement); ok {
				for _, a := range e.Attr {
					if strings.Contains(a.Value, "NaN") || strings.Contains(a.Value, "Inf") {
						t.Errorf("%s: %s %s=%q", name, e.Name.Local, a.Name.Local, a.Value)
					}
				}
			}
		}
	}
}

func TestOptions(t *testing.T) {
	list := func(v ...string) *cli.List {
		l := cli.NewList()
		for _, s := range v {
			if err := l.Set(s); err != nil {
				t.Fatal(err)
			}
		}
		return l
	}
	good := func() options {
		return options{part: list(), load: list(), growth: list(), rounds: 1, kills: 1, resyncs: 4, vms: 1, span: time.Second, soak: time.Second}
	}
	for name, tc := range map[string]struct {
		change func(*options)
		want   string // parts; empty: refused
	}{
		"nothing":        {func(*options) {}, "engine, loads, boots, pauses, failovers, copy, arbiter"},
		"two parts":      {func(o *options) { o.part = list("copy", "loads") }, "copy, loads"},
		"growth besides": {func(o *options) { o.growth = list("all") }, "engine, loads, boots, pauses, failovers, copy, arbiter, growth"},
		"unknown part":   {func(o *options) { o.part = list("cpoy") }, ""},
		"unknown growth": {func(o *options) { o.growth = list("size") }, ""},
		"unknown load":   {func(o *options) { o.load = list("SET 9") }, ""},
		"no rounds":      {func(o *options) { o.rounds = 0 }, ""},
	} {
		o := good()
		tc.change(&o)
		chosen, err := o.check()
		if (err == nil) != (tc.want != "") || err == nil && names(chosen) != tc.want {
			t.Errorf("%s: %q, %v", name, names(chosen), err)
		}
	}
}

// A long wire delivers everything, in order, and not before its time.
func TestDelay(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	const by = 20 * time.Millisecond
	d, err := listenDelay(by)
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	d.to(ln.Addr().String())
	c, err := net.Dial("tcp", d.addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("over the wire ", 20_000)
	began := time.Now()
	go func() { _, _ = io.WriteString(c, text) }()
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("what came back differs, %v", err)
	}
	if took := time.Since(began); took < 2*by {
		t.Errorf("there and back in %v", took)
	}
}

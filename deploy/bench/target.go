package main

import (
	"fmt"
	"math"
)

// target is a figure that is wanted, and what was measured.
type target struct {
	Name     string   `json:"name"`
	Target   string   `json:"target"`
	Measured *float64 `json:"measured"` // null: not measured
	Met      bool     `json:"met"`
}

// text is what was measured.
func (t target) text() string { return fmt.Sprintf("%.3g", *t.Measured) }

func (t target) verdict() string {
	if t.Met {
		return "yes"
	}
	return "NO"
}

// figures that targets and measurements have in common.
const (
	figRelease        = "digest to release, SET 1 client"
	figReleaseBusy    = "digest to release, SET 8 clients"
	figArbiterCPU     = "arbiter: CPU per compared output, reports of 100"
	figArbiterCPUMany = "arbiter: CPU per compared output, many VMs, reports of 10"
	figBulkOutputs    = "arbiter: compared outputs a second, reports of 100"
	figBulkDecision   = "arbiter: decision, reports of 100"
	figArbiterCPUVM   = "arbiter: CPU per compared output, one guest, SET 50 P16"
	figDecision       = "arbiter: decision, many VMs"
	figOutputs        = "arbiter: compared outputs a second, many VMs"
	figArbiterCores   = "arbiter: cores used, many VMs"
	figArbiterMemory  = "arbiter: resident memory a VM"
	figIdlePause      = "pause, idle guest"
	figLoadPause      = "pause, SET 8 clients"
	figIdlePages      = "pages sent by a resynchronization, idle guest"
	figPageBudget     = "pause with differing pages, of what is allowed"
	figHash           = "hashing, one core"
	figGapKill        = "fail-over gap, process death"
	figGapSilent      = "fail-over gap, silent host"
	figLost           = "acknowledged writes lost in all fail-overs"
	figBroken         = "connections broken in all fail-overs"
	figCopy           = "first copy of 1 GiB while serving"
	figCopyClient     = "first copy: client's p99, of undisturbed"
	figBoot           = "standalone: start to Redis answering"
	figBootProtected  = "protected from the first instruction: start to Redis answering"
	figBootMIPS       = "kernel boot average"
	figLoops          = "integer loops, slowest of three"
)

// judge fills in the targets from what was measured.
func (r *report) judge() {
	r.Targets = nil
	least := func(name string, limit float64, unit string, measured float64) {
		r.target(name, fmt.Sprintf("≥ %g%s", limit, unit), measured, measured >= limit)
	}
	most := func(name string, limit float64, unit string, measured float64) {
		r.target(name, fmt.Sprintf("≤ %g%s", limit, unit), measured, measured <= limit)
	}
	median := func(name string) float64 { return r.stat(name, func(s spread) float64 { return s.Median }) }
	p99 := func(name string) float64 { return r.stat(name, func(s spread) float64 { return s.P99 }) }
	top := func(name string) float64 { return r.stat(name, func(s spread) float64 { return s.Top }) }

	least("protected / twin throughput, Redis SET, 8 clients", 0.85, "", r.ratio("SET 8", "twin"))
	least("protected / twin throughput, Redis GET, 8 clients", 0.85, "", r.ratio("GET 8", "twin"))
	least("protected / twin throughput, bulk TCP out", 0.70, "", r.ratio("TCP out", "twin"))
	least("CPU-only load, protected / twin", 0.98, "", r.ratio("CPU", "twin"))
	least("protected / standalone throughput, Redis SET, 8 clients", 0.65, "", r.ratio("SET 8", "standalone"))
	least("protected / standalone throughput, Redis GET, 8 clients", 0.65, "", r.ratio("GET 8", "standalone"))
	most("later digest to release, p50", 150, " µs", median(figRelease))
	most("later digest to release, p99", 1000, " µs", p99(figRelease))
	most("arbiter's CPU per compared output, batched load", 3, " µs", median(figArbiterCPU))
	least("one arbiter, compared outputs a second (1,000 VMs × 200)", 200_000*0.99, "", median(figOutputs))
	most("one arbiter, cores used (1,000 VMs × 200 outputs/s)", 1, "", median(figArbiterCores))
	most("one arbiter, p99 decision (1,000 VMs × 200 outputs/s)", 5, " ms", p99(figDecision))
	most("one arbiter, memory a VM", 1, " MiB", median(figArbiterMemory))
	most("resynchronization pause, idle guest, p50", 3, " ms", median(figIdlePause))
	most("resynchronization pause, idle guest, p99", 10, " ms", p99(figIdlePause))
	most("pause with N differing pages, of 3 ms + N × 4 KiB at 1 GiB/s", 1, "", median(figPageBudget))
	least("hashing the dirty union, a core", 4, " GiB/s", median(figHash))
	least("divergent service, replies/s", 50, "", r.perSecond("divergent"))
	most("fail-over gap at the client, process death, p50", 30, " ms", median(figGapKill))
	most("fail-over gap at the client, process death, p99", 250, " ms", p99(figGapKill))
	most("fail-over gap, silent host, p99", 600, " ms", p99(figGapSilent))
	most("acknowledged writes lost", 0, "", top(figLost))
	least("first full copy of 1 GiB while serving", 500, " MiB/s", median(figCopy))
	most("client's p99 during the first copy, of undisturbed", 3, "", median(figCopyClient))
	most("Debian from entry to Redis answering, standalone", 12, " s", median(figBoot))
	least("integer loops", 350, " MIPS", median(figLoops))
	least("kernel boot average", 150, " MIPS", median(figBootMIPS))
}

func (r *report) target(name, wanted string, measured float64, met bool) {
	t := target{Name: name, Target: wanted, Met: met}
	if !math.IsNaN(measured) {
		t.Measured = &measured
	}
	r.Targets = append(r.Targets, t)
}

// stat is a number of a figure, NaN where it was not measured.
func (r *report) stat(name string, of func(spread) float64) float64 {
	if f := r.figure(name); f != nil && f.Spread.Samples > 0 {
		return of(f.Spread)
	}
	return math.NaN()
}

func (r *report) ratio(load, other string) float64 {
	if l := r.load(load); l != nil {
		return l.ratio(other)
	}
	return math.NaN()
}

func (r *report) perSecond(load string) float64 {
	if l := r.load(load); l != nil && l.PerSecond["protected"].Samples > 0 {
		return l.PerSecond["protected"].Median
	}
	return math.NaN()
}

package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/histogram"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// Metrics are the arbiter's Prometheus metrics. Those of a VM come from the
// arbiter that owns it and begin at 0 when another takes it.
type Metrics struct {
	registry *prometheus.Registry
	commits  *prometheus.HistogramVec
}

// NewMetrics returns the metrics of the VMs that run here. leaseLeft tells for
// how long the arbiter's lease is still provable (negative: not any more).
func NewMetrics(vms VMs, version string, leaseLeft func() time.Duration) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		commits: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "understudy_commit_seconds", Help: "Time that transactions on VM records took, by outcome (ok, failed).",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 12),
		}, []string{"outcome"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "understudy_build_info", Help: "1, labelled with the version.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	m.registry.MustRegister(
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		build, m.commits,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "understudy_arbiter_lease_seconds", Help: "Time for which the arbiter's own etcd lease is still provable; 0: it owns nothing.",
		}, func() float64 { return max(0, leaseLeft().Seconds()) }),
		&vmCollector{vms: vms},
	)
	return m
}

// Committed counts one transaction.
func (m *Metrics) Committed(took time.Duration, err error) {
	outcome := "ok"
	if err != nil {
		outcome = "failed"
	}
	m.commits.WithLabelValues(outcome).Observe(took.Seconds())
}

// Handler serves the metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second})
}

// A family is one metric of each VM.
type family struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(sessions.Sample) float64
}

func newFamily(kind prometheus.ValueType, name, help string, value func(sessions.Sample) float64) family {
	return family{prometheus.NewDesc("understudy_"+name, help, []string{"vm"}, nil), kind, value}
}

func counterOf(name, help string, value func(*pb.VMCounters) uint64) family {
	return newFamily(prometheus.CounterValue, name, help, func(s sessions.Sample) float64 { return float64(value(s.Status.Counters)) })
}

func sentOf(name, help string, value func(*sessions.Stats) uint64) family {
	return newFamily(prometheus.CounterValue, name, help, func(s sessions.Sample) float64 { return float64(value(&s.Stats)) })
}

func gaugeOf(name, help string, value func(sessions.Sample) float64) family {
	return newFamily(prometheus.GaugeValue, name, help, value)
}

var families = []family{
	counterOf("outputs_released_total", "Outputs released to the active replica.", (*pb.VMCounters).GetOutputsReleased),
	counterOf("outputs_compared_total", "Outputs of the active that needed comparison.", (*pb.VMCounters).GetOutputsCompared),
	counterOf("outputs_passed_total", "Outputs released without comparison.", (*pb.VMCounters).GetOutputsPassed),
	counterOf("probes_total", "Digests asked for at exact offsets.", (*pb.VMCounters).GetProbes),
	counterOf("failovers_total", "Fail-overs.", (*pb.VMCounters).GetFailovers),
	sentOf("pages_compared_total", "Pages whose digests synchronizations compared.", func(s *sessions.Stats) uint64 { return s.PagesCompared }),
	sentOf("pages_sent_total", "Pages that synchronizations sent.", func(s *sessions.Stats) uint64 { return s.PagesSent }),
	sentOf("blocks_compared_total", "Disk blocks whose digests synchronizations compared.", func(s *sessions.Stats) uint64 { return s.BlocksCompared }),
	sentOf("blocks_sent_total", "Disk blocks that synchronizations sent.", func(s *sessions.Stats) uint64 { return s.BlocksSent }),
	sentOf("sync_bytes_sent_total", "Bytes that synchronizations sent.", func(s *sessions.Stats) uint64 { return s.BytesSent }),
	gaugeOf("vm_term", "Term of the VM.", func(s sessions.Sample) float64 { return float64(s.Status.Record.GetTerm()) }),
	gaugeOf("vm_epoch", "Epoch of the VM.", func(s sessions.Sample) float64 { return float64(s.Status.Epoch) }),
	gaugeOf("vm_since_timestamp_seconds", "Unix time at which the VM's term, and with it its mode, began.", func(s sessions.Sample) float64 {
		return float64(s.Status.Record.GetSinceUnixMs()) / 1000
	}),
	gaugeOf("vm_last_failover_timestamp_seconds", "Unix time of the last fail-over that this arbiter saw; 0: none.", func(s sessions.Sample) float64 {
		return float64(s.Stats.LastFailover.GetUnixMs()) / 1000
	}),
}

var (
	modeDesc     = prometheus.NewDesc("understudy_vm_mode", "1 for the mode that the VM is in.", []string{"vm", "mode"}, nil)
	replicasDesc = prometheus.NewDesc("understudy_vm_replicas", "Replicas attached, by their role.", []string{"vm", "role"}, nil)
	reportedDesc = prometheus.NewDesc("understudy_outputs_reported_total", "Outputs that the active reported, by kind.", []string{"vm", "kind"}, nil)
	mismatchDesc = prometheus.NewDesc("understudy_mismatches_total", "Disagreements of the copies: different, or missing on one side for too long.", []string{"vm", "reason"}, nil)
	resyncDesc   = prometheus.NewDesc("understudy_resyncs_total", "Resynchronizations begun, by reason.", []string{"vm", "reason"}, nil)
	latencyDesc  = prometheus.NewDesc("understudy_release_latency_seconds", "Time from the arrival of the active's report of an output to its release.", []string{"vm"}, nil)
	pauseDesc    = prometheus.NewDesc("understudy_resync_pause_seconds", "Pause of the active in a synchronization.", []string{"vm"}, nil)
	heldDesc     = prometheus.NewDesc("understudy_replica_held_outputs", "Outputs held at the replica.", []string{"vm", "replica", "role"}, nil)
	lagDesc      = prometheus.NewDesc("understudy_replica_feed_lag_inputs", "Inputs that the standby has received and not delivered.", []string{"vm", "replica", "role"}, nil)
	silentDesc   = prometheus.NewDesc("understudy_replica_silent_seconds", "Time since the replica was last heard.", []string{"vm", "replica", "role"}, nil)

	infoDesc = prometheus.NewDesc("understudy_replica_info", "1, labelled with the replica's release and the version of the protocol that it speaks with the arbiter.", []string{"vm", "replica", "version", "protocol"}, nil)

	descs = []*prometheus.Desc{
		modeDesc, replicasDesc, reportedDesc, mismatchDesc, resyncDesc, latencyDesc, pauseDesc, heldDesc, lagDesc, silentDesc, infoDesc,
	}
)

var (
	modes = []pb.Mode{pb.Mode_MODE_SOLO, pb.Mode_MODE_SYNCING, pb.Mode_MODE_PROTECTED, pb.Mode_MODE_ENDED}
	roles = []pb.Role{pb.Role_ROLE_ACTIVE, pb.Role_ROLE_STANDBY, pb.Role_ROLE_SPARE, pb.Role_ROLE_CANDIDATE}
	kinds = []pb.OutputKind{
		pb.OutputKind_OUTPUT_KIND_STREAM, pb.OutputKind_OUTPUT_KIND_DATAGRAM, pb.OutputKind_OUTPUT_KIND_PASS, pb.OutputKind_OUTPUT_KIND_EVENT,
	}
)

// vmCollector reads the VMs at each scrape.
type vmCollector struct{ vms VMs }

// Describe implements prometheus.Collector.
func (c *vmCollector) Describe(d chan<- *prometheus.Desc) {
	for _, f := range families {
		d <- f.desc
	}
	for _, desc := range descs {
		d <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *vmCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, s := range c.vms.Sample(ctx) {
		collect(out, s)
	}
}

// collect writes one VM's metrics.
func collect(out chan<- prometheus.Metric, s sessions.Sample) {
	vm := s.Status.Record.GetVm()
	metric := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, v, append([]string{vm}, labels...)...)
	}
	for _, f := range families {
		metric(f.desc, f.kind, f.value(s))
	}
	for _, m := range modes {
		is := 0.0
		if s.Status.Record.GetMode() == m {
			is = 1
		}
		metric(modeDesc, prometheus.GaugeValue, is, sessions.Words(m))
	}
	for _, k := range kinds {
		metric(reportedDesc, prometheus.CounterValue, float64(s.Stats.Outputs[k]), sessions.Words(k))
	}
	c := s.Status.Counters
	metric(mismatchDesc, prometheus.CounterValue, float64(c.GetMismatches()), "different")
	metric(mismatchDesc, prometheus.CounterValue, float64(c.GetCompareTimeouts()), "missing")
	for number := range pb.Reason_name {
		if r := pb.Reason(number); resyncReasons[r] || s.Stats.Resyncs[r] > 0 {
			metric(resyncDesc, prometheus.CounterValue, float64(s.Stats.Resyncs[r]), sessions.Words(r))
		}
	}
	for d, h := range map[*prometheus.Desc]*histogram.Histogram{latencyDesc: &s.Stats.Latency, pauseDesc: &s.Stats.Pauses} {
		out <- prometheus.MustNewConstHistogram(d, h.Count, float64(h.SumUs)/1e6, h.Cumulative(), vm)
	}
	count := map[pb.Role]int{}
	seen := map[string]bool{}
	for _, r := range s.Status.Replicas {
		id := r.Replica.GetId()
		if seen[id] { // one sample a replica, whatever the status repeats
			continue
		}
		seen[id] = true
		count[r.Role]++
		role := sessions.Words(r.Role)
		metric(heldDesc, prometheus.GaugeValue, float64(r.Held), id, role)
		metric(lagDesc, prometheus.GaugeValue, float64(r.FeedLag), id, role)
		metric(infoDesc, prometheus.GaugeValue, 1, id, release(r.Version), strconv.FormatUint(uint64(r.Protocol), 10))
		metric(silentDesc, prometheus.GaugeValue, float64(r.SilentMs)/1000, id, role)
	}
	for _, r := range roles {
		metric(replicasDesc, prometheus.GaugeValue, float64(count[r]), sessions.Words(r))
	}
}

// resyncReasons are those whose counters are there from the beginning, so that
// rates of them are right from the first resynchronization on.
var resyncReasons = map[pb.Reason]bool{
	pb.Reason_REASON_MISMATCH: true, pb.Reason_REASON_COMPARE_TIMEOUT: true, pb.Reason_REASON_PERIODIC: true,
	pb.Reason_REASON_OPERATOR: true, pb.Reason_REASON_ARBITER_CHANGED: true, pb.Reason_REASON_GUEST_REBOOT: true,
	pb.Reason_REASON_POLICY: true,
}

package web

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

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
	value func(*pb.VMStatus) float64
}

func counterOf(name, help string, value func(*pb.VMCounters) uint64) family {
	return family{
		desc:  prometheus.NewDesc("understudy_"+name, help, []string{"vm"}, nil),
		kind:  prometheus.CounterValue,
		value: func(s *pb.VMStatus) float64 { return float64(value(s.Counters)) },
	}
}

func gaugeOf(name, help string, value func(*pb.VMStatus) float64) family {
	return family{
		desc: prometheus.NewDesc("understudy_"+name, help, []string{"vm"}, nil),
		kind: prometheus.GaugeValue, value: value,
	}
}

var families = []family{
	counterOf("outputs_released_total", "Outputs released to the active replica.", (*pb.VMCounters).GetOutputsReleased),
	counterOf("outputs_compared_total", "Outputs found equal in both copies.", (*pb.VMCounters).GetOutputsCompared),
	counterOf("outputs_passed_total", "Outputs released without comparison.", (*pb.VMCounters).GetOutputsPassed),
	counterOf("probes_total", "Digests asked for at exact offsets.", (*pb.VMCounters).GetProbes),
	counterOf("mismatches_total", "Outputs that differed.", (*pb.VMCounters).GetMismatches),
	counterOf("compare_timeouts_total", "Outputs that one copy did not make in time.", (*pb.VMCounters).GetCompareTimeouts),
	counterOf("resyncs_total", "Resynchronizations.", (*pb.VMCounters).GetResyncs),
	counterOf("failovers_total", "Fail-overs.", (*pb.VMCounters).GetFailovers),
	counterOf("pages_compared_total", "Pages whose digests were compared by resynchronizations.", (*pb.VMCounters).GetPagesCompared),
	counterOf("pages_sent_total", "Pages sent by resynchronizations.", (*pb.VMCounters).GetPagesSent),
	gaugeOf("vm_term", "Term of the VM.", func(s *pb.VMStatus) float64 { return float64(s.Record.GetTerm()) }),
	gaugeOf("vm_epoch", "Epoch of the VM.", func(s *pb.VMStatus) float64 { return float64(s.Epoch) }),
	gaugeOf("vm_replicas", "Replicas attached.", func(s *pb.VMStatus) float64 { return float64(len(s.Replicas)) }),
	gaugeOf("resync_pause_seconds", "Pause of the last resynchronization.", func(s *pb.VMStatus) float64 {
		if p := s.Counters.GetRecentPausesUs(); len(p) > 0 {
			return float64(p[len(p)-1]) / 1e6
		}
		return 0
	}),
}

var (
	modeDesc   = prometheus.NewDesc("understudy_vm_mode", "1 for the mode that the VM is in.", []string{"vm", "mode"}, nil)
	heldDesc   = prometheus.NewDesc("understudy_replica_held_outputs", "Outputs held at the replica.", []string{"vm", "replica", "role"}, nil)
	lagDesc    = prometheus.NewDesc("understudy_replica_feed_lag", "Inputs that the standby has received and not delivered.", []string{"vm", "replica", "role"}, nil)
	silentDesc = prometheus.NewDesc("understudy_replica_silent_seconds", "Time since the replica was last heard.", []string{"vm", "replica", "role"}, nil)
)

var modes = []pb.Mode{pb.Mode_MODE_SOLO, pb.Mode_MODE_SYNCING, pb.Mode_MODE_PROTECTED, pb.Mode_MODE_ENDED}

// vmCollector reads the VMs at each scrape.
type vmCollector struct{ vms VMs }

// Describe implements prometheus.Collector.
func (c *vmCollector) Describe(d chan<- *prometheus.Desc) {
	for _, f := range families {
		d <- f.desc
	}
	for _, desc := range []*prometheus.Desc{modeDesc, heldDesc, lagDesc, silentDesc} {
		d <- desc
	}
}

// Collect implements prometheus.Collector.
func (c *vmCollector) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	for _, s := range c.vms.Local(ctx) {
		vm := s.Record.GetVm()
		for _, f := range families {
			out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.value(s), vm)
		}
		for _, m := range modes {
			is := 0.0
			if s.Record.GetMode() == m {
				is = 1
			}
			out <- prometheus.MustNewConstMetric(modeDesc, prometheus.GaugeValue, is, vm, sessions.Words(m))
		}
		seen := map[string]bool{}
		for _, r := range s.Replicas {
			id := r.Replica.GetId()
			if seen[id] { // one sample a replica, whatever the status repeats
				continue
			}
			seen[id] = true
			gauge := func(d *prometheus.Desc, v float64) {
				out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, vm, id, sessions.Words(r.Role))
			}
			gauge(heldDesc, float64(r.Held))
			gauge(lagDesc, float64(r.FeedLag))
			gauge(silentDesc, float64(r.SilentMs)/1000)
		}
	}
}

package web

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

func busyVM() sessions.Sample {
	s := sample("web", pb.Mode_MODE_PROTECTED)
	s.Status.Counters = &pb.VMCounters{OutputsReleased: 5, Failovers: 2, Mismatches: 3, CompareTimeouts: 1}
	s.Stats.Resyncs = map[pb.Reason]uint64{pb.Reason_REASON_MISMATCH: 4, pb.Reason_REASON_LAGGING: 1}
	s.Stats.Outputs[pb.OutputKind_OUTPUT_KIND_STREAM] = 6
	s.Stats.Pauses.Observe(2 * time.Millisecond)
	s.Stats.Latency.Observe(300 * time.Microsecond)
	s.Stats.Latency.Observe(time.Minute)
	s.Stats.LastFailover = &pb.Event{UnixMs: 1500}
	s.Stats.PagesSent, s.Stats.BlocksSent = 7, 8
	twice := &pb.ReplicaStatus{Replica: &pb.ReplicaRef{Id: "r-1"}, Role: pb.Role_ROLE_STANDBY, Held: 3, FeedLag: 2, SilentMs: 40, Version: "v1.2 (go1.26, linux/amd64)", Protocol: 2}
	s.Status.Replicas = []*pb.ReplicaStatus{twice, twice}
	return s
}

func scrape(t *testing.T, here ...sessions.Sample) string {
	t.Helper()
	code, body := fetch(t, serve(vms{here: here}, events.New(1), nil), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	return body
}

func TestMetrics(t *testing.T) {
	bare := sessions.Sample{Status: &pb.VMStatus{Record: &pb.Record{Vm: "bare"}}}
	body := scrape(t, busyVM(), bare)
	for _, want := range []string{
		`understudy_outputs_released_total{vm="web"} 5`, `understudy_failovers_total{vm="web"} 2`, `understudy_failovers_total{vm="bare"} 0`,
		`understudy_outputs_reported_total{kind="stream",vm="web"} 6`, `understudy_outputs_reported_total{kind="event",vm="web"} 0`,
		`understudy_mismatches_total{reason="different",vm="web"} 3`, `understudy_mismatches_total{reason="missing",vm="web"} 1`,
		`understudy_resyncs_total{reason="mismatch",vm="web"} 4`, `understudy_resyncs_total{reason="lagging",vm="web"} 1`,
		`understudy_resyncs_total{reason="operator",vm="bare"} 0`,
		`understudy_pages_sent_total{vm="web"} 7`, `understudy_blocks_sent_total{vm="web"} 8`,
		`understudy_vm_mode{mode="protected",vm="web"} 1`, `understudy_vm_mode{mode="solo",vm="web"} 0`,
		`understudy_vm_replicas{role="standby",vm="web"} 1`, `understudy_vm_replicas{role="spare",vm="web"} 0`,
		`understudy_vm_last_failover_timestamp_seconds{vm="web"} 1.5`,
		`understudy_replica_held_outputs{replica="r-1",role="standby",vm="web"} 3`,
		`understudy_replica_feed_lag_inputs{replica="r-1",role="standby",vm="web"} 2`,
		`understudy_replica_silent_seconds{replica="r-1",role="standby",vm="web"} 0.04`,
		`understudy_replica_info{protocol="2",replica="r-1",version="v1.2",vm="web"} 1`,
		`understudy_resync_pause_seconds_sum{vm="web"} 0.002`, `understudy_resync_pause_seconds_count{vm="web"} 1`,
		`understudy_release_latency_seconds_bucket{vm="web",le="0.000256"} 0`,
		`understudy_release_latency_seconds_bucket{vm="web",le="0.000512"} 1`,
		`understudy_release_latency_seconds_bucket{vm="web",le="+Inf"} 2`,
		`understudy_arbiter_lease_seconds 0`, `understudy_build_info{version="v1"} 1`,
		`understudy_commit_seconds_count{outcome="ok"} 1`, `understudy_commit_seconds_count{outcome="failed"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %q", want)
		}
	}
	if t.Failed() {
		t.Log(body)
	}
}

// registered is every name that a series of a live registry has, and their help
// by the names of their families.
func registered(t *testing.T) (series map[string]bool, families map[string]string) {
	series, families = map[string]bool{}, map[string]string{}
	for _, line := range strings.Split(scrape(t, busyVM()), "\n") {
		if rest, ok := strings.CutPrefix(line, "# HELP "); ok {
			name, help, _ := strings.Cut(rest, " ")
			families[name] = help
		} else if line != "" && line[0] != '#' {
			series[line[:strings.IndexAny(line, "{ ")]] = true
		}
	}
	return series, families
}

const monitoring = "../../../deploy/monitoring"

// document reads a file for monitoring.
func document(t *testing.T, file string) (doc any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(monitoring, file))
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(file, ".json") {
		err = json.Unmarshal(b, &doc)
	} else {
		err = yaml.UnmarshalStrict(b, &doc)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return doc
}

// expressions are what a document asks Prometheus: all "expr" keys, and the "query"
// keys that are no name of a data source.
func expressions(doc any) (out []string) {
	switch doc := doc.(type) {
	case map[string]any:
		for k, v := range doc {
			if s, ok := v.(string); ok && (k == "expr" || k == "query" && strings.Contains(s, "(")) {
				out = append(out, s)
			} else {
				out = append(out, expressions(v)...)
			}
		}
	case []any:
		for _, v := range doc {
			out = append(out, expressions(v)...)
		}
	}
	return out
}

var (
	selector = regexp.MustCompile(`(understudy_\w+)\{([^}]*)\}`)
	matcher  = regexp.MustCompile(`(\w+)(=~|=)"([^"]*)"`)
	grouping = regexp.MustCompile(`\b(?:by|on) \(([^)]*)\)`)
)

// Labels that expressions select and group by are there, and so are the values: a
// selector that fits nothing is an alert that never fires.
func TestMonitoringUsesLabelsThatExist(t *testing.T) {
	values, n := map[string]bool{"instance": true, "job": true}, 0 // given by Prometheus itself
	for _, line := range strings.Split(scrape(t, busyVM()), "\n") {
		name, labels, _ := strings.Cut(line, "{")
		for _, m := range matcher.FindAllStringSubmatch(labels, -1) {
			values[m[1]] = true
			values[name+" "+m[1]+"="+m[3]] = true
		}
	}
	for _, file := range []string{"alerts.yaml", "dashboard.json"} {
		for _, e := range expressions(document(t, file)) {
			for _, m := range grouping.FindAllStringSubmatch(e, -1) {
				for label := range strings.SplitSeq(m[1], ",") {
					if !values[strings.TrimSpace(label)] {
						t.Errorf("%s: nothing has the label %s, in %q", file, label, e)
					}
				}
			}
			for _, s := range selector.FindAllStringSubmatch(e, -1) {
				for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
					for value := range strings.SplitSeq(m[3], "|") {
						if n++; !strings.Contains(value, "$") && !values[s[1]+" "+m[1]+"="+value] {
							t.Errorf("%s: no series has %s=%q, in %q", file, m[1], value, e)
						}
					}
				}
			}
		}
	}
	if n < 10 {
		t.Errorf("%d values were found", n)
	}
}

// Prometheus refuses a file of rules for a field that it does not know.
func TestAlertsAreRules(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(monitoring, "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `json:"name"`
			Rules []struct {
				Alert       string            `json:"alert"`
				Expr        string            `json:"expr"`
				For         string            `json:"for"`
				Labels      map[string]string `json:"labels"`
				Annotations map[string]string `json:"annotations"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.UnmarshalStrict(b, &file); err != nil || len(file.Groups) != 1 {
		t.Fatalf("%v, %d groups", err, len(file.Groups))
	}
	names := map[string]bool{}
	for _, r := range file.Groups[0].Rules {
		if r.Alert == "" || names[r.Alert] {
			t.Errorf("the name %q is missing or stands twice", r.Alert)
		}
		names[r.Alert] = true
		if r.For != "" {
			if _, err := time.ParseDuration(r.For); err != nil {
				t.Errorf("%s: %v", r.Alert, err)
			}
		}
		if s := r.Labels["severity"]; s != "info" && s != "warning" && s != "critical" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if r.Annotations["summary"] == "" {
			t.Errorf("%s: no summary", r.Alert)
		}
		if strings.Count(r.Expr, "(") != strings.Count(r.Expr, ")") {
			t.Errorf("%s: %q", r.Alert, r.Expr)
		}
	}
}

var metricName = regexp.MustCompile(`\b(understudy|go|process|promhttp)_[a-z0-9_]+`)

// What the dashboard and the alerts ask for is there, and what is there is
// documented, and the other way round.
func TestMonitoringUsesMetricsThatExist(t *testing.T) {
	series, families := registered(t)
	for file, least := range map[string]int{"alerts.yaml": 8, "dashboard.json": 12} {
		exprs := expressions(document(t, file))
		if len(exprs) < least {
			t.Errorf("%s has %d expressions", file, len(exprs))
		}
		for _, e := range exprs {
			names := metricName.FindAllString(e, -1)
			if len(names) == 0 && !strings.HasPrefix(e, "up{") {
				t.Errorf("%s: no metric in %q", file, e)
			}
			for _, n := range names {
				if !series[n] {
					t.Errorf("%s: %s does not exist, in %q", file, n, e)
				}
			}
		}
	}
	doc, err := os.ReadFile("../../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for name := range families {
		if strings.HasPrefix(name, "understudy_") && !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("docs/metrics.md does not tell of %s", name)
		}
	}
	for _, n := range metricName.FindAllString(string(doc), -1) {
		if _, family := families[n]; !family && !series[n] {
			t.Errorf("docs/metrics.md tells of %s, which does not exist", n)
		}
	}
}

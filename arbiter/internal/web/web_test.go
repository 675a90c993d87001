package web

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
)

// vms is a fixed set of VMs.
type vms struct {
	list []*pb.VMStatus
	err  error
}

func (v vms) All(context.Context) ([]*pb.VMStatus, error) { return v.list, v.err }
func (v vms) Local(context.Context) []*pb.VMStatus        { return v.list }
func record(vm string, m pb.Mode) *pb.VMStatus {
	return &pb.VMStatus{Record: &pb.Record{Vm: vm, Mode: m}}
}
func fetch(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	return w.Code, w.Body.String()
}

func serve(v vms, log *events.Log, ready error) http.Handler {
	m := NewMetrics(v, "v1", func() time.Duration { return -time.Second })
	m.Committed(time.Millisecond, nil)
	m.Committed(time.Millisecond, errors.New("no"))
	return Handler(Config{VMs: v, Events: log, ArbiterID: "A", Version: "v1", Ready: func() error { return ready }, Metrics: m.Handler(), Log: hclog.NewNullLogger()})
}

func TestPageSaysTheStateInWords(t *testing.T) {
	log := events.New(10)
	log.Add(&pb.Event{Vm: "p", Type: pb.EventType_EVENT_TYPE_FAILOVER, Reason: pb.Reason_REASON_LOST_REPLICA, Detail: "r-2 takes over"})
	full := record("p", pb.Mode_MODE_PROTECTED)
	full.Record.Active, full.Record.Term, full.Epoch = &pb.ReplicaRef{Id: "r-1"}, 7, 9
	full.Counters = &pb.VMCounters{OutputsReleased: 1234567, RecentPausesUs: []uint64{5, 1500}}
	full.Replicas = []*pb.ReplicaStatus{{Replica: &pb.ReplicaRef{Id: "r-1"}, Role: pb.Role_ROLE_ACTIVE, SilentMs: 350}, {}}
	h := serve(vms{list: []*pb.VMStatus{
		full, record("s", pb.Mode_MODE_SOLO), record("c", pb.Mode_MODE_SYNCING), record("e", pb.Mode_MODE_ENDED), record("n", 0), {},
	}}, log, nil)
	code, body := fetch(t, h, "/")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, want := range []string{
		`class="state good">protected`, `class="state bad">running unprotected<`, `class="state warn">running unprotected, copying`,
		"powered off by its guest", "not started", "1234567", "1.5ms", "silent for 350 ms", "failover: lost replica", "r-2 takes over",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestPageEscapesAndSaysProblems(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	log := events.New(10)
	log.Add(&pb.Event{Vm: evil, Detail: evil})
	s := record(evil, pb.Mode_MODE_SOLO)
	s.Summary, s.Replicas = evil, []*pb.ReplicaStatus{{Replica: &pb.ReplicaRef{Id: evil, Address: evil}}}
	h := serve(vms{list: []*pb.VMStatus{s}, err: errors.New("etcd is away " + evil)}, log, errors.New("no lease"))
	_, body := fetch(t, h, "/")
	if strings.Contains(body, "<script>alert") {
		t.Errorf("not escaped:\n%s", body)
	}
	for _, want := range []string{"etcd is away", "cannot own VMs now: no lease"} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
}

func TestPaths(t *testing.T) {
	ready, unready := serve(vms{}, events.New(1), nil), serve(vms{}, events.New(1), errors.New("no lease"))
	for _, tc := range []struct {
		h    http.Handler
		path string
		code int
		want string
	}{
		{ready, "/healthz", 200, "ok"}, {unready, "/healthz", 200, "ok"},
		{ready, "/readyz", 200, "ready"}, {unready, "/readyz", 503, "no lease"},
		{ready, "/style.css", 200, "prefers-color-scheme"}, {ready, "/live.js", 200, "EventSource"},
		{ready, "/page.html", 404, ""}, {ready, "/nothing", 404, ""},
	} {
		if code, body := fetch(t, tc.h, tc.path); code != tc.code || !strings.Contains(body, tc.want) {
			t.Errorf("%s: %d %s", tc.path, code, body)
		}
	}
	w := httptest.NewRecorder()
	ready.ServeHTTP(w, httptest.NewRequest("POST", "/", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}

func TestMetrics(t *testing.T) {
	s := record("web", pb.Mode_MODE_PROTECTED)
	s.Counters = &pb.VMCounters{OutputsReleased: 5, Failovers: 2, RecentPausesUs: []uint64{2000}}
	twice := &pb.ReplicaStatus{Replica: &pb.ReplicaRef{Id: "r-1"}, Role: pb.Role_ROLE_STANDBY, Held: 3, SilentMs: 40}
	s.Replicas = []*pb.ReplicaStatus{twice, twice}
	code, body := fetch(t, serve(vms{list: []*pb.VMStatus{s, record("bare", 0)}}, events.New(1), nil), "/metrics")
	if code != http.StatusOK {
		t.Fatalf("%d %s", code, body)
	}
	for _, want := range []string{
		`understudy_outputs_released_total{vm="web"} 5`, `understudy_failovers_total{vm="web"} 2`, `understudy_failovers_total{vm="bare"} 0`,
		`understudy_vm_mode{mode="protected",vm="web"} 1`, `understudy_vm_mode{mode="solo",vm="web"} 0`,
		`understudy_replica_held_outputs{replica="r-1",role="standby",vm="web"} 3`, `understudy_replica_silent_seconds{replica="r-1",role="standby",vm="web"} 0.04`,
		`understudy_resync_pause_seconds{vm="web"} 0.002`, `understudy_arbiter_lease_seconds 0`, `understudy_build_info{version="v1"} 1`,
		`understudy_commit_seconds_count{outcome="ok"} 1`, `understudy_commit_seconds_count{outcome="failed"} 1`,
	} {
		if !strings.Contains(body, want+"\n") {
			t.Errorf("no %q", want)
		}
	}
}

func TestLivePagesAreBounded(t *testing.T) {
	h := serve(vms{}, events.New(1), nil)
	server := httptest.NewServer(h)
	defer server.Close()
	for range viewersMax {
		r, err := http.Get(server.URL + "/events")
		if err != nil || r.StatusCode != http.StatusOK {
			t.Fatal(r, err)
		}
		defer r.Body.Close()
	}
	r, err := http.Get(server.URL + "/events")
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("live page %d: %s", viewersMax+1, r.Status)
	}
}

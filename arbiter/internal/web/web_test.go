package web

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// vms is a fixed set of VMs: those that run here, and those of others.
type vms struct {
	here      []sessions.Sample
	elsewhere []*pb.VMStatus
	arbiters  []*pb.ArbiterStatus
	err       error
}

func (v vms) Sample(context.Context) []sessions.Sample              { return v.here }
func (v vms) Recorded(context.Context) ([]*pb.VMStatus, error)      { return v.elsewhere, v.err }
func (v vms) Arbiters(context.Context) ([]*pb.ArbiterStatus, error) { return v.arbiters, v.err }

func sample(vm string, m pb.Mode) sessions.Sample {
	return sessions.Sample{Status: &pb.VMStatus{Record: &pb.Record{
		Vm: vm, Mode: m, Term: 1, Active: &pb.ReplicaRef{Id: "r-1"}, Standby: &pb.ReplicaRef{Id: "r-2"},
	}}}
}

func attached(s sessions.Sample, roles map[string]pb.Role) sessions.Sample {
	for id, role := range roles {
		s.Status.Replicas = append(s.Status.Replicas, &pb.ReplicaStatus{Replica: &pb.ReplicaRef{Id: id}, Role: role})
	}
	return s
}

func fetch(t *testing.T, h http.Handler, path string) (int, string) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), "GET", path, nil))
	return w.Code, w.Body.String()
}

func serve(v VMs, log *events.Log, ready error) *Server {
	left := func() time.Duration { return -time.Second }
	m := NewMetrics(v, "v1", left)
	m.Committed(time.Millisecond, nil)
	m.Committed(time.Millisecond, errors.New("no"))
	return New(Config{
		VMs: v, Events: log, ArbiterID: "A", Version: "v1", Ready: func() error { return ready }, LeaseLeft: left,
		Metrics: m.Handler(), Log: hclog.NewNullLogger(),
	})
}

func TestStatesInPlainWords(t *testing.T) {
	active, spare := map[string]pb.Role{"r-1": pb.Role_ROLE_ACTIVE}, map[string]pb.Role{"r-1": pb.Role_ROLE_ACTIVE, "r-3": pb.Role_ROLE_SPARE}
	resyncing := sample("a", pb.Mode_MODE_PROTECTED)
	resyncing.Stats.Resyncing = &pb.Event{Reason: pb.Reason_REASON_MISMATCH}
	owned := sample("a", pb.Mode_MODE_PROTECTED)
	owned.Status.Owner = &pb.ArbiterRef{Id: "B"}
	ended := sample("a", pb.Mode_MODE_ENDED)
	ended.Status.Record.Reason = pb.Reason_REASON_GUEST_POWEROFF
	none := sessions.Sample{Status: &pb.VMStatus{Record: &pb.Record{Vm: "a"}}}
	for _, tc := range []struct {
		s                sessions.Sample
		here             bool
		level, text, why string
	}{
		{sample("a", pb.Mode_MODE_PROTECTED), true, "good", "Protected", "r-2 takes over at once"},
		{resyncing, true, "warn", "Resynchronizing", "(mismatch)"},
		{sample("a", pb.Mode_MODE_SYNCING), true, "warn", "Unprotected", "copied to r-2"},
		{attached(sample("a", pb.Mode_MODE_SOLO), spare), true, "warn", "Unprotected", "A spare is attached"},
		{attached(sample("a", pb.Mode_MODE_SOLO), active), true, "bad", "Needs a secondary", "no spare is attached"},
		{sample("a", pb.Mode_MODE_SOLO), true, "warn", "Unprotected", "not attached to this arbiter"},
		{ended, true, "idle", "Ended", "guest poweroff"},
		{none, true, "idle", "Not started", ""},
		{owned, false, "good", "Protected", "Another arbiter owns the VM"},
		{sample("a", pb.Mode_MODE_SOLO), false, "warn", "Unprotected", "No arbiter owns the VM now"},
		{none, false, "idle", "Not started", ""},
	} {
		level, text, why := state(tc.s, tc.here)
		if level != tc.level || text != tc.text || !strings.Contains(why, tc.why) {
			t.Errorf("%v: %s, %q, %q", tc.s.Status, level, text, why)
		}
	}
}

// A VM is unprotected since it began to run alone, whatever copies failed since.
func TestUnprotectedSince(t *testing.T) {
	at := func(ms int64, vm string, what pb.EventType) *pb.Event {
		return &pb.Event{UnixMs: ms, Vm: vm, Type: what}
	}
	events := []*pb.Event{ // newest first
		at(900, "web", pb.EventType_EVENT_TYPE_SYNCING), at(800, "web", pb.EventType_EVENT_TYPE_SOLO), at(750, "db", pb.EventType_EVENT_TYPE_PROTECTED),
		at(700, "web", pb.EventType_EVENT_TYPE_SYNCING), at(600, "web", pb.EventType_EVENT_TYPE_FAILOVER), at(590, "web", pb.EventType_EVENT_TYPE_REPLICA_LOST),
		at(500, "web", pb.EventType_EVENT_TYPE_PROTECTED), at(400, "web", pb.EventType_EVENT_TYPE_SOLO),
	}
	for _, tc := range []struct {
		vm         string
		term, want int64
	}{{"web", 900, 600}, {"db", 760, 760}, {"none", 5, 5}} {
		if got := aloneSince(events, tc.vm, tc.term); got != tc.want {
			t.Errorf("%s: since %d, want %d", tc.vm, got, tc.want)
		}
	}
}

func TestPages(t *testing.T) {
	log := events.New(10)
	log.Add(&pb.Event{Vm: "web", Type: pb.EventType_EVENT_TYPE_FAILOVER, Reason: pb.Reason_REASON_LOST_REPLICA, Detail: "r-2 takes over", UnixMs: 1})
	full := attached(sample("web", pb.Mode_MODE_PROTECTED), map[string]pb.Role{"r-1": pb.Role_ROLE_ACTIVE})
	full.Status.Record.Term, full.Status.Epoch, full.Status.Record.SinceUnixMs = 7, 9, 1700000000000
	full.Status.Counters = &pb.VMCounters{OutputsReleased: 1234567, RecentPausesUs: []uint64{5, 1500}}
	full.Status.Replicas[0].SilentMs = 350
	full.Stats.LastFailover = log.Last("", 1)[0]
	far := sample("far", pb.Mode_MODE_PROTECTED).Status
	far.Owner = &pb.ArbiterRef{Id: "B", Address: "10.0.0.4:7400", Page: "http://10.0.0.4:7480/"}
	evil := sample("evil", pb.Mode_MODE_PROTECTED).Status
	evil.Owner = &pb.ArbiterRef{Id: "C", Page: "javascript:alert(1)"}
	h := serve(vms{here: []sessions.Sample{full}, elsewhere: []*pb.VMStatus{evil, far, {Record: &pb.Record{Vm: "web"}}}, arbiters: []*pb.ArbiterStatus{
		{Arbiter: &pb.ArbiterRef{Id: "A", Address: "10.0.0.3:7400"}}, {Arbiter: &pb.ArbiterRef{Id: "B", Address: "10.0.0.4:7400"}}, {Arbiter: &pb.ArbiterRef{Id: "idle", Address: "10.0.0.5:7400"}},
	}}, log, nil)
	for _, tc := range []struct {
		path       string
		code       int
		has, hasNo []string
	}{
		{"/", 200, []string{
			`<a href="/vm/web">web</a>`, "Protected", `<time datetime="2023-11-14T22:13:20.000Z">22:13:20 UTC</time>`, "Fail-over", "lost replica",
			"r-2 takes over", `data-chart="outputs" data-vm="web"`, "Owned by arbiter <b>B</b> at 10.0.0.4:7400", `href="http://10.0.0.4:7480/"`,
		}, []string{"javascript:", `data-vm="far"`, `style="`, "<script>"}},
		{"/vm/web", 200, []string{"1\u202f234\u202f567", "1.5 ms", "silent for 0.3 s", `data-chart="pages"`}, []string{"10.0.0.4"}},
		{"/vm/far", 200, []string{"Owned by arbiter"}, []string{"data-chart"}},
		{"/vm/none", 404, []string{"Nobody knows a VM of this name"}, nil},
		{"/arbiter", 200, []string{"Arbiter A", "Ready", `<a href="http://10.0.0.4:7480/">B</a>`, `idle <span class="dim">10.0.0.5:7400 · 0 VMs</span>`, `<a href="/vm/web">web</a>`}, []string{"javascript:"}},
	} {
		code, body := fetch(t, h, tc.path)
		if code != tc.code {
			t.Errorf("%s: %d", tc.path, code)
		}
		for _, want := range tc.has {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %q in\n%s", tc.path, want, body)
			}
		}
		for _, not := range tc.hasNo {
			if strings.Contains(body, not) {
				t.Errorf("%s: %q in\n%s", tc.path, not, body)
			}
		}
	}
}

// A hole in the promise is seen wherever the VM is, whoever owns it.
func TestPagesShowWhatIsNotCompared(t *testing.T) {
	here, far := sample("web", pb.Mode_MODE_PROTECTED), sample("far", pb.Mode_MODE_PROTECTED).Status
	here.Status.Record.Policy = &pb.Policy{FlowRules: []string{"tcp any:80 > any: compare", "tcp 10.0.0.2:443 > any: pass", "udp any > any: bypass"}}
	far.Record.Policy = &pb.Policy{FlowRules: []string{"tcp any:6380 > any: pass"}}
	h := serve(vms{here: []sessions.Sample{here}, elsewhere: []*pb.VMStatus{far}}, events.New(10), nil)
	for path, rules := range map[string][]string{
		"/": {"tcp 10.0.0.2:443 &gt; any: pass", "udp any &gt; any: bypass", "tcp any:6380 &gt; any: pass"}, "/vm/web": {"tcp 10.0.0.2:443 &gt; any: pass"}, "/vm/far": {"tcp any:6380 &gt; any: pass"},
	} {
		_, page := fetch(t, h, path)
		for _, rule := range rules {
			if !strings.Contains(page, "<code>"+rule+"</code>") {
				t.Errorf("%s does not show %s", path, rule)
			}
		}
		if strings.Contains(page, "compare</code>") {
			t.Errorf("%s shows a rule that is no hole", path)
		}
	}
}

func TestPagesEscapeAndSayProblems(t *testing.T) {
	const evil = `"><script>alert(1)</script>`
	log := events.New(10)
	log.Add(&pb.Event{Vm: evil, Detail: evil})
	s := sample(evil, pb.Mode_MODE_SOLO)
	s.Status.Record.Active.Id = evil
	s.Status.Replicas = []*pb.ReplicaStatus{{Replica: &pb.ReplicaRef{Id: evil, Address: evil}}}
	far := sample(evil+"2", 0).Status
	far.Owner = &pb.ArbiterRef{Id: evil, Address: evil, Page: `http://x/"><script>alert(1)</script>`}
	h := serve(vms{[]sessions.Sample{s}, []*pb.VMStatus{far, {}}, []*pb.ArbiterStatus{{Arbiter: &pb.ArbiterRef{Id: evil + "3", Address: evil}}}, errors.New("etcd is away " + evil)}, log, errors.New("no lease"))
	for _, path := range []string{"/", "/arbiter", "/vm/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/vm/%22%3E%3Cscript%3Ealert(1)%3C%2Fscript%3E9"} {
		_, body := fetch(t, h, path)
		if strings.Contains(body, "<script>alert") {
			t.Errorf("%s: not escaped:\n%s", path, body)
		}
		if path == "/arbiter" {
			continue
		}
		for _, want := range []string{"etcd is away", "cannot own VMs now: no lease"} {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %q in\n%s", path, want, body)
			}
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
		{ready, "/", 200, "No VM yet"},
		{ready, "/healthz", 200, "ok"}, {unready, "/healthz", 200, "ok"},
		{ready, "/readyz", 200, "ready"}, {unready, "/readyz", 503, "no lease"},
		{ready, "/style.css", 200, "prefers-color-scheme"}, {ready, "/live.js", 200, "EventSource"},
		{ready, "/chart.js", 200, "charts"}, {ready, "/icon.svg", 200, "<svg"},
		{ready, "/page.html", 404, ""}, {ready, "/nothing", 404, ""}, {ready, "/vm/", 404, ""},
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
	csp := w.Header().Get("Content-Security-Policy")
	if !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy %q", csp)
	}
}

// What a page gets: its live part, the points, and the news at once.
func TestLive(t *testing.T) {
	log := events.New(10)
	v := &vms{here: []sessions.Sample{sample("web", pb.Mode_MODE_PROTECTED)}}
	h := serve(v, log, nil)
	for i := range 3 {
		h.history.add(v.here, time.UnixMilli(int64(1000*(i+1))))
	}
	server := httptest.NewServer(h)
	defer server.Close()
	r, err := http.Get(server.URL + "/events?page=/&vm=web")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	next := func(event string) string {
		t.Helper()
		for lines.Scan() {
			if lines.Text() == "event: "+event {
				lines.Scan()
				return strings.TrimPrefix(lines.Text(), "data: ")
			}
		}
		t.Fatal("the stream has ended")
		return ""
	}
	var page string
	if err := json.Unmarshal([]byte(next("page")), &page); err != nil || !strings.Contains(page, "Protected") {
		t.Errorf("page: %v %s", err, page)
	}
	if points := next("series"); !strings.Contains(points, `"vm":"web"`) || strings.Count(points, `"t":`) != 2 {
		t.Errorf("points: %s", points)
	}
	begun := time.Now()
	log.Add(&pb.Event{Vm: "web", Type: pb.EventType_EVENT_TYPE_FAILOVER})
	if page := next("page"); !strings.Contains(page, "Fail-over") {
		t.Errorf("page: %s", page)
	}
	if took := time.Since(begun); took > 30*time.Second {
		t.Errorf("an event took %v", took)
	}
	h.history.add(v.here, time.UnixMilli(5000))
	if points := next("series"); strings.Count(points, `"t":`) != 1 {
		t.Errorf("points: %s", points)
	}
	next("beat")
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

func TestHistory(t *testing.T) {
	h := newHistory()
	counted := func(released, pages uint64, pauses ...uint64) sessions.Sample {
		s := attached(sample("web", pb.Mode_MODE_PROTECTED), map[string]pb.Role{"r-2": pb.Role_ROLE_STANDBY})
		s.Status.Replicas[0].FeedLag = 4
		s.Status.Counters = &pb.VMCounters{OutputsReleased: released, RecentPausesUs: pauses}
		s.Stats.PagesSent = pages
		s.Stats.Resyncs = map[pb.Reason]uint64{pb.Reason_REASON_MISMATCH: uint64(len(pauses))}
		for _, us := range pauses {
			s.Stats.Pauses.Observe(time.Duration(us) * time.Microsecond)
		}
		for range released {
			s.Stats.Latency.Observe(time.Millisecond)
		}
		return s
	}
	at := func(s float64) time.Time { return time.UnixMilli(int64(s * 1000)) }
	h.add([]sessions.Sample{counted(10, 5)}, at(1))
	h.add([]sessions.Sample{counted(30, 12, 900, 4500)}, at(3))
	h.add([]sessions.Sample{counted(30, 12, 900, 4500)}, at(4))
	h.add([]sessions.Sample{counted(6, 1)}, at(5)) // another session of the VM
	got := h.after("web", 0)
	if len(got) != 3 {
		t.Fatalf("%d points", len(got))
	}
	p := got[0]
	if p.Outputs != 10 || p.Pages != 7 || p.Pause != 4.5 || p.Lag != 4 || p.Resyncs["mismatch"] != 2 || p.P50 < 0.8 || p.P99 > 1.3 {
		t.Errorf("first point %+v", p)
	}
	if p := got[1]; p.Outputs != 0 || p.P50 != 0 || p.Pause != 0 || p.Resyncs != nil {
		t.Errorf("second point %+v", p)
	}
	if p := got[2]; p.Outputs != 6 || p.Pages != 1 {
		t.Errorf("third point %+v", p)
	}
	if got := h.after("web", 4000); len(got) != 1 {
		t.Errorf("%d points after the fourth second", len(got))
	}
	for i := range pointsKept + 5 {
		h.add([]sessions.Sample{counted(1, 1)}, at(float64(10+i)))
	}
	if n := len(h.after("web", 0)); n != pointsKept {
		t.Errorf("%d points are kept", n)
	}
	alone := counted(1, 1)
	alone.Status.Record.Mode = pb.Mode_MODE_SOLO
	h.add([]sessions.Sample{alone}, at(900))
	if p := h.after("web", 899_000); len(p) != 1 || !p[0].Alone {
		t.Errorf("without protection: %+v", p)
	}
	h.add(nil, at(1000))
	if n := len(h.after("web", 0)); n != 0 {
		t.Errorf("%d points of a VM that has gone", n)
	}
}

func TestTimelineGroupsResynchronizations(t *testing.T) {
	var list []*pb.Event // newest first
	add := func(vm string, typ pb.EventType, r pb.Reason) {
		list = append([]*pb.Event{{Vm: vm, Type: typ, Reason: r}}, list...)
	}
	resync := func(vm string, r pb.Reason) {
		add(vm, pb.EventType_EVENT_TYPE_RESYNC_STARTED, r)
		add(vm, pb.EventType_EVENT_TYPE_RESYNC_DONE, r)
	}
	add("a", pb.EventType_EVENT_TYPE_PROTECTED, pb.Reason_REASON_NEW_STANDBY)
	for range 3 {
		resync("a", pb.Reason_REASON_MISMATCH)
	}
	resync("a", pb.Reason_REASON_OPERATOR)
	add("b", pb.EventType_EVENT_TYPE_SOLO, 0)
	resync("a", pb.Reason_REASON_OPERATOR)
	add("a", pb.EventType_EVENT_TYPE_RESYNC_STARTED, pb.Reason_REASON_MISMATCH)
	var got []string
	for _, e := range timeline(list, "") {
		got = append(got, fmt.Sprint(e.VM, " ", e.What, " ", e.Why))
	}
	want := "a Resynchronizing mismatch, a Resynchronized operator, b Unprotected , a Resynchronized operator, " +
		"a Resynchronized 3 times mismatch, a Protected "
	if s := strings.Join(got, ", "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	if n := len(timeline(list, "b")); n != 1 {
		t.Errorf("%d entries of b", n)
	}
}

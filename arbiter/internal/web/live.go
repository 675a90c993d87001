package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

const (
	// refresh is how often a live page is brought up to date at least; an event
	// brings it up to date at once, but not more often than each refreshMin.
	refresh    = 500 * time.Millisecond
	refreshMin = 120 * time.Millisecond
	// beatEvery is how often a page hears of the arbiter at least. The script
	// calls the connection lost after some of them.
	beatEvery = 2 * time.Second
	// viewersMax bounds the live pages.
	viewersMax = 64
	// writeTimeout bounds a write to a browser that may have gone.
	writeTimeout = 5 * time.Second
	// chartsMax bounds the VMs on the first page whose charts are drawn there.
	chartsMax = 24
	// etcdMax is how long the page waits for etcd.
	etcdMax = 500 * time.Millisecond
)

// live sends what changes on a page, as server-sent events:
//
//	page    the live part as a JSON string of HTML, each time that it has changed
//	series  {"vm":…,"points":[…]}: points that the page has not got yet
//	beat    nothing else for beatEvery
func (s *Server) live(w http.ResponseWriter, r *http.Request) {
	select {
	case s.viewers <- struct{}{}:
		defer func() { <-s.viewers }()
	default:
		http.Error(w, "too many live pages", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	about := subjectOf(r.URL.Query().Get("page"), r.URL.Query().Get("vm"))
	out := &stream{w: w, control: http.NewResponseController(w), points: map[string]int64{}}
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		events, points := s.cfg.Events.More(), s.history.changed()
		if err := s.update(r.Context(), out, about); err != nil {
			return // the browser has gone
		}
		pause.Reset(refreshMin)
		select {
		case <-r.Context().Done():
			return
		case <-pause.C:
		}
		select {
		case <-r.Context().Done():
			return
		case <-events:
		case <-points:
		case <-ticker.C:
		}
	}
}

// update sends what a page has not got yet.
func (s *Server) update(ctx context.Context, out *stream, about subject) error {
	body, _, err := s.render(ctx, about)
	if err != nil {
		return err
	}
	if !bytes.Equal(body, out.body) {
		if err := out.send("page", string(body)); err != nil {
			return err
		}
		out.body = body
	}
	for _, vm := range s.charted(about) {
		points := s.history.after(vm, out.points[vm])
		if len(points) == 0 {
			continue
		}
		out.points[vm] = points[len(points)-1].UnixMs
		if err := out.send("series", struct {
			VM     string  `json:"vm"`
			Points []point `json:"points"`
		}{vm, points}); err != nil {
			return err
		}
	}
	if time.Since(out.sent) >= beatEvery {
		return out.send("beat", nil)
	}
	return nil
}

// charted names the VMs whose charts are on a page.
func (s *Server) charted(about subject) []string {
	switch about.Kind {
	case "vm":
		return []string{about.VM}
	case "overview":
		return s.view.charted()
	}
	return nil
}

// stream is the way to one browser.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	sent    time.Time
	body    []byte
	points  map[string]int64 // time of the last point sent, by VM
}

func (o *stream) send(event string, data any) error {
	b, err := json.Marshal(data)
	if err != nil {
		return err
	}
	if err := o.control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := fmt.Fprintf(o.w, "event: %s\ndata: %s\n\n", event, b); err != nil {
		return err
	}
	o.sent = time.Now()
	return o.control.Flush()
}

// snapshots keeps the last view, and what was rendered of it, for all viewers
// together.
type snapshots struct {
	mu       sync.Mutex
	taken    time.Time
	view     *view
	rendered map[subject]rendering
}

type rendering struct {
	body  []byte
	found bool
}

// charted names the VMs of the view whose charts are on the first page.
func (s *snapshots) charted() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if s.view != nil {
		for _, v := range s.view.VMs {
			if v.Charted {
				out = append(out, v.Name)
			}
		}
	}
	return out
}

// render returns the live part of a page, at most refreshMin old, and whether
// there is what it is about.
func (s *Server) render(ctx context.Context, about subject) ([]byte, bool, error) {
	v := &s.view
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.view == nil || time.Since(v.taken) > refreshMin*3/4 {
		v.view, v.rendered = s.look(ctx), map[subject]rendering{}
		v.taken = time.Now()
	}
	if r, ok := v.rendered[about]; ok {
		return r.body, r.found, nil
	}
	part, found := v.view.of(about)
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, about.Kind, part); err != nil {
		return nil, false, err
	}
	if found { // names that nobody has are not worth remembering
		v.rendered[about] = rendering{b.Bytes(), found}
	}
	return b.Bytes(), found, nil
}

// look takes a new view.
func (s *Server) look(ctx context.Context) *view {
	// One viewer that goes does not spoil it for the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), etcdMax)
	defer cancel()
	samples := s.cfg.VMs.Sample(ctx)
	recorded, err := s.cfg.VMs.Recorded(ctx)
	here := map[string]bool{}
	for _, x := range samples {
		here[x.Status.Record.GetVm()] = true
	}
	for _, r := range recorded {
		if !here[r.Record.GetVm()] {
			samples = append(samples, sessions.Sample{Status: r})
		}
	}
	arbiters, err2 := s.cfg.VMs.Arbiters(ctx)
	if err == nil {
		err = err2
	}
	v := newView(samples, here, s.cfg.Events.Last("", eventsRead))
	v.addOthers(arbiters, s.cfg.ArbiterID)
	if err != nil {
		v.Problems = append(v.Problems, "Other arbiters and their VMs may be missing here: "+err.Error())
	}
	v.Self = s.self(len(here))
	if v.Self.Problem != "" {
		v.Problems = append(v.Problems, "This arbiter cannot own VMs now: "+v.Self.Problem)
	}
	return v
}

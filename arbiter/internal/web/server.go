// Package web serves the arbiter's status page, its metrics and its probes over
// HTTP. Everything is read-only:
//
//	/          the status page
//	/events    the page's live part as server-sent events
//	/metrics   Prometheus metrics (see Metrics)
//	/healthz   200 while the process serves
//	/readyz    200 while the arbiter can own VMs, else 503 and the reason
package web

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
)

const (
	// refresh is how often a live page is brought up to date.
	refresh = 500 * time.Millisecond
	// viewersMax bounds the live pages.
	viewersMax = 64
	// writeTimeout bounds a write to a browser that may have gone.
	writeTimeout = 5 * time.Second
)

//go:embed page.html style.css live.js
var files embed.FS

var pages = template.Must(template.New("").ParseFS(files, "page.html"))

// VMs is where the status comes from.
type VMs interface {
	// All is every VM that this arbiter knows of, Local those that run here.
	All(context.Context) ([]*pb.VMStatus, error)
	Local(context.Context) []*pb.VMStatus
}

// Config is what the pages show.
type Config struct {
	VMs                VMs
	Events             *events.Log
	ArbiterID, Version string
	// Ready is nil while the arbiter can own VMs, else the reason.
	Ready   func() error
	Metrics http.Handler
	Log     hclog.Logger
}

type server struct {
	cfg     Config
	viewers chan struct{} // one token for each live page

	mu       sync.Mutex
	fragment []byte // the live part, rendered at
	rendered time.Time
}

// Handler returns the HTTP handler.
func Handler(cfg Config) http.Handler {
	s := &server{cfg: cfg, viewers: make(chan struct{}, viewersMax)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page)
	mux.HandleFunc("GET /events", s.live)
	mux.Handle("GET /style.css", http.FileServerFS(files))
	mux.Handle("GET /live.js", http.FileServerFS(files))
	mux.Handle("GET /metrics", cfg.Metrics)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", s.ready)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		mux.ServeHTTP(w, r)
	})
}

func (s *server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

func (s *server) page(w http.ResponseWriter, r *http.Request) {
	body, err := s.render(r.Context())
	if err != nil {
		s.cfg.Log.Error("status page", "error", err)
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	data := struct {
		Arbiter, Version string
		Live             template.HTML // made by the template "live", which escapes
	}{s.cfg.ArbiterID, s.cfg.Version, template.HTML(body)}
	if err := pages.ExecuteTemplate(w, "page", data); err != nil {
		s.cfg.Log.Debug("status page not sent", "error", err)
	}
}

// live sends the live part each time that it has changed.
func (s *server) live(w http.ResponseWriter, r *http.Request) {
	select {
	case s.viewers <- struct{}{}:
		defer func() { <-s.viewers }()
	default:
		http.Error(w, "too many live pages", http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	control := http.NewResponseController(w)
	ticker := time.NewTicker(refresh)
	defer ticker.Stop()
	var last []byte
	var sent time.Time
	for {
		body, err := s.render(r.Context())
		if err != nil {
			return
		}
		if !bytes.Equal(body, last) || time.Since(sent) > 10*time.Second { // the latter keeps proxies awake
			last, sent = body, time.Now()
			data, err := json.Marshal(string(body))
			if err != nil {
				return
			}
			if err := control.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
				return
			}
			if _, err := fmt.Fprintf(w, "data: %s\n\n", data); err != nil {
				return
			}
			if err := control.Flush(); err != nil {
				return
			}
		}
		select {
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}

// render returns the live part of the page, at most refresh old, for all
// viewers together.
func (s *server) render(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.rendered) < refresh*3/4 {
		return s.fragment, nil
	}
	// One viewer that goes does not spoil it for the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 500*time.Millisecond)
	defer cancel()
	vms, err := s.cfg.VMs.All(ctx)
	if ctx.Err() != nil && err == nil {
		err = ctx.Err()
	}
	v := newView(vms, s.cfg.Events.Last("", 40))
	if err != nil {
		v.Problems = append(v.Problems, "The list lacks VMs of other arbiters: "+err.Error())
	}
	if err := s.cfg.Ready(); err != nil {
		v.Problems = append(v.Problems, "This arbiter cannot own VMs now: "+err.Error())
	}
	var b bytes.Buffer
	if err := pages.ExecuteTemplate(&b, "live", v); err != nil {
		return nil, err
	}
	s.fragment, s.rendered = b.Bytes(), time.Now()
	return s.fragment, nil
}

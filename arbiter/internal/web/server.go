// Package web serves the arbiter's status pages, its metrics and its probes over
// HTTP. Everything is read-only:
//
//	/          every VM, and the last events
//	/vm/NAME   one VM, with all its charts
//	/arbiter   this arbiter, and the others that are alive
//	/events    a page's live part as server-sent events (see live)
//	/metrics   Prometheus metrics (see Metrics)
//	/healthz   200 while the process serves
//	/readyz    200 while the arbiter can own VMs, else 503 and the reason
//
// The pages work without scripts, too, as they were when they were loaded; only
// the charts are drawn by the script. They load nothing from elsewhere. Whatever
// peers say reaches them through html/template, or as numbers.
package web

import (
	"context"
	"embed"
	"fmt"
	"html/template"
	"net/http"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

//go:embed page.html style.css live.js chart.js icon.svg
var files embed.FS

var pages = template.Must(template.New("").ParseFS(files, "page.html"))

// VMs is where the status comes from. *sessions.Registry is one.
type VMs interface {
	// Sample is the state of every VM that runs here; Recorded what etcd says
	// about every VM, with what is known of them where there is an error.
	Sample(context.Context) []sessions.Sample
	Recorded(context.Context) ([]*pb.VMStatus, error)
	// Arbiters are those that hold a lease, this one among them.
	Arbiters(context.Context) ([]*pb.ArbiterStatus, error)
}

// Config is what the pages show.
type Config struct {
	VMs                VMs
	Events             *events.Log
	ArbiterID, Version string
	// Ready is nil while the arbiter can own VMs, else the reason.
	Ready func() error
	// LeaseLeft tells for how long the arbiter's lease is still provable.
	LeaseLeft func() time.Duration
	Metrics   http.Handler
	Log       hclog.Logger
}

// Server is the HTTP handler.
type Server struct {
	cfg     Config
	mux     *http.ServeMux
	started time.Time
	viewers chan struct{} // one token for each live page
	history *history
	view    snapshots
}

// New returns the handler. Its charts grow while Run runs.
func New(cfg Config) *Server {
	s := &Server{
		cfg: cfg, mux: http.NewServeMux(), started: time.Now(), viewers: make(chan struct{}, viewersMax), history: newHistory(),
	}
	s.mux.HandleFunc("GET /{$}", s.page)
	s.mux.HandleFunc("GET /vm/{vm}", s.page)
	s.mux.HandleFunc("GET /arbiter", s.page)
	s.mux.HandleFunc("GET /events", s.live)
	for _, f := range []string{"style.css", "live.js", "chart.js", "icon.svg"} {
		s.mux.HandleFunc("GET /"+f, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Cache-Control", "no-cache")
			http.ServeFileFS(w, r, files, f)
		})
	}
	s.mux.Handle("GET /metrics", cfg.Metrics)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.HandleFunc("GET /readyz", s.ready)
	return s
}

// Run takes the samples that the charts show, until the context ends.
func (s *Server) Run(ctx context.Context) { s.history.run(ctx, s.cfg.VMs) }

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	s.mux.ServeHTTP(w, r)
}

func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	if err := s.cfg.Ready(); err != nil {
		http.Error(w, "not ready: "+err.Error(), http.StatusServiceUnavailable)
		return
	}
	fmt.Fprintln(w, "ready")
}

// subject is what a page is about.
type subject struct {
	// Kind is the name of its template: "overview", "vm" or "arbiter".
	Kind string
	VM   string
}

func subjectOf(path, vm string) subject {
	switch {
	case vm != "":
		return subject{"vm", vm}
	case path == "/arbiter":
		return subject{Kind: "arbiter"}
	}
	return subject{Kind: "overview"}
}

// frame is a page around its live part.
type frame struct {
	subject
	Title, Arbiter, Version string
	Live                    template.HTML // made by a template, which escapes
}

func (s *Server) page(w http.ResponseWriter, r *http.Request) {
	about := subjectOf(r.URL.Path, r.PathValue("vm"))
	body, found, err := s.render(r.Context(), about)
	if err != nil {
		s.cfg.Log.Error("status page", "error", err)
		http.Error(w, "the page could not be made", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if !found {
		w.WriteHeader(http.StatusNotFound)
	}
	title := "Understudy"
	switch about.Kind {
	case "vm":
		title = about.VM + " · Understudy"
	case "arbiter":
		title = "Arbiter · Understudy"
	}
	f := frame{about, title, s.cfg.ArbiterID, s.cfg.Version, template.HTML(body)}
	if err := pages.ExecuteTemplate(w, "page", f); err != nil {
		s.cfg.Log.Debug("status page not sent", "error", err)
	}
}

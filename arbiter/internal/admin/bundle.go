package admin

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"
)

// chunkBytes is the size of a piece of a support bundle, collectTimeout bounds
// the wait for its parts, and eventsMax the events in it.
const (
	chunkBytes     = 64 << 10
	collectTimeout = 10 * time.Second
	eventsMax      = 10_000
)

// GetSupportBundle implements pb.AdminServer. A part that cannot be had is a
// file that says why.
func (s *Service) GetSupportBundle(r *pb.GetSupportBundleRequest, g grpc.ServerStreamingServer[pb.SupportBundleChunk]) error {
	by := identity.Name(g.Context())
	if r.Vm != "" {
		if err := check(name("vm", "VM", r.Vm)); err != nil {
			s.record("GetSupportBundle", r, by, nil, err)
			return err
		}
	}
	ctx, cancel := context.WithTimeout(g.Context(), collectTimeout)
	defer cancel()
	err := s.bundle(ctx, r.Vm, chunks{g})
	s.record("GetSupportBundle", r, by, nil, err)
	return toStatus(err, r.Vm)
}

// chunks sends what is written to it.
type chunks struct {
	g grpc.ServerStreamingServer[pb.SupportBundleChunk]
}

func (c chunks) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		n := min(len(rest), chunkBytes)
		if err := c.g.Send(&pb.SupportBundleChunk{Data: rest[:n]}); err != nil {
			return len(p) - len(rest), err
		}
		rest = rest[n:]
	}
	return len(p), nil
}

// bundle writes a tar.gz about one VM, or about all.
func (s *Service) bundle(ctx context.Context, vm string, w io.Writer) error {
	zip := gzip.NewWriter(w)
	archive := tar.NewWriter(zip)
	now := time.Now()
	for _, f := range []struct {
		name string
		fill func(context.Context, string, io.Writer) error
	}{
		{"version.txt", s.versions},
		{"arbiters.json", s.arbiters},
		{"vms.json", s.statuses},
		{"events.json", s.events},
		{"metrics.txt", s.metrics},
		{"log.txt", s.log},
		{"goroutines.txt", func(_ context.Context, _ string, w io.Writer) error { return pprof.Lookup("goroutine").WriteTo(w, 2) }},
	} {
		var b bytes.Buffer
		if err := f.fill(ctx, vm, &b); err != nil {
			fmt.Fprintf(&b, "could not be collected: %v\n", err)
		}
		head := &tar.Header{Name: "understudy-support/" + f.name, Mode: 0o644, Size: int64(b.Len()), ModTime: now}
		if err := archive.WriteHeader(head); err != nil {
			return err
		}
		if _, err := archive.Write(b.Bytes()); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zip.Close()
}

func (s *Service) versions(_ context.Context, _ string, w io.Writer) error {
	fmt.Fprintf(w, "arbiter %s, version %s, up %v\n", s.cfg.ArbiterID, s.cfg.Version, time.Since(s.started).Round(time.Second))
	fmt.Fprintf(w, "%s %s/%s, %d CPUs, GOMAXPROCS %d, %d goroutines\n", runtime.Version(), runtime.GOOS, runtime.GOARCH,
		runtime.NumCPU(), runtime.GOMAXPROCS(0), runtime.NumGoroutine())
	if info, ok := debug.ReadBuildInfo(); ok {
		fmt.Fprintf(w, "\n%s", info)
	}
	return nil
}

func (s *Service) arbiters(ctx context.Context, _ string, w io.Writer) error {
	list, err := s.ListArbiters(ctx, nil)
	if err != nil {
		return err
	}
	return writeJSON(w, list)
}

func (s *Service) statuses(ctx context.Context, vm string, w io.Writer) error {
	all, err := s.all(ctx)
	list := &pb.ListVMsResponse{}
	for _, v := range all {
		if vm == "" || v.Record.GetVm() == vm {
			list.Vms = append(list.Vms, v)
		}
	}
	if err != nil {
		return err
	}
	return writeJSON(w, list)
}

// events writes one event a line, newest first.
func (s *Service) events(_ context.Context, vm string, w io.Writer) error {
	for _, e := range s.cfg.Events.Last(vm, eventsMax) {
		b, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(e)
		if err != nil {
			return err
		}
		if _, err := w.Write(append(b, '\n')); err != nil {
			return err
		}
	}
	return nil
}

func writeJSON(w io.Writer, m proto.Message) error {
	b, err := protojson.MarshalOptions{UseProtoNames: true, Multiline: true}.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// metrics asks the handler as a scraper would.
func (s *Service) metrics(ctx context.Context, _ string, w io.Writer) error {
	if s.cfg.Metrics == nil {
		return nil
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "/metrics", nil)
	if err != nil {
		return err
	}
	s.cfg.Metrics.ServeHTTP(&page{Writer: w, header: http.Header{}}, r)
	return nil
}

// page is an answer whose status and headers do not matter.
type page struct {
	io.Writer
	header http.Header
}

func (p *page) Header() http.Header { return p.header }
func (p *page) WriteHeader(int)     {}

// log writes the last log lines: of a VM, those that name it or no VM at all.
func (s *Service) log(_ context.Context, vm string, w io.Writer) error {
	if s.cfg.Logs == nil {
		return nil
	}
	for _, line := range s.cfg.Logs.Lines() {
		if vm != "" && !concerns(line, vm) {
			continue
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// concerns tells whether a log line is about the VM, or about none.
func concerns(line []byte, vm string) bool {
	_, rest, found := bytes.Cut(line, []byte(" vm="))
	if !found {
		return true
	}
	name, _, _ := bytes.Cut(bytes.TrimRight(rest, "\n"), []byte(" "))
	return string(bytes.Trim(name, `":`)) == vm
}

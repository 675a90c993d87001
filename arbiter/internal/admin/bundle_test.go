package admin

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/arbiter/internal/admin/bundletest"
)

// A bundle has all its parts though one cannot be had, and of one VM only what
// concerns it.
func TestBundle(t *testing.T) {
	s := service(t)
	s.cfg.Events.Add(&pb.Event{Vm: "web", Detail: "about web"})
	s.cfg.Events.Add(&pb.Event{Vm: "db", Detail: "about db"})
	s.cfg.Logs = new(Tail)
	for _, line := range []string{"started: listen=:1\n", "protected: vm=web term=3\n", "protected: vm=db term=4\n"} {
		if _, err := s.cfg.Logs.Write([]byte(line)); err != nil {
			t.Fatal(err)
		}
	}
	s.cfg.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "understudy_up 1\n") })
	s.cfg.Ready = func() error { return errors.New("etcd is away") }

	var b bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // for etcd, which does not answer
	defer cancel()
	if err := s.bundle(ctx, "web", &b); err != nil {
		t.Fatal(err)
	}
	files := bundletest.Read(t, &b)
	for name, want := range map[string]string{
		"version.txt": "v1", "metrics.txt": "understudy_up 1", "goroutines.txt": "goroutine", "events.json": "about web",
		"log.txt": "started: listen=:1\nprotected: vm=web term=3\n", "vms.json": "could not be collected", "arbiters.json": "could not be collected",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s lacks %q:\n%s", name, want, files[name])
		}
	}
	for _, name := range []string{"events.json", "log.txt"} {
		if strings.Contains(files[name], "db") {
			t.Errorf("%s tells of another VM:\n%s", name, files[name])
		}
	}
}

func TestConcerns(t *testing.T) {
	for line, want := range map[string]bool{
		"arbiter started: listen=:1":              true,
		"protected: vm=web term=3":                true,
		"protected: vm=web":                       true,
		"owned: term=3 vm=web\n":                  true,
		"protected: vm=web2 term=3":               false,
		"protected: vm=db detail=\"vm=web lost\"": false,
	} {
		if got := concerns([]byte(line), "web"); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// A log that never ends is kept to its last lines.
func TestTail(t *testing.T) {
	tail := new(Tail)
	write := func(s string) {
		t.Helper()
		if n, err := tail.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatal(n, err)
		}
	}
	write("first\nsecond\n")
	if got := tail.Lines(); len(got) != 2 || string(got[0]) != "first\n" {
		t.Errorf("%q", got)
	}
	write(strings.Repeat("x", 3*lineMax) + "\n")
	if got := tail.Lines()[2]; len(got) != lineMax+1 || got[lineMax] != '\n' {
		t.Errorf("%d bytes of a long line are kept", len(got))
	}
	for range tailLines + 10 {
		write("again\n")
	}
	if got := tail.Lines(); len(got) != tailLines || string(got[0]) != "again\n" {
		t.Errorf("%d lines are kept, first %q", len(got), got[0])
	}
	for range 2 * tailBytes / lineMax {
		write(strings.Repeat("y", lineMax-1) + "\n")
	}
	size := 0
	for _, line := range tail.Lines() {
		size += len(line)
	}
	if size > tailBytes || size < tailBytes/2 || tail.size != size {
		t.Errorf("%d bytes are kept, counted as %d", size, tail.size)
	}
}

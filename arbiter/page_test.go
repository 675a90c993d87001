package main

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func get(t *testing.T, url string, want int) string {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != want {
		t.Fatalf("%s: %v %v %s", url, r.Status, err, b)
	}
	return string(b)
}

func TestStatusPageIsLive(t *testing.T) {
	a := launch(t)
	r, err := http.Get(a.page + "/events")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	seen := make(chan string, 100)
	go func() {
		defer close(seen)
		buf := make([]byte, 64<<10)
		for {
			n, err := r.Body.Read(buf)
			if err != nil {
				return
			}
			seen <- string(buf[:n])
		}
	}()
	await := func(want string) {
		t.Helper()
		timeout := time.After(patience)
		var all bytes.Buffer
		for !strings.Contains(all.String(), want) {
			select {
			case s := <-seen:
				all.WriteString(s)
			case <-timeout:
				t.Fatalf("no %q in %s", want, &all)
			}
		}
	}
	await("No VM yet")
	join(t, a.addr, "web", "r-1", pb.Role_ROLE_CANDIDATE).assigned(pb.Mode_MODE_SOLO)
	await("Needs a secondary")
}

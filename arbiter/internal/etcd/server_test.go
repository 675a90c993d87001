package etcd

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-ft/understudy/services/fence"
)

func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	cfg.Log = hclog.New(&hclog.LoggerOptions{Level: hclog.Error, Output: os.Stderr})
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func connect(t *testing.T, endpoint string) *clientv3.Client {
	t.Helper()
	c, err := fence.Connect([]string{endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func TestRestartKeepsDataIdentityAndPort(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	s := run(t, Config{DataDir: dir})
	if err := fence.CheckName("arbiter", s.ArbiterID()); err != nil {
		t.Error(err)
	}
	c := connect(t, s.LocalEndpoint())
	if _, err := c.Put(within(t, time.Minute), "k", "v"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	again := run(t, Config{DataDir: dir})
	if again.ArbiterID() != s.ArbiterID() || again.LocalEndpoint() != s.LocalEndpoint() {
		t.Errorf("restarted as %s at %s, was %s at %s", again.ArbiterID(), again.LocalEndpoint(), s.ArbiterID(), s.LocalEndpoint())
	}
	r, err := c.Get(within(t, time.Minute), "k")
	if err != nil || len(r.Kvs) != 1 || string(r.Kvs[0].Value) != "v" {
		t.Errorf("after the restart: %v, %v", r, err)
	}
}

func TestRestartTakesAnotherPortIfTheLastIsTaken(t *testing.T) {
	dir := t.TempDir()
	s := run(t, Config{DataDir: dir})
	addr := s.Addr().String()
	s.Close()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if again := run(t, Config{DataDir: dir}); again.Addr().String() == addr {
		t.Errorf("listens on the taken %s", addr)
	}
}

func TestTemporaryDirectoryIsRemoved(t *testing.T) {
	s := run(t, Config{})
	path := s.dir.path
	if _, err := os.Stat(path); err != nil {
		t.Fatal(err)
	}
	s.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

func TestStartSaysInOneLineWhatIsWrong(t *testing.T) {
	used := t.TempDir()
	s := run(t, Config{DataDir: used})
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  Config
		want string
	}{
		"directory in use": {Config{DataDir: used, Listen: "127.0.0.1:0"}, "is in use by another arbiter"},
		"port in use":      {Config{Listen: s.Addr().String()}, "address already in use"},
		"not a directory":  {Config{DataDir: file, Listen: "127.0.0.1:0"}, "data directory: "},
		"no port":          {Config{Listen: "127.0.0.1"}, "must be IP:port"},
		"bad port":         {Config{Listen: "127.0.0.1:http"}, "bad port"},
		"a name":           {Config{Listen: "etcd.example:2379"}, "must be an IP address"},
		"not our address":  {Config{Listen: "192.0.2.1:0"}, "cannot assign requested address"},
	} {
		tc.cfg.Log = hclog.NewNullLogger()
		s, err := Start(within(t, time.Minute), tc.cfg)
		if err == nil {
			s.Close()
			t.Errorf("%s: no error", name)
			continue
		}
		if !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q", name, err, tc.want)
		}
	}
}

func TestNewIDIsAName(t *testing.T) {
	a, b := NewID(), NewID()
	if a == b {
		t.Errorf("twice %s", a)
	}
	if err := fence.CheckName("arbiter", a); err != nil {
		t.Error(err)
	}
}

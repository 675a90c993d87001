// Package etcd runs an etcd of one member inside the arbiter's process, so that
// a small installation needs no cluster. It serves other processes as any etcd
// does: replicas keep their leases in it.
//
// A data directory holds:
//
//	lock     held while a process uses the directory
//	id       name of the arbiter, the same in each of its lives
//	port     port chosen for clients, kept across restarts so that replicas
//	         find etcd again
//	etcd/    etcd's own files
//
// Without a data directory a temporary one is used and removed by Close; its
// writes are not synced to the disk, as nothing in it outlives the process.
//
// With an identity, clients come over TLS and need a certificate: arbiters and
// operators may do everything, replicas what concerns their own VM (see guard).
// Without one, clients are neither authenticated nor encrypted.
//
// Limit: renewed certificates are taken at once, another CA at a restart.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.etcd.io/etcd/client/pkg/v3/tlsutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"github.com/understudy-ft/understudy/services/identity"
)

// Config says where the member keeps its data and listens.
type Config struct {
	// DataDir is created if it is missing; empty: a temporary one.
	DataDir string
	// Listen is the IP:port for clients. Port 0 stands for the port of the
	// directory's last life if that is free, or else for a free one.
	Listen string
	// Identity is the certificate to serve clients with; nil: plain text.
	Identity *identity.Source
	Log      hclog.Logger
}

// Server is a running member.
type Server struct {
	etcd   *embed.Etcd
	dir    *dataDir
	addr   *net.TCPAddr
	id     string
	scheme string

	failed   chan struct{}
	failure  error
	stopped  chan struct{}
	stopOnce sync.Once
}

// Start runs a member and returns when it serves. Errors are one line.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	ip, port, err := splitListen(cfg.Listen)
	if err != nil {
		return nil, err
	}
	dir, err := openDataDir(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, scheme: "http", failed: make(chan struct{}), stopped: make(chan struct{})}
	if s.id, err = dir.arbiterID(); err != nil {
		dir.close()
		return nil, err
	}
	if cfg.Identity != nil {
		s.scheme = "https"
	}
	last := 0
	if port == 0 {
		last = dir.lastPort()
	}
	if last != 0 {
		if s.etcd, err = s.start(ip, last, cfg); errors.Is(err, syscall.EADDRINUSE) {
			s.etcd = nil // taken by another meanwhile
		} else if err != nil {
			dir.close()
			return nil, fmt.Errorf("start embedded etcd: %w", err)
		}
	}
	if s.etcd == nil {
		if s.etcd, err = s.start(ip, port, cfg); err != nil {
			dir.close()
			return nil, fmt.Errorf("start embedded etcd: %w", err)
		}
	}
	go s.watch()
	select {
	case <-s.etcd.Server.ReadyNotify():
	case <-s.failed:
		s.Close()
		return nil, fmt.Errorf("start embedded etcd: %w", s.failure)
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("start embedded etcd: %w", ctx.Err())
	case <-time.After(30 * time.Second):
		s.Close()
		return nil, errors.New("start embedded etcd: not ready after 30 s")
	}
	s.addr = s.etcd.Clients[0].Addr().(*net.TCPAddr)
	if err := dir.savePort(s.addr.Port); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// ArbiterID is a name that stays with the data directory.
func (s *Server) ArbiterID() string { return s.id }

// Addr is where the member serves clients. The IP may be unspecified (all).
func (s *Server) Addr() *net.TCPAddr { return s.addr }

// LocalEndpoint is how this process reaches the member.
func (s *Server) LocalEndpoint() string {
	ip := s.addr.IP
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return s.Endpoint(ip.String())
}

// Endpoint is the client URL of the member under an address of its host.
func (s *Server) Endpoint(host string) string {
	return s.scheme + "://" + net.JoinHostPort(host, strconv.Itoa(s.addr.Port))
}

// Failed is closed when the member cannot go on; Err then says why.
func (s *Server) Failed() <-chan struct{} { return s.failed }

// Err is why the member failed. It is valid after Failed.
func (s *Server) Err() error { return s.failure }

// Close stops the member and, for a temporary directory, removes it.
func (s *Server) Close() error {
	var err error
	s.stopOnce.Do(func() {
		close(s.stopped)
		s.etcd.Close()
		err = s.dir.close()
	})
	return err
}

// watch waits for a failure of the member.
func (s *Server) watch() {
	select {
	case <-s.stopped:
		return
	case err := <-s.etcd.Err():
		s.failure = err
	case <-s.etcd.Server.StopNotify():
		s.failure = errors.New("the embedded etcd stopped by itself")
	}
	select {
	case <-s.stopped: // stopped by Close after all
	default:
		close(s.failed)
	}
}

func (s *Server) start(ip net.IP, port int, c Config) (*embed.Etcd, error) {
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:0"} // no peer ever comes
	client := url.URL{Scheme: s.scheme, Host: net.JoinHostPort(ip.String(), strconv.Itoa(port))}
	var member atomic.Pointer[embed.Etcd]
	cfg := embed.NewConfig()
	cfg.Name = "arbiter"
	cfg.Dir = filepath.Join(s.dir.path, "etcd")
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	// A member that is alone elects itself; nothing is gained by waiting for
	// others. The shortest lease that etcd grants follows from these, too.
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = "revision", "1000"
	cfg.EnableGRPCGateway = false
	cfg.GRPCKeepAliveMinTime = time.Second
	cfg.UnsafeNoFsync = s.dir.temporary
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(bridge(c.Log))
	if c.Identity != nil {
		files := c.Identity.Files()
		cfg.TlsMinVersion = string(tlsutil.TLSVersion13)
		cfg.ClientTLSInfo = transport.TLSInfo{
			CertFile: files.Cert, KeyFile: files.Key, TrustedCAFile: files.CA, ClientCertAuth: true,
			SkipClientSANVerify: true, // roles count, not addresses
		}
		g := &guard{log: c.Log, keysOf: func(ctx context.Context, lease int64) ([]string, error) {
			return keysOf(ctx, member.Load(), lease)
		}}
		cfg.GRPCAdditionalServerOptions = []grpc.ServerOption{grpc.ChainUnaryInterceptor(g.unary), grpc.ChainStreamInterceptor(g.stream)}
	}
	e, err := embed.StartEtcd(cfg)
	member.Store(e)
	return e, err
}

func splitListen(addr string) (net.IP, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, 0, fmt.Errorf("etcd address %q: must be IP:port", addr)
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return nil, 0, fmt.Errorf("etcd address %q: bad port", addr)
	}
	ip := net.IPv4zero
	switch {
	case host == "localhost":
		ip = net.IPv4(127, 0, 0, 1)
	case host != "":
		if ip = net.ParseIP(host); ip == nil {
			return nil, 0, fmt.Errorf("etcd address %q: the host must be an IP address", addr)
		}
	}
	return ip, int(port), nil
}

// dataDir is a directory that this process alone uses.
type dataDir struct {
	path      string
	temporary bool
	lock      *os.File
}

func openDataDir(path string) (*dataDir, error) {
	d := &dataDir{path: path}
	if path == "" {
		var err error
		if d.path, err = os.MkdirTemp("", "understudy-arbiter-"); err != nil {
			return nil, fmt.Errorf("temporary data directory: %w", err)
		}
		d.temporary = true
		return d, nil
	}
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(path, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("data directory %s is not writable: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("data directory %s is in use by another arbiter", path)
	}
	d.lock = f
	return d, nil
}

func (d *dataDir) close() error {
	if d.temporary {
		return os.RemoveAll(d.path)
	}
	return d.lock.Close()
}

// arbiterID reads the arbiter's name, or makes one up and keeps it.
func (d *dataDir) arbiterID() (string, error) {
	path := filepath.Join(d.path, "id")
	if b, err := os.ReadFile(path); err == nil {
		if id := strings.TrimSpace(string(b)); id != "" {
			return id, nil
		}
	}
	id := NewID()
	if err := writeFile(path, id+"\n"); err != nil {
		return "", fmt.Errorf("data directory %s is not writable: %w", d.path, err)
	}
	return id, nil
}

// lastPort is the port of the directory's last life, or 0.
func (d *dataDir) lastPort() int {
	b, err := os.ReadFile(filepath.Join(d.path, "port"))
	if err != nil {
		return 0
	}
	port, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 16)
	if err != nil {
		return 0
	}
	return int(port)
}

func (d *dataDir) savePort(port int) error {
	if err := writeFile(filepath.Join(d.path, "port"), strconv.Itoa(port)+"\n"); err != nil {
		return fmt.Errorf("data directory %s is not writable: %w", d.path, err)
	}
	return nil
}

// writeFile replaces a small file as a whole.
func writeFile(path, text string) error {
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

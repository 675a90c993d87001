// Package cluster runs a whole Understudy deployment as real processes on this
// machine: arbiter, gateway and replicas, each with its own log file. The demo,
// the end-to-end tests and the benchmarks share it.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-ft/understudy/deploy/initrd"
	"github.com/understudy-ft/understudy/deploy/load"
	"github.com/understudy-ft/understudy/deploy/network"
	"github.com/understudy-ft/understudy/deploy/process"
	"github.com/understudy-ft/understudy/deploy/watch"
	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"
)

// Config says what to run.
type Config struct {
	// Bin holds the binaries, Guest the guest's Image and initrd.
	Bin, Guest string
	// Dir takes logs and sockets; empty for a temporary directory that Close
	// removes.
	Dir string
	// VM is the VM's name, Memory its size as the primary's flag takes it.
	VM, Memory string
	// Append is added to the guest's kernel command line.
	Append string
	// Disk is the primary's disk image, if any.
	Disk string
	// Certs is a directory that the certs tool has made, with a certificate for
	// VM; empty: plain text.
	Certs string
	// OwnEtcd runs an etcd of its own, which outlives the arbiter; without it the
	// arbiter's embedded one is used.
	OwnEtcd bool
	// SecondArbiter runs one more arbiter, without a page; it needs OwnEtcd.
	SecondArbiter bool
	// ArbiterArgs are added to the arbiters' arguments, ReplicaArgs to the
	// replicas'.
	ArbiterArgs, ReplicaArgs []string
	// Network, if set, gives each arbiter, each replica and an etcd of its own a
	// host (Host), in plain text. The gateway stays with this process.
	Network *network.Bridge
	// HeartbeatTimeout is how long a process may be silent before the others
	// count it as lost; empty for the programs' default. Tests of what is not a
	// loss set it high, because a busy machine lets processes wait.
	HeartbeatTimeout string
	// ConsoleSockets makes each replica's console a unix socket, NAME.console in
	// Dir, instead of a file.
	ConsoleSockets bool
	// Service is what the guest runs; default "redis".
	Service string
	// Add are files that the guest's initial RAM disk gets, too.
	Add []initrd.File
	// Ports are ports of the guest that Address leads to, such as "udp:53".
	Ports []string
	// NoArbiter leaves the arbiter out, for standalone guests.
	NoArbiter bool
	// ArbiterAt is where replicas dial the arbiter; empty for where it listens.
	ArbiterAt string
	// LogLevel of the replicas and the arbiter; default info.
	LogLevel string
}

// Process is one program of a cluster.
type Process = process.Process

// GuestIP is the guest's address in the gateway's network.
const GuestIP = "192.168.127.2"

// Cluster is a running deployment.
type Cluster struct {
	Config
	Arbiter, Gateway *Process
	Second           *Process // nil without Config.SecondArbiter
	Etcd             *Process // nil: the arbiter's own
	Replicas         []*Process

	GRPC, HTTP, Redis string
	// EtcdAt is where etcd is, if it is one of its own.
	EtcdAt string
	// SecondAt is where the second arbiter serves gRPC, if there is one.
	SecondAt string

	socket  string
	initrd  string
	forward map[string]string // from Ports to this machine's addresses
	temp    bool
	spares  int
	conns   map[string]*grpc.ClientConn // by arbiters' addresses
	started []*Process
	hosts   map[string]*network.Host // by the names of their processes
}

// Start starts the arbiter and the gateway.
func Start(cfg Config) (*Cluster, error) {
	c := &Cluster{Config: cfg}
	if c.VM == "" {
		c.VM = "demo"
	}
	if c.Memory == "" {
		c.Memory = "256M"
	}
	if c.LogLevel == "" {
		c.LogLevel = "info"
	}
	if c.Service == "" {
		c.Service = "redis"
	}
	for _, f := range []string{"arbiter", "primary", "secondary", "gateway"} {
		if _, err := os.Stat(filepath.Join(cfg.Bin, f)); err != nil {
			return nil, fmt.Errorf("binaries are missing, run `make build`: %w", err)
		}
	}
	if _, err := os.Stat(filepath.Join(cfg.Bin, "etcd")); cfg.OwnEtcd && err != nil {
		return nil, fmt.Errorf("etcd is missing, run `make bin/etcd`: %w", err)
	}
	for _, f := range []string{"Image", "initrd"} {
		if _, err := os.Stat(filepath.Join(cfg.Guest, f)); err != nil {
			return nil, fmt.Errorf("guest image is missing, run `make guest`: %w", err)
		}
	}
	if c.Dir == "" {
		dir, err := os.MkdirTemp("", "understudy-")
		if err != nil {
			return nil, err
		}
		c.Dir, c.temp = dir, true
	} else if err := os.MkdirAll(c.Dir, 0o755); err != nil {
		return nil, err
	}
	if err := c.start(); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// start starts what a cluster has without replicas.
func (c *Cluster) start() (err error) {
	addrs, err := freeAddresses(6 + len(c.Ports))
	if err != nil {
		return err
	}
	if err := c.place(addrs); err != nil {
		return err
	}
	c.GRPC, c.HTTP, c.Redis = addrs[0], addrs[1], addrs[2]
	c.EtcdAt = addrs[3]
	arbiters := []string{c.GRPC}
	if c.SecondArbiter {
		c.SecondAt = addrs[5]
		arbiters = append(arbiters, c.SecondAt)
	}
	c.socket = filepath.Join(c.Dir, "gateway.sock")
	c.initrd = filepath.Join(c.Guest, "initrd")
	if len(c.Add) > 0 {
		base := c.initrd
		c.initrd = filepath.Join(c.Dir, "initrd")
		if err := initrd.Add(c.initrd, base, c.Add); err != nil {
			return err
		}
	}
	gateway := []string{"--listen", "unix:" + c.socket, "--forward", c.Redis + "=" + GuestIP + ":6379"}
	c.forward = map[string]string{}
	for i, port := range c.Ports {
		transport, number, _ := strings.Cut(port, ":")
		c.forward[port] = addrs[6+i]
		gateway = append(gateway, "--forward", transport+":"+addrs[6+i]+"="+GuestIP+":"+number)
	}
	if c.Gateway, err = c.run("gateway", "gateway", gateway...); err != nil || c.NoArbiter {
		return err
	}
	if c.OwnEtcd {
		peer := "http://" + addrs[4]
		if c.Etcd, err = c.run("etcd", "etcd", "--data-dir", filepath.Join(c.Dir, "etcd"), "--log-level", "warn",
			"--listen-client-urls", "http://"+c.EtcdAt, "--advertise-client-urls", "http://"+c.EtcdAt,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer); err != nil {
			return err
		}
	}
	if err := c.StartArbiter(); err != nil {
		return err
	}
	if c.SecondArbiter {
		if err := c.startSecond(); err != nil {
			return err
		}
	}
	creds := insecure.NewCredentials()
	if c.Certs != "" {
		operator, err := identity.Load(c.files("operator"), hclog.NewNullLogger())
		if err != nil {
			return err
		}
		creds = operator.ClientCredentials(identity.ID{Role: identity.Arbiter})
	}
	c.conns = map[string]*grpc.ClientConn{}
	for _, at := range arbiters {
		if c.conns[at], err = grpc.NewClient(at, grpc.WithTransportCredentials(creds)); err != nil {
			return err
		}
	}
	return nil
}

// Address is where this machine reaches one of the guest's Ports.
func (c *Cluster) Address(port string) string { return c.forward[port] }

// files are those of a party.
func (c *Cluster) files(party string) identity.Files {
	return identity.Files{
		CA: filepath.Join(c.Certs, "ca.pem"), Cert: filepath.Join(c.Certs, party+".pem"), Key: filepath.Join(c.Certs, party+".key"),
	}
}

// tlsArgs are the flags that give a party its certificate.
func (c *Cluster) tlsArgs(party string) []string {
	if c.Certs == "" {
		return nil
	}
	f := c.files(party)
	return []string{"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
}

// StartArbiter starts the arbiter, or starts it again on its data.
func (c *Cluster) StartArbiter() (err error) {
	args := []string{"--listen", c.GRPC, "--http", c.HTTP}
	if c.OwnEtcd {
		args = append(args, "--etcd", c.EtcdAt)
	} else {
		args = append(args, "--data-dir", filepath.Join(c.Dir, "etcd"))
	}
	c.Arbiter, err = c.arbiter("arbiter", args...)
	return err
}

// startSecond starts the second arbiter.
func (c *Cluster) startSecond() (err error) {
	c.Second, err = c.arbiter("arbiter-2", "--listen", c.SecondAt, "--http", "off", "--etcd", c.EtcdAt)
	return err
}

func (c *Cluster) arbiter(name string, args ...string) (*Process, error) {
	args = append(append(args, "--log-level", c.LogLevel), c.ArbiterArgs...)
	args = append(args, c.patience()...)
	if c.Network != nil {
		args = append(args, "--insecure")
	}
	return c.run(name, "arbiter", append(args, c.tlsArgs("arbiter")...)...)
}

// StartPrimary boots the VM, with more args beside the usual ones.
func (c *Cluster) StartPrimary(more ...string) (*Process, error) {
	args := c.replicaArgs("primary")
	args = append(args, "--kernel", filepath.Join(c.Guest, "Image"), "--initrd", c.initrd,
		"--memory", c.Memory, "--append", c.kernelLine())
	if c.Disk != "" {
		args = append(args, "--disk", c.Disk)
	}
	return c.replica("primary", append(args, more...)...)
}

// StartStandalone runs the guest without protection on the cluster's gateway.
func (c *Cluster) StartStandalone() (*Process, error) {
	args := []string{"--standalone", "--vm", c.VM, "--uplink", "gateway:unix:" + c.socket,
		"--kernel", filepath.Join(c.Guest, "Image"), "--initrd", c.initrd,
		"--memory", c.Memory, "--append", c.kernelLine(), "--console", filepath.Join(c.Dir, "standalone.console")}
	if c.Disk != "" {
		args = append(args, "--disk", c.Disk)
	}
	return c.replica("primary", args...)
}

func (c *Cluster) kernelLine() string {
	// The image says which kernel options suit it.
	line := "console=ttyS0 quiet"
	if b, err := os.ReadFile(filepath.Join(c.Guest, "cmdline")); err == nil {
		line = strings.TrimSpace(string(b))
	}
	line += " ud.ip=" + GuestIP + "/24 ud.gw=192.168.127.1 ud.service=" + c.Service
	if c.Append != "" {
		line += " " + c.Append
	}
	return line
}

// StartSecondary starts one more secondary, with args beside the usual ones.
func (c *Cluster) StartSecondary(args ...string) (*Process, error) {
	c.spares++
	name := fmt.Sprintf("secondary-%d", c.spares)
	return c.replicaNamed(name, "secondary", append(c.replicaArgs(name), args...)...)
}

// Restart starts a process that has ended again, with its old command line.
func (c *Cluster) Restart(p *Process) (*Process, error) {
	n, err := p.Again()
	if err == nil {
		c.replace(p, n)
	}
	return n, err
}

// RestartFrom is Restart with the program in the directory bin: an upgrade.
func (c *Cluster) RestartFrom(p *Process, bin string) (*Process, error) {
	n, err := p.AgainFrom(bin)
	if err == nil {
		c.replace(p, n)
	}
	return n, err
}

// replace puts n in the place of a process that has ended.
func (c *Cluster) replace(p, n *Process) {
	c.started = append(c.started, n)
	for i := range c.Replicas {
		if c.Replicas[i] == p {
			c.Replicas[i] = n
		}
	}
	switch p {
	case c.Arbiter:
		c.Arbiter = n
	case c.Second:
		c.Second = n
	case c.Gateway:
		c.Gateway = n
	}
}

// KillAll ends every process at once, as a power failure would.
func (c *Cluster) KillAll() {
	for _, p := range c.started {
		_ = p.Signal(syscall.SIGKILL) // it may have ended before
	}
	for _, p := range c.started {
		<-p.Done()
	}
}

func (c *Cluster) replicaArgs(name string) []string {
	console := filepath.Join(c.Dir, name+".console")
	if c.ConsoleSockets {
		console = "unix:" + console
	}
	arbiter := c.ArbiterAt
	if arbiter == "" {
		arbiter = c.GRPC
		if c.SecondArbiter {
			arbiter += "," + c.SecondAt
		}
	}
	args := append([]string{"--vm", c.VM, "--name", name, "--arbiter", arbiter, "--uplink", "gateway:unix:" + c.socket,
		"--console", console, "--log-level", c.LogLevel}, c.patience()...)
	args = append(args, c.ReplicaArgs...)
	return append(args, c.tlsArgs("replica-"+c.VM)...)
}

// patience is the flag that says how long a silent process is waited for.
func (c *Cluster) patience() []string {
	if c.HeartbeatTimeout == "" {
		return nil
	}
	return []string{"--heartbeat-timeout", c.HeartbeatTimeout}
}

func (c *Cluster) replica(bin string, args ...string) (*Process, error) {
	return c.replicaNamed(bin, bin, args...)
}

func (c *Cluster) replicaNamed(name, bin string, args ...string) (*Process, error) {
	if c.Network != nil {
		h, err := c.newHost(name)
		if err != nil {
			return nil, err
		}
		args = append(args, "--insecure", "--listen", h.At(feedPort))
	}
	p, err := c.run(name, bin, args...)
	if err == nil {
		c.Replicas = append(c.Replicas, p)
	}
	return p, err
}

func (c *Cluster) run(name, bin string, args ...string) (*Process, error) {
	var namespace *os.File
	if h := c.hosts[name]; h != nil {
		namespace = h.Namespace()
	}
	p, err := process.StartIn(namespace, c.Dir, name, filepath.Join(c.Bin, bin), args...)
	if err == nil {
		c.started = append(c.started, p)
	}
	return p, err
}

// Close ends all processes and removes a temporary directory.
func (c *Cluster) Close() {
	for _, conn := range c.conns {
		_ = conn.Close() // its server ends next
	}
	for i := len(c.started) - 1; i >= 0; i-- {
		_ = c.started[i].Kill() // it may have ended before
	}
	if c.temp {
		_ = os.RemoveAll(c.Dir)
	}
}

// Admin is the arbiter's Admin service. Where there are two, what it says of the
// VM is said by the one that owns it.
func (c *Cluster) Admin() pb.AdminClient {
	if !c.SecondArbiter {
		return c.AdminAt(c.GRPC)
	}
	return council{c.AdminAt(c.GRPC), map[string]pb.AdminClient{c.GRPC: c.AdminAt(c.GRPC), c.SecondAt: c.AdminAt(c.SecondAt)}}
}

// AdminAt is the Admin service of the arbiter at GRPC or SecondAt.
func (c *Cluster) AdminAt(arbiter string) pb.AdminClient { return pb.NewAdminClient(c.conns[arbiter]) }

// Watch is the VM as the arbiter knows it.
func (c *Cluster) Watch() watch.VM { return watch.VM{Name: c.VM, Admin: c.Admin()} }

// Status asks the arbiter about the VM.
func (c *Cluster) Status(ctx context.Context) (*pb.VMStatus, error) { return c.Watch().Status(ctx) }

// Wait polls the VM's status until ok says so, ctx is done, or one of the
// processes ends.
func (c *Cluster) Wait(ctx context.Context, what string, ok func(*pb.VMStatus) bool, alive ...*Process) (*pb.VMStatus, error) {
	return c.Watch().Wait(ctx, what, ok, func() error { return process.Alive(alive...) })
}

// Protected waits for two copies under the arbiter's gate in a term above
// after.
func (c *Cluster) Protected(ctx context.Context, after uint64) (*pb.VMStatus, error) {
	return c.Wait(ctx, "protection", watch.Protected(after), c.Arbiter, c.Gateway)
}

// Active is the process that holds the active role.
func (c *Cluster) Active(s *pb.VMStatus) *Process {
	id := s.GetRecord().GetActive().GetId()
	for _, p := range c.Replicas {
		if len(id) > len(p.Name) && id[:len(p.Name)+1] == p.Name+"-" {
			return p
		}
	}
	return nil
}

// Standby is the process that holds the standby role.
func (c *Cluster) Standby(s *pb.VMStatus) *Process {
	return c.Active(&pb.VMStatus{Record: &pb.Record{Active: s.GetRecord().GetStandby()}})
}

// DialRedis waits until the guest's Redis answers through the gateway.
func (c *Cluster) DialRedis(ctx context.Context) error { return load.Await(ctx, c.Redis) }

// FreeAddress returns a loopback address that nobody listens on.
func FreeAddress() (string, error) {
	addrs, err := freeAddresses(1)
	if err != nil {
		return "", err
	}
	return addrs[0], nil
}

// Ports that are given out are below those that Linux gives to connections by
// itself: one of these could otherwise be taken before who is to listen there does.
const firstPort, lastPort = 12000, 32000

// freeAddresses returns loopback addresses that nobody listens on.
func freeAddresses(n int) (addrs []string, err error) {
	for tries := 0; len(addrs) < n; tries++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.N(lastPort-firstPort)))
		if errors.Is(err, syscall.EADDRINUSE) && tries < 10*n+100 {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		defer func() { _ = ln.Close() }() // it only reserved the port
		addrs = append(addrs, ln.Addr().String())
	}
	return addrs, nil
}

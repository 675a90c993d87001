package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/identity"

	"github.com/understudy-ft/understudy/arbiter/internal/admin"
	"github.com/understudy-ft/understudy/arbiter/internal/api"
	"github.com/understudy-ft/understudy/arbiter/internal/etcd"
	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
	"github.com/understudy-ft/understudy/arbiter/internal/web"
)

const (
	eventsKept  = 1000
	stopTimeout = 5 * time.Second
)

// arbiter is a running arbiter.
type arbiter struct {
	log      hclog.Logger
	member   *etcd.Server // nil: an external etcd
	client   *clientv3.Client
	lease    *fence.Lease
	ring     *events.Log
	vms      *sessions.Registry
	grpc     *api.Server
	pages    *web.Server
	web      *http.Server
	listener net.Listener // gRPC
	page     net.Listener // HTTP, or nil
	identity *identity.Source
	spread   time.Duration // between looks at what others own; 0: never
}

// start brings an arbiter up to where it listens. It does not wait for an
// external etcd, which may come later.
func start(ctx context.Context, o *options, log hclog.Logger) (*arbiter, error) {
	a := &arbiter{log: log, spread: o.spread}
	if err := a.start(ctx, o); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *arbiter) start(ctx context.Context, o *options) (err error) {
	log := a.log
	if a.identity, err = o.tls.Load(identity.ID{Role: identity.Arbiter}, log, o.addresses()...); err != nil {
		return err
	}
	if err := o.checkSchemes(a.identity != nil); err != nil {
		return err
	}
	go a.identity.Watch(ctx)
	if a.listener, err = listen("listen", o.listen); err != nil {
		return err
	}
	if o.http != "off" {
		if a.page, err = listen("http", o.http); err != nil {
			return err
		}
	}
	endpoints, id := o.etcd.Values, o.id
	if o.embedded() {
		if a.member, err = etcd.Start(ctx, etcd.Config{DataDir: o.dataDir, Listen: o.etcdListen, Identity: a.identity, Log: log.Named("etcd")}); err != nil {
			return err
		}
		endpoints = []string{a.member.LocalEndpoint()}
		if id == "" {
			id = a.member.ArbiterID()
		}
	}
	if id == "" {
		id = etcd.NewID()
	}
	if a.client, err = fence.Connect(endpoints, a.identity.ClientTLS(identity.ID{Role: identity.Arbiter}, identity.ID{Role: identity.Etcd})); err != nil {
		return err
	}
	key := fence.ArbiterKey(id)
	if a.member != nil {
		// Nobody else uses the data directory, so that who held the key is dead.
		if err := fence.EndLeaseOf(ctx, a.client, key); err != nil {
			return err
		}
	}
	self := fence.Owner{ID: id, Address: advertised(o.advertise, a.listener.Addr())}
	self.Page = pageURL(self.Address, a.page)
	a.lease = fence.NewLease(a.client, fence.LeaseConfig{
		Key: key, Value: self.Address, TTL: o.leaseTTL, Margin: o.leaseMargin, Log: log,
	})

	a.ring = events.New(eventsKept)
	config := sessions.Config{
		Store: fence.NewStore(a.client), Lease: a.lease, Self: self, Session: o.session(), Events: a.ring, Log: log,
	}
	var metrics *web.Metrics
	config.OnCommit = func(took time.Duration, err error) { metrics.Committed(took, err) }
	a.vms = sessions.New(config)
	leaseLeft := func() time.Duration { return a.lease.ValidUntil() - fence.Now() }
	metrics = web.NewMetrics(a.vms, cli.Version(), leaseLeft)
	logs := &admin.Tail{}
	if l, ok := log.(hclog.InterceptLogger); ok {
		l.RegisterSink(hclog.NewSinkAdapter(&hclog.LoggerOptions{Name: log.Name(), Level: hclog.Info, Output: logs}))
	}
	a.grpc = api.New(api.Config{
		Admin: admin.New(admin.Config{
			VMs: a.vms, Events: a.ring, ArbiterID: id, Version: cli.Version(), Ready: a.ready, Metrics: metrics.Handler(), Logs: logs, Log: log,
		}),
		VMs: a.vms, ArbiterID: id, Version: cli.Version(),
		LeaseTTL: o.leaseTTL, LeaseMargin: o.leaseMargin, Identity: a.identity, OpenReads: o.openReads,
		Endpoints: a.endpoints(o), Ready: func() bool { return a.ready() == nil }, Log: log,
	})
	a.pages = web.New(web.Config{
		VMs: a.vms, Events: a.ring, ArbiterID: id, Version: cli.Version(), Ready: a.ready, LeaseLeft: leaseLeft,
		Metrics: metrics.Handler(), Log: log,
	})
	a.web = &http.Server{
		Handler:           a.pages,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	log.Info("arbiter started", "id", id, "version", cli.Version(), "listen", a.listener.Addr(), "etcd", endpoints)
	if a.page != nil {
		log.Info("status page", "url", "http://"+reachable(a.page.Addr()))
	}
	if o.embedded() && o.dataDir == "" {
		log.Info("records are kept in a temporary directory and do not survive this process: give --data-dir to keep them")
	}
	return nil
}

// run serves until the context ends, then gives all VMs up in order.
func (a *arbiter) run(ctx context.Context) error {
	defer a.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 3)
	go func() { failed <- a.grpc.Serve(a.listener) }()
	go a.grpc.WatchHealth(ctx)
	if a.spread > 0 {
		go a.vms.Spread(ctx, a.spread)
	}
	if a.page != nil {
		go a.pages.Run(ctx)
		go func() { failed <- a.web.Serve(a.page) }()
	}
	var etcdFailed <-chan struct{}
	if a.member != nil {
		etcdFailed = a.member.Failed()
	}
	var err error
	select {
	case <-ctx.Done():
		a.log.Info("stopping: giving the VMs up")
	case err = <-failed:
		if err != nil {
			err = fmt.Errorf("serve: %w", err)
		}
	case <-etcdFailed:
		err = fmt.Errorf("embedded etcd: %w", a.member.Err())
	}
	return errors.Join(err, a.stop())
}

// stop gives the VMs up, so that their replicas need not wait for a lease, and
// ends the servers.
func (a *arbiter) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	err := a.vms.Stop(ctx)
	stopped := make(chan struct{})
	go func() { a.grpc.GracefulStop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(time.Second): // watchers of events do not end by themselves
		a.grpc.Stop()
		<-stopped
	}
	if e := a.lease.Close(ctx); e != nil {
		a.log.Debug("lease not revoked; it ends by itself", "error", e)
	}
	return err
}

// close frees what start took. It may be called at any point of start.
func (a *arbiter) close() {
	if a.grpc != nil {
		a.grpc.Stop()
	}
	if a.web != nil {
		a.web.Close()
	}
	for _, l := range []net.Listener{a.listener, a.page} {
		if l != nil {
			l.Close()
		}
	}
	if a.lease != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		a.lease.Close(ctx)
	}
	if a.client != nil {
		a.client.Close()
	}
	if a.member != nil {
		if err := a.member.Close(); err != nil {
			a.log.Warn("embedded etcd", "error", err)
		}
	}
}

// ready tells why this arbiter cannot own VMs, or nil.
func (a *arbiter) ready() error {
	if a.lease.Valid(fence.Now()) {
		return nil
	}
	if err := a.lease.Err(); err != nil {
		return err
	}
	return errors.New("no etcd lease yet")
}

// endpoints returns the function that tells a replica where etcd is.
func (a *arbiter) endpoints(o *options) func(local, remote net.Addr) ([]string, error) {
	return func(local, remote net.Addr) ([]string, error) {
		if len(o.etcdAdvertise.Values) > 0 {
			return o.etcdAdvertise.Values, nil
		}
		if a.member == nil {
			return o.etcd.Values, nil
		}
		addr := a.member.Addr()
		host := addr.IP
		if host.IsUnspecified() {
			// All addresses: the one that the replica came to is one of them.
			if t, ok := local.(*net.TCPAddr); ok {
				host = t.IP
			}
		}
		if from, ok := remote.(*net.TCPAddr); ok && host.IsLoopback() && !from.IP.IsLoopback() && !from.IP.Equal(localIP(local)) {
			return nil, fmt.Errorf("the arbiter's etcd listens on %v only, which %v cannot reach: start the arbiter with --etcd-listen", addr, from.IP)
		}
		return []string{a.member.Endpoint(host.String())}, nil
	}
}

func localIP(a net.Addr) net.IP {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.IP
	}
	return nil
}

// listen opens a port. The error is one plain line.
func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	var number syscall.Errno
	switch {
	case err == nil:
		return l, nil
	case errors.As(err, &number):
		return nil, fmt.Errorf("--%s %s: %w", flag, addr, number)
	}
	return nil, fmt.Errorf("--%s: %w", flag, err)
}

// advertised is the address that replicas are sent to: as given, or where the
// arbiter listens, by the host's name where that is everywhere.
func advertised(given string, addr net.Addr) string {
	if given != "" {
		return given
	}
	t := addr.(*net.TCPAddr)
	if !t.IP.IsUnspecified() {
		return t.String()
	}
	host, err := os.Hostname()
	if err != nil {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(t.Port))
}

// pageURL is where other arbiters' status pages link to: the host at which
// replicas reach this arbiter, with the page's port. It is empty where the page
// listens on the loopback only and the arbiter does not.
func pageURL(address string, page net.Listener) string {
	if page == nil {
		return ""
	}
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return ""
	}
	t := page.Addr().(*net.TCPAddr)
	if !t.IP.IsUnspecified() {
		if ip := net.ParseIP(host); t.IP.IsLoopback() && !ip.IsLoopback() {
			return ""
		}
		host = t.IP.String()
	}
	return "http://" + net.JoinHostPort(host, strconv.Itoa(t.Port)) + "/"
}

// reachable is an address as a browser on this host can use it.
func reachable(addr net.Addr) string {
	t := addr.(*net.TCPAddr)
	if t.IP.IsUnspecified() {
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port))
	}
	return t.String()
}

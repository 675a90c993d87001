// Command arbiter compares the outputs of the copies of protected VMs, releases
// them, orders resynchronizations and decides fail-overs.
package main

import (
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/health"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/sched"
	"github.com/understudy-ft/understudy/services/session"
)

// options are the command line's.
type options struct {
	id, listen, advertise, http string
	etcd                        *cli.List
	dataDir, etcdListen         string
	etcdAdvertise               *cli.List
	leaseTTL, leaseMargin       time.Duration
	heartbeat, heartbeatTimeout time.Duration
	compareIdle, compareMax     time.Duration
	syncTimeout, epochMax       time.Duration
	spread                      time.Duration
	tls                         *identity.Flags
	openReads                   bool
}

func command() (*cli.Command, *options) {
	c := cli.New("arbiter", "compares the outputs of protected VMs, releases them and decides fail-overs")
	c.Examples = []string{
		"arbiter",
		"arbiter --listen 10.0.0.3:7400 --data-dir /var/lib/understudy --etcd-listen 10.0.0.3:2379 --tls-ca ca.pem --tls-cert arbiter.pem --tls-key arbiter.key",
		"arbiter --listen 10.0.0.3:7400 --etcd https://10.0.0.3:2379,https://10.0.0.4:2379,https://10.0.0.5:2379 --tls-ca ca.pem --tls-cert arbiter.pem --tls-key arbiter.key",
	}
	policy := session.DefaultPolicy()
	ms := func(n uint32) time.Duration { return time.Duration(n) * time.Millisecond }
	o := &options{etcd: cli.NewList("embedded"), etcdAdvertise: cli.NewList()}
	c.StringVar(&o.listen, "listen", "127.0.0.1:7400", "`ADDR` to serve replicas and operators on (gRPC)")
	c.StringVar(&o.advertise, "advertise", "", "`ADDR` at which replicas reach this arbiter, told by other arbiters (default: --listen)")
	c.StringVar(&o.http, "http", "127.0.0.1:7480", "`ADDR` to serve the status page, /metrics, /healthz and /readyz on; \"off\" for none")
	c.Var(o.etcd, "etcd", "`ENDPOINTS` of an etcd cluster, separated by commas, or \"embedded\"")
	c.StringVar(&o.dataDir, "data-dir", "", "`DIR` of the embedded etcd; without it a temporary one, removed at the end:\nthen records do not survive the arbiter")
	c.StringVar(&o.etcdListen, "etcd-listen", "127.0.0.1:0", "`ADDR` (IP:port) to serve the embedded etcd on; replicas on other hosts need one that they can reach.\nPort 0: a free one, kept in the data directory")
	c.Var(o.etcdAdvertise, "etcd-advertise", "`ENDPOINTS` of etcd that replicas are told, if they differ")
	c.StringVar(&o.id, "id", "", "`NAME` of this arbiter, unlike any other's (default: kept in the data directory, or made up)")
	c.DurationVar(&o.leaseTTL, "lease-ttl", fence.DefaultTTL, "`TIME` that etcd leases of arbiters and replicas last; whole seconds")
	c.DurationVar(&o.leaseMargin, "lease-margin", fence.DefaultMargin, "`TIME` before its end from which on a lease is not trusted")
	c.DurationVar(&o.heartbeat, "heartbeat", 50*time.Millisecond, "`TIME` between heartbeats to replicas")
	c.DurationVar(&o.heartbeatTimeout, "heartbeat-timeout", ms(policy.HeartbeatTimeoutMs), "`TIME` after which a silent replica is lost")
	c.DurationVar(&o.compareIdle, "compare-idle", ms(policy.CompareIdleMs), "`TIME` after which a standby that is idle will not make an output any more")
	c.DurationVar(&o.compareMax, "compare-max", ms(policy.CompareMaxMs), "longest `TIME` to wait for a matching output")
	c.DurationVar(&o.syncTimeout, "sync-timeout", ms(policy.SyncTimeoutMs), "longest `TIME` for each step of a synchronization")
	c.DurationVar(&o.spread, "spread", 30*time.Second, "`TIME` between looks whether another arbiter owns fewer VMs, to hand some over to it; 0: never")
	c.BoolVar(&o.openReads, "open-reads", false, "let every certificate of the deployment, not only an operator's, read through Admin")
	o.tls = identity.AddFlags(c)
	c.AddCheck(func(ctx context.Context) error {
		self, err := o.tls.Self()
		if err != nil {
			return err
		}
		return health.Check(ctx, o.listen, self)
	})
	c.DurationVar(&o.epochMax, "epoch-max", ms(policy.EpochMaxMs), "longest `TIME` between resynchronizations; 0: no bound")
	return c, o
}

// check tells what is wrong with the options.
func (o *options) check() error {
	if err := cli.CheckAddress("listen", o.listen); err != nil {
		return err
	}
	if o.advertise != "" {
		if err := cli.CheckAddress("advertise", o.advertise); err != nil {
			return err
		}
	}
	if o.http != "off" {
		if err := cli.CheckAddress("http", o.http); err != nil {
			return err
		}
	}
	if o.id != "" {
		if err := fence.CheckName("arbiter", o.id); err != nil {
			return fmt.Errorf("--id: %w (%w)", err, cli.ErrUsage)
		}
	}
	if o.embedded() {
		if err := cli.CheckAddress("etcd-listen", o.etcdListen); err != nil {
			return err
		}
	} else if o.dataDir != "" {
		return fmt.Errorf("--data-dir is for the embedded etcd, and --etcd names another (%w)", cli.ErrUsage)
	} else if err := checkEndpoints("etcd", o.etcd.Values); err != nil {
		return err
	}
	if err := checkEndpoints("etcd-advertise", o.etcdAdvertise.Values); err != nil {
		return err
	}
	if o.leaseTTL < time.Second || o.leaseTTL > time.Hour {
		return fmt.Errorf("--lease-ttl %v: must be from 1s to 1h (%w)", o.leaseTTL, cli.ErrUsage)
	}
	if o.leaseMargin <= 0 || o.leaseMargin > o.leaseTTL/2 {
		return fmt.Errorf("--lease-margin %v: must be above 0 and at most half of --lease-ttl %v (%w)", o.leaseMargin, o.leaseTTL, cli.ErrUsage)
	}
	for _, d := range []struct {
		name     string
		value    time.Duration
		min, max time.Duration
	}{
		{"heartbeat", o.heartbeat, 10 * time.Millisecond, 10 * time.Second},
		{"heartbeat-timeout", o.heartbeatTimeout, 2 * o.heartbeat, session.MaxHeartbeatTimeout},
		{"compare-idle", o.compareIdle, time.Millisecond, time.Minute},
		{"compare-max", o.compareMax, o.compareIdle, time.Hour},
		{"sync-timeout", o.syncTimeout, 100 * time.Millisecond, time.Hour},
		{"epoch-max", o.epochMax, 0, 24 * time.Hour},
		{"spread", o.spread, 0, 24 * time.Hour},
	} {
		if d.value < d.min || d.value > d.max {
			return fmt.Errorf("--%s %v: must be from %v to %v (%w)", d.name, d.value, d.min, d.max, cli.ErrUsage)
		}
	}
	return nil
}

// checkEndpoints takes host:port, http://host:port and https://host:port.
func checkEndpoints(flagName string, endpoints []string) error {
	for _, e := range endpoints {
		_, addr := splitEndpoint(e)
		if err := cli.CheckAddress(flagName, addr); err != nil {
			return err
		}
	}
	return nil
}

// splitEndpoint takes the scheme, if there is one, from an endpoint of etcd.
func splitEndpoint(e string) (scheme, addr string) {
	for _, scheme := range []string{"http", "https"} {
		if addr, ok := strings.CutPrefix(e, scheme+"://"); ok {
			return scheme, addr
		}
	}
	return "", e
}

// addresses are all at which others are reached, or reach this arbiter.
func (o *options) addresses() []identity.Address {
	all := []identity.Address{{Flag: "listen", Addr: o.listen}}
	if o.advertise != "" {
		all = append(all, identity.Address{Flag: "advertise", Addr: o.advertise})
	}
	if o.embedded() {
		return append(all, identity.Address{Flag: "etcd-listen", Addr: o.etcdListen})
	}
	for _, e := range o.etcd.Values {
		_, addr := splitEndpoint(e)
		all = append(all, identity.Address{Flag: "etcd", Addr: addr})
	}
	return all
}

// checkSchemes tells which endpoint of etcd is not reached as the arbiter's own
// certificate, or the lack of one, says.
func (o *options) checkSchemes(secure bool) error {
	for _, l := range []struct {
		flag   string
		values []string
	}{{"etcd", o.etcd.Values}, {"etcd-advertise", o.etcdAdvertise.Values}} {
		for _, e := range l.values {
			switch scheme, _ := splitEndpoint(e); {
			case secure && scheme == "http":
				return fmt.Errorf("--%s %s: with certificates, etcd is reached over https (%w)", l.flag, e, cli.ErrUsage)
			case !secure && scheme == "https":
				return fmt.Errorf("--%s %s: https needs certificates: give --tls-ca, --tls-cert and --tls-key (%w)", l.flag, e, cli.ErrUsage)
			}
		}
	}
	return nil
}

func (o *options) embedded() bool { return len(o.etcd.Values) == 1 && o.etcd.Values[0] == "embedded" }

// session is the configuration of each VM's session.
func (o *options) session() session.Config {
	ms := func(d time.Duration) uint32 { return uint32(d.Milliseconds()) }
	return session.Config{
		Heartbeat: o.heartbeat,
		Policy: &pb.Policy{
			CompareIdleMs: ms(o.compareIdle), CompareMaxMs: ms(o.compareMax), HeartbeatTimeoutMs: ms(o.heartbeatTimeout),
			SyncTimeoutMs: ms(o.syncTimeout), EpochMaxMs: ms(o.epochMax),
		},
	}
}

func main() {
	c, o := command()
	cli.Main(c, func(ctx context.Context, log hclog.Logger) error {
		sched.Coarse()
		if err := o.check(); err != nil {
			return err
		}
		sched.Messages(log)
		if os.Getenv("GOGC") == "" {
			// Messages are most of what is allocated, and little of what stays.
			debug.SetGCPercent(200)
		}
		a, err := start(ctx, o, log)
		if err != nil {
			return err
		}
		return a.run(ctx)
	})
}

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/sirupsen/logrus"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/sched"
)

func main() {
	cmd := cli.New("gateway", "is a network in user mode for protected guests: switch, router, DHCP, DNS and port forwards")
	cmd.Examples = []string{
		"gateway --forward 127.0.0.1:6379=192.168.127.2:6379",
		"gateway --listen unix:/run/understudy/gateway.sock --subnet 10.9.0.0/24 --lease 52:54:00:00:00:01=10.9.0.2",
	}
	listen, forwards, leases := cli.NewList("127.0.0.1:7410"), cli.NewList(), cli.NewList()
	cmd.Var(listen, "listen", "`ADDR` where replicas' uplinks connect, HOST:PORT or unix:PATH (repeatable)")
	cmd.Var(forwards, "forward", "`[udp:]HOST:PORT=GUEST:PORT` leads a port of this host to a guest (repeatable)")
	cmd.Var(leases, "lease", "`MAC=IP` that DHCP gives to a guest; others get the lowest that is free (repeatable)")
	subnet := cmd.String("subnet", "192.168.127.0/24", "`CIDR` of the guests' network; the gateway has its first address")
	outbound := cmd.Bool("outbound", true, "let guests open connections to the outside")
	mtu := cmd.Int("mtu", 1500, "largest packet in `BYTES`")
	flags := identity.AddFlags(cmd)
	cli.Main(cmd, func(ctx context.Context, log hclog.Logger) error {
		sched.Coarse()
		sched.Messages(log)
		cfg := Config{Listen: listen.Values, Outbound: *outbound, MTU: *mtu}
		if err := cfg.parse(*subnet, forwards.Values, leases.Values); err != nil {
			return fmt.Errorf("%w (%w)", err, cli.ErrUsage)
		}
		if err := cfg.check(); err != nil {
			return fmt.Errorf("%w (%w)", err, cli.ErrUsage)
		}
		var addresses []identity.Address
		for _, at := range cfg.Listen {
			if !strings.HasPrefix(at, "unix:") {
				addresses = append(addresses, identity.Address{Flag: "listen", Addr: at})
			}
		}
		var err error
		if cfg.Identity, err = flags.Load(identity.ID{Role: identity.Gateway}, log, addresses...); err != nil {
			return err
		}
		go cfg.Identity.Watch(ctx)
		// The network services of the stack log through logrus.
		logrus.SetOutput(log.Named("netstack").StandardWriter(&hclog.StandardLoggerOptions{ForceLevel: hclog.Debug}))
		logrus.SetFormatter(&logrus.TextFormatter{DisableTimestamp: true, DisableColors: true})
		g, err := Start(cfg, log)
		if err != nil {
			return err
		}
		defer g.Close()
		log.Info("ready", "subnet", cfg.Subnet.Masked(), "gateway", cfg.routerIP())
		<-ctx.Done()
		return nil
	})
}

// parse reads the texts of the command line.
func (c *Config) parse(subnet string, forwards, leases []string) error {
	var err error
	if c.Subnet, err = netip.ParsePrefix(subnet); err != nil {
		return fmt.Errorf("subnet %q: %w", subnet, err)
	}
	for _, text := range forwards {
		f, err := ParseForward(text)
		if err != nil {
			return err
		}
		c.Forwards = append(c.Forwards, f)
	}
	c.Leases = map[netip.Addr]mac{}
	for _, text := range leases {
		m, ip, err := parseLease(text)
		if err != nil {
			return err
		}
		c.Leases[ip] = m
	}
	return nil
}

func parseLease(text string) (m mac, ip netip.Addr, err error) {
	hardware, address, ok := strings.Cut(text, "=")
	if !ok {
		return m, ip, fmt.Errorf("lease %q: must be MAC=IP", text)
	}
	parsed, err := net.ParseMAC(hardware)
	if err != nil || len(parsed) != len(m) {
		return m, ip, fmt.Errorf("lease %q: %q is not an Ethernet address", text, hardware)
	}
	copy(m[:], parsed)
	if ip, err = netip.ParseAddr(address); err != nil || !ip.Is4() {
		return m, ip, fmt.Errorf("lease %q: %q is not an IPv4 address", text, address)
	}
	return m, ip, nil
}

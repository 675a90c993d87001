package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/session"
)

func TestDiscover(t *testing.T) {
	a := launch(t)
	client := pb.NewArbiterClient(a.dial(t))
	d, err := client.Discover(within(t, patience), &pb.DiscoverRequest{Protocol: session.ProtocolVersion})
	if err != nil || len(d.EtcdEndpoints) != 1 || d.EtcdEndpoints[0] != a.member.LocalEndpoint() || d.LeaseTtlMs != 2000 || d.LeaseMarginMs != 500 || d.ArbiterId == "" {
		t.Errorf("%v %v", d, err)
	}
	if _, err := client.Discover(within(t, patience), &pb.DiscoverRequest{Protocol: 7}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("protocol 7: %v", err)
	}

	tcp := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	port := a.member.Addr().Port
	everywhere := launch(t, "--etcd-listen", "0.0.0.0:0", "--insecure")
	for name, tc := range map[string]struct {
		a             *running
		local, remote string
		want          string
	}{
		"same host":                   {a, "127.0.0.1", "127.0.0.1", fmt.Sprintf("http://127.0.0.1:%d", port)},
		"same host, by its address":   {a, "10.0.0.3", "10.0.0.3", fmt.Sprintf("http://127.0.0.1:%d", port)},
		"another host":                {a, "10.0.0.3", "10.0.0.9", ""},
		"another host, reachable":     {everywhere, "10.0.0.3", "10.0.0.9", fmt.Sprintf("http://10.0.0.3:%d", everywhere.member.Addr().Port)},
		"another host, over IPv6":     {everywhere, "fd00::3", "fd00::9", fmt.Sprintf("http://[fd00::3]:%d", everywhere.member.Addr().Port)},
		"same host, by all addresses": {everywhere, "127.0.0.1", "127.0.0.1", fmt.Sprintf("http://127.0.0.1:%d", everywhere.member.Addr().Port)},
	} {
		got, err := tc.a.endpoints(tc.a.options)(tcp(tc.local), tcp(tc.remote))
		if tc.want == "" {
			if err == nil || !strings.Contains(err.Error(), "--etcd-listen") {
				t.Errorf("%s: %v %v", name, got, err)
			}
		} else if err != nil || len(got) != 1 || got[0] != tc.want {
			t.Errorf("%s: %v %v, want %s", name, got, err, tc.want)
		}
	}
}

func TestStartSaysInOneLineWhatIsWrong(t *testing.T) {
	taken := launch(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"port in use":          {[]string{"--listen", taken.addr}, cli.ExitError, "--listen " + taken.addr + ": address already in use"},
		"page's port in use":   {[]string{"--http", strings.TrimPrefix(taken.page, "http://")}, cli.ExitError, "address already in use"},
		"bad address":          {[]string{"--listen", "nonsense"}, cli.ExitUsage, "must be host:port"},
		"bad page address":     {[]string{"--http", "80"}, cli.ExitUsage, "must be host:port"},
		"bad etcd":             {[]string{"--etcd", "http://x"}, cli.ExitUsage, "--etcd"},
		"unusable directory":   {[]string{"--data-dir", file}, cli.ExitError, "data directory"},
		"directory for etcd":   {[]string{"--data-dir", file, "--etcd", "x:1"}, cli.ExitUsage, "--data-dir is for the embedded etcd"},
		"bad id":               {[]string{"--id", "a b"}, cli.ExitUsage, "--id"},
		"lease too short":      {[]string{"--lease-ttl", "10ms"}, cli.ExitUsage, "--lease-ttl"},
		"margin too long":      {[]string{"--lease-margin", "2s"}, cli.ExitUsage, "--lease-margin"},
		"heartbeats too slow":  {[]string{"--heartbeat", "3s"}, cli.ExitUsage, "--heartbeat-timeout"},
		"compare out of order": {[]string{"--compare-idle", "3s"}, cli.ExitUsage, "--compare-max"},
	} {
		c, o := command()
		var stderr bytes.Buffer
		args := append([]string{"--listen=127.0.0.1:0", "--http=127.0.0.1:0", "--log-level=off"}, tc.args...)
		code := c.Run(t.Context(), args, func(string) (string, bool) { return "", false }, io.Discard, &stderr,
			func(ctx context.Context, log hclog.Logger) error {
				if err := o.check(); err != nil {
					return err
				}
				a, err := start(ctx, o, log)
				if err == nil {
					a.close()
				}
				return err
			})
		if code != tc.code || !strings.Contains(stderr.String(), tc.want) || strings.Count(stderr.String(), "\n") != 1 {
			t.Errorf("%s: code %d: %q, want %d and %q", name, code, stderr.String(), tc.code, tc.want)
		}
	}
}

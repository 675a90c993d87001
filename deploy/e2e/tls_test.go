package e2e

import (
	"context"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/hashicorp/go-hclog"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"

	"github.com/understudy-ft/understudy/deploy/cluster"
)

// certs runs the tool.
func certs(t *testing.T, args ...string) {
	t.Helper()
	out, err := exec.Command(filepath.Join(bin, "certs"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("certs %v: %v\n%s", args, err, out)
	}
}

// TestFailOverOverTLS runs a deployment with the certificates that one command
// makes: all parties over TLS, a renewal without a restart, a kill under load.
func TestFailOverOverTLS(t *testing.T) {
	pki := filepath.Join(t.TempDir(), "pki")
	certs(t, "--out", pki, "--vm", "demo", "--vm", "other")
	c := start(t, cluster.Config{Certs: pki}, 2)
	l := begin(t, c)
	s, err := c.Status(deadline(t))
	if err != nil {
		t.Fatal(err)
	}

	// Nobody else gets through: no certificate, another VM's, no operator's.
	for name, caller := range map[string]struct {
		party string
		want  codes.Code
	}{"plain text": {"", codes.Unavailable}, "another VM's replica": {"replica-other", codes.PermissionDenied}, "the VM's own replica": {"replica-demo", codes.PermissionDenied}} {
		creds := insecure.NewCredentials()
		if caller.party != "" {
			who, err := identity.Load(identity.Files{CA: filepath.Join(pki, "ca.pem"), Cert: filepath.Join(pki, caller.party+".pem"),
				Key: filepath.Join(pki, caller.party+".key")}, hclog.NewNullLogger())
			if err != nil {
				t.Fatal(err)
			}
			creds = who.ClientCredentials(identity.ID{Role: identity.Arbiter})
		}
		conn, err := grpc.NewClient(c.GRPC, grpc.WithTransportCredentials(creds))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := pb.NewAdminClient(conn).FailOver(deadline(t), &pb.FailOverRequest{Vm: "demo"}); grpcstatus.Code(err) != caller.want {
			t.Errorf("%s ordered a fail-over: %v", name, err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}

	// A secondary started with another VM's certificate ends at once.
	out, err := exec.CommandContext(deadline(t), filepath.Join(bin, "secondary"), "--vm", "demo", "--arbiter", c.GRPC,
		"--tls-ca", filepath.Join(pki, "ca.pem"), "--tls-cert", filepath.Join(pki, "replica-other.pem"),
		"--tls-key", filepath.Join(pki, "replica-other.key")).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "is that of replica of VM other, this is replica of VM demo") {
		t.Errorf("a secondary with another VM's certificate: %v\n%s", err, out)
	}

	// All certificates are renewed while the VM runs; the connections after
	// the fail-over use the new ones.
	certs(t, "renew", "--out", pki)
	if err := c.Active(s).Kill(); err != nil {
		t.Fatal(err)
	}
	after, err := c.Protected(deadline(t), s.GetRecord().GetTerm())
	if err != nil {
		t.Fatal(err)
	}
	if after.GetRecord().GetActive().GetId() != s.GetRecord().GetStandby().GetId() {
		t.Errorf("%v took over from %v", after.GetRecord().GetActive(), s.GetRecord().GetStandby())
	}
	progress(t, l, 200)
	verify(t, l)
}

// TestRefusesToRunUnsecured starts each program on addresses that others reach.
func TestRefusesToRunUnsecured(t *testing.T) {
	for name, args := range map[string][]string{
		"arbiter":   {"--listen", "0.0.0.0:0", "--http", "off"},
		"secondary": {"--arbiter", "192.0.2.1:7400"},
		"gateway":   {"--listen", "0.0.0.0:0"},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		out, err := exec.CommandContext(ctx, filepath.Join(bin, name), args...).CombinedOutput()
		cancel()
		if err == nil || !strings.Contains(string(out), "--insecure") || strings.Count(string(out), "\n") != 1 {
			t.Errorf("%s %v: %v\n%s", name, args, err, out)
		}
	}
}

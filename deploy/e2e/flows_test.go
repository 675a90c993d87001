package e2e

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"

	"github.com/understudy-ft/understudy/deploy/cluster"
	"github.com/understudy-ft/understudy/deploy/initrd"
)

// certificate returns a self-signed certificate for the guest and a client's
// configuration that trusts it.
func certificate(t *testing.T) (cert, key string, client *tls.Config) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "guest"}, IPAddresses: []net.IP{net.ParseIP(cluster.GuestIP)},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(100, 0, 0), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})),
		&tls.Config{RootCAs: pool, ServerName: cluster.GuestIP}
}

// ping makes requests on a connection to a Redis.
func ping(conn net.Conn, times int) error {
	r := bufio.NewReader(conn)
	for range times {
		if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
			return err
		}
		if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
			return err
		}
		if line, err := r.ReadString('\n'); err != nil || line != "+PONG\r\n" {
			return fmt.Errorf("answer %q: %w", line, err)
		}
	}
	return nil
}

// A TLS server's handshake differs between the copies where their random numbers
// do. A flow rule exempts it; without one, resynchronizations make it whole.
func TestTLSGuest(t *testing.T) {
	cert, key, client := certificate(t)
	c := start(t, cluster.Config{
		Append: "ud.redis=--tls-port:6380:--tls-cert-file:/tls/cert:--tls-key-file:/tls/key:--tls-auth-clients:no",
		Add:    []initrd.File{{Name: "tls/cert", Text: cert}, {Name: "tls/key", Text: key}},
		Ports:  []string{"tcp:6380"},
	}, 1)
	const handshakes, requests = 5, 20
	var kept []net.Conn
	// visit returns how many of the guest's outputs differed.
	visit := func() (mismatches uint64) {
		t.Helper()
		before := status(t, c).GetCounters()
		for range handshakes {
			dialer := &tls.Dialer{NetDialer: &net.Dialer{Timeout: limit}, Config: client}
			conn, err := dialer.DialContext(deadline(t), "tcp", c.Address("tcp:6380"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			if err := ping(conn, requests); err != nil {
				t.Fatal(err)
			}
			kept = append(kept, conn)
		}
		after := status(t, c).GetCounters()
		t.Logf("%d handshakes with %d requests each: %d resynchronizations, %d mismatches, %d compare time-outs", handshakes, requests,
			after.GetResyncs()-before.GetResyncs(), after.GetMismatches()-before.GetMismatches(), after.GetCompareTimeouts()-before.GetCompareTimeouts())
		return after.GetMismatches() - before.GetMismatches()
	}
	visit() // compared; nearly always the first handshake differs

	rules := []string{"tcp any:6380 > any: pass"}
	set := func(rules []string) {
		t.Helper()
		s, err := c.Admin().SetPolicy(deadline(t), &pb.SetPolicyRequest{
			Vm: c.VM, Policy: &pb.Policy{FlowRules: rules}, Update: &fieldmaskpb.FieldMask{Paths: []string{"flow_rules"}}})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(s.GetPolicy().GetFlowRules(), rules) || s.GetRecord().GetMode() != pb.Mode_MODE_PROTECTED {
			t.Fatalf("status %v", s)
		}
	}
	for _, action := range []string{"pass", "bypass"} {
		rules[0] = "tcp any:6380 > any: " + action
		set(rules)
		before := status(t, c)
		if n := visit(); n != 0 {
			t.Errorf("%d mismatches although %s", n, rules[0])
		}
		after := status(t, c)
		passed := after.GetCounters().GetOutputsPassed() - before.GetCounters().GetOutputsPassed()
		var bypassed uint64
		for _, r := range after.GetReplicas() {
			bypassed += r.GetBypassed()
		}
		t.Logf("%s: %d outputs passed, %d bypassed", action, passed, bypassed)
		if n := uint64(handshakes * requests); action == "pass" && passed < n || action == "bypass" && bypassed < n {
			t.Errorf("%s: %d outputs passed, %d bypassed, of at least %d answers", action, passed, bypassed, n)
		}
	}

	// Exempt connections may break at a fail-over; what is compared does not, and
	// the service is there for new ones.
	plain, err := net.Dial("tcp", c.Redis)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := ping(plain, 3); err != nil {
		t.Fatal(err)
	}
	term := status(t, c).GetRecord().GetTerm()
	c.Active(status(t, c)).Kill()
	wait(t, c, "the fail-over", func(s *pb.VMStatus) bool { return s.GetRecord().GetTerm() > term })
	if err := ping(plain, 3); err != nil {
		t.Errorf("a compared connection: %v", err)
	}
	broken := 0
	for _, conn := range kept {
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		if _, err := fmt.Fprint(conn, "PING\r\n"); err != nil {
			broken++
			continue
		}
		if n, err := conn.Read(make([]byte, 64)); n == 0 || err != nil {
			broken++
		}
	}
	t.Logf("%d of %d exempt connections broke", broken, len(kept))
	visit()
}

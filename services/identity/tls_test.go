package identity

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// serve runs a gRPC server with the health service under rules.
func serve(t *testing.T, s *Source, rules Rules) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(s.ServerOptions(rules)...)
	healthpb.RegisterHealthServer(server, health.NewServer())
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(ln) })
	t.Cleanup(func() { server.Stop(); wg.Wait() })
	return ln.Addr().String()
}

// call makes a unary and a streaming call and returns their codes.
func call(t *testing.T, addr string, creds credentials.TransportCredentials) (unary, stream codes.Code) {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c := healthpb.NewHealthClient(conn)
	_, err = c.Check(ctx, &healthpb.HealthCheckRequest{})
	w, streamErr := c.Watch(ctx, &healthpb.HealthCheckRequest{})
	if streamErr == nil {
		_, streamErr = w.Recv()
	}
	return status.Code(err), status.Code(streamErr)
}

func TestWhoGetsThrough(t *testing.T) {
	a, ca := newCA(t, start)
	b, otherCA := newCA(t, start)
	web, arbiter := ID{Replica, "web"}, ID{Arbiter, "a1"}
	server := source(t, a, ca, arbiter)
	addr := serve(t, server, Rules{"grpc.health.v1.Health": {web, {Role: Operator}}, "/grpc.health.v1.Health/Watch": {{Role: Operator}}})

	late := source(t, a, ca, web)
	lateCert, err := load(write(t, ca, issue(t, a, web, start, time.Hour)), hclog.NewNullLogger(), func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	server.now = func() time.Time { return start.Add(2 * time.Hour) }
	noRole := source(t, a, ca, web)
	held := *noRole.held.Load()
	held.cert = anonymous(t, a)
	noRole.held.Store(&held)
	tls12 := late.ClientTLS(arbiter)
	tls12.MinVersion, tls12.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	bare := late.ClientTLS(arbiter)
	bare.GetClientCertificate = nil

	// A client does not learn of a failed handshake by another code than that.
	const broken = codes.Unavailable
	for name, c := range map[string]struct {
		creds         credentials.TransportCredentials
		unary, stream codes.Code
	}{
		"the VM's replica":            {late.ClientCredentials(ID{Role: Arbiter}), codes.OK, codes.PermissionDenied},
		"an operator":                 {source(t, a, ca, ID{Operator, "alice"}).ClientCredentials(arbiter), codes.OK, codes.OK},
		"another VM's replica":        {source(t, a, ca, ID{Replica, "db"}).ClientCredentials(arbiter), codes.PermissionDenied, codes.PermissionDenied},
		"an arbiter":                  {source(t, a, ca, arbiter).ClientCredentials(arbiter), codes.PermissionDenied, codes.PermissionDenied},
		"another CA's":                {source(t, b, otherCA, web).ClientCredentials(arbiter), broken, broken},
		"another CA's that trusts us": {source(t, b, Pair{Cert: append(ca.Cert, otherCA.Cert...)}, web).ClientCredentials(arbiter), broken, broken},
		"expired":                     {lateCert.ClientCredentials(arbiter), broken, broken},
		"without a role":              {noRole.ClientCredentials(arbiter), codes.Unauthenticated, codes.Unauthenticated},
		"without a certificate":       {credentials.NewTLS(bare), broken, broken},
		"TLS 1.2":                     {credentials.NewTLS(tls12), broken, broken},
		"plain text":                  {insecure.NewCredentials(), broken, broken},
		"who expects an operator":     {late.ClientCredentials(ID{Role: Operator}), broken, broken},
		"who expects another name":    {late.ClientCredentials(ID{Arbiter, "a2"}), broken, broken},
	} {
		if unary, stream := call(t, addr, c.creds); unary != c.unary || stream != c.stream {
			t.Errorf("%s: %v, %v; want %v, %v", name, unary, stream, c.unary, c.stream)
		}
	}
}

func TestRenewedCertificatesAndCAsAreUsed(t *testing.T) {
	a, ca := newCA(t, start)
	b, otherCA := newCA(t, start)
	arbiter := ID{Role: Arbiter}
	server := source(t, a, ca, arbiter)
	addr := serve(t, server, Rules{"grpc.health.v1.Health": Anyone})
	client := source(t, b, otherCA, ID{Replica, "web"})
	creds := client.ClientCredentials(arbiter)
	if unary, _ := call(t, addr, creds); unary != codes.Unavailable {
		t.Fatalf("another CA: %v", unary)
	}
	next := issue(t, b, arbiter, start, year)
	put(t, server.files.CA, append(otherCA.Cert, ca.Cert...))
	put(t, server.files.Cert, append(next.Cert, '\n'))
	put(t, server.files.Key, append(next.Key, '\n'))
	server.refresh()
	if unary, stream := call(t, addr, creds); unary != codes.OK || stream != codes.OK {
		t.Errorf("after the server's renewal: %v, %v", unary, stream)
	}
}

func TestWithoutSourceEverybodyMay(t *testing.T) {
	var none *Source
	addr := serve(t, none, Rules{})
	if unary, stream := call(t, addr, none.ClientCredentials()); unary != codes.OK || stream != codes.OK {
		t.Errorf("%v, %v", unary, stream)
	}
}

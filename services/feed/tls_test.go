package feed

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// identity returns a certificate for the loopback address and who trusts it.
func identity(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "replica"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestCredentialsSecureBothEnds(t *testing.T) {
	noLeaks(t)
	cert, pool := identity(t)
	server, client := testConfig(), testConfig()
	server.Credentials = credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert})
	client.Credentials = credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{cert}, RootCAs: pool})
	s := serve(t, server)
	a, _ := connect(t, s.addr, client)
	if err := a.Input(t.Context(), 1, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	wait(t, wait(t, s.ends, "feed").messages, "input")

	for name, cfg := range map[string]Config{"plain text": testConfig(), "no certificate": func() Config {
		c := testConfig()
		c.Credentials = credentials.NewTLS(&tls.Config{RootCAs: pool})
		return c
	}()} {
		if _, _, err := Dial(t.Context(), s.addr, 3, hello, guestZero, newActiveEnd(), cfg); err == nil {
			t.Errorf("%s got a feed", name)
		}
	}
}

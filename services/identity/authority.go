package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

// Pair is a certificate and its key in PEM form.
type Pair struct{ Cert, Key []byte }

// backdate allows for clocks of other hosts that are behind.
const backdate = 5 * time.Minute

// Authority signs the certificates of a deployment.
type Authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// NewAuthority makes a CA that is valid from now on. It signs nothing but
// parties' certificates.
func NewAuthority(name string, now time.Time, life time.Duration) (*Authority, Pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, Pair{}, fmt.Errorf("make the CA's key: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:     true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	pair, err := sign(template, template, key, key)
	if err != nil {
		return nil, Pair{}, fmt.Errorf("make the CA's certificate: %w", err)
	}
	a, err := ReadAuthority(pair)
	return a, pair, err
}

// ReadAuthority reads a CA that NewAuthority made. Where the certificate's file
// holds several, the first is the CA's.
func ReadAuthority(p Pair) (*Authority, error) {
	certs, err := parseCertificates(p.Cert)
	if err != nil {
		return nil, fmt.Errorf("the CA's certificate: %w", err)
	}
	block, _ := pem.Decode(p.Key)
	if block == nil {
		return nil, errors.New("the CA's key: not a PEM file")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the CA's key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(certs[0].PublicKey) {
		return nil, errors.New("the CA's certificate and key do not belong together")
	}
	return &Authority{cert: certs[0], key: key}, nil
}

// Expires is when the CA's certificate ends, and all that it has signed.
func (a *Authority) Expires() time.Time { return a.cert.NotAfter }

// Issue makes a key and a certificate for a party at hosts (names and IP
// addresses; only tools look at them). It ends with the CA at the latest.
func (a *Authority) Issue(id ID, hosts []string, now time.Time, life time.Duration) (Pair, error) {
	if err := id.Check(); err != nil {
		return Pair{}, err
	}
	end := now.Add(life)
	if end.After(a.cert.NotAfter) {
		end = a.cert.NotAfter
	}
	if !end.After(now) {
		return Pair{}, fmt.Errorf("the CA expired at %s: make another", when(a.cert.NotAfter))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Pair{}, fmt.Errorf("make a key for %v: %w", id, err)
	}
	serial, err := newSerial()
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: id.commonName()},
		NotBefore: now.Add(-backdate), NotAfter: end,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{id.URI()},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	pair, err := sign(template, a.cert, key, a.key)
	if err != nil {
		return Pair{}, fmt.Errorf("make a certificate for %v: %w", id, err)
	}
	return pair, nil
}

// sign returns key with the certificate that template describes.
func sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey, by crypto.Signer) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, by)
	if err != nil {
		return Pair{}, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		Cert: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}),
	}, nil
}

// newSerial is a positive random number of 127 bits (RFC 5280, 4.1.2.2).
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

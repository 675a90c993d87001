package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Files name the PEM files of a party: certificates of the CA, its own
// certificate (with intermediate ones behind it, if any) and its key.
type Files struct{ CA, Cert, Key string }

const (
	watchEvery = 2 * time.Second
	// A certificate's end is near, and told once a day, when a fifth of its
	// life is left, but not more than 30 days before.
	warnBefore = 30 * 24 * time.Hour
	warnEvery  = 24 * time.Hour
)

// Source holds a party's certificate and the CA that it trusts, from files. A
// nil Source stands for plain text. Its methods may be called by any goroutine.
type Source struct {
	files Files
	log   hclog.Logger
	now   func() time.Time
	held  atomic.Pointer[credential]

	// Of Watch alone.
	problem string    // last one logged
	warned  time.Time // when the certificate's end was last told
}

// credential is what the files held at one time.
type credential struct {
	stamps [3]stamp
	roots  *x509.CertPool
	cert   tls.Certificate
	id     ID
}

// stamp tells versions of a file apart.
type stamp struct {
	size     int64
	modified time.Time
}

// Load reads the files and checks that they belong together, are valid now and
// say a role. Errors are one plain line.
func Load(files Files, log hclog.Logger) (*Source, error) {
	return load(files, log, time.Now)
}

func load(files Files, log hclog.Logger, now func() time.Time) (*Source, error) {
	s := &Source{files: files, log: log, now: now}
	c, err := s.read()
	if err != nil {
		return nil, err
	}
	s.held.Store(c)
	if info, err := os.Stat(files.Key); err == nil && info.Mode().Perm()&0o007 != 0 {
		log.Warn("the key can be read by every user of this host: chmod 600 it", "file", files.Key)
	}
	s.warn()
	return s, nil
}

// Files are the files that the Source was loaded from.
func (s *Source) Files() Files { return s.files }

// ID is the party's own identity.
func (s *Source) ID() ID { return s.held.Load().id }

// Expires is when the party's own certificate ends.
func (s *Source) Expires() time.Time { return s.held.Load().cert.Leaf.NotAfter }

// Watch takes changed files and warns before the certificate ends, until ctx is
// done. Files that are wrong are told in the log and not taken.
func (s *Source) Watch(ctx context.Context) {
	if s == nil {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			s.refresh()
			s.warn()
		}
	}
}

// refresh takes the files if they have changed and are right.
func (s *Source) refresh() {
	old := s.held.Load()
	if stamps, err := s.stamps(); err == nil && stamps == old.stamps {
		s.problem = ""
		return
	}
	c, err := s.read()
	if err == nil && c.id != old.id {
		err = fmt.Errorf("certificate %s is now that of %v, this is %v", s.files.Cert, c.id, old.id)
	}
	if err != nil {
		if err.Error() != s.problem {
			s.problem = err.Error()
			s.log.Warn("changed certificate files are not taken", "error", err)
		}
		return
	}
	s.problem, s.warned = "", time.Time{}
	s.held.Store(c)
	s.log.Info("certificate renewed", "identity", c.id, "expires", c.cert.Leaf.NotAfter)
}

// warn tells that the certificate ends soon, or has ended.
func (s *Source) warn() {
	leaf, now := s.held.Load().cert.Leaf, s.now()
	left := leaf.NotAfter.Sub(now)
	if left > min(warnBefore, leaf.NotAfter.Sub(leaf.NotBefore)/5) || now.Sub(s.warned) < warnEvery {
		return
	}
	s.warned = now
	if left <= 0 {
		s.log.Error("this party's certificate has expired: others refuse new connections; renew it (certs renew)",
			"file", s.files.Cert, "expired", leaf.NotAfter)
		return
	}
	s.log.Warn("this party's certificate expires soon: renew it (certs renew)", "file", s.files.Cert, "expires", leaf.NotAfter,
		"left", left.Round(time.Minute))
}

func (s *Source) stamps() (stamps [3]stamp, err error) {
	for i, name := range []string{s.files.CA, s.files.Cert, s.files.Key} {
		info, err := os.Stat(name)
		if err != nil {
			return stamps, err
		}
		stamps[i] = stamp{info.Size(), info.ModTime()}
	}
	return stamps, nil
}

// read reads and checks the files.
func (s *Source) read() (*credential, error) {
	c := &credential{}
	var err error
	// First the stamps: what changes after them is read again.
	if c.stamps, err = s.stamps(); err != nil {
		return nil, fmt.Errorf("read certificates: %w", err)
	}
	if c.roots, err = readRoots(s.files.CA); err != nil {
		return nil, err
	}
	certPEM, err := os.ReadFile(s.files.Cert)
	if err != nil {
		return nil, fmt.Errorf("read the certificate: %w", err)
	}
	chain, err := parseCertificates(certPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", s.files.Cert, err)
	}
	keyPEM, err := os.ReadFile(s.files.Key)
	if err != nil {
		return nil, fmt.Errorf("read the key: %w", err)
	}
	if c.cert, err = tls.X509KeyPair(certPEM, keyPEM); err != nil {
		if b, _ := pem.Decode(keyPEM); b == nil {
			return nil, fmt.Errorf("key %s: not a PEM file", s.files.Key)
		}
		return nil, fmt.Errorf("certificate %s and key %s do not belong together: %w", s.files.Cert, s.files.Key, err)
	}
	leaf := chain[0]
	c.cert.Leaf = leaf
	switch now := s.now(); {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("certificate %s expired at %s: renew it (certs renew)", s.files.Cert, when(leaf.NotAfter))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("certificate %s is not valid before %s: is this host's clock right?", s.files.Cert, when(leaf.NotBefore))
	}
	if _, err := verify(chain, c.roots, s.now(), x509.ExtKeyUsageAny); err != nil {
		return nil, fmt.Errorf("certificate %s is not signed by a CA of %s: %w", s.files.Cert, s.files.CA, err)
	}
	if c.id, err = Of(leaf); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", s.files.Cert, err)
	}
	return c, nil
}

func when(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func readRoots(path string) (*x509.CertPool, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the CA's certificate: %w", err)
	}
	all, err := parseCertificates(text)
	if err != nil {
		return nil, fmt.Errorf("CA %s: %w", path, err)
	}
	pool := x509.NewCertPool()
	for _, cert := range all {
		if !cert.IsCA {
			return nil, fmt.Errorf("CA %s: %q is not the certificate of a CA", path, cert.Subject.CommonName)
		}
		pool.AddCert(cert)
	}
	return pool, nil
}

// parseCertificates reads one or more certificates.
func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var all []*x509.Certificate
	for {
		block, rest := pem.Decode(bytes.TrimSpace(text))
		if block == nil {
			break
		}
		text = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		all = append(all, cert)
	}
	if len(all) == 0 {
		return nil, errors.New("holds no certificate in PEM form")
	}
	return all, nil
}

// verify checks that a chain leads from a CA to its first certificate.
func verify(chain []*x509.Certificate, roots *x509.CertPool, now time.Time, use x509.ExtKeyUsage) ([][]*x509.Certificate, error) {
	between := x509.NewCertPool()
	for _, cert := range chain[1:] {
		between.AddCert(cert)
	}
	return chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use},
	})
}

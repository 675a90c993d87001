// Package identitytest makes certificates for tests.
package identitytest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/identity"
)

// Deployment is a CA of a test.
type Deployment struct {
	ca   *identity.Authority
	pair identity.Pair
}

// New makes a CA.
func New(t testing.TB) *Deployment {
	t.Helper()
	ca, pair, err := identity.NewAuthority("test", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	return &Deployment{ca, pair}
}

// Files are new ones of a party at localhost, removed at the end of the test.
func (d *Deployment) Files(t testing.TB, id identity.ID) identity.Files {
	t.Helper()
	pair, err := d.ca.Issue(id, []string{"localhost", "127.0.0.1"}, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := identity.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "cert.key")}
	for path, data := range map[string][]byte{f.CA: d.pair.Cert, f.Cert: pair.Cert, f.Key: pair.Key} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

// Source is a new one of a party at localhost.
func (d *Deployment) Source(t testing.TB, id identity.ID) *identity.Source {
	t.Helper()
	s, err := identity.Load(d.Files(t, id), hclog.NewNullLogger())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

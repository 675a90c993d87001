package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/identity"
)

func aPlan(dir string, vms ...string) plan {
	return plan{Dir: dir, VMs: vms, Hosts: []string{"a.example", "10.0.0.1", "::1"}, CALife: 3650 * day, Life: 365 * day}
}

func mustCreate(t *testing.T, p plan) []string {
	t.Helper()
	made, err := create(p, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// load reads a party's files as the party does.
func load(dir, name string) (*identity.Source, error) {
	return identity.Load(identity.Files{CA: filepath.Join(dir, "ca.pem"), Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")},
		hclog.NewNullLogger())
}

func TestOneCommandMakesAllParties(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	made := mustCreate(t, aPlan(dir, "web", "db"))
	if len(made) != 14 {
		t.Errorf("made %v", made)
	}
	for name, want := range map[string]identity.ID{
		"arbiter": {Role: identity.Arbiter}, "operator": {Role: identity.Operator}, "gateway": {Role: identity.Gateway},
		"etcd": {Role: identity.Etcd}, "replica-web": {Role: identity.Replica, Name: "web"}, "replica-db": {Role: identity.Replica, Name: "db"},
	} {
		s, err := load(dir, name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if left := time.Until(s.Expires()); s.ID() != want || left < 364*day || left > 366*day {
			t.Errorf("%s is %v and lasts %v", name, s.ID(), left)
		}
		cert, err := readCertificate(filepath.Join(dir, name+".pem"))
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range []string{"a.example", "10.0.0.1", "::1"} {
			if err := cert.VerifyHostname(h); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	for _, f := range made {
		info, err := os.Stat(f)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(f, ".key") && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", f, info.Mode())
		}
	}
}

func TestNothingIsOverwritten(t *testing.T) {
	dir := t.TempDir()
	mustCreate(t, aPlan(dir, "web"))
	before := contents(t, dir)
	for _, vms := range [][]string{{"web"}, {"db", "web"}, nil} {
		if made, err := create(aPlan(dir, vms...), time.Now()); err == nil || len(made) > 0 {
			t.Errorf("%v: made %v, %v", vms, made, err)
		}
	}
	// Another VM is added under the same CA.
	if made := mustCreate(t, aPlan(dir, "db")); len(made) != 2 {
		t.Errorf("made %v", made)
	}
	after := contents(t, dir)
	for name, data := range before {
		if after[name] != data {
			t.Errorf("%s was changed", name)
		}
	}
	if _, err := load(dir, "replica-db"); err != nil {
		t.Error(err)
	}
	// Half of a pair is left alone, too.
	if err := os.Remove(filepath.Join(dir, "operator.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := create(aPlan(dir, "third"), time.Now()); err == nil || !strings.Contains(err.Error(), "only one is there") {
		t.Error(err)
	}
}

func TestRenew(t *testing.T) {
	dir := t.TempDir()
	mustCreate(t, aPlan(dir, "web"))
	before := contents(t, dir)
	old, err := load(dir, "replica-web")
	if err != nil {
		t.Fatal(err)
	}
	put(t, dir, "arbiter.new.key") // an earlier renewal was cut off
	made, err := renew(dir, 365*day, time.Now().Add(day))
	if err != nil || len(made) != 10 {
		t.Fatalf("%v, %v", made, err)
	}
	for name, data := range contents(t, dir) {
		if same := before[name] == data; same != strings.HasPrefix(name, "ca.") {
			t.Errorf("%s: the same: %v", name, same)
		}
	}
	cert, err := readCertificate(filepath.Join(dir, "replica-web.pem"))
	if err != nil {
		t.Fatal(err)
	}
	id, err := identity.Of(cert)
	if err != nil || id != old.ID() || !cert.NotAfter.After(old.Expires()) || !slices.Contains(cert.DNSNames, "a.example") || len(cert.IPAddresses) != 2 {
		t.Errorf("%v until %v for %v %v, %v", id, cert.NotAfter, cert.DNSNames, cert.IPAddresses, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "replica-web.key")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if _, err := renew(t.TempDir(), 365*day, time.Now()); err == nil {
		t.Error("renewed an empty directory")
	}
	if _, err := renew(dir, 365*day, time.Now().Add(3651*day)); err == nil || !strings.Contains(err.Error(), "the CA expired") {
		t.Error(err)
	}
}

func TestCreateSaysWhatIsWrong(t *testing.T) {
	for want, change := range map[string]func(*plan){
		"not a name of":         func(p *plan) { p.VMs = []string{"../web"} },
		"names its VM":          func(p *plan) { p.VMs = []string{""} },
		"--life 1m0s":           func(p *plan) { p.Life = time.Minute },
		"at most --ca-life":     func(p *plan) { p.CALife = day },
		"must be names or IP":   func(p *plan) { p.Hosts = []string{"10.0.0.1:7400"} },
		"make the directory":    func(p *plan) { p.Dir = "/dev/null/pki" },
		"read the CA: ":         func(p *plan) { put(t, p.Dir, "ca.key") },
		"holds no certificate ": func(p *plan) { put(t, p.Dir, "ca.key"); put(t, p.Dir, "ca.pem") },
	} {
		p := aPlan(t.TempDir(), "web")
		change(&p)
		if made, err := create(p, time.Now()); err == nil || len(made) > 0 || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("made %v, %v; want %q", made, err, want)
		}
	}
}

func put(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(b)
	}
	return all
}

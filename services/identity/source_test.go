package identity

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

const year = 365 * 24 * time.Hour

func newCA(t *testing.T, now time.Time) (*Authority, Pair) {
	t.Helper()
	a, pair, err := NewAuthority("test", now, 10*year)
	if err != nil {
		t.Fatal(err)
	}
	return a, pair
}

// write puts a party's files into a directory of their own.
func write(t *testing.T, ca, own Pair) Files {
	t.Helper()
	dir := t.TempDir()
	f := Files{filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	put(t, f.CA, ca.Cert)
	put(t, f.Cert, own.Cert)
	put(t, f.Key, own.Key)
	return f
}

func put(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func issue(t *testing.T, a *Authority, id ID, now time.Time, life time.Duration) Pair {
	t.Helper()
	p, err := a.Issue(id, []string{"host.example", "127.0.0.1"}, now, life)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// source is that of a party of the CA that is valid at start.
func source(t *testing.T, a *Authority, ca Pair, id ID) *Source {
	t.Helper()
	s, err := load(write(t, ca, issue(t, a, id, start, year)), hclog.NewNullLogger(), func() time.Time { return start })
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLoadSaysInOneLineWhatIsWrong(t *testing.T) {
	a, ca := newCA(t, start)
	b, otherCA := newCA(t, start)
	web := ID{Replica, "web"}
	own, foreign := issue(t, a, web, start, year), issue(t, b, web, start, year)
	for name, c := range map[string]struct {
		ca, own Pair
		after   time.Duration
		spoil   func(Files)
		want    string
	}{
		"right":           {ca: ca, own: own},
		"both CAs":        {ca: Pair{Cert: append(bytes.Clone(otherCA.Cert), ca.Cert...)}, own: own},
		"no CA file":      {ca: ca, own: own, spoil: func(f Files) { os.Remove(f.CA) }, want: "no such file"},
		"no certificate":  {ca: ca, own: own, spoil: func(f Files) { os.Remove(f.Cert) }, want: "no such file"},
		"empty CA":        {ca: Pair{}, own: own, want: "holds no certificate in PEM form"},
		"no CA at all":    {ca: own, own: own, want: "is not the certificate of a CA"},
		"garbage":         {ca: ca, own: Pair{Cert: []byte("x"), Key: own.Key}, want: "holds no certificate in PEM form"},
		"garbage key":     {ca: ca, own: Pair{Cert: own.Cert, Key: []byte("x")}, want: "not a PEM file"},
		"another key":     {ca: ca, own: Pair{Cert: own.Cert, Key: foreign.Key}, want: "do not belong together"},
		"another CA":      {ca: otherCA, own: own, want: "is not signed by a CA of"},
		"expired":         {ca: ca, own: own, after: year + time.Hour, want: "expired at 2027-03-01T12:00:00Z: renew it"},
		"not yet valid":   {ca: ca, own: own, after: -time.Hour, want: "is not valid before"},
		"a CA as a party": {ca: ca, own: ca, want: "certificate tells no role"},
	} {
		f := write(t, c.ca, c.own)
		if c.spoil != nil {
			c.spoil(f)
		}
		s, err := load(f, hclog.NewNullLogger(), func() time.Time { return start.Add(c.after) })
		switch {
		case c.want == "" && (err != nil || s.ID() != web):
			t.Errorf("%s: %v", name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")):
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
}

func TestRenewalNeedsNoRestart(t *testing.T) {
	a, ca := newCA(t, start)
	web := ID{Replica, "web"}
	now := start
	f := write(t, ca, issue(t, a, web, start, year))
	var log bytes.Buffer
	s, err := load(f, hclog.New(&hclog.LoggerOptions{Output: &log}), func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	first := s.Expires()
	s.refresh()
	if log.Len() > 0 {
		t.Fatalf("files that did not change: %s", &log)
	}

	// Half of a renewal is not taken, and told once.
	next := issue(t, a, web, start, 2*year)
	put(t, f.Cert, append(next.Cert, '\n'))
	s.refresh()
	s.refresh()
	if n := strings.Count(log.String(), "do not belong together"); n != 1 || !s.Expires().Equal(first) {
		t.Errorf("told %d times: %s", n, &log)
	}
	put(t, f.Key, append(next.Key, '\n'))
	s.refresh()
	if !s.Expires().After(first) || !strings.Contains(log.String(), "certificate renewed") {
		t.Errorf("not renewed: %s", &log)
	}

	// Another identity is not a renewal.
	other := issue(t, a, ID{Replica, "db"}, start, 3*year)
	put(t, f.Cert, other.Cert)
	put(t, f.Key, other.Key)
	s.refresh()
	if s.ID() != web || !strings.Contains(log.String(), "is now that of replica of VM db") {
		t.Errorf("became %v: %s", s.ID(), &log)
	}
}

func TestTheEndOfACertificateIsTold(t *testing.T) {
	a, ca := newCA(t, start)
	now := start
	var log bytes.Buffer
	s, err := load(write(t, ca, issue(t, a, ID{Role: Arbiter}, start, year)), hclog.New(&hclog.LoggerOptions{Output: &log}),
		func() time.Time { return now })
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		at   time.Duration
		want string // in the log, "" for nothing
	}{
		{year - 31*24*time.Hour, ""},
		{year - 29*24*time.Hour, "expires soon"},
		{year - 29*24*time.Hour + time.Hour, ""},
		{year - 28*24*time.Hour + time.Hour, "expires soon"},
		{year + time.Hour, "has expired"},
	} {
		log.Reset()
		now = start.Add(step.at)
		s.warn()
		if got := log.String(); (got == "") != (step.want == "") || !strings.Contains(got, step.want) {
			t.Errorf("after %v: %q; want %q", step.at, got, step.want)
		}
	}
}

func TestWithoutCertificatesOnlyLoopback(t *testing.T) {
	now := time.Now()
	a, ca := newCA(t, now)
	f := write(t, ca, issue(t, a, ID{Replica, "web"}, now, time.Hour))
	all := []string{"--tls-ca=" + f.CA, "--tls-cert=" + f.Cert, "--tls-key=" + f.Key}
	for _, c := range []struct {
		args []string
		addr string
		vm   string
		want string // in the error
		tls  bool
	}{
		{nil, "127.0.0.1:7400", "web", "", false},
		{nil, "127.8.0.1:0", "web", "", false},
		{nil, "[::1]:7400", "web", "", false},
		{nil, "localhost:7400", "web", "", false},
		{nil, "10.0.0.3:7400", "web", "make some (certs --help)", false},
		{nil, ":7400", "web", "or say --insecure", false},
		{nil, "0.0.0.0:7400", "web", "--listen 0.0.0.0:7400 is not a loopback address", false},
		{nil, "arbiter.example:7400", "web", "not a loopback address", false},
		{[]string{"--insecure"}, "10.0.0.3:7400", "web", "", false},
		{all, "10.0.0.3:7400", "web", "", true},
		{all, "127.0.0.1:7400", "web", "", true},
		{all, "127.0.0.1:7400", "db", "is that of replica of VM web, this is replica of VM db", false},
		{all[:2], "127.0.0.1:7400", "web", "belong together", false},
		{append([]string{"--insecure"}, all...), "127.0.0.1:7400", "web", "exclude each other", false},
	} {
		cmd := cli.New("test", "tests")
		flags := AddFlags(cmd)
		if err := cmd.Parse(c.args, func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		s, err := flags.Load(ID{Replica, c.vm}, hclog.NewNullLogger(), Address{"listen", c.addr})
		if (err == nil) != (c.want == "") || err != nil && (!strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n")) || (s != nil) != c.tls {
			t.Errorf("%v at %s for %s: %v, %v; want %q", c.args, c.addr, c.vm, s, err, c.want)
		}
	}
}

package identity

import (
	"crypto/x509"
	"errors"
	"net/url"
	"testing"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]ID{
		"understudy://replica/web":           {Replica, "web"},
		"understudy://arbiter":               {Arbiter, ""},
		"understudy://arbiter/a-1":           {Arbiter, "a-1"},
		"understudy://operator/alice":        {Operator, "alice"},
		"understudy://gateway":               {Gateway, ""},
		"understudy://etcd/m1":               {Etcd, "m1"},
		"understudy://replica":               {},
		"understudy://replica/":              {},
		"understudy://replica/a/b":           {},
		"understudy://replica/a%2Fb":         {},
		"understudy://replica/..":            {},
		"understudy://root":                  {},
		"understudy://":                      {},
		"understudy:arbiter":                 {},
		"understudy://arbiter:80":            {},
		"understudy://x@arbiter":             {},
		"understudy://arbiter?vm=web":        {},
		"understudy://arbiter#x":             {},
		"spiffe://understudy/replica/web":    {},
		"understudy://Arbiter":               {},
		"understudy://replica/web%20backend": {},
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		id, err := Parse(u)
		if want == (ID{}) {
			if !errors.Is(err, ErrNoIdentity) {
				t.Errorf("%s: %v, %v; want no identity", text, id, err)
			}
			continue
		}
		if err != nil || id != want {
			t.Errorf("%s: %v, %v; want %v", text, id, err, want)
		}
		if again := id.URI().String(); again != text {
			t.Errorf("%s: written again as %s", text, again)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("understudy://replica/web")
	f.Add("understudy://operator")
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		id, err := Parse(u)
		if err != nil {
			return
		}
		if err := id.Check(); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if again, err := Parse(id.URI()); err != nil || again != id {
			t.Fatalf("%q: %v becomes %v, %v", text, id, again, err)
		}
	})
}

func TestCertificateOfSeveralIdentitiesHasNone(t *testing.T) {
	web, err := url.Parse("https://web.example/")
	if err != nil {
		t.Fatal(err)
	}
	a, b := ID{Role: Arbiter}.URI(), ID{Replica, "web"}.URI()
	for _, c := range []struct {
		uris []*url.URL
		ok   bool
	}{
		{nil, false}, {[]*url.URL{web}, false}, {[]*url.URL{a}, true}, {[]*url.URL{web, a}, true}, {[]*url.URL{a, b}, false},
	} {
		if id, err := Of(&x509.Certificate{URIs: c.uris}); (err == nil) != c.ok {
			t.Errorf("%v: %v, %v", c.uris, id, err)
		}
	}
}

func TestMatches(t *testing.T) {
	web, db, op := ID{Replica, "web"}, ID{Replica, "db"}, ID{Operator, "alice"}
	for _, c := range []struct {
		id       ID
		patterns []ID
		want     bool
	}{
		{web, []ID{web}, true}, {web, []ID{db}, false}, {web, []ID{{Role: Replica}}, true}, {web, []ID{{Role: Arbiter}}, false},
		{web, nil, false}, {op, Anyone, true}, {op, []ID{web, {Role: Operator}}, true},
	} {
		if got := c.id.Matches(c.patterns...); got != c.want {
			t.Errorf("%v matches %v: %v", c.id, c.patterns, got)
		}
	}
}

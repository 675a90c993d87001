// Package identity says who the parties of a deployment are to each other: by
// certificates that one CA of the deployment signed, over TLS 1.3, in both
// directions.
//
// What a party may do follows from its role, which its certificate carries as
// its only URI of the scheme understudy:
//
//	understudy://replica/VM       a primary or secondary of the VM
//	understudy://arbiter[/NAME]   an arbiter
//	understudy://operator[/NAME]  a person or program that gives orders (Admin)
//	understudy://gateway[/NAME]   a user-mode gateway
//	understudy://etcd[/NAME]      a member of an external etcd cluster
//
// A client looks at the role of the server that it dials, not at its host name:
// replicas and arbiters move between hosts and addresses, and whoever holds an
// arbiter's key is the arbiter. Certificates carry host names besides, for
// tools such as grpcurl that look at nothing else.
//
// # Renewal
//
// A Source that is watched takes changed files within seconds, without a
// restart. Streams that are open go on. A CA file may hold several
// certificates, so that a CA can be replaced step by step.
//
// # Limits
//
// There are no revocation lists: a key that got lost is locked out by another
// CA. A certificate is checked when a connection opens, not again for as long
// as it lives.
package identity

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// Role is what a party is.
type Role string

// The roles.
const (
	Replica  Role = "replica"
	Arbiter  Role = "arbiter"
	Operator Role = "operator"
	Gateway  Role = "gateway"
	Etcd     Role = "etcd"
)

// scheme of the URIs.
const scheme = "understudy"

// ErrNoIdentity says that a certificate tells no role, or none that is known.
var ErrNoIdentity = errors.New("certificate tells no role")

// ID is an identity. As a pattern, an empty Role stands for every role and an
// empty Name for every name.
type ID struct {
	Role Role
	// Name is the VM of a replica, which always has one, and otherwise the
	// party's own name, if it has one.
	Name string
}

// nameForm is that of VMs, replicas and arbiters (package fence).
var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Check tells what is wrong with an identity.
func (id ID) Check() error {
	switch id.Role {
	case Replica:
		if id.Name == "" {
			return fmt.Errorf("%w: a replica's names its VM, as in understudy://replica/web", ErrNoIdentity)
		}
	case Arbiter, Operator, Gateway, Etcd:
	default:
		return fmt.Errorf("%w: %q is not replica, arbiter, operator, gateway or etcd", ErrNoIdentity, id.Role)
	}
	if id.Name != "" && !nameForm.MatchString(id.Name) {
		return fmt.Errorf("%w: %q is not a name of 1 to 63 letters, digits, '.', '_' or '-'", ErrNoIdentity, id.Name)
	}
	return nil
}

// URI is the identity as a certificate carries it.
func (id ID) URI() *url.URL {
	u := &url.URL{Scheme: scheme, Host: string(id.Role)}
	if id.Name != "" {
		u.Path = "/" + id.Name
	}
	return u
}

// String is the identity in words: "replica of VM web", "operator alice".
func (id ID) String() string {
	switch {
	case id.Role == "":
		return "anyone"
	case id.Role == Replica && id.Name != "":
		return "replica of VM " + id.Name
	case id.Name != "":
		return string(id.Role) + " " + id.Name
	}
	return string(id.Role)
}

// commonName is the identity as a user name for systems that take it from the
// certificate's subject, such as etcd: "replica-web", "operator".
func (id ID) commonName() string {
	return strings.TrimSuffix(string(id.Role)+"-"+id.Name, "-")
}

// Matches tells whether the identity fits one of the patterns.
func (id ID) Matches(patterns ...ID) bool {
	for _, p := range patterns {
		if (p.Role == "" || p.Role == id.Role) && (p.Name == "" || p.Name == id.Name) {
			return true
		}
	}
	return false
}

// Parse reads an identity from its URI.
func Parse(u *url.URL) (ID, error) {
	if u.Scheme != scheme || u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" ||
		u.RawPath != "" || strings.Contains(u.Host, ":") {
		return ID{}, fmt.Errorf("%w: %q is not of the form understudy://ROLE/NAME", ErrNoIdentity, u)
	}
	id := ID{Role: Role(u.Host)}
	if u.Path != "" {
		name, ok := strings.CutPrefix(u.Path, "/")
		if !ok || name == "" {
			return ID{}, fmt.Errorf("%w: %q is not of the form understudy://ROLE/NAME", ErrNoIdentity, u)
		}
		id.Name = name
	}
	return id, id.Check()
}

// Of reads the identity of a certificate, which the caller has verified. A
// certificate of several identities has none.
func Of(cert *x509.Certificate) (ID, error) {
	var found *url.URL
	for _, u := range cert.URIs {
		if u.Scheme != scheme {
			continue
		}
		if found != nil {
			return ID{}, fmt.Errorf("%w: it carries several (%s, %s)", ErrNoIdentity, found, u)
		}
		found = u
	}
	if found == nil {
		return ID{}, fmt.Errorf("%w: it has no URI such as understudy://replica/web", ErrNoIdentity)
	}
	return Parse(found)
}

package main

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/identity"
)

// plan says what to make.
type plan struct {
	Dir          string
	VMs, Hosts   []string
	CALife, Life time.Duration
}

// minLife keeps typing errors from making certificates that end at once.
const minLife = time.Hour

// parties are those of every deployment, in the order in which they are made.
var parties = []identity.ID{{Role: identity.Arbiter}, {Role: identity.Operator}, {Role: identity.Gateway}, {Role: identity.Etcd}}

// base is the name of a party's files without their extension.
func base(id identity.ID) string {
	if id.Name == "" {
		return string(id.Role)
	}
	return string(id.Role) + "-" + id.Name
}

// create makes the CA where there is none, and the certificates that are
// missing. It returns the files that it made. Where a party that was asked for
// by name is there already, nothing is made.
func create(p plan, now time.Time) (made []string, err error) {
	ids := slices.Clone(parties)
	for _, vm := range p.VMs {
		id := identity.ID{Role: identity.Replica, Name: vm}
		if err := id.Check(); err != nil {
			return nil, fmt.Errorf("--vm %q: %w (%w)", vm, err, cli.ErrUsage)
		}
		if exists(filepath.Join(p.Dir, base(id)+".pem")) || exists(filepath.Join(p.Dir, base(id)+".key")) {
			return nil, fmt.Errorf("%s holds a certificate of VM %s already: it is not overwritten (certs renew makes new ones)", p.Dir, vm)
		}
		if !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	if p.Life < minLife || p.CALife < p.Life {
		return nil, fmt.Errorf("--life %v: must be at least %v, and at most --ca-life %v (%w)", p.Life, minLife, p.CALife, cli.ErrUsage)
	}
	for _, h := range p.Hosts {
		if strings.ContainsAny(h, "/: ") && strings.Count(h, ":") < 2 {
			return nil, fmt.Errorf("--hosts %q: must be names or IP addresses without ports (%w)", h, cli.ErrUsage)
		}
	}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory (--out): %w", err)
	}
	ca, made, err := authority(p, now)
	if err != nil {
		return nil, err
	}
	some := false
	for _, id := range ids {
		path := filepath.Join(p.Dir, base(id))
		switch cert, key := exists(path+".pem"), exists(path+".key"); {
		case cert && key:
			continue
		case cert || key:
			return made, fmt.Errorf("of %s.pem and %s.key only one is there: remove it to have both made", path, path)
		}
		pair, err := ca.Issue(id, p.Hosts, now, p.Life)
		if err != nil {
			return made, err
		}
		if err := writePair(path, pair); err != nil {
			return made, err
		}
		some = true
		made = append(made, path+".pem", path+".key")
	}
	if !some {
		return made, fmt.Errorf("%s holds all of these already: nothing is overwritten (certs renew makes new ones, --vm adds a VM)", p.Dir)
	}
	return made, nil
}

// authority reads the directory's CA, or makes one.
func authority(p plan, now time.Time) (*identity.Authority, []string, error) {
	path := filepath.Join(p.Dir, "ca")
	if exists(path+".pem") || exists(path+".key") {
		ca, err := readAuthority(p.Dir)
		return ca, nil, err
	}
	ca, pair, err := identity.NewAuthority("understudy CA of "+now.UTC().Format(time.DateOnly), now, p.CALife)
	if err != nil {
		return nil, nil, err
	}
	if err := writePair(path, pair); err != nil {
		return nil, nil, err
	}
	return ca, []string{path + ".pem", path + ".key"}, nil
}

func readAuthority(dir string) (*identity.Authority, error) {
	cert, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("read the CA: %w", err)
	}
	key, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, fmt.Errorf("read the CA's key: %w", err)
	}
	ca, err := identity.ReadAuthority(identity.Pair{Cert: cert, Key: key})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return ca, nil
}

// renew replaces every party's key and certificate, for the same identity and
// hosts. It returns the files that it replaced.
func renew(dir string, life time.Duration, now time.Time) (made []string, err error) {
	if life < minLife {
		return nil, fmt.Errorf("--life %v: must be at least %v (%w)", life, minLife, cli.ErrUsage)
	}
	ca, err := readAuthority(dir)
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.pem"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		path := strings.TrimSuffix(f, ".pem")
		if filepath.Base(path) == "ca" || strings.HasSuffix(path, ".new") {
			continue
		}
		old, err := readCertificate(f)
		if err != nil {
			return made, err
		}
		id, err := identity.Of(old)
		if err != nil {
			return made, fmt.Errorf("%s: %w", f, err)
		}
		hosts := slices.Clone(old.DNSNames)
		for _, ip := range old.IPAddresses {
			hosts = append(hosts, ip.String())
		}
		pair, err := ca.Issue(id, hosts, now, life)
		if err != nil {
			return made, err
		}
		// Both are whole before either is replaced. Who reads between the two
		// finds that they do not belong together, and reads again.
		for _, ext := range []string{".key", ".pem"} { // of a renewal that was cut off
			if err := os.Remove(path + ".new" + ext); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return made, err
			}
		}
		if err := writePair(path+".new", pair); err != nil {
			return made, err
		}
		for _, ext := range []string{".key", ".pem"} {
			if err := os.Rename(path+".new"+ext, path+ext); err != nil {
				return made, err
			}
			made = append(made, path+ext)
		}
	}
	if made == nil {
		return nil, fmt.Errorf("%s holds no certificates to renew", dir)
	}
	return made, nil
}

func readCertificate(path string) (*x509.Certificate, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", path)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cert, nil
}

// writePair writes path.key, for the owner alone, and path.pem. It never
// overwrites.
func writePair(path string, p identity.Pair) error {
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{{path + ".key", p.Key, 0o600}, {path + ".pem", p.Cert, 0o644}} {
		w, err := os.OpenFile(f.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, f.mode)
		if err != nil {
			return err
		}
		_, err = w.Write(f.data)
		if err := errors.Join(err, w.Sync(), w.Close()); err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

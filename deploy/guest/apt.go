package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// A deb is one package of the closure that apt resolved.
type deb struct {
	name, version, arch string
	filename            string // below the archive's root
	sha256              string // from the signed index
	size                int64
}

// apt runs the machine's apt tools on a configuration of its own below dir.
type apt struct {
	dir      string // absolute
	debian   string // architecture
	mirror   string // archive root
	suite    string
	keyring  string // the only keys that apt may believe
	progress func(format string, args ...any)
}

// releaseURI matches what "apt-get update --print-uris" prints for a suite.
var releaseURI = regexp.MustCompile(`^'([^']+)/dists/([^']+)/InRelease' `)

// debianSuite matches the suites of the main Debian archive (and not those of
// the security archive, which has another root).
var debianSuite = regexp.MustCompile(`^(bullseye|bookworm|trixie|forky|duke|sid|oldoldstable|oldstable|stable|testing|unstable)(-updates|-backports|-proposed-updates)?$`)

// machineMirror returns the root of the Debian archive that this machine's
// own apt sources name, whatever form they are written in: apt itself is
// asked. Nothing is fetched.
func machineMirror(ctx context.Context) (string, error) {
	lists, err := os.MkdirTemp("", "understudy-guest-")
	if err != nil {
		return "", fmt.Errorf("making an empty lists directory: %w", err)
	}
	defer os.RemoveAll(lists)
	out, err := run(ctx, nil, "apt-get", "update", "--print-uris", "-o", "Dir::State::Lists="+lists)
	if err != nil {
		return "", fmt.Errorf("asking apt for the machine's sources: %w", err)
	}
	return mirrorFromURIs(out)
}

func mirrorFromURIs(printed []byte) (string, error) {
	for line := range strings.Lines(string(printed)) {
		m := releaseURI.FindStringSubmatch(line)
		if m != nil && debianSuite.MatchString(m[2]) {
			return m[1], nil
		}
	}
	return "", errors.New("this machine's apt sources name no Debian archive: give one with --mirror (and its keys with --keyring)")
}

// validateMirror refuses what could add a line to the generated sources file.
func validateMirror(mirror string) error {
	u, err := url.Parse(mirror)
	if err != nil || u.Scheme == "" || strings.ContainsAny(mirror, " \t\r\n") {
		return fmt.Errorf("mirror %q is not a URL", mirror)
	}
	return nil
}

// configure writes the private configuration. The machine's own apt.conf is
// still read first (it holds its proxies); what decides trust, scope and hooks
// is set after it and so wins.
func (a *apt) configure() error {
	for _, d := range []string{"etc", "lists/partial", "cache/archives/partial", "debs"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return fmt.Errorf("making apt's private directories: %w", err)
		}
	}
	quoted := func(p string) string { return strconv.Quote(filepath.Join(a.dir, p)) }
	files := map[string]string{
		"status": "",
		"etc/guest.sources": fmt.Sprintf("Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: %s\nSigned-By: %s\n",
			a.mirror, a.suite, a.debian, a.keyring),
		"apt.conf": strings.Join([]string{
			`#clear APT::Update;`,
			`#clear DPkg;`,
			`#clear APT::Architectures;`,
			`APT::Architecture "` + a.debian + `";`,
			`APT::Architectures { "` + a.debian + `"; };`,
			`APT::Get::AllowUnauthenticated "false";`,
			`Acquire::AllowInsecureRepositories "false";`,
			`Acquire::AllowWeakRepositories "false";`,
			`Acquire::AllowDowngradeToInsecureRepositories "false";`,
			`APT::Update::Error-Mode "any";`,
			`Acquire::Languages "none";`,
			`Acquire::Retries "3";`,
			// The private directories may lie where apt's own user cannot write.
			`APT::Sandbox::User "root";`,
			`Dir::State ` + quoted(".") + `;`,
			`Dir::State::status ` + quoted("status") + `;`,
			`Dir::State::Lists ` + quoted("lists") + `;`,
			`Dir::Cache ` + quoted("cache") + `;`,
			`Dir::Cache::pkgcache "pkgcache.bin";`,
			`Dir::Cache::srcpkgcache "srcpkgcache.bin";`,
			`Dir::Etc::SourceList "/dev/null";`,
			`Dir::Etc::SourceParts ` + quoted("etc") + `;`,
			`Dir::Etc::Preferences "/dev/null";`,
			`Dir::Etc::PreferencesParts "/dev/null";`,
			`Dir::Etc::Trusted "/dev/null";`,
			`Dir::Etc::TrustedParts "/dev/null";`,
		}, "\n") + "\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(a.dir, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("writing apt's private configuration: %w", err)
		}
	}
	return nil
}

func (a *apt) run(ctx context.Context, tool string, args ...string) ([]byte, error) {
	return run(ctx, nil, tool, append([]string{"-c", filepath.Join(a.dir, "apt.conf"), "-q"}, args...)...)
}

// update fetches the suite's signed index.
func (a *apt) update(ctx context.Context) error {
	a.progress("fetching the index of Debian %s for %s", a.suite, a.debian)
	if _, err := a.run(ctx, "apt-get", "update"); err != nil {
		if strings.Contains(err.Error(), "NO_PUBKEY") || strings.Contains(err.Error(), "not signed") {
			return fmt.Errorf("the keys in %s do not verify %s %s; install a newer debian-archive-keyring or give its file with --keyring: %w",
				a.keyring, a.mirror, a.suite, err)
		}
		return fmt.Errorf("fetching the index of %s %s (is the network there?): %w", a.mirror, a.suite, err)
	}
	// apt keeps a release file in its lists only after its signature was
	// verified, so its absence means that nothing was.
	signed, err := filepath.Glob(filepath.Join(a.dir, "lists", "*_dists_"+a.suite+"_*Release"))
	if err != nil || len(signed) == 0 {
		return fmt.Errorf("apt kept no verified release file for %s %s", a.mirror, a.suite)
	}
	return nil
}

// resolve returns the dependency closure of the packages in order of
// installation, as apt would install it on an empty system.
func (a *apt) resolve(ctx context.Context, packages ...string) ([]deb, error) {
	out, err := a.run(ctx, "apt-get", append([]string{"install", "--simulate", "--no-install-recommends"}, packages...)...)
	if err != nil {
		return nil, fmt.Errorf("resolving %s: %w", strings.Join(packages, ", "), err)
	}
	return parseSimulation(out)
}

// installLine matches a line of "apt-get --simulate":
// Inst NAME (VERSION ORIGIN:RELEASE/SUITE [ARCH]) …
var installLine = regexp.MustCompile(`^Inst (\S+) \((\S+) .*\[(\S+)\]\)`)

func parseSimulation(out []byte) ([]deb, error) {
	var debs []deb
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "cannot be authenticated") {
			return nil, errors.New("apt says that packages cannot be authenticated")
		}
		if !strings.HasPrefix(line, "Inst ") {
			continue
		}
		m := installLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("apt's simulation has a line of unknown form: %q", strings.TrimSpace(line))
		}
		name, _, _ := strings.Cut(m[1], ":")
		debs = append(debs, deb{name: name, version: m[2], arch: m[3]})
	}
	if len(debs) == 0 {
		return nil, errors.New("apt's simulation installs nothing")
	}
	return debs, nil
}

// describe fills in what the signed index says of the packages.
func (a *apt) describe(ctx context.Context, debs []deb) error {
	for i := range debs {
		d := &debs[i]
		out, err := a.run(ctx, "apt-cache", "show", "--no-all-versions", d.name+"="+d.version)
		if err != nil {
			return fmt.Errorf("looking %s %s up in the index: %w", d.name, d.version, err)
		}
		fields := controlFields(out)
		d.filename, d.sha256 = fields["Filename"], fields["SHA256"]
		d.size, err = strconv.ParseInt(fields["Size"], 10, 64)
		if err != nil || d.filename == "" || len(d.sha256) != 2*sha256.Size || fields["Package"] != d.name || fields["Version"] != d.version {
			return fmt.Errorf("the index entry of %s %s is incomplete", d.name, d.version)
		}
	}
	return nil
}

// controlFields returns the single-line fields of the first stanza.
func controlFields(stanza []byte) map[string]string {
	fields := map[string]string{}
	s := bufio.NewScanner(bytes.NewReader(stanza))
	s.Buffer(nil, 1<<20)
	for s.Scan() && s.Text() != "" {
		if name, value, ok := strings.Cut(s.Text(), ": "); ok && !strings.HasPrefix(name, " ") {
			fields[name] = strings.TrimSpace(value)
		}
	}
	return fields
}

// path is where download puts the package: the name that apt-get download
// gives it, which has the version's epoch that the pool's name lacks.
func (a *apt) path(d deb) string {
	return filepath.Join(a.dir, "debs", d.name+"_"+strings.ReplaceAll(d.version, ":", "%3a")+"_"+d.arch+".deb")
}

// download fetches the packages that the cache lacks and verifies all of them
// against the signed index.
func (a *apt) download(ctx context.Context, debs []deb) error {
	var missing []string
	var bytesMissing int64
	for _, d := range debs {
		if verify(a.path(d), d) != nil {
			if err := os.Remove(a.path(d)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("removing a damaged package from the cache: %w", err)
			}
			missing = append(missing, d.name+"="+d.version)
			bytesMissing += d.size
		}
	}
	if len(missing) > 0 {
		a.progress("downloading %d packages, %d MB", len(missing), (bytesMissing+999_999)/1_000_000)
		cmd := func(c *exec.Cmd) { c.Dir = filepath.Join(a.dir, "debs") }
		args := append([]string{"-c", filepath.Join(a.dir, "apt.conf"), "-q", "download"}, missing...)
		if _, err := run(ctx, cmd, "apt-get", args...); err != nil {
			return fmt.Errorf("downloading packages (is the network there?): %w", err)
		}
	}
	for _, d := range debs {
		if err := verify(a.path(d), d); err != nil {
			return err
		}
	}
	return nil
}

// verify compares a package file with its entry in the signed index.
func verify(path string, d deb) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("opening the package of %s: %w", d.name, err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return fmt.Errorf("reading the package of %s: %w", d.name, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); n != d.size || got != d.sha256 {
		return fmt.Errorf("%s differs from the signed index: %d bytes with SHA-256 %s, expected %d with %s", path, n, got, d.size, d.sha256)
	}
	return nil
}

// run returns a command's standard output. Its error holds the command's last
// words.
func run(ctx context.Context, adjust func(*exec.Cmd), name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if adjust != nil {
		adjust(cmd)
	}
	if err := cmd.Run(); err != nil {
		words := strings.TrimSpace(stderr.String())
		if len(words) > 2000 {
			words = words[len(words)-2000:]
		}
		return nil, fmt.Errorf("%s: %w: %s", name, err, words)
	}
	return stdout.Bytes(), nil
}

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
)

// sources is part of the stamp: a changed builder rebuilds.
//
//go:embed *.go rootfs
var sources embed.FS

// hostInitrd is the output for emulated hosts.
const hostInitrd = "host-initrd"

type options struct {
	archName string
	out      string
	cache    string
	mirror   string
	suite    string
	keyring  string
	refresh  bool

	arch arch // set by complete
}

func main() {
	var o options
	cli.Main(command(&o), func(ctx context.Context, _ hclog.Logger) error {
		if err := o.complete(); err != nil {
			return fmt.Errorf("%w (%w)", err, cli.ErrUsage)
		}
		return build(ctx, o)
	})
}

func command(o *options) *cli.Command {
	c := cli.New("guest", "builds the demo guest's kernel and initrd from Debian packages")
	c.Examples = []string{"guest --arch rv64 --out build/guest/rv64"}
	c.StringVar(&o.archName, "arch", "rv64", "guest `ARCHITECTURE`: rv64 or amd64")
	c.StringVar(&o.out, "out", "", "output `DIRECTORY` (default build/guest/ARCHITECTURE)")
	c.StringVar(&o.cache, "cache", "build/cache", "`DIRECTORY` that keeps indexes and packages")
	c.StringVar(&o.mirror, "mirror", "", "`URL` of the Debian archive's root (default: that of this machine's apt sources)")
	c.StringVar(&o.suite, "suite", "trixie", "Debian `SUITE`")
	c.StringVar(&o.keyring, "keyring", "/usr/share/keyrings/debian-archive-keyring.gpg", "`FILE` with the keys that may sign the suite")
	c.BoolVar(&o.refresh, "refresh", false, "look for newer packages even if nothing changed here")
	return c
}

// complete checks the options and fills in what depends on others.
func (o *options) complete() (err error) {
	if o.arch, err = findArch(o.archName); err != nil {
		return err
	}
	if o.out == "" {
		o.out = filepath.Join("build/guest", o.arch.name)
	}
	if strings.Trim(o.suite, "abcdefghijklmnopqrstuvwxyz-") != "" || o.suite == "" {
		return fmt.Errorf("suite %q is not a suite's name", o.suite)
	}
	for _, dir := range []*string{&o.cache, &o.out, &o.keyring} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return fmt.Errorf("finding the working directory: %w", err)
		}
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Printf("guest: "+format+"\n", args...)
}

func build(ctx context.Context, o options) error {
	stamp, err := inputsDigest(o)
	if err != nil {
		return err
	}
	if !o.refresh && upToDate(o, stamp) {
		progress("%s is up to date", o.out)
		return nil
	}
	if err := checkTools(o); err != nil {
		return err
	}
	if o.mirror == "" {
		if o.mirror, err = machineMirror(ctx); err != nil {
			return err
		}
	}
	if err := validateMirror(o.mirror); err != nil {
		return err
	}

	apt := &apt{
		dir: filepath.Join(o.cache, "apt-"+o.suite+"-"+o.arch.debian), debian: o.arch.debian,
		mirror: o.mirror, suite: o.suite, keyring: o.keyring, progress: progress,
	}
	debs, err := fetch(ctx, apt, o.arch)
	if err != nil {
		return err
	}
	t, err := unpack(ctx, apt, debs)
	if err != nil {
		return err
	}
	release, image, err := kernelImage(o.arch, t)
	if err != nil {
		return err
	}
	records, err := rootfs(ctx, o.arch, t)
	if err != nil {
		return err
	}

	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return fmt.Errorf("making the output directory: %w", err)
	}
	// The stamp goes first and comes last: an interrupted build has none.
	if err := os.Remove(filepath.Join(o.out, "stamp")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("removing the old stamp: %w", err)
	}
	if err := writeFile(filepath.Join(o.out, o.arch.output), func(w *bufio.Writer) error {
		_, err := w.Write(image)
		return err
	}); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(o.out, "initrd"), func(w *bufio.Writer) error {
		return writeInitrd(w, records)
	}); err != nil {
		return err
	}
	if len(o.arch.hostModules) > 0 {
		host, err := hostRootfs(ctx, o.arch, t)
		if err != nil {
			return err
		}
		if err := writeFile(filepath.Join(o.out, hostInitrd), func(w *bufio.Writer) error {
			return writeInitrd(w, host)
		}); err != nil {
			return err
		}
	}
	if err := writeFile(filepath.Join(o.out, "cmdline"), func(w *bufio.Writer) error {
		_, err := fmt.Fprintln(w, o.arch.cmdline)
		return err
	}); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(o.out, "manifest.txt"), func(w *bufio.Writer) error {
		fmt.Fprintf(w, "suite %s\narchitecture %s\nkernel %s\n", o.suite, o.arch.debian, release)
		for _, d := range debs {
			fmt.Fprintf(w, "package %s %s sha256 %s\n", d.name, d.version, d.sha256)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(o.out, "stamp"), func(w *bufio.Writer) error {
		_, err := fmt.Fprintln(w, stamp)
		return err
	}); err != nil {
		return err
	}
	progress("built %s: Linux %s, %s", o.out, release, versionOf(debs, "redis-server"))
	return nil
}

func versionOf(debs []deb, name string) string {
	for _, d := range debs {
		if d.name == name {
			return name + " " + d.version
		}
	}
	return "no " + name
}

// fetch returns the packages of the guest, downloaded and verified.
func fetch(ctx context.Context, a *apt, target arch) ([]deb, error) {
	if err := a.configure(); err != nil {
		return nil, err
	}
	if err := a.update(ctx); err != nil {
		return nil, err
	}
	closure, err := a.resolve(ctx, append([]string{target.kernelPackage}, userPackages...)...)
	if err != nil {
		return nil, err
	}
	debs := needed(closure)
	if err := a.describe(ctx, debs); err != nil {
		return nil, err
	}
	return debs, a.download(ctx, debs)
}

// needed leaves out what a whole Debian would install besides (an init
// system, password files, scripts): the guest takes the kernel, its programs
// and, from all other packages, only shared libraries.
func needed(closure []deb) []deb {
	var kept []deb
	for _, d := range closure {
		switch {
		case strings.HasPrefix(d.name, "linux-image-"),
			strings.HasPrefix(d.name, "lib"), strings.HasPrefix(d.name, "zlib"),
			d.name == "busybox-static", d.name == "redis-server", d.name == "redis-tools":
			if d.arch != "all" {
				kept = append(kept, d)
			}
		}
	}
	return kept
}

func unpack(ctx context.Context, a *apt, debs []deb) (tree, error) {
	progress("unpacking %d packages", len(debs))
	t := tree{}
	for _, d := range debs {
		if err := t.addDeb(ctx, a.path(d), wanted); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func wanted(name string) bool {
	return strings.HasPrefix(name, "boot/vmlinu") || strings.HasPrefix(name, "usr/bin/") || strings.HasPrefix(name, "bin/") ||
		strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "usr/lib")
}

func checkTools(o options) error {
	for tool, pkg := range map[string]string{"apt-get": "apt", "apt-cache": "apt", "dpkg-deb": "dpkg", "xz": "xz-utils", "gpgv": "gpgv"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is missing (package %s): the guest is built on Debian or in a Debian container", tool, pkg)
		}
	}
	if _, err := os.Stat(o.keyring); err != nil {
		return fmt.Errorf("the keyring %s is missing (package debian-archive-keyring, or give another with --keyring)", o.keyring)
	}
	return nil
}

// inputsDigest covers what decides the build apart from the archive's content.
func inputsDigest(o options) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, o.arch.name, o.suite, o.mirror)
	err := fs.WalkDir(sources, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(name, "_test.go") {
			return err
		}
		data, err := sources.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n", name, len(data))
		h.Write(data)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("reading the embedded sources: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func upToDate(o options, stamp string) bool {
	have, err := os.ReadFile(filepath.Join(o.out, "stamp"))
	if err != nil || strings.TrimSpace(string(have)) != stamp {
		return false
	}
	names := []string{o.arch.output, "initrd", "cmdline"}
	if len(o.arch.hostModules) > 0 {
		names = append(names, hostInitrd)
	}
	for _, name := range names {
		if info, err := os.Stat(filepath.Join(o.out, name)); err != nil || info.Size() == 0 {
			return false
		}
	}
	return true
}

// writeFile replaces a file as a whole: who boots the guest meanwhile sees the
// old or the new one.
func writeFile(name string, fill func(*bufio.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return fmt.Errorf("creating %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := fill(w); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Chmod(0o644); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("publishing %s: %w", name, err)
	}
	return nil
}

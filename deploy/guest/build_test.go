package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

func TestMirrorIsTheMainArchive(t *testing.T) {
	for name, c := range map[string]struct{ printed, want string }{
		"Debian": {
			"'http://sec.example.org/debian-security/dists/bookworm-security/InRelease' sec.example.org_InRelease 0 \n" +
				"'http://deb.example.org/debian/dists/bookworm/InRelease' deb.example.org_InRelease 0 \n" +
				"'http://deb.example.org/debian/dists/bookworm/main/binary-amd64/Packages.xz' x 0 \n",
			"http://deb.example.org/debian"},
		"updates only":          {"'https://a.example.org/d/dists/trixie-updates/InRelease' x 0 \n", "https://a.example.org/d"},
		"another distribution":  {"'http://u.example.org/ubuntu/dists/noble/InRelease' x 0 \n", ""},
		"a third party's suite": {"'http://p.example.org/apt/dists/nodistro/InRelease' x 0 \n", ""},
		"nothing":               {"", ""},
	} {
		got, err := mirrorFromURIs([]byte(c.printed))
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for mirror, ok := range map[string]bool{
		"http://deb.example.org/debian": true, "file:/srv/debian": true,
		"http://x y": false, "deb.example.org": false, "http://x\nTrusted: yes": false, "": false,
	} {
		if err := validateMirror(mirror); (err == nil) != ok {
			t.Errorf("%q: %v", mirror, err)
		}
	}
}

func TestSimulationIsRead(t *testing.T) {
	got, err := parseSimulation([]byte("NOTE: This is only a simulation!\n" +
		"Inst libc6 (2.41-12+deb13u4 Debian:13.7/stable [riscv64]) []\n" +
		"Inst zlib1g:riscv64 (1:1.3-1+b1 Debian:13.7/stable [riscv64])\n" +
		"Inst debconf (1.5.91 Debian:13.7/stable [all])\n" +
		"Conf libc6 (2.41-12+deb13u4 Debian:13.7/stable [riscv64])\n"))
	want := []deb{
		{name: "libc6", version: "2.41-12+deb13u4", arch: "riscv64"},
		{name: "zlib1g", version: "1:1.3-1+b1", arch: "riscv64"},
		{name: "debconf", version: "1.5.91", arch: "all"},
	}
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("%+v, %v", got, err)
	}
	for _, bad := range []string{
		"", "Inst libc6\n",
		"WARNING: The following packages cannot be authenticated!\nInst libc6 (1 D [all])\n",
	} {
		if got, err := parseSimulation([]byte(bad)); err == nil {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}

// apt must refuse an archive that nobody signed, whatever the machine's own
// configuration allows.
func TestUnsignedArchiveIsRefused(t *testing.T) {
	if _, err := exec.LookPath("apt-get"); err != nil {
		t.Skip("SKIPPED: no apt-get here")
	}
	root := t.TempDir()
	packages := "Package: evil\nVersion: 1\nArchitecture: riscv64\nFilename: evil.deb\nSize: 4\nSHA256: " + strings.Repeat("0", 64) + "\n"
	sum := sha256.Sum256([]byte(packages))
	for name, text := range map[string]string{
		"dists/trixie/main/binary-riscv64/Packages": packages,
		"dists/trixie/Release": "Origin: Debian\nSuite: trixie\nCodename: trixie\nArchitectures: riscv64\nComponents: main\n" +
			"Date: Sat, 21 Nov 2026 02:10:46 UTC\nSHA256:\n " + hex.EncodeToString(sum[:]) + " 145 main/binary-riscv64/Packages\n",
	} {
		path := filepath.Join(root, "mirror", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	keyring := filepath.Join(root, "keyring.gpg")
	if err := os.WriteFile(keyring, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	a := &apt{dir: filepath.Join(root, "apt"), debian: "riscv64", mirror: "file:" + filepath.Join(root, "mirror"),
		suite: "trixie", keyring: keyring, progress: t.Logf}
	if err := a.configure(); err != nil {
		t.Fatal(err)
	}
	if err := a.update(t.Context()); err == nil || !strings.Contains(err.Error(), "not signed") {
		t.Fatalf("got %v", err)
	}
	if debs, err := a.resolve(t.Context(), "evil"); err == nil {
		t.Fatalf("an unsigned package is to be installed: %+v", debs)
	}
}

func TestDamagedPackageIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "p.deb")
	content := []byte("package")
	sum := sha256.Sum256(content)
	d := deb{name: "p", sha256: hex.EncodeToString(sum[:]), size: int64(len(content))}
	for text, ok := range map[string]bool{"package": true, "Package": false, "package ": false, "": false} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := verify(file, d); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestTreeKeepsLinks(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []*tar.Header{
		{Name: "./usr/lib/x/libc.so.6", Typeflag: tar.TypeReg, Mode: 0o755, Size: 4},
		{Name: "./usr/lib/ld.so", Typeflag: tar.TypeSymlink, Linkname: "x/ld.so.1"},
		{Name: "./usr/lib/x/ld.so.1", Typeflag: tar.TypeLink, Linkname: "./usr/lib/x/libc.so.6"},
		{Name: "./usr/bin/a", Typeflag: tar.TypeSymlink, Linkname: "/usr/bin/b"},
		{Name: "./usr/bin/b", Typeflag: tar.TypeSymlink, Linkname: "a"},
		{Name: "../../etc/passwd", Typeflag: tar.TypeReg, Size: 4},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("data")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	tr := tree{}
	if err := tr.addTar(&archive, wanted); err != nil {
		t.Fatal(err)
	}
	if real, f, err := tr.follow("lib/ld.so"); err != nil || real != "usr/lib/x/ld.so.1" || string(f.data) != "data" {
		t.Errorf("%q, %q, %v", real, f.data, err)
	}
	for _, name := range []string{"usr/bin/a", "usr/bin/none"} {
		if real, _, err := tr.follow(name); err == nil {
			t.Errorf("%s is %s", name, real)
		}
	}
	if want := []string{"usr/bin/a", "usr/bin/b", "usr/lib/ld.so", "usr/lib/x/ld.so.1", "usr/lib/x/libc.so.6"}; !slices.Equal(tr.names(), want) {
		t.Errorf("names %q", tr.names())
	}
}

func TestModinfo(t *testing.T) {
	needs, prefers := parseModinfo([]byte("license=GPL\x00depends=jbd2,mbcache,crc16\x00softdep=pre: crypto-crc32c a-b post: c\x00softdep=post: d\x00\x00name=ext4"))
	if !slices.Equal(needs, []string{"jbd2", "mbcache", "crc16"}) || !slices.Equal(prefers, []string{"crypto_crc32c", "a_b"}) {
		t.Errorf("needs %q, prefers %q", needs, prefers)
	}
	if needs, prefers := parseModinfo([]byte("depends=\x00")); needs != nil || prefers != nil {
		t.Errorf("needs %q, prefers %q", needs, prefers)
	}
}

func TestModulesAreLoadedAfterTheirNeeds(t *testing.T) {
	set := &moduleSet{
		builtin: map[string]bool{"virtio": true},
		paths:   map[string]string{"crc32c_generic": "x"},
		cache: map[string]module{
			"net":            {name: "net", needs: []string{"failover", "virtio"}},
			"failover":       {name: "failover"},
			"ext4":           {name: "ext4", needs: []string{"jbd2", "failover"}, prefers: []string{"crypto_crc32c", "crypto_unknown"}},
			"jbd2":           {name: "jbd2", prefers: []string{"crc32c"}},
			"crc32c_generic": {name: "crc32c_generic"},
		},
	}
	seen := map[string]bool{}
	names := func(wanted ...string) []string {
		t.Helper()
		ordered, err := set.order(t.Context(), wanted, seen)
		if err != nil {
			t.Fatal(err)
		}
		var n []string
		for _, m := range ordered {
			n = append(n, m.name)
		}
		return n
	}
	if got := names("net", "virtio"); !slices.Equal(got, []string{"failover", "net"}) {
		t.Errorf("got %q", got)
	}
	if got := names("ext4", "net"); !slices.Equal(got, []string{"crc32c_generic", "jbd2", "ext4"}) {
		t.Errorf("got %q", got)
	}
	if _, err := set.order(context.Background(), []string{"gone"}, seen); err == nil {
		t.Error("a missing module was passed over")
	}
}

func TestInitrdIsReproducible(t *testing.T) {
	records := func() []cpio.Record {
		return []cpio.Record{cpio.CharDev("dev/console", 0o600, 5, 1), cpio.StaticFile("init", initScript, 0o755), cpio.Symlink("bin/sh", "busybox")}
	}
	var first, second bytes.Buffer
	if err := writeInitrd(&first, records()); err != nil {
		t.Fatal(err)
	}
	if err := writeInitrd(&second, records()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of the same files differ")
	}
	archive, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(first.Bytes())))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range archive {
		names = append(names, r.Name)
	}
	for _, want := range []string{"bin", "bin/sh", "dev", "dev/console", "init"} {
		if !slices.Contains(names, want) {
			t.Errorf("no %s in %q", want, names)
		}
	}
}

func TestScriptsParse(t *testing.T) {
	for _, script := range []string{"rootfs/init", "rootfs/udhcpc.sh"} {
		if out, err := exec.Command("sh", "-n", script).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", script, err, out)
		}
	}
}

func TestStampCoversTheSources(t *testing.T) {
	parse := func(args ...string) (o options, err error) {
		err = command(&o).Parse(args, func(string) (string, bool) { return "", false })
		if err == nil {
			err = o.complete()
		}
		return o, err
	}
	o, err := parse("--arch", "rv64", "--out", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	stamp, err := inputsDigest(o)
	if err != nil {
		t.Fatal(err)
	}
	if upToDate(o, stamp) {
		t.Fatal("an empty directory is up to date")
	}
	for name, text := range map[string]string{"Image": "x", "initrd": "x", "cmdline": "x", "stamp": stamp + "\n"} {
		if err := os.WriteFile(filepath.Join(o.out, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if !upToDate(o, stamp) {
		t.Error("a whole build is not up to date")
	}
	o.suite = "forky"
	if other, err := inputsDigest(o); err != nil || upToDate(o, other) {
		t.Error("another suite is up to date")
	}
	if err := os.WriteFile(filepath.Join(o.out, "initrd"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if upToDate(o, stamp) {
		t.Error("an empty initrd is up to date")
	}
	for _, args := range [][]string{{"--arch", "vax"}, {"--suite", "a b"}, {"--suite", ""}, {"stray"}, {"--nope"}} {
		if _, err := parse(args...); err == nil {
			t.Errorf("%q was accepted", args)
		}
	}
}

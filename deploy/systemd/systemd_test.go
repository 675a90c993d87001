// Package systemd tests the units for hosts without Docker.
package systemd

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// systemd itself accepts the units.
func TestUnitsAreAccepted(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("SKIPPED: no systemd-analyze here, so nobody checks the units: apt-get install systemd")
	}
	units, err := filepath.Glob("*.service")
	if err != nil || len(units) != 3 {
		t.Fatal(units, err)
	}
	dir := t.TempDir()
	for _, unit := range units {
		b, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// The programs are not installed where the test runs.
		text := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/\w+`).ReplaceAllString(string(b), "ExecStart=/bin/true")
		if text == string(b) {
			t.Errorf("%s starts no program of ours", unit)
		}
		file := filepath.Join(dir, strings.Replace(unit, "@.", "@web.", 1))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput()
		// It complains of the host's other units, too.
		for _, line := range strings.Split(string(out), "\n") {
			if strings.Contains(line, "understudy") {
				t.Errorf("%s: %s", unit, line)
			}
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out)
		}
	}
}

// The examples set what the programs know.
func TestExamplesAreOfThisRelease(t *testing.T) {
	for _, program := range []string{"arbiter", "primary", "secondary"} {
		t.Run(program, func(t *testing.T) {
			bin := filepath.Join("..", "..", "bin", program)
			if _, err := os.Stat(bin); err != nil {
				t.Skipf("SKIPPED: %s is not built: make build", program)
			}
			help, err := exec.Command(bin, "--help").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, help)
			}
			b, err := os.ReadFile(program + ".env.example")
			if err != nil {
				t.Fatal(err)
			}
			names := regexp.MustCompile(`(?m)^#?(UNDERSTUDY_\w+)=`).FindAllStringSubmatch(string(b), -1)
			if len(names) < 4 {
				t.Errorf("%d variables", len(names))
			}
			for _, tls := range []string{"TLS_CA", "TLS_CERT", "TLS_KEY"} {
				if !strings.Contains(string(b), "\nUNDERSTUDY_"+strings.ToUpper(program)+"_"+tls+"=/etc/understudy/pki/") {
					t.Errorf("no %s: on the addresses of the example the program refuses to start without", tls)
				}
			}
			for _, n := range names {
				if !strings.Contains(string(help), "["+n[1]+"]") {
					t.Errorf("%s has no %s", program, n[1])
				}
			}
		})
	}
}

// started is what a unit starts.
var started = regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/(\w+)(.*)$`)

// The programs take what their units give them, and the examples as they are:
// with certificates in their places they get as far as the addresses, which are
// no host's here.
func TestExamplesAreTaken(t *testing.T) {
	bin := filepath.Join("..", "..", "bin")
	if _, err := os.Stat(filepath.Join(bin, "certs")); err != nil {
		t.Skip("SKIPPED: the programs are not built: make build")
	}
	dir := t.TempDir()
	if out, err := exec.Command(filepath.Join(bin, "certs"), "--out", filepath.Join(dir, "pki"), "--vm", "web").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	kernel := filepath.Join(dir, "Image")
	image := append(make([]byte, 48), "RISCV\x00\x00\x00RSC\x05"...) // a header, and nothing behind it
	if err := os.WriteFile(kernel, append(image, make([]byte, 4096)...), 0o600); err != nil {
		t.Fatal(err)
	}
	for program, unit := range map[string]string{"arbiter": "understudy-arbiter", "primary": "understudy-primary@", "secondary": "understudy-secondary@"} {
		t.Run(program, func(t *testing.T) {
			b, err := os.ReadFile(unit + ".service")
			if err != nil {
				t.Fatal(err)
			}
			start := started.FindStringSubmatch(string(b))
			if start == nil || start[1] != program {
				t.Fatalf("%s starts %q", unit, start)
			}
			args := strings.Fields(strings.ReplaceAll(start[2], "%i", "web"))
			b, err = os.ReadFile(program + ".env.example")
			if err != nil {
				t.Fatal(err)
			}
			var env []string
			for line := range strings.Lines(string(b)) {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				line = strings.NewReplacer("/etc/understudy/pki", filepath.Join(dir, "pki"), "/var/lib/understudy", dir,
					"/usr/local/share/understudy/Image", kernel, "/usr/local/share/understudy/initrd", kernel,
					"10.0.0.", "240.0.0.").Replace(line) // reserved: no host has these
				env = append(env, line)
			}
			path, err := filepath.Abs(filepath.Join(bin, program))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "disk.img"), make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, path, args...)
			cmd.Env, cmd.Dir = env, dir
			out, err := cmd.CombinedOutput()
			if text := string(out); err == nil || !strings.Contains(text, "cannot assign requested address") {
				t.Errorf("%v: %s", err, text)
			}
		})
	}
}

// Package systemd tests the units for hosts without Docker.
package systemd

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
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
			for _, n := range names {
				if !strings.Contains(string(help), "["+n[1]+"]") {
					t.Errorf("%s has no %s", program, n[1])
				}
			}
		})
	}
}

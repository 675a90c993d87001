package compose

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	variable   = regexp.MustCompile(`\$\{((?:UNDERSTUDY|IMAGE)_[A-Z_]+)(:\?)?`)
	documented = regexp.MustCompile(`(?m)^#   (UNDERSTUDY_[A-Z_]+) `)
)

// Each file of a role says in its head what it needs from the environment,
// refuses to start without it, and is right with it.
func TestRoleFiles(t *testing.T) {
	files, err := filepath.Glob("hosts/*.yml")
	if err != nil || len(files) != 4 {
		t.Fatalf("files of roles: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var said, needed, used []string
			for _, m := range documented.FindAllStringSubmatch(string(b), -1) {
				said = append(said, m[1])
			}
			for _, m := range variable.FindAllStringSubmatch(string(b), -1) {
				used = append(used, m[1])
				if m[2] != "" && !slices.Contains(needed, m[1]) {
					needed = append(needed, m[1])
				}
			}
			for _, name := range used {
				if name != "IMAGE_TAG" && !slices.Contains(said, name) {
					t.Errorf("%s is used and its head does not say so", name)
				}
			}
			for _, name := range said {
				if !strings.Contains(string(b), "${"+name) {
					t.Errorf("%s is said and not used", name)
				}
			}
			if _, err := exec.LookPath("docker-compose"); err != nil {
				t.Skip("SKIPPED, NOT TESTED: docker-compose is not installed")
			}
			var env []string
			for _, name := range needed {
				env = append(env, name+"=/x")
			}
			if out, err := config(file, env); err != nil {
				t.Errorf("with what it needs: %v\n%s", err, out)
			}
			if out, err := config(file, env[1:]); err == nil || !strings.Contains(out, needed[0]) {
				t.Errorf("without %s: %v\n%s", needed[0], err, out)
			}
		})
	}
}

// What the files and the images set for a program is a flag of it.
func TestProgramsKnowTheirVariables(t *testing.T) {
	var files []string
	for _, pattern := range []string{"*.yml", "hosts/*.yml", "../images/*.Dockerfile"} {
		found, err := filepath.Glob(pattern)
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, err)
		}
		files = append(files, found...)
	}
	for _, program := range []string{"arbiter", "primary", "secondary", "checks"} {
		t.Run(program, func(t *testing.T) {
			bin := filepath.Join("..", "..", "bin", program)
			if _, err := os.Stat(bin); err != nil {
				t.Skipf("SKIPPED: %s is not built: make build", program)
			}
			help, err := exec.Command(bin, "--help").CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, help)
			}
			set, n := regexp.MustCompile(`\bUNDERSTUDY_`+strings.ToUpper(program)+`_[A-Z_]+`), 0
			for _, file := range files {
				b, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range set.FindAllString(string(b), -1) {
					if n++; !strings.Contains(string(help), "["+name+"]") {
						t.Errorf("%s: %s has no %s", file, program, name)
					}
				}
			}
			if n < 3 {
				t.Errorf("%d variables were found", n)
			}
		})
	}
}

func config(file string, env []string) (string, error) {
	cmd := exec.Command("docker-compose", "-f", file, "config", "--quiet")
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

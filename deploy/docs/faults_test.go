package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	// What shows a row: a package, and the tests in it behind it.
	packageOrTest = regexp.MustCompile("`([a-z0-9/]+)`|((?:Test|Fuzz)[A-Za-z0-9]+)|(testdata/[a-z_.]+)")
	testFunc      = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)[A-Za-z0-9]+)\(`)
)

// Each row of faults.md names what shows it, and each test that it names is in
// the package that is named before it.
func TestFaultsNameTestsThatExist(t *testing.T) {
	text := read(t, filepath.Join(root, "docs", "faults.md"))
	rows := 0
	for line := range strings.Lines(text) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| fault ") {
			continue
		}
		rows++
		if len(cells) != 6 {
			t.Errorf("not four cells: %s", line)
			continue
		}
		shows, pkg := 0, ""
		for _, m := range packageOrTest.FindAllStringSubmatch(cells[4], -1) {
			switch {
			case m[1] != "":
				pkg = m[1]
				continue
			case m[2] != "" && !testsOf(t, pkg)[m[2]]:
				t.Errorf("%s has no %s: %s", pkg, m[2], line)
			case m[3] != "":
				read(t, filepath.Join(root, pkg, m[3]))
			}
			shows++
		}
		if shows == 0 && !strings.Contains(cells[4], "simulated") {
			t.Errorf("nothing shows it: %s", line)
		}
	}
	if rows < 30 {
		t.Errorf("only %d rows", rows)
	}
}

// testsOf are the test functions of a package.
func testsOf(t *testing.T, pkg string) map[string]bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range testFunc.FindAllStringSubmatch(string(b), -1) {
			have[m[1]] = true
		}
	}
	return have
}

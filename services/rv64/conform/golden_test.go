package conform

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// golden is a file of lines that QEMU's results were turned into.
type golden struct {
	path  string
	lines map[string]bool
}

func goldenFile(t *testing.T, name string) *golden {
	g := &golden{path: filepath.Join("testdata", name), lines: map[string]bool{}}
	b, err := os.ReadFile(g.path)
	if err != nil && !(errors.Is(err, fs.ErrNotExist) && *rewrite) {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		g.lines[strings.TrimSuffix(line, "\n")] = true
	}
	return g
}

// check reports the lines that are not in the file.
func (g *golden) check(t *testing.T, who string, lines []string) {
	t.Helper()
	bad := 0
	for _, line := range lines {
		if g.lines[line] {
			continue
		}
		if bad++; bad <= 20 {
			t.Errorf("%s: not in %s: %s", who, g.path, line)
		}
	}
	if bad > 20 {
		t.Errorf("%s: and %d more lines", who, bad-20)
	}
}

// write replaces the file.
func (g *golden) write(t *testing.T, lines []string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(g.path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(g.path, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

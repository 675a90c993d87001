package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

const root = "../.."

// page is one Markdown file of the repository.
type page struct {
	path string // from the root
	text string
	code []string // its code spans, and the lines of its code blocks
}

var (
	fence = regexp.MustCompile("(?ms)^\\s*```[a-z]*\n(.*?)^\\s*```")
	span  = regexp.MustCompile("`([^`\n]+)`")
)

// pages are README.md and all Markdown under docs and deploy.
func pages(t *testing.T) []page {
	t.Helper()
	paths := []string{filepath.Join(root, "README.md")}
	for _, pattern := range []string{"docs/*.md", "docs/*/*.md", "deploy/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, found...)
	}
	if len(paths) < 10 {
		t.Fatalf("found only %v", paths)
	}
	var out []page
	for _, path := range paths {
		rel, err := filepath.Rel(root, path)
		if err != nil {
			t.Fatal(err)
		}
		p := page{path: rel, text: read(t, path)}
		for _, m := range fence.FindAllStringSubmatch(p.text, -1) {
			p.code = append(p.code, strings.Split(m[1], "\n")...)
		}
		for _, m := range span.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			p.code = append(p.code, m[1])
		}
		out = append(out, p)
	}
	return out
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)|(?:src|srcset|href)="([^"]+)"`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	noWord  = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// anchors are the names by which the headings of a page can be linked to.
func anchors(text string) map[string]bool {
	out := map[string]bool{}
	for _, m := range heading.FindAllStringSubmatch(fence.ReplaceAllString(text, ""), -1) {
		out[strings.ReplaceAll(noWord.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-")] = true
	}
	return out
}

// Links lead somewhere, and every page can be reached from README.md.
func TestLinksLeadSomewhere(t *testing.T) {
	all := pages(t)
	linked := map[string][]string{}
	for _, p := range all {
		for _, m := range link.FindAllStringSubmatch(fence.ReplaceAllString(p.text, ""), -1) {
			to := m[1] + m[2]
			if strings.Contains(to, "://") {
				continue
			}
			file, anchor, _ := strings.Cut(to, "#")
			target := p.path
			if file != "" {
				target = filepath.Join(filepath.Dir(p.path), file)
			}
			if _, err := os.Stat(filepath.Join(root, target)); err != nil {
				t.Errorf("%s: the link %s leads nowhere", p.path, to)
				continue
			}
			linked[p.path] = append(linked[p.path], target)
			if anchor != "" && !anchors(read(t, filepath.Join(root, target)))[anchor] {
				t.Errorf("%s: %s has no heading for the link %s", p.path, target, to)
			}
		}
	}
	reached := map[string]bool{}
	var follow func(string)
	follow = func(path string) {
		if !reached[path] {
			reached[path] = true
			for _, to := range linked[path] {
				follow(to)
			}
		}
	}
	follow("README.md")
	for _, p := range all {
		if !reached[p.path] && !reached[filepath.Dir(p.path)] {
			t.Errorf("no link leads to %s", p.path)
		}
	}
}

// file is a name in code that is a path of this repository.
var file = regexp.MustCompile(`(?:^|[\s=("'])((?:deploy|docs|services|proto|primary|secondary|arbiter|\.ci)/[\w./@*-]*[\w*])`)

// Files that are named are there.
func TestFilesExist(t *testing.T) {
	for _, p := range pages(t) {
		for _, code := range p.code {
			for _, m := range file.FindAllStringSubmatch(code, -1) {
				found, err := filepath.Glob(filepath.Join(root, strings.TrimSuffix(m[1], "/...")))
				if err != nil || len(found) == 0 {
					t.Errorf("%s: there is no %s", p.path, m[1])
				}
			}
		}
	}
}

var (
	target     = regexp.MustCompile(`(?m)^([a-z0-9-]+):.*?(?:## .*)?$`)
	makeTarget = regexp.MustCompile(`(?:^|&& |; )make ((?:[a-z][a-z0-9-]*)(?: [a-z][a-z0-9-]*)*)`)
)

// Targets of make that are named are there, and each has a word of explanation.
func TestMakeTargetsExist(t *testing.T) {
	var targets []string
	for _, m := range target.FindAllStringSubmatch(read(t, filepath.Join(root, "Makefile")), -1) {
		targets = append(targets, m[1])
	}
	if len(targets) < 15 {
		t.Fatalf("found only %v", targets)
	}
	for _, p := range pages(t) {
		for _, code := range p.code {
			code, _, _ = strings.Cut(code, "#")
			for _, m := range makeTarget.FindAllStringSubmatch(code, -1) {
				for _, name := range strings.Fields(m[1]) {
					if name != "it" && !slices.Contains(targets, name) {
						t.Errorf("%s: there is no target of `make %s`", p.path, name)
					}
				}
			}
		}
	}
}

var (
	declared = regexp.MustCompile(`\b(?:String|Bool|Int|Duration|Float64|Var|StringVar|BoolVar|IntVar|DurationVar)\((?:&?[\w.]+, )?"([a-z][a-z0-9-]*)"`)
	flagName = regexp.MustCompile(`(?:^|[\s\[("'])--([a-z][a-z0-9-]*)`)
	variable = regexp.MustCompile(`\bUNDERSTUDY_[A-Z0-9_]*[A-Z0-9]`)
	// foreign are programs of others: their flags are not ours to check.
	foreign = regexp.MustCompile(`\b(?:docker|docker-compose|git|ip|curl|install|groupadd|truncate|systemctl|systemd-analyze|journalctl|go test|grpcurl|redis-benchmark|etcd)\b`)
)

// Flags that are named are some program's of ours, and so are variables.
func TestFlagsExist(t *testing.T) {
	flags := map[string]bool{"help": true}
	variables := map[string]bool{}
	sources(t, func(path, text string) {
		for _, m := range declared.FindAllStringSubmatch(text, -1) {
			flags[m[1]] = true
		}
		for _, name := range variable.FindAllString(text, -1) {
			variables[name] = true // those of compose files and tests
		}
	})
	for _, least := range []string{"vm", "listen", "uplink", "tls-ca", "log-level", "disk-adopt", "etcd-listen"} {
		if !flags[least] {
			t.Fatalf("--%s was not found in the sources: is this test out of date?", least)
		}
	}
	ours := func(name string) bool { // UNDERSTUDY_PROGRAM_FLAG
		_, rest, _ := strings.Cut(strings.TrimPrefix(name, "UNDERSTUDY_"), "_")
		return flags[strings.ToLower(strings.ReplaceAll(rest, "_", "-"))] || variables[name]
	}
	for _, p := range pages(t) {
		for _, code := range p.code {
			if !foreign.MatchString(code) {
				for _, m := range flagName.FindAllStringSubmatch(code, -1) {
					if !flags[m[1]] && !others[m[1]] {
						t.Errorf("%s: no program has a flag --%s", p.path, m[1])
					}
				}
			}
			for _, name := range variable.FindAllString(code, -1) {
				if !ours(name) {
					t.Errorf("%s: nothing reads %s", p.path, name)
				}
			}
		}
	}
}

// others are flags of other programs that stand alone in the text.
var others = map[string]bool{"trusted-ca-file": true, "client-cert-auth": true}

// sources calls f with every file of Go and of compose.
func sources(t *testing.T, f func(path, text string)) {
	t.Helper()
	n := 0
	for _, dir := range []string{"services", "primary", "secondary", "arbiter", "deploy"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if ext := filepath.Ext(path); ext == ".go" || ext == ".yml" {
				n++
				f(path, read(t, path))
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if n < 100 {
		t.Fatalf("found only %d sources", n)
	}
}

var (
	call   = regexp.MustCompile(`\b(?:understudy\.v1\.)?(Admin|Arbiter|Replication)[/.]([A-Z]\w+)`)
	rpc    = regexp.MustCompile(`(?m)^\s*rpc (\w+)\(`)
	action = regexp.MustCompile(`\b(Test|Fuzz|Benchmark)[A-Z]\w+`)
)

// Calls and tests that are named are there.
func TestCallsAndTestsExist(t *testing.T) {
	protos, err := filepath.Glob(filepath.Join(root, "proto/understudy/v1/*.proto"))
	if err != nil {
		t.Fatal(err)
	}
	calls := map[string]bool{}
	for _, path := range protos {
		for _, m := range rpc.FindAllStringSubmatch(read(t, path), -1) {
			calls[m[1]] = true
		}
	}
	if !calls["Attach"] || !calls["FailOver"] {
		t.Fatalf("found only %v", calls)
	}
	tests := map[string]bool{}
	sources(t, func(path, text string) {
		if strings.HasSuffix(path, "_test.go") {
			for _, m := range action.FindAllString(text, -1) {
				tests[m] = true
			}
		}
	})
	for _, p := range pages(t) {
		for _, code := range p.code {
			for _, m := range call.FindAllStringSubmatch(code, -1) {
				if !calls[m[2]] {
					t.Errorf("%s: there is no call %s", p.path, m[0])
				}
			}
			for _, name := range action.FindAllString(code, -1) {
				if !tests[name] {
					t.Errorf("%s: there is no %s", p.path, name)
				}
			}
		}
	}
}

// docs/develop.md tells of every package, so that nobody has to guess what one
// is for.
func TestEveryPackageIsTold(t *testing.T) {
	text := read(t, filepath.Join(root, "docs/develop.md"))
	for _, pattern := range []string{"services/*", "arbiter/internal/*", "deploy/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(found) == 0 {
			t.Fatal(pattern, err)
		}
		for _, path := range found {
			info, err := os.Stat(path)
			if err != nil {
				t.Fatal(err)
			}
			if name := filepath.Base(path); info.IsDir() && !strings.Contains(text, "`"+name+"`") {
				t.Errorf("docs/develop.md does not tell of %s", path)
			}
		}
	}
}

var quoted = regexp.MustCompile("(?m)^\\| `([^`]+)` \\|")

// What docs/troubleshooting.md quotes, the programs really say.
func TestQuotedErrorsAreSaid(t *testing.T) {
	var all strings.Builder
	sources(t, func(path, text string) {
		if !strings.HasSuffix(path, "_test.go") {
			all.WriteString(text)
		}
	})
	all.WriteString(syscall.EADDRINUSE.Error()) // what the kernel says
	text := all.String()
	rows := quoted.FindAllStringSubmatch(read(t, filepath.Join(root, "docs/troubleshooting.md")), -1)
	if len(rows) < 20 {
		t.Fatalf("found only %d messages", len(rows))
	}
	for _, m := range rows {
		for piece := range strings.SplitSeq(m[1], "…") {
			if piece = strings.TrimSpace(piece); piece != "" && !strings.Contains(text, piece) {
				t.Errorf("docs/troubleshooting.md: no program says %q", piece)
			}
		}
	}
}

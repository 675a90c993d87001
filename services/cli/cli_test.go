package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
)

func command() (*Command, *string, *time.Duration, *bool) {
	c := New("arbiter", "decides")
	c.Examples = []string{"arbiter --listen :7400"}
	listen := c.String("listen-on", "127.0.0.1:1", "`ADDR` to listen on")
	wait := c.Duration("wait", time.Second, "how long to wait")
	fast := c.Bool("fast", false, "be fast")
	return c, listen, wait, fast
}

func env(kv map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) { v, ok := kv[k]; return v, ok }
}

func TestCommandLineWinsOverEnvironmentWinsOverDefault(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		env    map[string]string
		listen string
		wait   time.Duration
		fast   bool
	}{
		{nil, nil, "127.0.0.1:1", time.Second, false},
		{nil, map[string]string{"UNDERSTUDY_ARBITER_LISTEN_ON": "a:2"}, "a:2", time.Second, false},
		{[]string{"--listen-on", "b:3"}, map[string]string{"UNDERSTUDY_ARBITER_LISTEN_ON": "a:2"}, "b:3", time.Second, false},
		{[]string{"-listen-on=b:3"}, map[string]string{"UNDERSTUDY_ARBITER_WAIT": "3s"}, "b:3", 3 * time.Second, false},
		{nil, map[string]string{"UNDERSTUDY_ARBITER_FAST": "true"}, "127.0.0.1:1", time.Second, true},
		{[]string{"--fast=false"}, map[string]string{"UNDERSTUDY_ARBITER_FAST": "true"}, "127.0.0.1:1", time.Second, false},
		{nil, map[string]string{"UNDERSTUDY_ARBITER_LISTEN_ON": ""}, "127.0.0.1:1", time.Second, false},
		{nil, map[string]string{"UNDERSTUDY_PRIMARY_LISTEN_ON": "a:2"}, "127.0.0.1:1", time.Second, false},
	} {
		c, listen, wait, fast := command()
		if err := c.Parse(tc.args, env(tc.env)); err != nil {
			t.Errorf("%v %v: %v", tc.args, tc.env, err)
		}
		if *listen != tc.listen || *wait != tc.wait || *fast != tc.fast {
			t.Errorf("%v %v: got %q %v %v, want %q %v %v", tc.args, tc.env, *listen, *wait, *fast, tc.listen, tc.wait, tc.fast)
		}
	}
}

// Flags stand anywhere among the arguments of a program that takes any.
func TestOperands(t *testing.T) {
	for _, tc := range []struct {
		takes string
		args  []string
		want  []string
		fast  bool
	}{
		{"VERB [VM]", nil, nil, false},
		{"VERB [VM]", []string{"show", "web"}, []string{"show", "web"}, false},
		{"VERB [VM]", []string{"--fast", "show", "--wait", "2s", "web"}, []string{"show", "web"}, true},
		{"VERB [VM]", []string{"show", "web", "--fast"}, []string{"show", "web"}, true},
		{"", []string{"show"}, nil, false},
	} {
		c, _, _, fast := command()
		c.Takes = tc.takes
		err := c.Parse(tc.args, env(nil))
		if !slices.Equal(c.Operands, tc.want) || *fast != tc.fast || errors.Is(err, ErrUsage) != (tc.takes == "") {
			t.Errorf("%v: %q, fast %v, %v", tc.args, c.Operands, *fast, err)
		}
	}
	c := New("understudyctl", "asks")
	c.Takes, c.About = "VERB [VM]", "VERB is one of them."
	var help bytes.Buffer
	c.Help(&help)
	for _, want := range []string{"  understudyctl [flags] VERB [VM]\n", "\nVERB is one of them.\n", "[UNDERSTUDY_CTL_LOG_LEVEL]"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("the help lacks %q:\n%s", want, help.String())
		}
	}
}

func TestCheckProbesInsteadOfRunning(t *testing.T) {
	for _, tc := range []struct {
		args   []string
		env    map[string]string
		answer error
		code   int
		ran    bool
	}{
		{[]string{"--check"}, nil, nil, ExitOK, false},
		{[]string{"--check"}, nil, errors.New("is not well"), ExitError, false},
		{nil, nil, errors.New("is not well"), ExitOK, true},
		// The environment is the running program's, too.
		{nil, map[string]string{"UNDERSTUDY_ARBITER_CHECK": "true"}, nil, ExitOK, true},
	} {
		c, listen, _, _ := command()
		ran, asked := false, ""
		c.AddCheck(func(ctx context.Context) error {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("the probe has no deadline")
			}
			asked = *listen
			return tc.answer
		})
		var stdout, stderr bytes.Buffer
		code := c.Run(context.Background(), append(tc.args, "--listen-on", "a:2"), env(tc.env), &stdout, &stderr,
			func(context.Context, hclog.Logger) error { ran = true; return nil })
		if code != tc.code || ran != tc.ran || !tc.ran && asked != "a:2" {
			t.Errorf("%v: code %d, ran %v, asked %q", tc.args, code, ran, asked)
		}
	}
}

func TestRunReportsInOneLineWithAnExitCode(t *testing.T) {
	boom := func(context.Context, hclog.Logger) error { return errors.New("port in use") }
	multi := func(context.Context, hclog.Logger) error { return errors.Join(errors.New("a"), errors.New("b")) }
	usage := func(context.Context, hclog.Logger) error { return fmt.Errorf("--kernel is required (%w)", ErrUsage) }
	fine := func(context.Context, hclog.Logger) error { return nil }
	for _, tc := range []struct {
		name           string
		args           []string
		env            map[string]string
		run            func(context.Context, hclog.Logger) error
		code           int
		stdout, stderr string
	}{
		{"fine", nil, nil, fine, ExitOK, "", ""},
		{"failure", nil, nil, boom, ExitError, "", "arbiter: port in use\n"},
		{"several failures", nil, nil, multi, ExitError, "", "arbiter: a; b\n"},
		{"usage found late", nil, nil, usage, ExitUsage, "", "arbiter: --kernel is required (try --help)\n"},
		{"unknown flag", []string{"--nope"}, nil, fine, ExitUsage, "", "arbiter: flag provided but not defined: -nope (try --help)\n"},
		{"stray argument", []string{"x"}, nil, fine, ExitUsage, "", "arbiter: unexpected argument \"x\" (try --help)\n"},
		{"bad environment", nil, map[string]string{"UNDERSTUDY_ARBITER_WAIT": "soon"}, fine, ExitUsage, "",
			"arbiter: invalid value \"soon\" in UNDERSTUDY_ARBITER_WAIT: parse error (try --help)\n"},
		{"bad level", []string{"--log-level", "loud"}, nil, fine, ExitUsage, "",
			"arbiter: --log-level \"loud\": must be trace, debug, info, warn, error or off (try --help)\n"},
		{"bad format", []string{"--log-format", "xml"}, nil, fine, ExitUsage, "", "arbiter: --log-format \"xml\": must be text or json (try --help)\n"},
		{"version", []string{"--version"}, nil, boom, ExitOK, "arbiter " + Version() + "\n", ""},
	} {
		c, _, _, _ := command()
		var stdout, stderr bytes.Buffer
		code := c.Run(t.Context(), tc.args, env(tc.env), &stdout, &stderr, tc.run)
		if code != tc.code || stdout.String() != tc.stdout || stderr.String() != tc.stderr {
			t.Errorf("%s: code %d, stdout %q, stderr %q; want %d, %q, %q", tc.name,
				code, stdout.String(), stderr.String(), tc.code, tc.stdout, tc.stderr)
		}
	}
}

func TestHelpNamesFlagsDefaultsVariablesAndExamples(t *testing.T) {
	c, _, _, _ := command()
	var out bytes.Buffer
	if code := c.Run(t.Context(), []string{"--help"}, env(nil), &out, &out, nil); code != ExitOK {
		t.Fatalf("exit code %d", code)
	}
	for _, want := range []string{
		"arbiter decides.", "--listen-on ADDR\n", "ADDR to listen on (default 127.0.0.1:1) [UNDERSTUDY_ARBITER_LISTEN_ON]",
		"--wait duration\n", "--fast\n", "arbiter --listen :7400",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, out.String())
		}
	}
	if strings.Index(out.String(), "--log-level") < strings.Index(out.String(), "--wait") {
		t.Error("the program's own flags should come first")
	}
}

func TestLoggerKeepsToItsLevelAndFormat(t *testing.T) {
	c, _, _, _ := command()
	if err := c.Parse([]string{"--log-level=warn", "--log-format=json"}, env(nil)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	log := c.Logger(&out)
	log.Info("quiet")
	log.Warn("loud", "vm", "a")
	if strings.Contains(out.String(), "quiet") || !strings.Contains(out.String(), `"vm":"a"`) {
		t.Errorf("got %s", out.String())
	}
}

func TestSize(t *testing.T) {
	for _, tc := range []struct {
		text string
		want Size
		str  string
	}{
		{"0", 0, "0"}, {"1000", 1000, "1000"}, {"512M", 512 << 20, "512M"}, {"2gib", 2 << 30, "2G"},
		{"1024K", 1 << 20, "1M"}, {"1 T", 1 << 40, "1T"}, {"3KB", 3072, "3K"},
	} {
		var s Size
		if err := s.Set(tc.text); err != nil || s != tc.want || s.String() != tc.str {
			t.Errorf("%q: %d %q %v, want %d %q", tc.text, s, s.String(), err, tc.want, tc.str)
		}
	}
	for _, bad := range []string{"", "M", "-1", "1.5G", "1X", "99999999999999T", "B"} {
		var s Size
		if err := s.Set(bad); err == nil {
			t.Errorf("%q: no error but %d", bad, s)
		}
	}
}

func TestList(t *testing.T) {
	l := NewList("x", "y")
	if l.String() != "x,y" {
		t.Errorf("default %q", l)
	}
	for _, s := range []string{"a, b", "c"} {
		if err := l.Set(s); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(l.Values, []string{"a", "b", "c"}) {
		t.Errorf("got %q", l.Values)
	}
	if NewList().Set(" , ") == nil {
		t.Error("an empty list was accepted")
	}
}

func TestCheckAddress(t *testing.T) {
	for addr, ok := range map[string]bool{
		"127.0.0.1:7400": true, ":0": true, "[::1]:80": true, "host:99": true,
		"": false, "127.0.0.1": false, "a:b": false, "a:70000": false, "::1:80": false,
	} {
		if err := CheckAddress("listen", addr); (err == nil) != ok || err != nil && !errors.Is(err, ErrUsage) {
			t.Errorf("%q: %v", addr, err)
		}
	}
}

package main

import (
	"archive/tar"
	"compress/gzip"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/understudy-ft/understudy/deploy/process"
	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/identity/identitytest"
)

// A real arbiter with certificates takes an operator's orders and nobody else's.
func TestArbiterOverTLS(t *testing.T) {
	bin := filepath.Join("..", "..", "bin", "arbiter")
	if _, err := os.Stat(bin); err != nil {
		t.Skip("SKIPPED: the arbiter is not built: make build")
	}
	pki := identitytest.New(t)
	certificates := func(id identity.ID) []string {
		f := pki.Files(t, id)
		return []string{"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	arbiter, err := process.Start(t.TempDir(), "arbiter", bin, append(certificates(identity.ID{Role: identity.Arbiter}), "--listen", addr, "--http", "off")...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := arbiter.Stop(time.Minute); err != nil {
			t.Error(err)
		}
	})
	ask := func(who []string, args ...string) (code int, out, problem string) {
		t.Helper()
		return ctl(t, append(append(args, "--arbiter", addr), who...)...)
	}
	operator := certificates(identity.ID{Role: identity.Operator, Name: "alice"})
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		code, out, problem := ask(operator, "arbiters")
		if code == cli.ExitOK && strings.Contains(out, addr) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s%s\n%s", out, problem, arbiter.LogTail(10))
		}
	}
	for name, tc := range map[string]struct {
		who  []string
		args string
		says string
	}{
		"another VM's replica": {certificates(identity.ID{Role: identity.Replica, Name: "web"}), "list", "give the certificate of an operator"},
		"nobody":               {nil, "list", "no arbiter answers"},
		"no such VM":           {operator, "switchover web", "no such VM: understudyctl list shows what there is"},
		"no such replica":      {operator, "drain web r-1", "no such VM"},
	} {
		code, out, problem := ask(tc.who, strings.Fields(tc.args)...)
		if code != cli.ExitError || out != "" || !strings.Contains(problem, tc.says) || strings.Count(problem, "\n") != 1 {
			t.Errorf("%s: code %d: %s%s", name, code, out, problem)
		}
	}
	if code, _, problem := ask(operator, "drain", "a b", "r-1"); code != cli.ExitUsage || !strings.Contains(problem, `VM name "a b"`) {
		t.Errorf("code %d: %s", code, problem)
	}
	code, out, problem := ask(operator, "bundle")
	zip, err := gzip.NewReader(strings.NewReader(out))
	if code != cli.ExitOK || err != nil {
		t.Fatalf("code %d: %s %v", code, problem, err)
	}
	if h, err := tar.NewReader(zip).Next(); err != nil || h.Name != "understudy-support/version.txt" {
		t.Errorf("%v %v", h, err)
	}
}

package conform

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// needQEMU returns the path of a QEMU binary, or skips the test and says which
// Debian package brings it. In CI a missing binary is a failure.
func needQEMU(t testing.TB, binary, pkg string) string {
	path, err := exec.LookPath(binary)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is missing: install the Debian package %s", binary, pkg)
	}
	t.Skipf("NOT VERIFIED against QEMU itself, at most against testdata: %s is missing (Debian package %s)", binary, pkg)
	return ""
}

// runUser runs a program in qemu-riscv64 and returns its results.
func runUser(t testing.TB, qemu string, p *Program) ([]byte, error) {
	file := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(file, p.ELF(), 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, "-cpu", "rv64,zba=true,zbb=true,zbs=true", file)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s in %s: %w: %s", p.Name, qemu, err, stderr.Bytes())
	}
	if uint64(len(out)) != p.ResultSize {
		return nil, fmt.Errorf("%s in %s: %d bytes of results, want %d", p.Name, qemu, len(out), p.ResultSize)
	}
	return out, nil
}

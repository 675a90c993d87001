package conform

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// runSystem runs a payload on QEMU's virt machine and returns its results.
func runSystem(t testing.TB, qemu string, p *Payload) ([]byte, error) {
	image, err := p.image()
	if err != nil {
		return nil, err
	}
	dir := t.TempDir()
	firmware, memory := filepath.Join(dir, "firmware"), filepath.Join(dir, "memory")
	if err := os.WriteFile(firmware, image, 0o600); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cpu, err := systemCPU(ctx, qemu)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, qemu, "-M", "virt,memory-backend=ram", "-m", "64M", "-cpu", cpu, "-bios", firmware,
		"-object", fmt.Sprintf("memory-backend-file,id=ram,size=%d,mem-path=%s,share=on", virtMemorySize, memory),
		"-display", "none", "-monitor", "none", "-serial", "none")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s in %s: %w: %s", p.Name, qemu, err, text)
	}
	file, err := os.Open(memory)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	out := make([]byte, p.ResultSize)
	_, err = file.ReadAt(out, payloadResult-memoryBase)
	return out, err
}

// systemCPU returns QEMU's word for the instruction set that the engine has.
// Which extensions can be named depends on QEMU's version.
func systemCPU(ctx context.Context, qemu string) (string, error) {
	cmd := exec.CommandContext(ctx, qemu, "-M", "none", "-display", "none", "-qmp", "stdio")
	cmd.Stdin = strings.NewReader(`{"execute":"qmp_capabilities"}
		{"execute":"device-list-properties","arguments":{"typename":"rv64-riscv-cpu"}}
		{"execute":"quit"}`)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its CPU's properties: %w", qemu, err)
	}
	cpu := "rv64"
	for _, set := range []struct {
		value string
		names string
	}{
		{"true", "zba zbb zbs svadu"},
		{"false", "h v zbc Zfh zfh Zfhmin zfhmin zfa zfbfmin zawrs Zawrs zicbom zicboz zicond zcb zimop zcmop " +
			"zacas zabha zama16b svinval svnapot svpbmt svade ssnpm zicfilp zicfiss zalasr smcntrpmf"},
	} {
		for _, name := range strings.Fields(set.names) {
			if bytes.Contains(out, []byte(`"`+name+`"`)) {
				cpu += "," + name + "=" + set.value
			}
		}
	}
	return cpu, nil
}

// runPayload runs a payload on the engine and returns its results.
func runPayload(t testing.TB, p *Payload) ([]byte, error) {
	m := newMachine(t, memorySize)
	for _, s := range p.Segments {
		if err := m.mem.WriteAt(s.Bytes, s.Address); err != nil {
			return nil, err
		}
	}
	if err := m.run(SupervisorBase); err != nil {
		return nil, fmt.Errorf("%s: %w", p.Name, err)
	}
	out := make([]byte, p.ResultSize)
	return out, m.mem.ReadAt(out, payloadResult)
}

func TestTranslation(t *testing.T) { testMMU(t, translationCases) }

func TestPermissions(t *testing.T) { testMMU(t, permissionMatrix) }

// testMMU runs cases on the engine and on QEMU.
func testMMU(t *testing.T, generate func() (*Payload, []mmuCase, error)) {
	p, cases, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	file := goldenFile(t, p.Name+".golden")
	out, err := runPayload(t, p)
	if err != nil {
		t.Fatal(err)
	}
	engine := mmuResults(cases, out)
	if !*rewrite {
		file.check(t, "engine", p.lines(cases, engine))
	}
	qemu := needQEMU(t, "qemu-system-riscv64", "qemu-system-misc")
	if out, err = runSystem(t, qemu, p); err != nil {
		t.Fatal(err)
	}
	want := mmuResults(cases, out)
	bad := 0
	for i, c := range cases {
		want[i].correct(&c)
		if engine[i] == want[i] {
			continue
		}
		if bad++; bad <= 20 {
			t.Errorf("%s, va %#x pte %#x: %v, QEMU %v", c.name, c.va, c.pte, engine[i], want[i])
		}
	}
	if bad > 20 {
		t.Errorf("%d cases differ", bad)
	}
	if lines := p.lines(cases, want); *rewrite {
		file.write(t, lines)
	} else {
		file.check(t, "QEMU", lines)
	}
}

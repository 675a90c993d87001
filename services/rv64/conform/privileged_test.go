package conform

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// TestPrivileged: control registers, traps, interrupts and fences do what they
// do on QEMU.
func TestPrivileged(t *testing.T) {
	p, names, err := privilegedPayload()
	if err != nil {
		t.Fatal(err)
	}
	lines := func(out []byte) []string {
		list := make([]string, len(names))
		for i, name := range names {
			list[i] = fmt.Sprintf("%s: %#x", name, binary.LittleEndian.Uint64(out[8*i:]))
		}
		return list
	}
	file := goldenFile(t, "privileged.golden")
	got, err := runPayload(t, p)
	if err != nil {
		t.Fatal(err)
	}
	if !*rewrite {
		file.check(t, "engine", lines(got))
	}
	qemu := needQEMU(t, "qemu-system-riscv64", "qemu-system-misc")
	out, err := runSystem(t, qemu, p)
	if err != nil {
		t.Fatal(err)
	}
	engine, want := lines(got), lines(out)
	for i, line := range engine {
		if line != want[i] {
			t.Errorf("%s, QEMU %s", line, want[i])
		}
	}
	if *rewrite {
		file.write(t, want)
	} else {
		file.check(t, "QEMU", want)
	}
}

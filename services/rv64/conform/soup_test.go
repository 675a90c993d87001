package conform

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
)

// TestCompressedEncodings: every compressed instruction does to the registers
// what it does on QEMU, or is illegal there, too.
func TestCompressedEncodings(t *testing.T) {
	testSoup(t, "compressed", compressedWords())
}

// TestEncodings: so do random 32-bit words.
func TestEncodings(t *testing.T) {
	testSoup(t, "words", randomWords(newSource(*seed, "instruction words"), *effort*60_000))
}

func testSoup(t *testing.T, name string, list []uint32) {
	const lot = 50_000 // what one payload has room for
	file := goldenFile(t, name+".golden")
	var lines []string
	var qemu string
	for n := 0; len(list) > 0; n++ {
		part := list[:min(lot, len(list))]
		list = list[len(part):]
		s := func() source { return newSource(*seed, fmt.Sprintf("%s %d", name, n)) }
		p, err := soupPayload(name, s(), part, false)
		if err != nil {
			t.Fatal(err)
		}
		got, err := runPayload(t, p)
		if err != nil {
			t.Fatal(err)
		}
		if standard() && !*rewrite {
			file.check(t, "engine", soupLines(n, got))
		}
		if qemu == "" {
			qemu = needQEMU(t, "qemu-system-riscv64", "qemu-system-misc")
		}
		want, err := runSystem(t, qemu, p)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, soupLines(n, want)...)
		explainSoup(t, qemu, s, part, got, want)
	}
	switch {
	case *rewrite && standard():
		file.write(t, lines)
	case standard():
		file.check(t, "QEMU", lines)
	}
}

// soupLines are digests of the results by hundreds, for testdata.
func soupLines(lot int, out []byte) []string {
	const words = 1000
	var lines []string
	for i := 0; i*words*8 < len(out); i++ {
		sum := sha256.Sum256(out[i*words*8 : min((i+1)*words*8, len(out))])
		lines = append(lines, fmt.Sprintf("lot %d from %d: %s", lot, i*words, hex.EncodeToString(sum[:8])))
	}
	return lines
}

// explainSoup runs the words whose digests differ once more, to see the states.
func explainSoup(t *testing.T, qemu string, s func() source, list []uint32, got, want []byte) {
	t.Helper()
	var bad []uint32
	for i, w := range list {
		if string(got[8*i:8*i+8]) != string(want[8*i:8*i+8]) {
			bad = append(bad, w)
		}
	}
	if len(bad) == 0 {
		return
	}
	t.Errorf("%d of %d words differ", len(bad), len(list))
	bad = bad[:min(len(bad), 40)]
	p, err := soupPayload("differences", s(), bad, true)
	if err != nil {
		t.Fatal(err)
	}
	if got, err = runPayload(t, p); err != nil {
		t.Fatal(err)
	}
	if want, err = runSystem(t, qemu, p); err != nil {
		t.Fatal(err)
	}
	for i, w := range bad {
		g, q := soupState(got, i), soupState(want, i)
		if slices.Equal(g, q) {
			t.Errorf("%#08x: differs only after the words before it", w)
			continue
		}
		t.Errorf("%#08x: cause %d, QEMU %d", w, g[soupCause], q[soupCause])
		for n, v := range g {
			if v != q[n] && n != soupCause {
				t.Errorf("    word %d of the state: %#x, QEMU %#x", n, v, q[n])
			}
		}
	}
}

func soupState(out []byte, i int) []uint64 {
	state := make([]uint64, soupWords)
	for n := range state {
		state[n] = binary.LittleEndian.Uint64(out[(i*soupWords+n)*8:])
	}
	return state
}

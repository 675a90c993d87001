package conform

import (
	"encoding/binary"
	"math/bits"
	"testing"
)

// TestCountTrailingZerosOfWord: what QEMU 7.2 cannot be asked for (see
// ctzwTuples), against the ISA manual.
func TestCountTrailingZerosOfWord(t *testing.T) {
	var tuples []uint64
	for i := range 64 {
		tuples = append(tuples, 1<<i, ^uint64(0)<<i, 5<<i)
	}
	for _, op := range riOps {
		if op.name != "ctzw" {
			continue
		}
		p, err := groupProgram("ctzw", []group{{"ctzw", 1, 1, tuples, func(a *assembler) {
			a.i(ld(a0, s0, 0), op.word(a2, a0, 0), sd(a2, s1, 0))
		}}})
		if err != nil {
			t.Fatal(err)
		}
		out, err := runEngine(t, p, false)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range tuples {
			want := uint64(bits.TrailingZeros32(uint32(v)))
			if got := binary.LittleEndian.Uint64(out[8*i:]); got != want {
				t.Errorf("ctzw %#x: %d, want %d", v, got, want)
			}
		}
		return
	}
	t.Fatal("no ctzw among the instructions")
}

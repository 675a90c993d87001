package conform

import (
	"bytes"
	"flag"
	"fmt"
	"sort"
	"strings"
	"testing"
)

var (
	seed    = flag.Uint64("seed", 1, "seed of the generated programs")
	effort  = flag.Int("effort", 1, "multiplies the number of random operands and programs")
	rewrite = flag.Bool("rewrite", false, "write testdata from what QEMU says")
)

// standard tells that the programs are those that testdata is about.
func standard() bool { return *seed == 1 && *effort == 1 }

// userPrograms are all programs for user mode.
func userPrograms(t *testing.T) []*Program {
	t.Helper()
	var list []*Program
	keep := func(p *Program, err error) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	keep(groupProgram("integer", integerGroups(*seed, *effort*300)))
	keep(groupProgram("memory", append(memoryGroups(*seed, *effort*300), straddleGroup())))
	keep(groupProgram("float", floatGroups(*seed, *effort*1000)))
	for i := range randomPrograms * uint64(*effort) {
		keep(RandomProgram(*seed<<32+i, randomSize))
	}
	return list
}

const (
	randomPrograms = 150
	randomSize     = 1500
)

// TestUserPrograms: the engine leaves the memory that QEMU leaves, with and
// without address translation.
func TestUserPrograms(t *testing.T) {
	programs := userPrograms(t)
	file := goldenFile(t, "user.golden")
	engine := make([][]byte, len(programs))
	for i, p := range programs {
		for _, translated := range []bool{false, true} {
			out, err := runEngine(t, p, translated)
			if err != nil {
				t.Error(err)
				continue
			}
			if translated && engine[i] != nil {
				report(t, "translated against bare", p, out, engine[i])
			}
			engine[i] = out
		}
		if standard() && !*rewrite && engine[i] != nil {
			file.check(t, "engine", p.digests(engine[i]))
		}
	}
	qemu := needQEMU(t, "qemu-riscv64", "qemu-user")
	var lines []string
	for i, p := range programs {
		out, err := runUser(t, qemu, p)
		if err != nil {
			t.Error(err)
			continue
		}
		if engine[i] != nil && !bytes.Equal(engine[i], out) {
			report(t, "engine against QEMU", p, engine[i], out)
			if n := i - (len(programs) - int(randomPrograms*uint64(*effort))); n >= 0 {
				shrink(t, qemu, *seed<<32+uint64(n))
			}
		}
		lines = append(lines, p.digests(out)...)
	}
	switch {
	case *rewrite && standard() && len(lines) > 0:
		file.write(t, lines)
	case standard():
		file.check(t, "QEMU", lines)
	}
}

// report fails the test if results differ, with a few examples.
func report(t *testing.T, who string, p *Program, got, want []byte) {
	t.Helper()
	lines := p.diff(got, want)
	for i, line := range lines {
		if i == 5 {
			t.Errorf("%s: %s: and %d more parts", who, p.Name, len(lines)-i)
			break
		}
		t.Errorf("%s: %s", who, line)
	}
}

// shrink looks for the first unit of a random program that makes a difference,
// and shows its code.
func shrink(t *testing.T, qemu string, seed uint64) {
	t.Helper()
	differs := func(units int) (bool, string) {
		p, last, err := randomProgram(seed, randomSize, units)
		if err != nil {
			t.Fatal(err)
		}
		want, err := runUser(t, qemu, p)
		if err != nil {
			return true, err.Error()
		}
		got, err := runEngine(t, p, true)
		if err != nil {
			return true, err.Error()
		}
		return !bytes.Equal(got, want), fmt.Sprintf("% x\n%s", last, strings.Join(p.diff(got, want), "\n"))
	}
	n := sort.Search(randomSize, func(n int) bool { b, _ := differs(n); return b })
	_, text := differs(n)
	t.Logf("seed %d differs from unit %d on: %s", seed, n, text)
}

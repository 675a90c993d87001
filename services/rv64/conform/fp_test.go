package conform

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/understudy-ft/understudy/services/rv64/fp"
)

// expectFloat is what package fp gives for a group of floatGroups; ok is false
// where the group does no arithmetic.
func expectFloat(group string, v []uint64) (word uint64, flags fp.Flags, ok bool) {
	op, mode, _ := strings.Cut(group, " ")
	r := fp.Round(strings.Index("rne rtz rdn rup rmm", strings.TrimPrefix(mode, "dyn ")) / 4)
	// s takes a binary32 out of its NaN box.
	s := func(i int) uint32 {
		if v[i]>>32 != 0xffffffff {
			return fp.NaNS
		}
		return uint32(v[i])
	}
	single := func(w uint32, f fp.Flags) (uint64, fp.Flags, bool) { return boxed | uint64(w), f, true }
	double := func(w uint64, f fp.Flags) (uint64, fp.Flags, bool) { return w, f, true }
	truth := func(b bool, f fp.Flags) (uint64, fp.Flags, bool) {
		if b {
			return 1, f, true
		}
		return 0, f, true
	}
	const sign32, sign64 = 1 << 31, 1 << 63
	switch op {
	case "fadd.s":
		return single(fp.AddS(s(0), s(1), r))
	case "fsub.s":
		return single(fp.SubS(s(0), s(1), r))
	case "fmul.s":
		return single(fp.MulS(s(0), s(1), r))
	case "fdiv.s":
		return single(fp.DivS(s(0), s(1), r))
	case "fsqrt.s":
		return single(fp.SqrtS(s(0), r))
	case "fmadd.s":
		return single(fp.FMAS(s(0), s(1), s(2), r))
	case "fmsub.s":
		return single(fp.FMAS(s(0), s(1), s(2)^sign32, r))
	case "fnmsub.s":
		return single(fp.FMAS(s(0)^sign32, s(1), s(2), r))
	case "fnmadd.s":
		return single(fp.FMAS(s(0)^sign32, s(1), s(2)^sign32, r))
	case "fmin.s":
		return single(fp.MinS(s(0), s(1)))
	case "fmax.s":
		return single(fp.MaxS(s(0), s(1)))
	case "feq.s":
		return truth(fp.EqS(s(0), s(1)))
	case "flt.s":
		return truth(fp.LtS(s(0), s(1)))
	case "fle.s":
		return truth(fp.LeS(s(0), s(1)))
	case "fclass.s":
		return fp.ClassS(s(0)), 0, true
	case "fcvt.w.s":
		return double(fp.SToI32(s(0), r))
	case "fcvt.wu.s":
		return double(fp.SToU32(s(0), r))
	case "fcvt.l.s":
		return double(fp.SToI64(s(0), r))
	case "fcvt.lu.s":
		return double(fp.SToU64(s(0), r))
	case "fcvt.s.w":
		return single(fp.I32ToS(v[0], r))
	case "fcvt.s.wu":
		return single(fp.U32ToS(v[0], r))
	case "fcvt.s.l":
		return single(fp.I64ToS(v[0], r))
	case "fcvt.s.lu":
		return single(fp.U64ToS(v[0], r))
	case "fcvt.d.s":
		return double(fp.SToD(s(0)))

	case "fadd.d":
		return double(fp.AddD(v[0], v[1], r))
	case "fsub.d":
		return double(fp.SubD(v[0], v[1], r))
	case "fmul.d":
		return double(fp.MulD(v[0], v[1], r))
	case "fdiv.d":
		return double(fp.DivD(v[0], v[1], r))
	case "fsqrt.d":
		return double(fp.SqrtD(v[0], r))
	case "fmadd.d":
		return double(fp.FMAD(v[0], v[1], v[2], r))
	case "fmsub.d":
		return double(fp.FMAD(v[0], v[1], v[2]^sign64, r))
	case "fnmsub.d":
		return double(fp.FMAD(v[0]^sign64, v[1], v[2], r))
	case "fnmadd.d":
		return double(fp.FMAD(v[0]^sign64, v[1], v[2]^sign64, r))
	case "fmin.d":
		return double(fp.MinD(v[0], v[1]))
	case "fmax.d":
		return double(fp.MaxD(v[0], v[1]))
	case "feq.d":
		return truth(fp.EqD(v[0], v[1]))
	case "flt.d":
		return truth(fp.LtD(v[0], v[1]))
	case "fle.d":
		return truth(fp.LeD(v[0], v[1]))
	case "fclass.d":
		return fp.ClassD(v[0]), 0, true
	case "fcvt.w.d":
		return double(fp.DToI32(v[0], r))
	case "fcvt.wu.d":
		return double(fp.DToU32(v[0], r))
	case "fcvt.l.d":
		return double(fp.DToI64(v[0], r))
	case "fcvt.lu.d":
		return double(fp.DToU64(v[0], r))
	case "fcvt.d.w":
		return double(fp.I32ToD(v[0], r))
	case "fcvt.d.wu":
		return double(fp.U32ToD(v[0], r))
	case "fcvt.d.l":
		return double(fp.I64ToD(v[0], r))
	case "fcvt.d.lu":
		return double(fp.U64ToD(v[0], r))
	case "fcvt.s.d":
		return single(fp.DToS(v[0], r))
	}
	return 0, 0, false
}

// TestFPAgainstQEMU: package fp computes what QEMU's floating point does.
func TestFPAgainstQEMU(t *testing.T) {
	qemu := needQEMU(t, "qemu-riscv64", "qemu-user")
	p, err := groupProgram("float", floatGroups(*seed, *effort*1000))
	if err != nil {
		t.Fatal(err)
	}
	out, err := runUser(t, qemu, p)
	if err != nil {
		t.Fatal(err)
	}
	silent := 0
	for _, part := range p.parts {
		results := out[part.offset:][:part.size]
		for i := 0; i < len(part.tuples)/part.width; i++ {
			tuple := part.tuples[i*part.width:][:part.width]
			word, flags, ok := expectFloat(part.name, tuple)
			if !ok {
				silent++
				break
			}
			got := binary.LittleEndian.Uint64(results[i*16:])
			gotFlags := fp.Flags(binary.LittleEndian.Uint64(results[i*16+8:]))
			if got != word || gotFlags != flags {
				t.Errorf("%s %s: qemu %#x flags %05b, fp %#x %05b", part.name, hexWords(tuple), got, gotFlags, word, flags)
				break
			}
		}
	}
	if silent > 11 { // sign injections, moves and fcsr
		t.Errorf("%d groups were not compared", silent)
	}
}

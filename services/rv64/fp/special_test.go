package fp

import "testing"

// Short names for binary64 patterns.
const (
	d0, dm0     uint64 = 0, 1 << 63
	d1, dm1     uint64 = 0x3ff0000000000000, 0xbff0000000000000
	dInf, dmInf uint64 = 0x7ff0000000000000, 0xfff0000000000000
	dMax        uint64 = 0x7fefffffffffffff
	dMin        uint64 = 0x0010000000000000
	dQNaN       uint64 = 0xfff8000000000001
	dSNaN       uint64 = 0x7ff0000000000001
)

// TestSpecials: infinities, zeros and NaNs, which have no rational value.
func TestSpecials(t *testing.T) {
	for _, c := range []struct {
		name string
		got  func() (uint64, Flags)
		want uint64
		f    Flags
	}{
		{"inf-inf", func() (uint64, Flags) { return SubD(dInf, dInf, RNE) }, NaND, NV},
		{"inf+inf", func() (uint64, Flags) { return AddD(dInf, dInf, RNE) }, dInf, 0},
		{"qnan+snan", func() (uint64, Flags) { return AddD(dQNaN, dSNaN, RNE) }, NaND, NV},
		{"qnan+1", func() (uint64, Flags) { return AddD(dQNaN, d1, RNE) }, NaND, 0},
		{"1-1", func() (uint64, Flags) { return SubD(d1, d1, RNE) }, d0, 0},
		{"1-1 down", func() (uint64, Flags) { return SubD(d1, d1, RDN) }, dm0, 0},
		{"0-0 down", func() (uint64, Flags) { return SubD(d0, d0, RDN) }, dm0, 0},
		{"-0+-0", func() (uint64, Flags) { return AddD(dm0, dm0, RUP) }, dm0, 0},
		{"0*inf", func() (uint64, Flags) { return MulD(dm0, dInf, RNE) }, NaND, NV},
		{"-0*1", func() (uint64, Flags) { return MulD(dm0, d1, RNE) }, dm0, 0},
		{"0/0", func() (uint64, Flags) { return DivD(d0, dm0, RNE) }, NaND, NV},
		{"inf/inf", func() (uint64, Flags) { return DivD(dInf, dmInf, RNE) }, NaND, NV},
		{"-1/0", func() (uint64, Flags) { return DivD(dm1, d0, RNE) }, dmInf, DZ},
		{"inf/0", func() (uint64, Flags) { return DivD(dInf, d0, RNE) }, dInf, 0},
		{"1/-inf", func() (uint64, Flags) { return DivD(d1, dmInf, RNE) }, dm0, 0},
		{"sqrt -0", func() (uint64, Flags) { return SqrtD(dm0, RNE) }, dm0, 0},
		{"sqrt -1", func() (uint64, Flags) { return SqrtD(dm1, RNE) }, NaND, NV},
		{"sqrt -inf", func() (uint64, Flags) { return SqrtD(dmInf, RNE) }, NaND, NV},
		{"sqrt inf", func() (uint64, Flags) { return SqrtD(dInf, RNE) }, dInf, 0},
		{"0*inf+qnan", func() (uint64, Flags) { return FMAD(d0, dInf, dQNaN, RNE) }, NaND, NV},
		{"inf*1-inf", func() (uint64, Flags) { return FMAD(dInf, d1, dmInf, RNE) }, NaND, NV},
		{"1*1-1 down", func() (uint64, Flags) { return FMAD(d1, d1, dm1, RDN) }, dm0, 0},
		{"0*1-0", func() (uint64, Flags) { return FMAD(d0, d1, dm0, RNE) }, d0, 0},
		{"max+max", func() (uint64, Flags) { return AddD(dMax, dMax, RNE) }, dInf, OF | NX},
		{"max+max to zero", func() (uint64, Flags) { return AddD(dMax, dMax, RTZ) }, dMax, OF | NX},
		// Just below the least normal number, and rounded up to it: tiny only
		// where rounding with an unbounded exponent does not reach it either.
		{"min*(1-ulp/2)", func() (uint64, Flags) { return MulD(dMin, d1-1, RNE) }, dMin, UF | NX},
		{"min*(1-ulp/4)", func() (uint64, Flags) { return FMAD(dMin, dm1-dMin*55, dMin, RNE) }, dMin, NX},
		{"min(qnan,1)", func() (uint64, Flags) { return MinD(dQNaN, d1) }, d1, 0},
		{"min(1,snan)", func() (uint64, Flags) { return MinD(d1, dSNaN) }, d1, NV},
		{"max(snan,qnan)", func() (uint64, Flags) { return MaxD(dSNaN, dQNaN) }, NaND, NV},
		{"min(0,-0)", func() (uint64, Flags) { return MinD(d0, dm0) }, dm0, 0},
		{"max(-0,0)", func() (uint64, Flags) { return MaxD(dm0, d0) }, d0, 0},
		{"max(-1,-inf)", func() (uint64, Flags) { return MaxD(dm1, dmInf) }, dm1, 0},
		{"snan to s", func() (uint64, Flags) { return widen(DToS(dSNaN, RNE)) }, uint64(NaNS), NV},
		{"snan to d", func() (uint64, Flags) { return SToD(0xff800001) }, NaND, NV},
		{"-inf to s", func() (uint64, Flags) { return widen(DToS(dmInf, RNE)) }, 0xff800000, 0},
		{"max to s", func() (uint64, Flags) { return widen(DToS(dMax, RDN)) }, 0x7f7fffff, OF | NX},
		{"subnormal to d", func() (uint64, Flags) { return SToD(0x80000001) }, 0xb6a0000000000000, 0},
	} {
		if v, f := c.got(); v != c.want || f != c.f {
			t.Errorf("%s: %#x flags %05b, want %#x %05b", c.name, v, f, c.want, c.f)
		}
	}
}

func TestCompare(t *testing.T) {
	type fn = func(a, b uint64) (bool, Flags)
	for _, c := range []struct {
		a, b       uint64
		eq, lt, le bool
		quiet, sig Flags
	}{
		{d0, dm0, true, false, true, 0, 0},
		{dm0, d0, true, false, true, 0, 0},
		{dm1, d1, false, true, true, 0, 0},
		{d1, dm1, false, false, false, 0, 0},
		{dmInf, dm1, false, true, true, 0, 0},
		{dm1, dm1, true, false, true, 0, 0},
		{dInf, dInf, true, false, true, 0, 0},
		{dQNaN, dQNaN, false, false, false, 0, NV},
		{d1, dSNaN, false, false, false, NV, NV},
	} {
		for i, f := range []fn{EqD, LtD, LeD} {
			want, flags := []bool{c.eq, c.lt, c.le}[i], c.sig
			if i == 0 {
				flags = c.quiet
			}
			if v, fl := f(c.a, c.b); v != want || fl != flags {
				t.Errorf("%s %#x %#x: %v %05b, want %v %05b", []string{"eq", "lt", "le"}[i], c.a, c.b, v, fl, want, flags)
			}
		}
	}
	for _, a := range single.edges() {
		for _, b := range single.edges() {
			x, _ := SToD(uint32(a))
			y, _ := SToD(uint32(b))
			for i, fs := range []func(a, b uint32) (bool, Flags){EqS, LtS, LeS} {
				v, f := fs(uint32(a), uint32(b))
				w, g := []fn{EqD, LtD, LeD}[i](x, y)
				// Widening has quieted the signalling NaNs.
				if v != w || f != g|single.invalidIf(a, b) {
					t.Errorf("%d %#x %#x: %v %05b, widened %v %05b", i, a, b, v, f, w, g)
				}
			}
		}
	}
}

func TestClass(t *testing.T) {
	for a, want := range map[uint64]uint64{
		dmInf: 1 << 0, dm1: 1 << 1, dm0 | 1: 1 << 2, dm0: 1 << 3, d0: 1 << 4,
		dMin - 1: 1 << 5, dMax: 1 << 6, dInf: 1 << 7, dSNaN: 1 << 8, dQNaN: 1 << 9,
	} {
		if got := ClassD(a); got != want {
			t.Errorf("class %#x: %#x, want %#x", a, got, want)
		}
	}
}

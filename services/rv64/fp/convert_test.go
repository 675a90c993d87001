package fp

import (
	"math/big"
	"testing"
)

// intConv is a pair of conversions between a format and an integer type.
type intConv struct {
	name   string
	f      *format
	width  uint
	signed bool
	to     func(a uint64, r Round) (uint64, Flags)
	from   func(v uint64, r Round) (uint64, Flags)
}

func intConvs() []intConv {
	s := func(f func(uint32, Round) (uint64, Flags)) func(uint64, Round) (uint64, Flags) {
		return func(a uint64, r Round) (uint64, Flags) { return f(uint32(a), r) }
	}
	w := func(f func(uint64, Round) (uint32, Flags)) func(uint64, Round) (uint64, Flags) {
		return func(a uint64, r Round) (uint64, Flags) { return widen(f(a, r)) }
	}
	return []intConv{
		{"S I32", &single, 32, true, s(SToI32), w(I32ToS)},
		{"S U32", &single, 32, false, s(SToU32), w(U32ToS)},
		{"S I64", &single, 64, true, s(SToI64), w(I64ToS)},
		{"S U64", &single, 64, false, s(SToU64), w(U64ToS)},
		{"D I32", &double, 32, true, DToI32, I32ToD},
		{"D U32", &double, 32, false, DToU32, U32ToD},
		{"D I64", &double, 64, true, DToI64, I64ToD},
		{"D U64", &double, 64, false, DToU64, U64ToD},
	}
}

// bounds of the integer type.
func (c intConv) bounds() (lo, hi *big.Int) {
	one := big.NewInt(1)
	lo, hi = new(big.Int), new(big.Int).Lsh(one, c.width)
	if c.signed {
		hi.Rsh(hi, 1)
		lo.Neg(hi)
	}
	return lo, hi.Sub(hi, one)
}

// register is v as the ISA keeps it in a 64-bit register.
func (c intConv) register(v *big.Int) uint64 {
	u := new(big.Int).And(v, new(big.Int).SetUint64(^uint64(0))).Uint64()
	if c.width == 32 {
		return uint64(int32(u))
	}
	return u
}

func TestToInt(t *testing.T) {
	for _, c := range intConvs() {
		t.Run(c.name, func(t *testing.T) {
			lo, hi := c.bounds()
			check := func(a uint64, r Round) {
				want, flags := hi, NV
				switch {
				case c.f.isNaN(a):
				case c.f.isInf(a):
					if a&c.f.sign != 0 {
						want = lo
					}
				default:
					x := c.f.rat(a)
					m, nx := nearest(x, x.Sign() < 0, r)
					if x.Sign() < 0 {
						m.Neg(m)
					}
					switch {
					case m.Cmp(lo) < 0:
						want = lo
					case m.Cmp(hi) > 0:
						want = hi
					default:
						want, flags = m, inexact(nx)
					}
				}
				if v, f := c.to(a, r); v != c.register(want) || f != flags {
					t.Fatalf("%#x mode %d: %#x flags %05b, want %#x %05b", a, r, v, f, c.register(want), flags)
				}
			}
			o := newOperands(c.f, 4)
			// Powers of two and their neighbours, from 2^-3 to 2^66.
			for e := uint64(c.f.bias - 3); e < uint64(c.f.bias+66); e++ {
				for _, frac := range []uint64{0, 1, 1 << (c.f.mant - 1), 1<<(c.f.mant-1) + 1, 1<<c.f.mant - 1, o.Uint64()} {
					a := e<<c.f.mant | frac&(1<<c.f.mant-1)
					for _, r := range modes {
						check(a, r)
						check(a|c.f.sign, r)
					}
				}
			}
			for _, a := range c.f.edges() {
				for _, r := range modes {
					check(a, r)
				}
			}
		})
	}
}

func TestFromInt(t *testing.T) {
	for _, c := range intConvs() {
		t.Run(c.name, func(t *testing.T) {
			check := func(v uint64, r Round) {
				x := new(big.Int)
				switch {
				case c.width == 32 && c.signed:
					x.SetInt64(int64(int32(v)))
				case c.width == 32:
					x.SetUint64(uint64(uint32(v)))
				case c.signed:
					x.SetInt64(int64(v))
				default:
					x.SetUint64(v)
				}
				var want result
				if x.Sign() != 0 {
					want.v, want.f = c.f.roundRat(new(big.Rat).SetInt(x), r)
				}
				var got result
				if got.v, got.f = c.from(v, r); got != want {
					t.Fatalf("%#x mode %d: %v, want %v", v, r, got, want)
				}
			}
			o := newOperands(c.f, 5)
			for _, r := range modes {
				for n := range 64 {
					for d := range uint64(4) {
						check(1<<n-2+d, r)
						check(-(1<<n - 2 + d), r)
						check(o.Uint64()>>n, r)
						check(1<<n|1<<max(n-int(c.f.mant)-1, 0)|d&1, r) // ties
						check(3<<n|1<<max(n-int(c.f.mant), 0)|d&1, r)
					}
				}
			}
		})
	}
}

func TestBetweenFormats(t *testing.T) {
	check := func(a uint64, r Round) {
		if a&double.inf == double.inf || double.isZero(a) {
			return
		}
		var got, want result
		want.v, want.f = single.roundRat(double.rat(a), r)
		if got.v, got.f = widen(DToS(a, r)); got != want {
			t.Fatalf("%#x mode %d: %v, want %v", a, r, got, want)
		}
	}
	o := newOperands(&double, 6)
	for i := range 20_000 {
		a := o.next()
		if i%2 == 0 { // in or near binary32's range
			a = a&^double.inf | uint64(1023-152+o.IntN(282))<<52
		}
		check(a, modes[i%len(modes)])
	}
	// Ties and near ties of binary32, subnormal ones, too.
	for e := uint64(1023 - 151); e < 1023+129; e++ {
		for _, frac := range []uint64{0, 1, 1 << 28, 1<<28 + 1, 1<<28 - 1, 3 << 28, 1<<52 - 1, 1<<52 - 1<<28, 1<<52 - 1<<28 - 1} {
			for _, r := range modes {
				check(e<<52|frac, r)
				check(1<<63|e<<52|frac, r)
			}
		}
	}
	o = newOperands(&single, 7)
	for range 20_000 {
		a := o.next()
		d, f := SToD(uint32(a))
		back, g := DToS(d, RTZ)
		if want := uint32(a); !single.isNaN(a) && (back != want || f|g != 0) {
			t.Fatalf("%#x widened to %#x and back: %#x flags %05b %05b", a, d, back, f, g)
		}
	}
}

package fp

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"testing"
)

var modes = []Round{RNE, RTZ, RDN, RUP, RMM}

// edges are the numbers of a format around which things go wrong.
func (f *format) edges() []uint64 {
	one := uint64(f.bias) << f.mant
	ulp := uint64(1)
	var list []uint64
	for _, v := range []uint64{
		0, ulp, 2, 3, // zero and subnormals
		1<<(f.mant-1) + 1,                                                     // a middling subnormal
		1<<f.mant - 1, 1 << f.mant, 1<<f.mant + 1, 2<<f.mant - 1, 2 << f.mant, // around the least normal
		one - 1<<f.mant, one - 1, one, one + ulp, one + 2, one + 1<<f.mant, one + 3<<(f.mant-1), // 1/2, 1, 2, 3
		one + 1<<(f.mant-1), one + 1<<(f.mant/2), // 3/2, and a square's tie
		one - uint64(f.mant+1)<<f.mant, one + uint64(f.mant+1)<<f.mant, one + uint64(f.mant+2)<<f.mant, // half an ulp of one; where the ulp is 2
		uint64(f.bias/2) << f.mant, uint64(f.bias/2*3) << f.mant, uint64(f.bias/2)<<f.mant + 5,
		one + 31<<f.mant, one + 63<<f.mant, one + 31<<f.mant - 1, one + 63<<f.mant - 1, // 2^31, 2^63
		one + 32<<f.mant, one + 64<<f.mant, one + 32<<f.mant - 1, one + 64<<f.mant - 1,
		f.inf - 1<<f.mant, f.inf - 2, f.inf - 1, f.inf, // greatest and infinity
		f.nan, f.nan + 1, f.inf + 1, f.inf + f.quiet() - 1, // quiet and signalling
	} {
		list = append(list, v, v|f.sign)
	}
	return list
}

// operands draws numbers of all exponents, with many significands that end in
// runs of equal bits, and pairs whose exponents lie near each other.
type operands struct {
	*rand.Rand
	f    *format
	last uint64
}

func newOperands(f *format, seed uint64) *operands {
	return &operands{Rand: rand.New(rand.NewPCG(seed, uint64(f.mant))), f: f}
}

func (o *operands) next() uint64 {
	f := o.f
	v := o.Uint64() & (f.sign | f.inf | (1<<f.mant - 1))
	switch o.IntN(8) {
	case 0:
		e := f.edges()
		v = e[o.IntN(len(e))]
	case 1, 2: // near the last one
		exp := int(o.last&f.inf>>f.mant) + o.IntN(2*int(f.mant)+8) - int(f.mant) - 4
		exp = min(max(exp, 0), 2*f.bias)
		v = v&^f.inf | uint64(exp)<<f.mant
	case 3: // middling exponents
		v = v&^f.inf | uint64(f.bias-20+o.IntN(40))<<f.mant
	}
	switch o.IntN(4) {
	case 0:
		v &^= 1<<o.IntN(int(f.mant)) - 1
	case 1:
		v |= 1<<o.IntN(int(f.mant)) - 1
	}
	o.last = v
	return v
}

type result struct {
	v uint64
	f Flags
}

func (r result) String() string { return fmt.Sprintf("%#x flags %05b", r.v, r.f) }

// op is an operation of one format: as exported, in integers, and by
// definition on finite operands (nil x where the oracle does not apply).
type op struct {
	name  string
	arity int
	api   func(a, b, c uint64, r Round) (uint64, Flags)
	slow  func(a, b, c uint64, r Round) (uint64, Flags)
	exact func(a, b, c *big.Rat) *big.Rat
}

func ops(f *format) []op {
	list := []op{
		{name: "add", arity: 2, api: func(a, b, _ uint64, r Round) (uint64, Flags) { return AddD(a, b, r) },
			slow:  func(a, b, _ uint64, r Round) (uint64, Flags) { return f.add(a, b, r) },
			exact: func(a, b, _ *big.Rat) *big.Rat { return a.Add(a, b) }},
		{name: "sub", arity: 2, api: func(a, b, _ uint64, r Round) (uint64, Flags) { return SubD(a, b, r) },
			slow:  func(a, b, _ uint64, r Round) (uint64, Flags) { return f.add(a, b^f.sign, r) },
			exact: func(a, b, _ *big.Rat) *big.Rat { return a.Sub(a, b) }},
		{name: "mul", arity: 2, api: func(a, b, _ uint64, r Round) (uint64, Flags) { return MulD(a, b, r) },
			slow:  func(a, b, _ uint64, r Round) (uint64, Flags) { return f.mul(a, b, r) },
			exact: func(a, b, _ *big.Rat) *big.Rat { return a.Mul(a, b) }},
		{name: "div", arity: 2, api: func(a, b, _ uint64, r Round) (uint64, Flags) { return DivD(a, b, r) },
			slow: func(a, b, _ uint64, r Round) (uint64, Flags) { return f.div(a, b, r) },
			exact: func(a, b, _ *big.Rat) *big.Rat {
				if b.Sign() == 0 {
					return nil
				}
				return a.Quo(a, b)
			}},
		{name: "fma", arity: 3, api: FMAD, slow: f.fma,
			exact: func(a, b, c *big.Rat) *big.Rat { return a.Add(a.Mul(a, b), c) }},
		{name: "sqrt", arity: 1, api: func(a, _, _ uint64, r Round) (uint64, Flags) { return SqrtD(a, r) },
			slow: func(a, _, _ uint64, r Round) (uint64, Flags) { return f.sqrt(a, r) }},
	}
	if f == &single {
		list[0].api = func(a, b, _ uint64, r Round) (uint64, Flags) { return widen(AddS(uint32(a), uint32(b), r)) }
		list[1].api = func(a, b, _ uint64, r Round) (uint64, Flags) { return widen(SubS(uint32(a), uint32(b), r)) }
		list[2].api = func(a, b, _ uint64, r Round) (uint64, Flags) { return widen(MulS(uint32(a), uint32(b), r)) }
		list[3].api = func(a, b, _ uint64, r Round) (uint64, Flags) { return widen(DivS(uint32(a), uint32(b), r)) }
		list[4].api = func(a, b, c uint64, r Round) (uint64, Flags) {
			return widen(FMAS(uint32(a), uint32(b), uint32(c), r))
		}
		list[5].api = func(a, _, _ uint64, r Round) (uint64, Flags) { return widen(SqrtS(uint32(a), r)) }
	}
	return list
}

func widen(v uint32, f Flags) (uint64, Flags) { return uint64(v), f }

var formats = map[string]*format{"S": &single, "D": &double}

// TestFastIsSlow: hardware arithmetic gives what integers give.
func TestFastIsSlow(t *testing.T) {
	for name, f := range formats {
		for _, op := range ops(f) {
			t.Run(op.name+name, func(t *testing.T) {
				check := func(a, b, c uint64, r Round) {
					var got, want result
					got.v, got.f = op.api(a, b, c, r)
					want.v, want.f = op.slow(a, b, c, r)
					if got != want {
						t.Fatalf("%s %#x %#x %#x mode %d: %v, in integers %v", op.name, a, b, c, r, got, want)
					}
				}
				edges := f.edges()
				for i, a := range edges {
					for j, b := range edges {
						for _, r := range modes {
							check(a, b, edges[(3*i+7*j)%len(edges)], r)
						}
					}
				}
				o := newOperands(f, 1)
				for range 400_000 {
					check(o.next(), o.next(), o.next(), RNE)
				}
			})
		}
	}
}

// TestSlowIsExact: integer arithmetic gives what the rational oracle gives.
func TestSlowIsExact(t *testing.T) {
	for name, f := range formats {
		for _, op := range ops(f) {
			if op.exact == nil {
				continue
			}
			t.Run(op.name+name, func(t *testing.T) {
				o := newOperands(f, 2)
				for i := range 12_000 {
					v := [3]uint64{o.next(), o.next(), o.next()}
					r := modes[i%len(modes)]
					if v[0]&f.inf == f.inf || v[1]&f.inf == f.inf || op.arity > 2 && v[2]&f.inf == f.inf {
						continue
					}
					var x [3]*big.Rat
					for j := range op.arity {
						x[j] = f.rat(v[j])
					}
					exact := op.exact(x[0], x[1], x[2])
					if exact == nil || exact.Sign() == 0 {
						continue // signs of zeros: TestSpecials
					}
					var got, want result
					want.v, want.f = f.roundRat(exact, r)
					got.v, got.f = op.slow(v[0], v[1], v[2], r)
					if got != want {
						t.Fatalf("%s %#x mode %d: %v, want %v", op.name, v[:op.arity], r, got, want)
					}
				}
			})
		}
	}
}

// TestSqrt: the root is what squaring its neighbours says it is.
func TestSqrt(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			o := newOperands(f, 3)
			for i := range 20_000 {
				a := o.next() &^ f.sign
				if a == 0 || a >= f.inf {
					continue
				}
				r := modes[i%len(modes)]
				v, flags := f.sqrt(a, r)
				x := f.rat(a)
				square := func(v *big.Rat) *big.Rat { return new(big.Rat).Mul(v, v) }
				below, at, above := f.rat(v-1), f.rat(v), f.rat(v+1)
				c := square(at).Cmp(x)
				ok := (flags == 0) == (c == 0) && flags&^NX == 0
				half := big.NewRat(1, 2)
				switch {
				case c == 0:
				case r == RTZ || r == RDN:
					ok = ok && c < 0 && square(above).Cmp(x) > 0
				case r == RUP:
					ok = ok && c > 0 && square(below).Cmp(x) < 0
				default: // no ties: a tie would need one bit more than its square has
					lo := below.Add(below, at)
					hi := above.Add(above, at)
					ok = ok && square(lo.Mul(lo, half)).Cmp(x) < 0 && square(hi.Mul(hi, half)).Cmp(x) > 0
				}
				if !ok {
					t.Fatalf("sqrt %#x mode %d: %#x flags %05b", a, r, v, flags)
				}
			}
		})
	}
}

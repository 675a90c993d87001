package fp

import "math/big"

// The oracle computes with exact rationals and rounds by definition: it finds
// the two neighbours of the format and chooses. It shares nothing with the
// code under test but the formats' parameters.

// rat is the exact value of a finite number.
func (f *format) rat(a uint64) *big.Rat {
	exp := int(a & f.inf >> f.mant)
	m := new(big.Int).SetUint64(a & (1<<f.mant - 1))
	if exp == 0 {
		exp = 1
	} else {
		m.SetBit(m, int(f.mant), 1)
	}
	if a&f.sign != 0 {
		m.Neg(m)
	}
	return scale(new(big.Rat).SetInt(m), exp-f.bias-int(f.mant))
}

// scale returns x * 2^n.
func scale(x *big.Rat, n int) *big.Rat {
	p := new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(max(n, -n))))
	if n < 0 {
		return x.Quo(x, p)
	}
	return x.Mul(x, p)
}

// nearest rounds |x| to an integer and tells whether that is inexact.
func nearest(x *big.Rat, neg bool, r Round) (*big.Int, bool) {
	abs := new(big.Rat).Abs(x)
	q, rem := new(big.Int).QuoRem(abs.Num(), abs.Denom(), new(big.Int))
	if rem.Sign() == 0 {
		return q, false
	}
	half := rem.Lsh(rem, 1).Cmp(abs.Denom())
	if r == RNE && (half > 0 || half == 0 && q.Bit(0) == 1) || r == RMM && half >= 0 ||
		r == RDN && neg || r == RUP && !neg {
		q.Add(q, big.NewInt(1))
	}
	return q, true
}

// roundRat rounds x, which must not be zero.
func (f *format) roundRat(x *big.Rat, r Round) (uint64, Flags) {
	neg := x.Sign() < 0
	var sign uint64
	if neg {
		sign = f.sign
	}
	abs := new(big.Rat).Abs(x)
	// The exponent of x: 2^exp <= |x| < 2^(exp+1).
	exp := abs.Num().BitLen() - abs.Denom().BitLen()
	if scale(new(big.Rat).Set(abs), -exp).Cmp(big.NewRat(1, 1)) < 0 {
		exp--
	}
	// Tiny after rounding as though the exponent were unbounded.
	m, _ := nearest(scale(new(big.Rat).Set(abs), int(f.mant)-exp), neg, r)
	tiny := scale(new(big.Rat).SetInt(m), exp-int(f.mant)).Cmp(scale(big.NewRat(1, 1), f.emin())) < 0
	e := max(exp, f.emin())
	m, nx := nearest(scale(abs, int(f.mant)-e), neg, r)
	flags := inexact(nx)
	if nx && tiny {
		flags |= UF
	}
	v := m.Uint64() + uint64(e-f.emin())<<f.mant
	if v >= f.inf {
		v = f.inf
		if r == RTZ || r == RDN && !neg || r == RUP && neg {
			v--
		}
		flags = OF | NX
	}
	return sign | v, flags
}

package fp

import "math"

func expD(a uint64) uint64 { return a >> 52 & 0x7ff }

// within tells whether the exponent field e is from lo to hi.
func within(e, lo, hi uint64) bool { return e-lo <= hi-lo }

// The error of a product, quotient or root reaches some 106 bits below its
// greatest operand. farD is an exponent field from which on it is a normal
// number, so that the remainders below are exact.
const farD = 128

// AddD returns a + b.
func AddD(a, b uint64, r Round) (uint64, Flags) {
	// TwoSum is exact if nothing overflows; a subnormal sum is always exact.
	if r == RNE && expD(a) < 0x7fe && expD(b) < 0x7fe {
		s, e := twoSum(math.Float64frombits(a), math.Float64frombits(b))
		return math.Float64bits(s), inexact(e != 0)
	}
	return double.add(a, b, r)
}

// SubD returns a - b.
func SubD(a, b uint64, r Round) (uint64, Flags) {
	return AddD(a, b^1<<63, r)
}

// MulD returns a * b.
func MulD(a, b uint64, r Round) (uint64, Flags) {
	if r == RNE {
		ea, eb := expD(a), expD(b)
		if within(ea, 1, 0x7fe) && within(eb, 1, 0x7fe) && within(ea+eb, 1023+farD, 1023+0x7fc) {
			x, y := math.Float64frombits(a), math.Float64frombits(b)
			p := float64(x * y)
			return math.Float64bits(p), inexact(math.FMA(x, y, -p) != 0)
		}
	}
	return double.mul(a, b, r)
}

// DivD returns a / b.
func DivD(a, b uint64, r Round) (uint64, Flags) {
	if r == RNE {
		ea, eb := expD(a), expD(b)
		if within(ea, farD, 0x7fd) && within(eb, 1, 0x7fd) && within(ea+1023-eb, 3, 0x7fc) {
			x, y := math.Float64frombits(a), math.Float64frombits(b)
			q := x / y
			return math.Float64bits(q), inexact(math.FMA(q, y, -x) != 0)
		}
	}
	return double.div(a, b, r)
}

// SqrtD returns the square root of a.
func SqrtD(a uint64, r Round) (uint64, Flags) {
	if r == RNE && within(a>>52, farD, 0x7fe) {
		x := math.Float64frombits(a)
		q := math.Sqrt(x)
		return math.Float64bits(q), inexact(math.FMA(q, q, -x) != 0)
	}
	return double.sqrt(a, r)
}

// FMAD returns a*b + c, rounded once.
func FMAD(a, b, c uint64, r Round) (uint64, Flags) {
	if r == RNE {
		ea, eb, ec := expD(a), expD(b), expD(c)
		if within(ea, 1, 0x7fe) && within(eb, 1, 0x7fe) &&
			within(ea+eb, 1023+2*farD, 1023+0x7f0) && within(ec, 2*farD, 0x7f0) {
			x, y, z := math.Float64frombits(a), math.Float64frombits(b), math.Float64frombits(c)
			v := math.FMA(x, y, z)
			// The error of a fused multiply-add is the sum of two numbers
			// (Boldo and Muller, "Exact and Approximated Error of the FMA",
			// IEEE Transactions on Computers 60(2), 2011, ErrFma).
			p := float64(x * y)
			pe := math.FMA(x, y, -p)
			s, se := twoSum(z, pe)
			t, te := twoSum(p, s)
			return math.Float64bits(v), inexact((t-v)+te+se != 0)
		}
	}
	return double.fma(a, b, c, r)
}

// twoSum returns x + y and the error of that sum.
func twoSum(x, y float64) (s, e float64) {
	s = x + y
	t := s - x
	return s, (x - (s - t)) + (y - t)
}

// MinD returns the lesser number, with -0 below +0; a NaN only if both are NaNs.
func MinD(a, b uint64) (uint64, Flags) { return double.min(a, b, 0) }

// MaxD returns the greater number, with -0 below +0; a NaN only if both are NaNs.
func MaxD(a, b uint64) (uint64, Flags) { return double.min(a, b, double.sign) }

// EqD returns a == b. Only a signalling NaN is invalid.
func EqD(a, b uint64) (bool, Flags) { return double.eq(a, b) }

// LtD returns a < b. Every NaN is invalid.
func LtD(a, b uint64) (bool, Flags) { return double.lt(a, b) }

// LeD returns a <= b. Every NaN is invalid.
func LeD(a, b uint64) (bool, Flags) { return double.le(a, b) }

// ClassD returns the one-bit mask that says what kind of number a is.
func ClassD(a uint64) uint64 { return double.class(a) }

// DToI32 converts to a signed 32-bit integer, sign-extended.
func DToI32(a uint64, r Round) (uint64, Flags) { return double.toInt(a, 32, true, r) }

// DToU32 converts to an unsigned 32-bit integer, sign-extended all the same.
func DToU32(a uint64, r Round) (uint64, Flags) { return double.toInt(a, 32, false, r) }

// DToI64 converts to a signed 64-bit integer.
func DToI64(a uint64, r Round) (uint64, Flags) { return double.toInt(a, 64, true, r) }

// DToU64 converts to an unsigned 64-bit integer.
func DToU64(a uint64, r Round) (uint64, Flags) { return double.toInt(a, 64, false, r) }

// I32ToD converts the low 32 bits of v, a signed integer. It is exact in every
// rounding mode.
func I32ToD(v uint64, _ Round) (uint64, Flags) {
	return math.Float64bits(float64(int32(v))), 0
}

// U32ToD converts the low 32 bits of v, an unsigned integer. It is exact in
// every rounding mode.
func U32ToD(v uint64, _ Round) (uint64, Flags) {
	return math.Float64bits(float64(uint32(v))), 0
}

// I64ToD converts v, a signed integer.
func I64ToD(v uint64, r Round) (uint64, Flags) {
	if i := int64(v); i>>53 == i>>63 {
		return math.Float64bits(float64(i)), 0
	}
	return double.fromInt(int64(v), r)
}

// U64ToD converts v, an unsigned integer.
func U64ToD(v uint64, r Round) (uint64, Flags) {
	if v>>53 == 0 {
		return math.Float64bits(float64(v)), 0
	}
	return double.fromUint(v, 0, r)
}

// DToS converts to binary32.
func DToS(a uint64, r Round) (uint32, Flags) {
	if r == RNE {
		x := math.Float64frombits(a)
		v := float32(x)
		if b := math.Float32bits(v); plainS(b) {
			return b, inexact(float64(v) != x)
		}
	}
	v, f := double.convert(&single, a, r)
	return uint32(v), f
}

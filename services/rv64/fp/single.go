package fp

import "math"

// Binary32 operations are exact in, or correctly rounded through, float64: its
// 53 bits hold every product of two 24-bit significands, and more than 2*24+2
// bits make the double rounding of a sum, quotient or root harmless.

// plainS tells that r, a result rounded by hardware, is finite, normal, and
// not the least normal exponent, which a tiny number may have been rounded up
// to. No operation on an infinity or NaN has such a result.
func plainS(r uint32) bool { return (r>>23-2)&0xff <= 0xfe-2 }

// AddS returns a + b.
func AddS(a, b uint32, r Round) (uint32, Flags) {
	// Without overflow; a subnormal sum is always exact.
	if r == RNE && a>>23&0xff < 0xfe && b>>23&0xff < 0xfe {
		s, e := twoSum(float64(math.Float32frombits(a)), float64(math.Float32frombits(b)))
		v := float32(s)
		return math.Float32bits(v), inexact(e != 0 || float64(v) != s)
	}
	v, f := single.add(uint64(a), uint64(b), r)
	return uint32(v), f
}

// SubS returns a - b.
func SubS(a, b uint32, r Round) (uint32, Flags) {
	return AddS(a, b^1<<31, r)
}

// MulS returns a * b.
func MulS(a, b uint32, r Round) (uint32, Flags) {
	if r == RNE {
		p := float64(float64(math.Float32frombits(a)) * float64(math.Float32frombits(b)))
		q := float32(p)
		v := math.Float32bits(q)
		if plainS(v) || p == 0 {
			return v, inexact(float64(q) != p)
		}
	}
	v, f := single.mul(uint64(a), uint64(b), r)
	return uint32(v), f
}

// DivS returns a / b.
func DivS(a, b uint32, r Round) (uint32, Flags) {
	if r == RNE {
		x, y := math.Float32frombits(a), math.Float32frombits(b)
		q := x / y
		v := math.Float32bits(q)
		if plainS(v) {
			return v, inexact(float64(float64(q)*float64(y)) != float64(x))
		}
	}
	v, f := single.div(uint64(a), uint64(b), r)
	return uint32(v), f
}

// SqrtS returns the square root of a.
func SqrtS(a uint32, r Round) (uint32, Flags) {
	if r == RNE {
		x := float64(math.Float32frombits(a))
		q := float32(math.Sqrt(x))
		v := math.Float32bits(q)
		if plainS(v) {
			return v, inexact(float64(float64(q)*float64(q)) != x)
		}
	}
	v, f := single.sqrt(uint64(a), r)
	return uint32(v), f
}

// FMAS returns a*b + c, rounded once.
func FMAS(a, b, c uint32, r Round) (uint32, Flags) {
	if r == RNE {
		p := float64(float64(math.Float32frombits(a)) * float64(math.Float32frombits(b)))
		z := float64(math.Float32frombits(c))
		s, e := twoSum(p, z)
		if e == 0 {
			v := math.Float32bits(float32(s))
			if plainS(v) || s == 0 {
				return v, inexact(float64(float32(s)) != s)
			}
		} else {
			// Round the sum to odd, so that the second rounding sees on which
			// side of a tie it lies.
			sb := math.Float64bits(s)
			if sb&1 == 0 {
				if (e > 0) == (s > 0) {
					sb++
				} else {
					sb--
				}
			}
			v := math.Float32bits(float32(math.Float64frombits(sb)))
			if plainS(v) {
				return v, NX
			}
		}
	}
	v, f := single.fma(uint64(a), uint64(b), uint64(c), r)
	return uint32(v), f
}

// MinS returns the lesser number, with -0 below +0; a NaN only if both are NaNs.
func MinS(a, b uint32) (uint32, Flags) {
	v, f := single.min(uint64(a), uint64(b), 0)
	return uint32(v), f
}

// MaxS returns the greater number, with -0 below +0; a NaN only if both are NaNs.
func MaxS(a, b uint32) (uint32, Flags) {
	v, f := single.min(uint64(a), uint64(b), single.sign)
	return uint32(v), f
}

// EqS returns a == b. Only a signalling NaN is invalid.
func EqS(a, b uint32) (bool, Flags) {
	return single.eq(uint64(a), uint64(b))
}

// LtS returns a < b. Every NaN is invalid.
func LtS(a, b uint32) (bool, Flags) {
	return single.lt(uint64(a), uint64(b))
}

// LeS returns a <= b. Every NaN is invalid.
func LeS(a, b uint32) (bool, Flags) {
	return single.le(uint64(a), uint64(b))
}

// ClassS returns the one-bit mask that says what kind of number a is.
func ClassS(a uint32) uint64 { return single.class(uint64(a)) }

// SToI32 converts to a signed 32-bit integer, sign-extended.
func SToI32(a uint32, r Round) (uint64, Flags) { return single.toInt(uint64(a), 32, true, r) }

// SToU32 converts to an unsigned 32-bit integer, sign-extended all the same.
func SToU32(a uint32, r Round) (uint64, Flags) { return single.toInt(uint64(a), 32, false, r) }

// SToI64 converts to a signed 64-bit integer.
func SToI64(a uint32, r Round) (uint64, Flags) { return single.toInt(uint64(a), 64, true, r) }

// SToU64 converts to an unsigned 64-bit integer.
func SToU64(a uint32, r Round) (uint64, Flags) { return single.toInt(uint64(a), 64, false, r) }

// I32ToS converts the low 32 bits of v, a signed integer.
func I32ToS(v uint64, r Round) (uint32, Flags) {
	s, f := single.fromInt(int64(int32(v)), r)
	return uint32(s), f
}

// U32ToS converts the low 32 bits of v, an unsigned integer.
func U32ToS(v uint64, r Round) (uint32, Flags) {
	s, f := single.fromUint(uint64(uint32(v)), 0, r)
	return uint32(s), f
}

// I64ToS converts v, a signed integer.
func I64ToS(v uint64, r Round) (uint32, Flags) {
	s, f := single.fromInt(int64(v), r)
	return uint32(s), f
}

// U64ToS converts v, an unsigned integer.
func U64ToS(v uint64, r Round) (uint32, Flags) {
	s, f := single.fromUint(v, 0, r)
	return uint32(s), f
}

// SToD converts to binary64, which is exact.
func SToD(a uint32) (uint64, Flags) {
	if a&0x7f800000 != 0x7f800000 {
		return math.Float64bits(float64(math.Float32frombits(a))), 0
	}
	return single.convert(&double, uint64(a), RNE)
}

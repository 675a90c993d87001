package fp

import "math/bits"

// toInt converts to an integer of width 32 or 64 bits, saturating. 32-bit
// results, unsigned ones too, are sign-extended.
func (f *format) toInt(a uint64, width uint, signed bool, r Round) (uint64, Flags) {
	neg := a&f.sign != 0 && !f.isNaN(a)
	// The greatest magnitudes of the integer type.
	limit := ^uint64(0) >> (64 - width)
	if signed {
		limit >>= 1
		if neg {
			limit++
		}
	} else if neg {
		limit = 0
	}
	mag, flags := limit, NV
	if a&f.inf != f.inf {
		if m, fl, ok := f.magnitude(a, neg, r); ok && m <= limit {
			mag, flags = m, fl
		}
	}
	if neg {
		mag = -mag
	}
	if width == 32 {
		mag = uint64(int32(mag))
	}
	return mag, flags
}

// magnitude rounds the finite number |a| to an integer; ok is false where it
// does not fit.
func (f *format) magnitude(a uint64, neg bool, r Round) (mag uint64, flags Flags, ok bool) {
	if f.isZero(a) {
		return 0, 0, true
	}
	exp, sig := f.unpack(a)
	switch {
	case exp > 63:
		return 0, 0, false
	case exp == 63:
		return sig, 0, true
	}
	// What is below one half or above it matters, but not by how much.
	if exp < 0 {
		sig, exp = shiftJam(sig, uint(-exp)), 0
	}
	mag, nx := roundOff(sig, uint(63-exp), neg, r)
	return mag, inexact(nx), true
}

func (f *format) fromUint(v uint64, sign uint64, r Round) (uint64, Flags) {
	if v == 0 {
		return 0, 0
	}
	lz := bits.LeadingZeros64(v)
	return f.round(sign, 63-lz, v<<lz, r)
}

func (f *format) fromInt(v int64, r Round) (uint64, Flags) {
	if v < 0 {
		return f.fromUint(-uint64(v), f.sign, r)
	}
	return f.fromUint(uint64(v), 0, r)
}

// convert changes the format of a from f to g.
func (f *format) convert(g *format, a uint64, r Round) (uint64, Flags) {
	var sign uint64
	if a&f.sign != 0 {
		sign = g.sign
	}
	switch {
	case f.isNaN(a):
		return g.nan, f.invalidIf(a)
	case f.isInf(a):
		return sign | g.inf, 0
	case f.isZero(a):
		return sign, 0
	}
	exp, sig := f.unpack(a)
	return g.round(sign, exp, sig, r)
}

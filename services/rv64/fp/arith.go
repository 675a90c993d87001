package fp

import "math/bits"

func (f *format) add(a, b uint64, r Round) (uint64, Flags) {
	if f.isNaN(a) || f.isNaN(b) {
		return f.nan, f.invalidIf(a, b)
	}
	sa, sb := a&f.sign, b&f.sign
	switch {
	case f.isInf(a):
		if f.isInf(b) && sa != sb {
			return f.nan, NV
		}
		return a, 0
	case f.isInf(b):
		return b, 0
	case f.isZero(a):
		if f.isZero(b) && sa != sb {
			return f.cancelled(r), 0
		}
		return b, 0
	case f.isZero(b):
		return a, 0
	}
	ea, ma := f.unpack(a)
	eb, mb := f.unpack(b)
	// The greater magnitude first.
	if ea < eb || ea == eb && ma < mb {
		sa, ea, ma, sb, eb, mb = sb, eb, mb, sa, ea, ma
	}
	// Bit 63 is left free for the carry, so values are m * 2^(ea-62). The
	// lowest bits of both significands are zero, and jammed bits can only
	// matter where at most one leading bit is lost.
	ma >>= 1
	mb = shiftJam(mb>>1, uint(ea-eb))
	if sa == sb {
		ma += mb
	} else {
		ma -= mb
		if ma == 0 {
			return f.cancelled(r), 0
		}
	}
	lz := bits.LeadingZeros64(ma)
	return f.round(sa, ea+1-lz, ma<<lz, r)
}

// cancelled is the zero that an exact sum of opposites rounds to.
func (f *format) cancelled(r Round) uint64 {
	if r == RDN {
		return f.sign
	}
	return 0
}

func (f *format) mul(a, b uint64, r Round) (uint64, Flags) {
	if f.isNaN(a) || f.isNaN(b) {
		return f.nan, f.invalidIf(a, b)
	}
	sign := (a ^ b) & f.sign
	if f.isInf(a) || f.isInf(b) {
		if f.isZero(a) || f.isZero(b) {
			return f.nan, NV
		}
		return sign | f.inf, 0
	}
	if f.isZero(a) || f.isZero(b) {
		return sign, 0
	}
	ea, ma := f.unpack(a)
	eb, mb := f.unpack(b)
	hi, lo := bits.Mul64(ma, mb)
	exp := ea + eb + 1
	if hi>>63 == 0 {
		hi = hi<<1 | lo>>63
		lo <<= 1
		exp--
	}
	if lo != 0 {
		hi |= 1
	}
	return f.round(sign, exp, hi, r)
}

func (f *format) div(a, b uint64, r Round) (uint64, Flags) {
	if f.isNaN(a) || f.isNaN(b) {
		return f.nan, f.invalidIf(a, b)
	}
	sign := (a ^ b) & f.sign
	switch {
	case f.isInf(a):
		if f.isInf(b) {
			return f.nan, NV
		}
		return sign | f.inf, 0
	case f.isInf(b):
		return sign, 0
	case f.isZero(b):
		if f.isZero(a) {
			return f.nan, NV
		}
		return sign | f.inf, DZ
	case f.isZero(a):
		return sign, 0
	}
	ea, ma := f.unpack(a)
	eb, mb := f.unpack(b)
	q, rem := bits.Div64(ma>>1, ma<<63, mb)
	exp := ea - eb
	if q>>63 == 0 {
		q <<= 1
		exp--
	}
	if rem != 0 {
		q |= 1
	}
	return f.round(sign, exp, q, r)
}

func (f *format) sqrt(a uint64, r Round) (uint64, Flags) {
	switch {
	case f.isNaN(a):
		return f.nan, f.invalidIf(a)
	case f.isZero(a):
		return a, 0
	case a&f.sign != 0:
		return f.nan, NV
	case f.isInf(a):
		return a, 0
	}
	exp, m := f.unpack(a)
	// The radicand is hi<<64|lo = m << 63 or m << 64, whichever leaves an even
	// exponent; its root has bit 63 set.
	hi, lo := m>>1, m<<63
	if exp&1 != 0 {
		hi, lo = m, 0
	}
	root := uint64(1) << 63
	for bit := uint64(1) << 62; bit != 0; bit >>= 1 {
		t := root | bit
		h, l := bits.Mul64(t, t)
		if h < hi || h == hi && l <= lo {
			root = t
		}
	}
	if h, l := bits.Mul64(root, root); h != hi || l != lo {
		root |= 1
	}
	return f.round(0, exp>>1, root, r)
}

// fma returns a*b + c with one rounding.
func (f *format) fma(a, b, c uint64, r Round) (uint64, Flags) {
	sp, sc := (a^b)&f.sign, c&f.sign
	if f.isInf(a) && f.isZero(b) || f.isZero(a) && f.isInf(b) {
		return f.nan, NV // even where c is a quiet NaN
	}
	if f.isNaN(a) || f.isNaN(b) || f.isNaN(c) {
		return f.nan, f.invalidIf(a, b, c)
	}
	switch {
	case f.isInf(a) || f.isInf(b):
		if f.isInf(c) && sp != sc {
			return f.nan, NV
		}
		return sp | f.inf, 0
	case f.isInf(c):
		return c, 0
	case f.isZero(a) || f.isZero(b):
		if f.isZero(c) && sp != sc {
			return f.cancelled(r), 0
		}
		return c, 0
	case f.isZero(c):
		return f.mul(a, b, r)
	}
	ea, ma := f.unpack(a)
	eb, mb := f.unpack(b)
	// Values are (hi<<64|lo) * 2^(exp-125), which leaves bit 127 free for the
	// carry. A product of 53-bit significands has zeros in its lowest 22 bits,
	// so bits can only be jammed where at most one leading bit is lost.
	exp := ea + eb
	hi, lo := bits.Mul64(ma, mb)
	hi, lo = hi>>1, lo>>1|hi<<63
	ec, mc := f.unpack(c)
	chi, clo := mc>>2, mc<<62
	if exp >= ec {
		chi, clo = shiftJam128(chi, clo, uint(exp-ec))
	} else {
		hi, lo = shiftJam128(hi, lo, uint(ec-exp))
		exp = ec
	}
	sign := sp
	var carry uint64
	switch {
	case sp == sc:
		lo, carry = bits.Add64(lo, clo, 0)
		hi, _ = bits.Add64(hi, chi, carry)
	case hi > chi || hi == chi && lo >= clo:
		lo, carry = bits.Sub64(lo, clo, 0)
		hi, _ = bits.Sub64(hi, chi, carry)
	default:
		sign = sc
		lo, carry = bits.Sub64(clo, lo, 0)
		hi, _ = bits.Sub64(chi, hi, carry)
	}
	if hi|lo == 0 {
		return f.cancelled(r), 0
	}
	if hi == 0 {
		hi, lo = lo, 0
		exp -= 64
	}
	lz := bits.LeadingZeros64(hi)
	hi = hi<<lz | lo>>(64-lz)
	if lo<<lz != 0 {
		hi |= 1
	}
	return f.round(sign, exp+2-lz, hi, r)
}

// min returns IEEE 754-2019 minimumNumber, or maximumNumber if flip is the
// sign bit.
func (f *format) min(a, b, flip uint64) (uint64, Flags) {
	flags := f.invalidIf(a, b)
	switch {
	case f.isNaN(a) && f.isNaN(b):
		return f.nan, flags
	case f.isNaN(a):
		return b, flags
	case f.isNaN(b):
		return a, flags
	case f.order(a^flip) <= f.order(b^flip):
		return a, flags
	}
	return b, flags
}

// order maps numbers to integers of the same order, with -0 just below +0.
func (f *format) order(a uint64) int64 {
	m := int64(a &^ f.sign)
	if a&f.sign != 0 {
		return -1 - m
	}
	return m
}

func (f *format) eq(a, b uint64) (bool, Flags) {
	if f.isNaN(a) || f.isNaN(b) {
		return false, f.invalidIf(a, b)
	}
	return a == b || f.isZero(a) && f.isZero(b), 0
}

func (f *format) lt(a, b uint64) (bool, Flags) {
	if f.isNaN(a) || f.isNaN(b) {
		return false, NV
	}
	return f.order(a) < f.order(b) && !(f.isZero(a) && f.isZero(b)), 0
}

func (f *format) le(a, b uint64) (bool, Flags) {
	if f.isNaN(a) || f.isNaN(b) {
		return false, NV
	}
	return f.order(a) <= f.order(b) || f.isZero(a) && f.isZero(b), 0
}

func (f *format) class(a uint64) uint64 {
	switch {
	case f.isSNaN(a):
		return ClassSNaN
	case f.isNaN(a):
		return ClassQNaN
	}
	// Positive classes mirror the negative ones in the first eight bits.
	c := ClassPosNormal
	switch {
	case f.isInf(a):
		c = ClassPosInf
	case f.isZero(a):
		c = ClassPosZero
	case a&f.inf == 0:
		c = ClassPosSubnormal
	}
	if a&f.sign != 0 {
		c = uint64(bits.Reverse8(uint8(c)))
	}
	return c
}

package fp

import "math/bits"

// format is an IEEE 754 binary interchange format of at most 64 bits.
type format struct {
	mant uint   // bits of the stored significand
	bias int    // exponent bias, also the greatest exponent
	sign uint64 // sign bit
	inf  uint64 // +infinity: the exponent field's mask
	nan  uint64 // canonical NaN
}

var (
	single = format{mant: 23, bias: 127, sign: 1 << 31, inf: 0xff << 23, nan: uint64(NaNS)}
	double = format{mant: 52, bias: 1023, sign: 1 << 63, inf: 0x7ff << 52, nan: NaND}
)

// emin is the exponent of the least normal number.
func (f *format) emin() int { return 1 - f.bias }

// quiet is the significand bit that tells quiet NaNs.
func (f *format) quiet() uint64 { return 1 << (f.mant - 1) }

func (f *format) isNaN(a uint64) bool { return a&^f.sign > f.inf }

func (f *format) isSNaN(a uint64) bool { return f.isNaN(a) && a&f.quiet() == 0 }

func (f *format) isInf(a uint64) bool { return a&^f.sign == f.inf }

func (f *format) isZero(a uint64) bool { return a&^f.sign == 0 }

// invalidIf returns NV if one of the operands is a signalling NaN.
func (f *format) invalidIf(ops ...uint64) Flags {
	for _, a := range ops {
		if f.isSNaN(a) {
			return NV
		}
	}
	return 0
}

// unpack returns the exponent and significand of a finite number other than
// zero: |a| = sig * 2^(exp-63), with bit 63 of sig set.
func (f *format) unpack(a uint64) (exp int, sig uint64) {
	exp = int(a & f.inf >> f.mant)
	sig = a & (1<<f.mant - 1)
	if exp == 0 {
		lz := bits.LeadingZeros64(sig)
		return f.emin() + 63 - int(f.mant) - lz, sig << lz
	}
	return exp - f.bias, (sig | 1<<f.mant) << (63 - f.mant)
}

// round returns the number of the format nearest to ±sig * 2^(exp-63) in the
// sense of r. Bit 63 of sig must be set, bit 0 stands for all lower bits, too.
// sign is 0 or the sign bit.
func (f *format) round(sign uint64, exp int, sig uint64, r Round) (uint64, Flags) {
	neg := sign != 0
	drop := 63 - f.mant
	if exp < f.emin() {
		// Tiny unless rounding with an unbounded exponent reaches emin.
		tiny := exp < f.emin()-1
		if !tiny {
			q, _ := roundOff(sig, drop, neg, r)
			tiny = q>>(f.mant+1) == 0
		}
		// A carry into the exponent field makes the least normal number.
		q, nx := roundOff(shiftJam(sig, uint(f.emin()-exp)), drop, neg, r)
		if nx && tiny {
			return sign | q, NX | UF
		}
		return sign | q, inexact(nx)
	}
	q, nx := roundOff(sig, drop, neg, r)
	if q>>(f.mant+1) != 0 {
		q >>= 1
		exp++
	}
	if exp > f.bias {
		if r == RTZ || r == RDN && !neg || r == RUP && neg || r > RMM {
			return sign | f.inf - 1, OF | NX
		}
		return sign | f.inf, OF | NX
	}
	// The significand's implicit bit adds one to the exponent field.
	return sign | (uint64(exp+f.bias-1)<<f.mant + q), inexact(nx)
}

// roundOff shifts sig right by drop bits, 1 to 63, rounds what is left and
// tells whether that changed the value.
func roundOff(sig uint64, drop uint, neg bool, r Round) (q uint64, nx bool) {
	q = sig >> drop
	rest := sig & (1<<drop - 1)
	if rest == 0 {
		return q, false
	}
	half := uint64(1) << (drop - 1)
	var up bool
	switch r {
	case RNE:
		up = rest > half || rest == half && q&1 != 0
	case RDN:
		up = neg
	case RUP:
		up = !neg
	case RMM:
		up = rest >= half
	}
	if up {
		q++
	}
	return q, true
}

// shiftJam shifts right by n bits and keeps in bit 0 whether a one was lost.
func shiftJam(v uint64, n uint) uint64 {
	if n > 63 {
		if v != 0 {
			return 1
		}
		return 0
	}
	w := v >> n
	if w<<n != v {
		w |= 1
	}
	return w
}

// shiftJam128 is shiftJam of hi<<64 | lo.
func shiftJam128(hi, lo uint64, n uint) (uint64, uint64) {
	switch {
	case n == 0:
		return hi, lo
	case n < 64:
		l := lo>>n | hi<<(64-n)
		if lo<<(64-n) != 0 {
			l |= 1
		}
		return hi >> n, l
	case n < 128:
		l := shiftJam(hi, n-64)
		if lo != 0 {
			l |= 1
		}
		return 0, l
	}
	if hi|lo != 0 {
		return 0, 1
	}
	return 0, 0
}

func inexact(nx bool) Flags {
	if nx {
		return NX
	}
	return 0
}

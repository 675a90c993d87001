package rv64

import "github.com/understudy-ft/understudy/services/rv64/fp"

const (
	nanBox     = 0xffffffff_00000000
	canonicalS = 0x7fc00000
	signD      = uint64(1) << 63
	signS      = uint32(1) << 31
	fmtS       = 0
	fmtD       = 1
	rmDynamic  = 7
)

// funct5 of the OP-FP instructions (unprivileged ISA, chapters "F" and "D").
const (
	fpAdd    = 0x00
	fpSub    = 0x01
	fpMul    = 0x02
	fpDiv    = 0x03
	fpSgnj   = 0x04
	fpMinMax = 0x05
	fpCvtFmt = 0x08
	fpSqrt   = 0x0b
	fpCmp    = 0x14
	fpToInt  = 0x18
	fpToFP   = 0x1a
	fpMvToX  = 0x1c
	fpMvToF  = 0x1e
)

// validFP tells whether an instruction of the OP-FP or multiply-add opcodes
// exists, but for a dynamic rounding mode.
func validFP(i uint32) bool {
	f3, format, rs2 := insF3(i), i>>25&3, insRs2(i)
	rm := f3 <= 4 || f3 == rmDynamic
	if format > fmtD {
		return false
	}
	if i&127 != 0x53 {
		return rm
	}
	switch i >> 27 {
	case fpAdd, fpSub, fpMul, fpDiv:
		return rm
	case fpSqrt:
		return rm && rs2 == 0
	case fpSgnj, fpCmp:
		return f3 <= 2
	case fpMinMax:
		return f3 <= 1
	case fpCvtFmt:
		return rm && uint32(rs2) == 1-format
	case fpToInt, fpToFP:
		return rm && rs2 <= 3
	case fpMvToX:
		return f3 <= 1 && rs2 == 0
	case fpMvToF:
		return f3 == 0 && rs2 == 0
	}
	return false
}

// round returns the rounding mode of an instruction; false if it is dynamic
// and frm is invalid.
func (h *hart) round(i uint32) (fp.Round, bool) {
	rm := insF3(i)
	if rm == rmDynamic {
		rm = uint32(h.fcsr >> 5)
	}
	return fp.Round(rm), rm <= uint32(fp.RMM)
}

func (h *hart) raiseFlags(f fp.Flags) { h.fcsr |= uint64(f) }

// singleF returns an operand of single precision. What is not NaN-boxed counts
// as the canonical NaN.
func (h *hart) singleF(r uint8) uint32 {
	if v := h.x[fpBase+r]; v >= nanBox {
		return uint32(v)
	}
	return canonicalS
}

func (h *hart) setSingle(r uint8, v uint32) { h.x[fpBase+r] = nanBox | uint64(v) }

// floatOp executes an instruction that validFP accepted. It returns false if
// it is illegal for its dynamic rounding mode.
func (h *hart) floatOp(i uint32) bool {
	double := i>>25&3 == fmtD
	if i&127 != 0x53 {
		return h.floatFMA(i, double)
	}
	switch i >> 27 {
	case fpSgnj, fpMinMax, fpCmp, fpMvToX, fpMvToF:
		if double {
			h.floatPlainD(i)
		} else {
			h.floatPlainS(i)
		}
		return true
	}
	r, ok := h.round(i)
	if !ok {
		return false
	}
	switch i >> 27 {
	case fpToInt:
		h.floatToInt(i, double, r)
	case fpToFP:
		h.floatFromInt(i, double, r)
	case fpCvtFmt:
		rd, rs1 := insRd(i), insRs1(i)
		var f fp.Flags
		if double {
			h.x[fpBase+rd], f = fp.SToD(h.singleF(rs1))
		} else {
			var v uint32
			v, f = fp.DToS(h.x[fpBase+rs1], r)
			h.setSingle(rd, v)
		}
		h.raiseFlags(f)
	default:
		if double {
			h.floatArithD(i, r)
		} else {
			h.floatArithS(i, r)
		}
	}
	return true
}

func (h *hart) floatArithD(i uint32, r fp.Round) {
	a, b := h.x[fpBase+insRs1(i)], h.x[fpBase+insRs2(i)]
	d := &h.x[fpBase+insRd(i)]
	var f fp.Flags
	switch i >> 27 {
	case fpAdd:
		*d, f = fp.AddD(a, b, r)
	case fpSub:
		*d, f = fp.SubD(a, b, r)
	case fpMul:
		*d, f = fp.MulD(a, b, r)
	case fpDiv:
		*d, f = fp.DivD(a, b, r)
	case fpSqrt:
		*d, f = fp.SqrtD(a, r)
	}
	h.raiseFlags(f)
}

func (h *hart) floatArithS(i uint32, r fp.Round) {
	a, b := h.singleF(insRs1(i)), h.singleF(insRs2(i))
	var v uint32
	var f fp.Flags
	switch i >> 27 {
	case fpAdd:
		v, f = fp.AddS(a, b, r)
	case fpSub:
		v, f = fp.SubS(a, b, r)
	case fpMul:
		v, f = fp.MulS(a, b, r)
	case fpDiv:
		v, f = fp.DivS(a, b, r)
	case fpSqrt:
		v, f = fp.SqrtS(a, r)
	}
	h.setSingle(insRd(i), v)
	h.raiseFlags(f)
}

// floatFMA executes FMADD, FMSUB, FNMSUB and FNMADD: the sign of the product
// is flipped by flipping a factor's.
func (h *hart) floatFMA(i uint32, double bool) bool {
	r, ok := h.round(i)
	if !ok {
		return false
	}
	negProduct := i&0x08 != 0                   // FNMSUB, FNMADD
	negAddend := i&127 == 0x47 || i&127 == 0x4f // FMSUB, FNMADD
	var f fp.Flags
	if double {
		a, c := h.x[fpBase+insRs1(i)], h.x[fpBase+insRs3(i)]
		if negProduct {
			a ^= signD
		}
		if negAddend {
			c ^= signD
		}
		h.x[fpBase+insRd(i)], f = fp.FMAD(a, h.x[fpBase+insRs2(i)], c, r)
	} else {
		a, c := h.singleF(insRs1(i)), h.singleF(insRs3(i))
		if negProduct {
			a ^= signS
		}
		if negAddend {
			c ^= signS
		}
		var v uint32
		v, f = fp.FMAS(a, h.singleF(insRs2(i)), c, r)
		h.setSingle(insRd(i), v)
	}
	h.raiseFlags(f)
	return true
}

// floatPlainD executes the double instructions that do not round.
func (h *hart) floatPlainD(i uint32) {
	a, b := h.x[fpBase+insRs1(i)], h.x[fpBase+insRs2(i)]
	rd, f3 := insRd(i), insF3(i)
	d := &h.x[fpBase+rd]
	var f fp.Flags
	switch i >> 27 {
	case fpSgnj:
		switch f3 {
		case 0:
			*d = a&^signD | b&signD
		case 1:
			*d = a&^signD | ^b&signD
		case 2:
			*d = a ^ b&signD
		}
	case fpMinMax:
		if f3 == 0 {
			*d, f = fp.MinD(a, b)
		} else {
			*d, f = fp.MaxD(a, b)
		}
	case fpCmp:
		var v bool
		switch f3 {
		case 0:
			v, f = fp.LeD(a, b)
		case 1:
			v, f = fp.LtD(a, b)
		case 2:
			v, f = fp.EqD(a, b)
		}
		h.x[dest(rd)] = b2u(v)
	case fpMvToX:
		if f3 == 1 {
			a = fp.ClassD(a)
		}
		h.x[dest(rd)] = a
	case fpMvToF:
		*d = h.x[insRs1(i)]
	}
	h.raiseFlags(f)
}

// floatPlainS executes the single instructions that do not round.
func (h *hart) floatPlainS(i uint32) {
	a, b := h.singleF(insRs1(i)), h.singleF(insRs2(i))
	rd, f3 := insRd(i), insF3(i)
	var v uint32
	var f fp.Flags
	switch i >> 27 {
	case fpSgnj:
		switch f3 {
		case 0:
			v = a&^signS | b&signS
		case 1:
			v = a&^signS | ^b&signS
		case 2:
			v = a ^ b&signS
		}
	case fpMinMax:
		if f3 == 0 {
			v, f = fp.MinS(a, b)
		} else {
			v, f = fp.MaxS(a, b)
		}
	case fpMvToF:
		v = uint32(h.x[insRs1(i)])
	case fpMvToX:
		if f3 == 1 {
			h.x[dest(rd)] = fp.ClassS(a)
		} else { // moves the bits, boxed or not
			h.x[dest(rd)] = sext32(int32(h.x[fpBase+insRs1(i)]))
		}
		return
	case fpCmp:
		var t bool
		switch f3 {
		case 0:
			t, f = fp.LeS(a, b)
		case 1:
			t, f = fp.LtS(a, b)
		case 2:
			t, f = fp.EqS(a, b)
		}
		h.x[dest(rd)] = b2u(t)
		h.raiseFlags(f)
		return
	}
	h.setSingle(rd, v)
	h.raiseFlags(f)
}

func (h *hart) floatToInt(i uint32, double bool, r fp.Round) {
	var v uint64
	var f fp.Flags
	if double {
		a := h.x[fpBase+insRs1(i)]
		switch insRs2(i) {
		case 0:
			v, f = fp.DToI32(a, r)
		case 1:
			v, f = fp.DToU32(a, r)
		case 2:
			v, f = fp.DToI64(a, r)
		case 3:
			v, f = fp.DToU64(a, r)
		}
	} else {
		a := h.singleF(insRs1(i))
		switch insRs2(i) {
		case 0:
			v, f = fp.SToI32(a, r)
		case 1:
			v, f = fp.SToU32(a, r)
		case 2:
			v, f = fp.SToI64(a, r)
		case 3:
			v, f = fp.SToU64(a, r)
		}
	}
	h.x[dest(insRd(i))] = v
	h.raiseFlags(f)
}

func (h *hart) floatFromInt(i uint32, double bool, r fp.Round) {
	a, rd := h.x[insRs1(i)], insRd(i)
	var f fp.Flags
	if double {
		d := &h.x[fpBase+rd]
		switch insRs2(i) {
		case 0:
			*d, f = fp.I32ToD(a, r)
		case 1:
			*d, f = fp.U32ToD(a, r)
		case 2:
			*d, f = fp.I64ToD(a, r)
		case 3:
			*d, f = fp.U64ToD(a, r)
		}
	} else {
		var v uint32
		switch insRs2(i) {
		case 0:
			v, f = fp.I32ToS(a, r)
		case 1:
			v, f = fp.U32ToS(a, r)
		case 2:
			v, f = fp.I64ToS(a, r)
		case 3:
			v, f = fp.U64ToS(a, r)
		}
		h.setSingle(rd, v)
	}
	h.raiseFlags(f)
}

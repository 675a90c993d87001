// Package fp is RISC-V floating-point arithmetic (the F and D extensions,
// IEEE 754-2019 binary32 and binary64) as pure functions on bit patterns.
//
// Names end in the format: S is binary32 in a uint32, D is binary64 in a
// uint64. Every function returns the exception flags that the operation
// raises, to be or-ed into fcsr. Every NaN result is the canonical NaN. As the
// RISC-V unprivileged ISA demands (chapters "F" and "D"), tininess is detected
// after rounding, the minimum and maximum are IEEE 754-2019's minimumNumber and
// maximumNumber, and an invalid conversion to an integer saturates.
//
// NaN boxing of binary32 in 64-bit registers, dynamic rounding modes and
// illegal rounding modes are the caller's business. A Round above RMM rounds
// like RTZ.
//
// Each operation exists once, in integers, for both formats (arith.go,
// convert.go). Where hardware arithmetic and an error-free transformation tell
// both the result and whether it is exact, mostly for RNE and normal numbers,
// that is used instead (single.go, double.go). Both are equal bit for bit.
//
// Go may fuse x*y + z into one operation, but not across an explicit
// conversion, and not where there is no product: that is why products are
// converted here, and why sums of them can be trusted.
package fp

// Round is a rounding mode, encoded as in the rm field and in frm.
type Round uint8

// Rounding modes: to nearest with ties to even, towards zero, down, up, to
// nearest with ties away from zero.
const (
	RNE Round = iota
	RTZ
	RDN
	RUP
	RMM
)

// Flags is a set of exceptions, encoded as in fflags.
type Flags uint8

// Exceptions: inexact, underflow, overflow, division by zero, invalid.
const (
	NX Flags = 1 << iota
	UF
	OF
	DZ
	NV
)

// Canonical NaNs.
const (
	NaNS uint32 = 0x7fc00000
	NaND uint64 = 0x7ff8000000000000
)

// Classes returned by ClassS and ClassD.
const (
	ClassNegInf uint64 = 1 << iota
	ClassNegNormal
	ClassNegSubnormal
	ClassNegZero
	ClassPosZero
	ClassPosSubnormal
	ClassPosNormal
	ClassPosInf
	ClassSNaN
	ClassQNaN
)

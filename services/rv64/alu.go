package rv64

import (
	"math"
	"math/bits"
)

func b2u(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func mulh(a, b uint64) uint64 {
	hi, _ := bits.Mul64(a, b)
	return hi - uint64(int64(a)>>63)&b - uint64(int64(b)>>63)&a
}

func mulhsu(a, b uint64) uint64 {
	hi, _ := bits.Mul64(a, b)
	return hi - uint64(int64(a)>>63)&b
}

// Division never traps (unprivileged ISA, table "Semantics for division by
// zero and division overflow").
func div64(a, b uint64) uint64 {
	switch {
	case b == 0:
		return math.MaxUint64
	case b == math.MaxUint64:
		return -a
	}
	return uint64(int64(a) / int64(b))
}

func divu64(a, b uint64) uint64 {
	if b == 0 {
		return math.MaxUint64
	}
	return a / b
}

func rem64(a, b uint64) uint64 {
	switch {
	case b == 0:
		return a
	case b == math.MaxUint64:
		return 0
	}
	return uint64(int64(a) % int64(b))
}

func remu64(a, b uint64) uint64 {
	if b == 0 {
		return a
	}
	return a % b
}

func sext32(v int32) uint64 { return uint64(int64(v)) }

func div32(a, b uint64) uint64 {
	n, d := int32(a), int32(b)
	switch d {
	case 0:
		return math.MaxUint64
	case -1:
		return sext32(-n)
	}
	return sext32(n / d)
}

func divu32(a, b uint64) uint64 {
	if uint32(b) == 0 {
		return math.MaxUint64
	}
	return sext32(int32(uint32(a) / uint32(b)))
}

func rem32(a, b uint64) uint64 {
	n, d := int32(a), int32(b)
	switch d {
	case 0:
		return sext32(n)
	case -1:
		return 0
	}
	return sext32(n % d)
}

func remu32(a, b uint64) uint64 {
	if uint32(b) == 0 {
		return sext32(int32(a))
	}
	return sext32(int32(uint32(a) % uint32(b)))
}

// orcB sets each byte that is not zero to all ones.
func orcB(v uint64) uint64 {
	const low7 = 0x7f7f7f7f7f7f7f7f
	high := ((v & low7) + low7 | v) &^ low7 // the top bit of each such byte
	return high >> 7 * 0xff
}

// popcount counts ones without the CPU's instruction: the compiler would look
// for that feature at every turn of the hot loop.
func popcount(v uint64) uint64 {
	v -= v >> 1 & 0x5555555555555555
	v = v&0x3333333333333333 + v>>2&0x3333333333333333
	v = (v + v>>4) & 0x0f0f0f0f0f0f0f0f
	return v * 0x0101010101010101 >> 56
}

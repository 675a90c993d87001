package conform

import "math/rand/v2"

// intEdges are integers around which arithmetic goes wrong.
var intEdges = []uint64{
	0, 1, 2, 3, ^uint64(0), ^uint64(1),
	0x7f, 0x80, 0xff, 0x7fff, 0x8000, 0xffff,
	0x7fffffff, 0x80000000, 0x80000001, 0xffffffff, 0x100000000,
	0xffffffff80000000, 0xffffffff7fffffff, 0xffffffff00000000,
	0x7fffffffffffffff, 0x8000000000000000, 0x8000000000000001,
	0x0123456789abcdef, 0xfedcba9876543210, 0x5555555555555555, 0x00ff00ff00ff0100,
	31, 32, 33, 63, 64,
}

// floatEdges are the bit patterns of a format with mant significand bits and
// the given bias around which arithmetic goes wrong.
func floatEdges(mant uint, bias uint64) []uint64 {
	one := bias << mant
	inf := (2*bias + 1) << mant
	sign := (inf + 1<<mant)
	var list []uint64
	for _, v := range []uint64{
		0, 1, 1<<mant - 1, 1 << mant, 1<<mant + 1,
		one - 1<<mant, one - 1, one, one + 1, one + 1<<(mant-1), one + 3<<(mant-1),
		one - uint64(mant+1)<<mant, one + uint64(mant+1)<<mant + 1,
		bias / 2 << mant, bias/2*3<<mant + 5,
		one + 31<<mant, one + 31<<mant - 1, one + 63<<mant, one + 63<<mant - 1, one + 64<<mant - 1, one + 32<<mant - 1,
		inf - 1<<mant, inf - 1, inf,
		inf + 1<<(mant-1), inf + 1, // quiet and signalling NaNs
	} {
		list = append(list, v, v|sign)
	}
	return list
}

const boxed = 0xffffffff << 32

// source draws operands from a seed.
type source struct{ *rand.Rand }

func newSource(seed uint64, purpose string) source {
	var h uint64 = 14695981039346656037 // FNV-1a
	for _, b := range []byte(purpose) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	return source{rand.New(rand.NewPCG(seed, h))}
}

// word draws an integer of any length.
func (s source) word() uint64 {
	switch s.IntN(4) {
	case 0:
		return intEdges[s.IntN(len(intEdges))]
	case 1:
		return s.Uint64() >> s.IntN(64)
	case 2:
		return uint64(int64(s.Uint64()) >> s.IntN(64))
	}
	return s.Uint64()
}

// float draws a pattern of the format whose exponent lies near that of last,
// half of the time, with a significand that often ends in a run of equal bits.
func (s source) float(mant uint, bias, last uint64) uint64 {
	sign, exps := (2*bias+2)<<mant, (2*bias+1)<<mant
	v := s.Uint64() & (sign | exps | (1<<mant - 1))
	if s.IntN(2) == 0 {
		exp := int(last&exps>>mant) + s.IntN(2*int(mant)+8) - int(mant) - 4
		v = v&^exps | uint64(min(max(exp, 0), int(2*bias)))<<mant
	}
	switch s.IntN(4) {
	case 0:
		v &^= 1<<s.IntN(int(mant)) - 1
	case 1:
		v |= 1<<s.IntN(int(mant)) - 1
	}
	return v
}

// intTuples is the cross product of the edges, and random tuples.
func intTuples(s source, width, random int) []uint64 {
	list := cross(intEdges, width)
	for range random * width {
		list = append(list, s.word())
	}
	return list
}

// floatTuples is the cross product of the edges for one and two operands, a
// sample of it for three, and random tuples. Binary32 patterns are NaN-boxed,
// but for a few that are not.
func floatTuples(s source, mant uint, bias uint64, width, random int) []uint64 {
	edges := floatEdges(mant, bias)
	if width > 2 {
		edges = nil // sampled below
	}
	list := cross(edges, width)
	all := floatEdges(mant, bias)
	var last uint64
	for i := range random {
		for range width {
			if i%3 == 0 {
				last = all[s.IntN(len(all))]
			} else {
				last = s.float(mant, bias, last)
			}
			list = append(list, last)
		}
	}
	if mant == 23 {
		for i := range list {
			if i%97 != 96 {
				list[i] |= boxed
			}
		}
	}
	return list
}

func cross(edges []uint64, width int) []uint64 {
	if len(edges) == 0 {
		return nil
	}
	total := 1
	for range width {
		total *= len(edges)
	}
	list := make([]uint64, 0, total*width)
	for i := range total {
		for range width {
			list = append(list, edges[i%len(edges)])
			i /= len(edges)
		}
	}
	return list
}

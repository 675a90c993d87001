package fp

import "testing"

var (
	sinkU uint64
	sinkF Flags
	sinkB bool
)

// Each benchmark walks through numbers of middling exponents, in RNE, which
// takes the fast path where there is one, and in RUP, which does not.
func BenchmarkD(b *testing.B) {
	o := newOperands(&double, 9)
	var x [256]uint64
	for i := range x {
		x[i] = uint64(1013+o.IntN(20))<<52 | o.Uint64()&(1<<52-1)
	}
	for _, op := range []struct {
		name string
		run  func(i int, r Round) (uint64, Flags)
	}{
		{"add", func(i int, r Round) (uint64, Flags) { return AddD(x[i&255], x[(i+1)&255], r) }},
		{"mul", func(i int, r Round) (uint64, Flags) { return MulD(x[i&255], x[(i+1)&255], r) }},
		{"div", func(i int, r Round) (uint64, Flags) { return DivD(x[i&255], x[(i+1)&255], r) }},
		{"sqrt", func(i int, r Round) (uint64, Flags) { return SqrtD(x[i&255], r) }},
		{"fma", func(i int, r Round) (uint64, Flags) { return FMAD(x[i&255], x[(i+1)&255], x[(i+2)&255], r) }},
		{"toI64", func(i int, r Round) (uint64, Flags) { return DToI64(x[i&255], r) }},
		{"fromI64", func(i int, r Round) (uint64, Flags) { return I64ToD(x[i&255], r) }},
		{"toS", func(i int, r Round) (uint64, Flags) { return widen(DToS(x[i&255], r)) }},
		{"min", func(i int, _ Round) (uint64, Flags) { return MinD(x[i&255], x[(i+1)&255]) }},
		{"lt", func(i int, _ Round) (uint64, Flags) {
			v, f := LtD(x[i&255], x[(i+1)&255])
			sinkB = v
			return 0, f
		}},
	} {
		for _, mode := range []struct {
			name string
			r    Round
		}{{"RNE", RNE}, {"RUP", RUP}} {
			b.Run(op.name+"/"+mode.name, func(b *testing.B) {
				for i := range b.N {
					v, f := op.run(i, mode.r)
					sinkU += v
					sinkF |= f
				}
			})
		}
	}
}

func BenchmarkS(b *testing.B) {
	o := newOperands(&single, 9)
	var x [256]uint32
	for i := range x {
		x[i] = uint32(117+o.IntN(20))<<23 | o.Uint32()&(1<<23-1)
	}
	for _, op := range []struct {
		name string
		run  func(i int, r Round) (uint32, Flags)
	}{
		{"add", func(i int, r Round) (uint32, Flags) { return AddS(x[i&255], x[(i+1)&255], r) }},
		{"mul", func(i int, r Round) (uint32, Flags) { return MulS(x[i&255], x[(i+1)&255], r) }},
		{"div", func(i int, r Round) (uint32, Flags) { return DivS(x[i&255], x[(i+1)&255], r) }},
		{"sqrt", func(i int, r Round) (uint32, Flags) { return SqrtS(x[i&255], r) }},
		{"fma", func(i int, r Round) (uint32, Flags) { return FMAS(x[i&255], x[(i+1)&255], x[(i+2)&255], r) }},
	} {
		for _, mode := range []struct {
			name string
			r    Round
		}{{"RNE", RNE}, {"RUP", RUP}} {
			b.Run(op.name+"/"+mode.name, func(b *testing.B) {
				for i := range b.N {
					v, f := op.run(i, mode.r)
					sinkU += uint64(v)
					sinkF |= f
				}
			})
		}
	}
}

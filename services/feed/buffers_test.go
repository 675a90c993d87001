package feed

import "testing"

// A buffer fits what it is asked for to within a factor of two, comes back, and
// no more are kept than are bounded.
func TestBuffers(t *testing.T) {
	var p buffers
	for _, n := range []int{0, 1, 1 << smallestBuffer, 1<<smallestBuffer + 1, 128 << 10, 1 << largestBuffer} {
		b := p.Get(n)
		if most := max(2*n, 1<<smallestBuffer); len(*b) != n || cap(*b) > most {
			t.Errorf("%d bytes of %d for %d", len(*b), cap(*b), n)
		}
		p.Put(b)
		if again := p.Get(n); again != b {
			t.Errorf("%d bytes are not used again", n)
		}
	}
	p.Put(p.Get(1<<largestBuffer + 1))
	if p.kept != 0 {
		t.Errorf("%d bytes kept of what is larger than any", p.kept)
	}
	var out []*[]byte
	for range 3 * buffersKept >> largestBuffer {
		out = append(out, p.Get(1<<largestBuffer))
	}
	for _, b := range out {
		p.Put(b)
	}
	if p.kept > buffersKept || len(p.free[largestBuffer]) != buffersKept>>largestBuffer {
		t.Errorf("%d bytes kept, in %d buffers", p.kept, len(p.free[largestBuffer]))
	}
}

package virtio

import (
	"bytes"
	"errors"
	"testing"
)

func (d *driver) random(n int) []byte {
	d.t.Helper()
	r := d.do(0, nil, n)
	return bytes.Clone(d.content(r)[:r.written])
}

// Two copies that make the same requests read the same bytes, wherever the
// request lies in memory.
func TestCopiesReadTheSameBytes(t *testing.T) {
	seed := [32]byte{1, 2, 3}
	a, b := started(t, NewRNG(seed), 0), started(t, NewRNG(seed), FeatureEventIdx)
	b.alloc(12345)
	var before []byte
	for _, n := range []int{1, 7, 64, 64, 5000, 3} {
		x, y := a.random(n), b.random(n)
		if !bytes.Equal(x, y) {
			t.Fatalf("%d bytes differ", n)
		}
		if len(x) != min(n, rngMaxRead) || n >= 7 && bytes.Equal(x, before) {
			t.Fatalf("%d bytes for %d, or the same as before", len(x), n)
		}
		before = x
	}
}

// A copy that takes over goes on with the same bytes, in the middle of a block
// of the generator.
func TestRNGMoves(t *testing.T) {
	a := started(t, NewRNG([32]byte{1}), 0)
	a.random(13)
	b := started(t, NewRNG([32]byte{1}), 0)
	b.random(13)
	moved := b.moved(NewRNG([32]byte{9}))
	if !bytes.Equal(a.random(100), moved.random(100)) {
		t.Error("bytes differ after a move")
	}
}

func TestReseed(t *testing.T) {
	ra, rb := NewRNG([32]byte{1}), NewRNG([32]byte{2})
	a, b := started(t, ra, 0), started(t, rb, 0)
	if bytes.Equal(a.random(32), b.random(32)) {
		t.Fatal("different seeds give the same bytes")
	}
	a.random(5)
	ra.Reseed([32]byte{3})
	rb.Reseed([32]byte{3})
	if !bytes.Equal(a.random(100), b.random(100)) {
		t.Error("bytes differ after both were seeded alike")
	}
}

func TestRNGStateIsChecked(t *testing.T) {
	d := started(t, NewRNG([32]byte{}), 0)
	d.dev.Pause()
	state, err := d.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(state, []byte("chacha8:"))
	state[i] = 'C'
	if _, err := d.dev.Prepare(state); !errors.Is(err, ErrState) {
		t.Errorf("error %v, want ErrState", err)
	}
}

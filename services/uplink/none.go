package uplink

import "sync/atomic"

// none is the uplink of a guest without a network: it hears nothing, and what
// it is given goes nowhere.
type none struct {
	muted  atomic.Bool
	closed atomic.Bool
}

func newNone() *none {
	n := &none{}
	n.muted.Store(true)
	return n
}

func (n *none) Send(frames ...[]byte) error {
	switch {
	case n.closed.Load():
		return ErrClosed
	case n.muted.Load():
		return ErrMuted
	}
	return checkFrames(frames)
}

func (n *none) Mute(muted bool) { n.muted.Store(muted) }

func (n *none) Recent() []Frame { return nil }

func (n *none) Close() error {
	n.closed.Store(true)
	return nil
}

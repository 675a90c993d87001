package sim

import (
	"slices"

	"github.com/understudy-ft/understudy/services/packet"
)

// heardFrames is how many frames a muted uplink remembers.
const heardFrames = 8

// toGuest is the outside network towards the guest: every live uplink gets the
// frame, muted ones may hear it. It may be lost, or come twice.
func (v *vm) toGuest(frame []byte) {
	w := v.w
	for _, r := range v.hosts {
		if w.chance(w.opt.loss) {
			continue
		}
		for times := w.copies(); times > 0; times-- {
			r.after(w.opt.delay(w), func() { r.hear(slices.Clone(frame)) })
		}
	}
}

// hear is a frame at the replica's uplink.
func (r *replica) hear(frame []byte) {
	switch {
	case !r.muted:
		r.do(func() { r.core.Input(r.clock(), frame) })
	case r.v.w.opt.mirror:
		r.heardBy = append(r.heardBy, frame)
		r.heardBy = r.heardBy[max(0, len(r.heardBy)-heardFrames):]
	}
}

// toClients is the way back.
func (v *vm) toClients(frame []byte) {
	w := v.w
	if w.chance(w.opt.loss) {
		return
	}
	var p packet.Packet
	p.Parse(frame)
	if v.asker != nil && p.Form == packet.UDP && [4]byte(p.Dst[:4]) == askerIP {
		for times := w.copies(); times > 0; times-- {
			w.schedule(w.now+w.opt.delay(w), func() { v.asker.hear(&p) })
		}
		return
	}
	if p.Version != 4 || int(p.Dst[3]) >= len(v.clients) {
		w.fail("the guest sent a frame to %v", p.DstAddr())
		return
	}
	c := v.clients[p.Dst[3]]
	for times := w.copies(); times > 0; times-- {
		w.schedule(w.now+w.opt.delay(w), func() { c.hear(frame) })
	}
}

// copies is how often the outside network delivers a frame that is not lost.
func (w *world) copies() int {
	if w.chance(w.opt.duplicate) {
		return 2
	}
	return 1
}

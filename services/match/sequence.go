package match

import "github.com/understudy-ft/understudy/services/flow"

// sequence takes a datagram or an event: the k-th of one side is compared with
// the k-th of the other. At most one side has any that wait.
func (c *Core) sequence(f *state, side Side, id uint64, out *flow.Output, m mark) {
	h := &f.halves[side]
	if out.End != h.top+1 {
		c.disagree(Mismatch, f, "%v reported number %d after number %d", side, out.End, h.top)
		return
	}
	h.top = out.End
	theirs := &f.halves[Standby].points
	switch {
	case side == Active && theirs.len() > 0:
		digest := theirs.at(0).digest
		theirs.drop(1)
		c.waiting--
		c.pair(f, id, out.End, out.Digest, digest)
	case side == Standby && f.pending.len() > 0:
		p := *f.pending.at(0)
		f.pending.drop(1)
		c.waiting--
		c.pair(f, p.id, p.end, p.digest, out.Digest)
	case side == Active && c.room(f, f.pending.len()):
		f.pending.push(pending{id: id, end: out.End, digest: out.Digest, mark: m})
	case side == Standby && c.room(f, theirs.len()):
		theirs.push(point{end: out.End, digest: out.Digest, mark: m})
	}
}

func (c *Core) pair(f *state, id, index uint64, active, standby flow.Digest) {
	if active != standby {
		c.disagree(Mismatch, f, "number %d differs", index)
		return
	}
	r := Release{ID: id, Kind: f.kind}
	if f.kind == flow.Event {
		r.Digest = active
	}
	c.release(r)
}

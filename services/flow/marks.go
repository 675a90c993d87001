package flow

// EmittedMark says how far the active has emitted a flow: all outputs up to it.
type EmittedMark struct {
	Flow ID
	// End is, for a stream, the offset through which bytes have left; for
	// datagrams their count in the epoch.
	End uint64
	// Ack is the highest offset of the peer's bytes acknowledged.
	Ack uint64
	// Flags holds every flag that was emitted.
	Flags Flags
}

// HeldCovered tells whether an output that the standby holds has left, as far as
// a client can see, because the active emitted its flow up to m. Outputs that
// are not compared are covered always: nobody needs them twice. An opening of
// the window without a new acknowledgement is covered, too: a peer in need of it
// probes for it.
func HeldCovered(o Output, m EmittedMark) bool {
	switch o.Kind {
	case Pass:
		return true
	case Stream:
		return o.Flow == m.Flow && o.End <= m.End &&
			(o.Flags&ACK == 0 || o.Ack <= m.Ack) && o.Flags&^m.Flags == 0
	}
	return o.Flow == m.Flow && o.End <= m.End
}

// add makes m cover o, too.
func (m *EmittedMark) add(o Output) bool {
	old := *m
	m.End = max(m.End, o.End)
	if o.Flags&ACK != 0 {
		m.Ack = max(m.Ack, o.Ack)
	}
	m.Flags |= o.Flags
	return *m != old
}

// merge makes m cover what n covers, too.
func (m *EmittedMark) merge(n EmittedMark) {
	m.End, m.Ack, m.Flags = max(m.End, n.End), max(m.Ack, n.Ack), m.Flags|n.Flags
}

// Marks keeps the mark of each flow: at the active what it has emitted, at the
// standby what it was told. It remembers the flows marked last, between one and
// two times marksKeep of them. The zero value is ready. Begin each epoch with
// Reset. It is not safe for use by several goroutines.
type Marks struct {
	now, before map[ID]*mark
	fresh       []*mark
}

type mark struct {
	EmittedMark
	queued bool
}

const marksKeep = 16384

// Reset forgets all marks.
func (m *Marks) Reset() { *m = Marks{} }

func (m *Marks) get(id ID) *mark {
	if k := m.now[id]; k != nil {
		return k
	}
	k := m.before[id]
	if k == nil {
		k = &mark{EmittedMark: EmittedMark{Flow: id}}
	}
	if len(m.now) >= marksKeep || m.now == nil {
		m.before, m.now = m.now, make(map[ID]*mark)
	}
	m.now[id] = k
	return k
}

func (m *Marks) queue(k *mark) {
	if !k.queued {
		k.queued = true
		m.fresh = append(m.fresh, k)
	}
}

// Emitted notes that the active has emitted o.
func (m *Marks) Emitted(o Output) {
	if o.Kind == Pass {
		return
	}
	if k := m.get(o.Flow); k.add(o) {
		m.queue(k)
	}
}

// Take appends the marks that changed since the last Take to dst and returns it.
// Call it often: what waits for it is kept whatever the number of flows.
func (m *Marks) Take(dst []EmittedMark) []EmittedMark {
	for i, k := range m.fresh {
		k.queued = false
		dst = append(dst, k.EmittedMark)
		m.fresh[i] = nil
	}
	m.fresh = m.fresh[:0]
	return dst
}

// Merge notes what the standby was told.
func (m *Marks) Merge(n EmittedMark) { m.get(n.Flow).merge(n) }

// Covers tells whether a held output has left, by the marks that are known.
func (m *Marks) Covers(o Output) bool {
	if o.Kind == Pass {
		return true
	}
	if k := m.now[o.Flow]; k != nil {
		return HeldCovered(o, k.EmittedMark)
	}
	if k := m.before[o.Flow]; k != nil {
		return HeldCovered(o, k.EmittedMark)
	}
	return false
}

package flow

// Pinned tells whether a connection's numbers in outside space are settled:
// its Opening was learnt from the active, or it is no connection that opened
// in this epoch.
func (t *Table) Pinned(id ID) bool {
	s := t.streams[id]
	return s == nil || s.pinned || !s.opened
}

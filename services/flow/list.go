package flow

// list is a list of entries in order of use, least recently used first.
type list[T any] struct{ first, last *T }

// links are an entry's place in its list.
type links[T any] struct{ before, after *T }

// linked is a pointer to an entry.
type linked[T any] interface {
	*T
	at() *links[T]
}

// push puts e, which is in no list, behind all others.
func push[T any, P linked[T]](l *list[T], e P) {
	at := e.at()
	at.before, at.after = l.last, nil
	if l.last != nil {
		P(l.last).at().after = e
	} else {
		l.first = e
	}
	l.last = e
}

// remove takes e out of l.
func remove[T any, P linked[T]](l *list[T], e P) {
	at := e.at()
	if at.before != nil {
		P(at.before).at().after = at.after
	} else {
		l.first = at.after
	}
	if at.after != nil {
		P(at.after).at().before = at.before
	} else {
		l.last = at.before
	}
	at.before, at.after = nil, nil
}

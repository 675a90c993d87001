package flow

import understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"

// Message is the output as it is told to the arbiter and carried by a
// checkpoint; the caller numbers it.
func (o *Output) Message() *understudyv1.Output {
	m := &understudyv1.Output{
		Kind: understudyv1.OutputKind(o.Kind), Flow: uint64(o.Flow), End: o.End,
		Ack: o.Ack, Edge: o.Edge, Flags: uint32(o.Flags), Name: o.Name,
	}
	if !o.Digest.IsZero() {
		m.Digest = o.Digest[:]
	}
	return m
}

// FromMessage is the inverse of Message. It does not check what a peer says.
func FromMessage(m *understudyv1.Output) Output {
	o := Output{
		Kind: Kind(m.GetKind()), Flow: ID(m.GetFlow()), End: m.GetEnd(),
		Ack: m.GetAck(), Edge: m.GetEdge(), Flags: Flags(m.GetFlags()), Name: m.GetName(),
	}
	copy(o.Digest[:], m.GetDigest())
	return o
}

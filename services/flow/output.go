package flow

// Digest is a 128-bit digest that decides equality of outputs. The zero value
// stands for "nothing to compare".
type Digest [16]byte

// IsZero tells whether there is nothing to compare.
func (d Digest) IsZero() bool { return d == Digest{} }

// Kind says how an output is compared.
type Kind uint8

const (
	// Stream is a TCP segment, compared by byte ranges.
	Stream Kind = iota + 1
	// Datagram is one of an ordered sequence within its flow.
	Datagram
	// Pass is released without comparison (link and neighbour chatter, and
	// flows that a rule passes).
	Pass
	// Event is something that the guest did to its machine (power-off, reboot),
	// compared like a datagram.
	Event
)

// Flags are the TCP flags that a client can see.
type Flags uint8

// TCP flags of an output.
const (
	SYN Flags = 1 << iota
	FIN
	RST
	ACK
)

// ID identifies a flow: the same in both copies for the same connection, and
// another for the next connection between the same ports.
type ID uint64

// Output describes a frame that a guest transmitted, reduced to what a client
// can see of it (DESIGN section 4).
type Output struct {
	Kind Kind
	Flow ID

	// End, for a Stream, is the offset after the segment's last byte, counted
	// from the connection's start: SYN is byte 0, the first payload byte has
	// offset 1, FIN takes one. For a Datagram or Event it is the 1-based
	// index in the flow, counted from the start of the epoch.
	End uint64
	// Digest, for a Stream, covers all that the guest sent on this flow from
	// the start of the epoch through End: payload, SYN with the options that
	// the peer sees, FIN. It is zero where the segment brings nothing beyond
	// what was already reported (a pure acknowledgement, a retransmission).
	// For a Datagram or Event it covers the normalized datagram.
	Digest Digest

	// Ack is the offset of the peer's bytes acknowledged, counted from the
	// peer's SYN as offset 0. Edge is Ack plus the (scaled) window. Both are
	// valid only with the ACK flag. Stream only.
	Ack  uint64
	Edge uint64
	// Flags hold the TCP flags. Stream only.
	Flags Flags

	// Bypass: it need not wait for the arbiter's word either. Pass only.
	Bypass bool

	// Name is the flow in words, on the first output of a flow in an epoch.
	Name string
}

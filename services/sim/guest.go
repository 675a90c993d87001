package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// guest is a toy guest: a service that counts. A request "n inc" of a client is
// answered with the next value of one counter; "n coin" throws a coin that each
// copy throws for itself, whose outcome is added to the counter. A request that
// is repeated gets its answer repeated.
type guest struct {
	state guestState
	// paused guests do nothing; what they do next waits.
	paused bool
	// fault is the chance that this copy serves two requests in another order.
	busy bool
}

// guestState is what a checkpoint carries.
type guestState struct {
	counter int
	answers map[int]answer // the last one of each client
	inbox   [][]byte
	// made is all that the guest ever sent, in order.
	made []string
}

type answer struct {
	n    int
	text string
}

func newGuest() *guest { return &guest{state: guestState{answers: map[int]answer{}}} }

func (s *guestState) clone() guestState {
	c := *s
	c.answers = make(map[int]answer, len(s.answers))
	for k, v := range s.answers {
		c.answers[k] = v
	}
	c.inbox = slices.Clone(s.inbox)
	c.made = s.made[:len(s.made):len(s.made)]
	return c
}

// has tells whether the guest has sent this.
func (s *guestState) has(text string) bool { return slices.Contains(s.made, text) }

const guestInbox = 16

// serve takes the oldest request and returns the answer's frame.
func (g *guest) serve(w *world) []byte {
	at := 0
	// Thread scheduling: once in a while another request is served first.
	if len(g.state.inbox) > 1 && w.chance(w.opt.reorder) {
		at = 1
	}
	frame := g.state.inbox[at]
	g.state.inbox = slices.Delete(g.state.inbox, at, at+1)
	var client, n int
	var op string
	if _, err := fmt.Sscanf(payload(frame), "%d %d %s", &client, &n, &op); err != nil {
		return nil
	}
	last := g.state.answers[client]
	switch {
	case n < last.n:
		return nil
	case n > last.n:
		g.state.counter++
		if op == "coin" {
			g.state.counter += w.rng.IntN(2)
		}
		last = answer{n: n, text: fmt.Sprintf("%d %d %d", client, n, g.state.counter)}
		g.state.answers[client] = last
	}
	g.state.made = append(g.state.made, last.text)
	return datagram(guestIP, clientIP(client), last.text)
}

// thinking is how long the guest takes for a request.
func (w *world) thinking() time.Duration { return w.between(50*time.Microsecond, w.opt.think) }

var guestIP = [4]byte{10, 0, 0, 1}

func clientIP(c int) [4]byte { return [4]byte{10, 0, 1, byte(c)} }

// datagram is a UDP frame.
func datagram(from, to [4]byte, text string) []byte {
	b := make([]byte, 42, 42+len(text))
	copy(b, []byte{2, 0, to[0], to[1], to[2], to[3], 2, 0, from[0], from[1], from[2], from[3], 8, 0, 0x45})
	binary.BigEndian.PutUint16(b[16:], uint16(28+len(text)))
	b[22], b[23] = 64, 17
	copy(b[26:], from[:])
	copy(b[30:], to[:])
	binary.BigEndian.PutUint16(b[34:], 53)
	binary.BigEndian.PutUint16(b[36:], 53)
	binary.BigEndian.PutUint16(b[38:], uint16(8+len(text)))
	return append(b, text...)
}

func payload(frame []byte) string { return string(frame[42:]) }

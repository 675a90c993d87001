package sim

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
)

// checker holds the one canonical history of a VM, which is what ever left, and
// checks DESIGN section 3 against it.
type checker struct {
	v *vm
	// said is everything that left by datagram, by client and question.
	said map[[2]int]int
	// streams is everything that left by TCP, conns the names by tuple.
	streams map[connKey]*spoken
	names   map[tuple][]connKey
	order   []connKey

	// told is the newest answer that each client was told, most the highest
	// number that any was; boots counts boots from a disk but the first.
	told  map[int]answer
	most  int
	boots int

	// rules are those for the dice that were ordered once, activeUntil says when a
	// replica was replaced as the active.
	rules       []superseded
	activeUntil map[string]time.Duration

	history          []porcupine.Operation
	emits, takeovers int
}

// spoken is what left of a connection.
type spoken struct {
	iss   uint32 // as the outside knows it
	bytes []byte
	known []bool
	fin   uint64 // 0: none
	ack   uint64
}

func newChecker(v *vm) checker {
	return checker{v: v, said: map[[2]int]int{}, streams: map[connKey]*spoken{}, names: map[tuple][]connKey{}, told: map[int]answer{}, activeUntil: map[string]time.Duration{}}
}

// emitted checks a frame at the moment at which it leaves.
func (c *checker) emitted(r *replica, frame []byte, leased bool) {
	w := c.v.w
	c.emits++
	rec := c.v.record()
	var p packet.Packet
	p.Parse(frame)
	if p.Form == packet.UDP && p.SrcPort == dicePort {
		c.diced(r, &p, leased)
		return
	}
	if leased && (rec.GetActive().GetId() != r.id || rec.GetMode() != pb.Mode_MODE_SOLO && rec.GetMode() != pb.Mode_MODE_SYNCING) {
		w.fail("rule 2: %s emits by its lease while the record says term %d %s active %s", r.id, rec.GetTerm(),
			rec.GetMode(), rec.GetActive().GetId())
	}
	switch p.Form {
	case packet.UDP:
		c.datagram(r, &p, leased)
	case packet.TCP:
		if p.Flags&packet.RST == 0 {
			c.segment(r, &p, leased)
		}
	}
}

// copies calls fn for each copy that may speak from now on: what leaves must be
// part of its history (rules 1 and 2).
func (c *checker) copies(r *replica, fn func(h *replica, s *guestState)) {
	rec := c.v.record()
	refs := []*pb.ReplicaRef{rec.GetActive()}
	if rec.GetMode() == pb.Mode_MODE_PROTECTED {
		refs = append(refs, rec.GetStandby())
	}
	for _, ref := range refs {
		h := c.v.host(ref.GetId())
		if h == nil || h.dead {
			continue
		}
		if s := h.copyOf(); s != nil {
			fn(h, s)
		} else {
			c.v.w.fail("rule 1: %s emits while %s has no copy", r.id, h.id)
		}
	}
}

func (c *checker) datagram(r *replica, p *packet.Packet, leased bool) {
	w := c.v.w
	client, n, value, _, ok := parseAnswer(string(p.Payload))
	if !ok {
		w.fail("%s emits %q", r.id, p.Payload)
		return
	}
	c.copies(r, func(h *replica, s *guestState) {
		if !s.said(client, n, value) {
			w.fail("rule 1: %s emits %q (leased %v), which %s has not made (%s)", r.id, p.Payload, leased, h.id, c.v.stands())
		}
	})
	key := [2]int{client, n}
	if old, known := c.said[key]; known && old != value {
		w.fail("rule 2: %s emits %q, but %d has left before", r.id, p.Payload, old)
	}
	c.said[key] = value
	c.tell(client, n, value)
	c.durable()
}

// name finds the connection that a segment from the guest belongs to.
func (c *checker) name(p *packet.Packet) (connKey, bool) {
	t := tuple{addr{[4]byte(p.Dst[:4]), p.DstPort}, p.SrcPort}
	if p.Flags&packet.SYN != 0 {
		k := connKey{tuple: t}
		if p.Flags&packet.ACK != 0 && t.port == servicePort {
			k.isn = p.Ack - 1
		}
		if c.streams[k] == nil {
			c.streams[k] = &spoken{iss: p.Seq}
			c.names[t] = append(c.names[t], k)
			c.order = append(c.order, k)
		}
		return k, true
	}
	names := c.names[t]
	for i := len(names) - 1; i >= 0; i-- {
		k := names[i]
		const most = 1 << 20
		if p.Seq-c.streams[k].iss < most && (k.isn == 0 || p.Ack-k.isn < most) {
			return k, true
		}
	}
	return connKey{}, false
}

func (c *checker) segment(r *replica, p *packet.Packet, leased bool) {
	w := c.v.w
	k, ok := c.name(p)
	if !ok {
		w.fail("translation: %s emits sequence number %d on %v:%d, which fits no connection", r.id, p.Seq, p.DstAddr(), p.DstPort)
		return
	}
	said := c.streams[k]
	at := uint64(p.Seq - said.iss)
	if p.Flags&packet.SYN != 0 {
		if at != 0 {
			w.fail("translation: %s emits the SYN of %v with another initial sequence number", r.id, k)
		}
		at = 1
	}
	end := at + uint64(len(p.Payload))
	var ack, fin uint64
	if p.Flags&packet.ACK != 0 {
		isn := k.isn
		if k.port != servicePort {
			isn = c.v.clients[p.Dst[3]].ends[ports{k.peer.port, k.port}].iss
		}
		ack = uint64(p.Ack - isn)
	}
	if p.Flags&packet.FIN != 0 {
		fin = end
	}
	c.copies(r, func(h *replica, s *guestState) {
		if why := s.lacks(k, at, p.Payload, fin, ack); why != "" {
			w.fail("rule %s: %s emits [%d, %d) ack %d flags %x of %v (leased %v): %s has %s (%s)", ruleOf(why), r.id, at, end, ack, p.Flags, k, leased, h.id, why, c.v.stands())
		}
	})
	for uint64(len(said.bytes)) < end-1 {
		said.bytes, said.known = append(said.bytes, 0), append(said.known, false)
	}
	for i, b := range p.Payload {
		j := int(at) - 1 + i
		if said.known[j] && said.bytes[j] != b {
			w.fail("rule 2: %s emits another byte at %d of %v", r.id, at+uint64(i), k)
			return
		}
		said.bytes[j], said.known[j] = b, true
	}
	if fin != 0 {
		if said.fin != 0 && said.fin != fin {
			w.fail("rule 2: %s ends %v at %d and %d", r.id, k, fin, said.fin)
		}
		said.fin = fin
	}
	said.ack = max(said.ack, ack)
}

const lacksAck = "not acknowledged as much"

func ruleOf(why string) string {
	if why == lacksAck {
		return "3"
	}
	return "1"
}

// lacks tells what of a segment the guest has not sent itself.
func (s *guestState) lacks(k connKey, at uint64, data []byte, fin, ack uint64) string {
	e := s.conns[k]
	end := at + uint64(len(data))
	switch {
	case e == nil:
		return "no such connection"
	case e.max < end:
		return fmt.Sprintf("sent no more than %d", e.max)
	case len(data) > 0 && (end-1 > uint64(len(e.out)) || !bytes.Equal(e.out[at-1:end-1], data)):
		return "sent other bytes"
	case fin != 0 && (!e.closing || e.max < e.end() || fin != e.end()-1):
		return "not closed there"
	case ack > e.said:
		return lacksAck
	}
	return ""
}

// unmuted checks a copy that begins to speak: its history must hold all that
// was ever said.
func (c *checker) unmuted(r *replica) {
	s := r.copyOf()
	if s == nil {
		return // it boots
	}
	c.takeovers++
	w := c.v.w
	for client := range c.v.clients {
		for n := 1; n <= c.v.clients[client].n; n++ {
			if value, ok := c.said[[2]int{client, n}]; ok && !s.said(client, n, value) {
				w.fail("rule 3: %s takes over without having said \"%d %d %d\"", r.id, client, n, value)
			}
		}
	}
	for _, k := range c.order {
		said := c.streams[k]
		e := s.conns[k]
		if e == nil {
			w.fail("rule 3: %s takes over without the connection %v", r.id, k)
			return
		}
		for i, known := range said.known {
			if known && (i >= len(e.out) || uint64(i)+1 >= e.max || e.out[i] != said.bytes[i]) {
				w.fail("rule 3: %s takes over without byte %d of %v", r.id, i+1, k)
				return
			}
		}
		if said.ack > e.said || said.fin != 0 && (!e.closing || said.fin != e.end()-1) {
			w.fail("rule 3: %s takes over %v having acknowledged %d of %d", r.id, k, e.said, said.ack)
		}
	}
}

// delivered checks that both copies are given the same inputs in the same order.
func (c *checker) delivered(r *replica) {
	rec := c.v.record()
	if rec.GetMode() != pb.Mode_MODE_PROTECTED {
		return
	}
	a, s := c.v.host(rec.GetActive().GetId()), c.v.host(rec.GetStandby().GetId())
	if a == nil || s == nil || r != a && r != s || a.guest == nil || s.guest == nil || s.staged != nil ||
		a.core.Role() != pb.Role_ROLE_ACTIVE || s.core.Role() != pb.Role_ROLE_STANDBY {
		return
	}
	x, y := a.guest.state.delivered, s.guest.state.delivered
	if n := len(r.guest.state.delivered) - 1; n < len(x) && n < len(y) && x[n] != y[n] {
		c.v.w.fail("inputs: input %d differs between %s and %s (%s)", n, a.id, s.id, c.v.stands())
	}
}

// mayBoot checks that a guest that is to begin anew is lost: nobody else can
// speak by its lease. Without a disk its history ends here, and the run with it.
func (c *checker) mayBoot(id string) {
	for _, h := range c.v.hosts {
		m := h.core.Mode()
		if h.id != id && !h.dead && h.core.Role() == pb.Role_ROLE_ACTIVE && h.clock() < h.leaseUntil &&
			(m == pb.Mode_MODE_SOLO || m == pb.Mode_MODE_SYNCING) {
			c.v.w.fail("rule 2: %s is to boot while %s may speak by its lease (%s)", id, h.id, c.v.stands())
		}
	}
	if c.v.disks {
		return // and see what its disk has
	}
	c.v.w.faults["VM lost and booted anew"]++
	c.v.w.over = true
}

// asked is what porcupine sees of a question.
type asked struct{ op string }

func (c *checker) answered(q *client, value int) {
	c.tell(q.number, q.n, value)
	c.history = append(c.history, porcupine.Operation{ClientId: q.number, Input: asked{q.op}, Output: value,
		Call: int64(q.asked), Return: int64(c.v.w.now)})
}

// linearizable checks the clients' history against a counter, by porcupine and
// by a rule of our own: of operations that add, the answers are all different,
// and one that was asked after another was answered has the greater one.
func (c *checker) linearizable() {
	w := c.v.w
	all := slices.Clone(c.history)
	for _, q := range c.v.clients {
		if q.waiting {
			all = append(all, porcupine.Operation{ClientId: q.number, Input: asked{q.op}, Output: nil, Call: int64(q.asked), Return: math.MaxInt64})
		}
	}
	if !porcupine.CheckOperations(counterModel, all) {
		w.fail("clients: the history of %s is not linearizable", c.v.name)
	}
	sums := slices.DeleteFunc(c.history, func(o porcupine.Operation) bool { return o.Input.(asked).op == "get" })
	slices.SortFunc(sums, func(a, b porcupine.Operation) int { return a.Output.(int) - b.Output.(int) })
	var latest int64 // the latest call among smaller values
	for i, op := range sums {
		if i > 0 && op.Output == sums[i-1].Output {
			w.fail("clients: two questions were answered with %d", op.Output)
		}
		if op.Return < latest {
			w.fail("clients: the answer %d came before a question with a smaller one was asked", op.Output)
		}
		latest = max(latest, op.Call)
	}
}

// counterModel is the service as its clients know it.
var counterModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{0} },
	Step: func(state, input, output any) []any {
		n := state.(int)
		next := []any{n + 1}
		switch input.(asked).op {
		case "get":
			next[0] = n
		case "coin":
			next = append(next, n+2)
		}
		if output == nil {
			return next
		}
		return slices.DeleteFunc(next, func(s any) bool { return s != output })
	},
	Equal: func(a, b any) bool { return a == b },
}).ToModel()

package sim

import (
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
	"github.com/understudy-ft/understudy/services/role"
	"github.com/understudy-ft/understudy/services/session"
)

// A second service of the guest throws dice: each copy answers otherwise. Rules,
// which operators change while it is asked, exempt its flows from comparison, or
// do not. Whatever they do, the guest's other flows are compared.

const dicePort = 37

var askerIP = [4]byte{10, 0, 2, 0}

// diceRules are those that operators choose from.
var diceRules = [][]string{nil, {"udp any:37 > any: pass"}, {"udp any:37 > any: bypass"}}

// asker asks for numbers that the copies do not agree on, as long as it has not
// enough of them.
type asker struct {
	v        *vm
	n        int
	waiting  bool
	answered int
}

func (v *vm) newAsker() {
	v.asker = &asker{v: v}
	v.w.schedule(v.w.between(0, 100*time.Millisecond), v.asker.ask)
}

func (q *asker) ask() {
	q.n++
	q.waiting = true
	q.repeat(q.n)
}

func (q *asker) repeat(n int) {
	if w := q.v.w; q.n == n && q.waiting {
		q.v.toGuest(datagram(addr{askerIP, dicePort}, addr{guestIP, dicePort}, fmt.Sprintf("%d", n)))
		w.schedule(w.now+200*time.Millisecond, func() { q.repeat(n) })
	}
}

// hear takes an answer. A question that was repeated may have several.
func (q *asker) hear(p *packet.Packet) {
	w := q.v.w
	var n, value int
	if _, err := fmt.Sscanf(string(p.Payload), "%d %d", &n, &value); err != nil || p.SrcPort != dicePort || n > q.n {
		w.fail("the guest sent %q to the asker", p.Payload)
		return
	}
	if n != q.n || !q.waiting {
		return
	}
	q.waiting = false
	q.answered++
	if !w.calm || q.answered < w.opt.enough {
		w.schedule(w.now+w.between(5*time.Millisecond, 120*time.Millisecond), q.ask)
	}
}

// dice answers the asker.
func (g *guest) dice(s *stack, p *packet.Packet) {
	answer := fmt.Sprintf("%s %d", p.Payload, s.w.rng.IntN(1000))
	g.state.thrown = append(g.state.thrown[:len(g.state.thrown):len(g.state.thrown)], answer)
	if n := len(g.state.thrown); n > 1000 {
		g.state.thrown = slices.Clone(g.state.thrown[n-500:])
	}
	s.send(datagram(addr{guestIP, dicePort}, addr{askerIP, p.SrcPort}, answer))
}

// threw tells whether the guest has said so to the asker.
func (s *guestState) threw(answer string) bool { return slices.Contains(s.thrown, answer) }

// action is what rules do with the flows of the dice.
func action(rules []string) string {
	for a, r := range map[string][]string{"pass": diceRules[1], "bypass": diceRules[2]} {
		if slices.Equal(r, rules) {
			return a
		}
	}
	return "compare"
}

// ordered is what the record, or else the arbiters' policy, says of the dice.
func (v *vm) ordered() string {
	rules := v.record().GetPolicy().GetFlowRules()
	if len(rules) == 0 {
		rules = v.w.opt.policy().GetFlowRules()
	}
	return action(rules)
}

// orderRules sets other flow rules.
func (v *vm) orderRules() bool {
	p := &pb.Policy{FlowRules: diceRules[v.w.rng.IntN(len(diceRules))]}
	return v.asker != nil && v.order(session.SetPolicy{Policy: p, Fields: []string{"flow_rules"}})
}

// superseded is a rule for the dice that was in the record until then.
type superseded struct {
	action string
	until  time.Duration
}

// rulesLast bounds how long an epoch may still begin with a rule that is not in
// the record any more: the time of a first copy or of a resynchronization that
// was ordered before.
const rulesLast = 5 * time.Second

// epochRules notes the rules of the epoch that a checkpoint begins, which must be
// what operators have ordered.
func (r *replica) epochRules(ck *role.Checkpoint) {
	var t pb.FlowTableState
	if err := proto.Unmarshal(ck.Flows, &t); err != nil {
		r.w.fail("%s saves no flow table: %v", r.id, err)
		return
	}
	is, known := action(t.Rules), false
	for _, s := range r.v.check.rules {
		known = known || s.action == is && r.w.now-s.until < rulesLast
	}
	if r.v.asker != nil && is != r.v.ordered() && !known {
		r.w.fail("rules: %s begins epoch %d with %q for the dice, which is not ordered (%q)", r.id, ck.Epoch, is, r.v.ordered())
	}
	if ck.First {
		clear(r.rules)
	}
	r.rules[ck.Epoch] = is
}

// diced checks what leaves for the asker: what is exempt leaves only from a copy
// that is active, or was less than a lease ago; nothing else leaves unless both
// copies have said it.
func (c *checker) diced(r *replica, p *packet.Packet, leased bool) {
	w, v := c.v.w, c.v
	said := string(p.Payload)
	rec := v.record()
	named := rec.GetActive().GetId() == r.id
	if r.core.Role() != pb.Role_ROLE_ACTIVE {
		w.fail("rule 2: %s tells the asker %q as %s", r.id, said, r.core.Role())
	}
	if s := r.copyOf(); s == nil || !s.threw(said) {
		w.fail("rule 1: %s tells the asker %q, which it has not thrown", r.id, said)
	}
	protected := r.core.Mode() == pb.Mode_MODE_PROTECTED
	is := r.rules[r.core.Epoch()]
	switch {
	case leased && protected:
		if w.happened["dice left past the arbiter"]++; is != "bypass" {
			w.fail("rules: %s lets out %q past the arbiter in epoch %d, where the rule is %q", r.id, said, r.core.Epoch(), is)
		}
		// A process that stood still speaks until it has heard what waits for it.
		if since, known := c.activeUntil[r.id]; !named && (!known || w.now-max(since, r.resumed) > leaseTTL) {
			w.fail("rule 2: %s lets out %q past the arbiter %v after it was replaced", r.id, said, w.now-since)
		}
	case leased:
		if !named {
			w.fail("rule 2: %s tells the asker %q by its lease while %s is active", r.id, said, rec.GetActive().GetId())
		}
	case is == "compare":
		w.happened["dice compared"]++
		c.copies(r, func(h *replica, s *guestState) {
			if !s.threw(said) {
				w.fail("rule 1: %s tells the asker %q, which %s has not thrown (%s)", r.id, said, h.id, v.stands())
			}
		})
	default:
		w.happened["dice left uncompared"]++
	}
}

// succeeds notes what is over when another record follows.
func (c *checker) succeeds(old *pb.Record, rules string) {
	if now := c.v.ordered(); now != rules {
		c.rules = append(c.rules, superseded{rules, c.v.w.now})
	}
	if id := old.GetActive().GetId(); id != "" && id != c.v.record().GetActive().GetId() {
		c.activeUntil[id] = c.v.w.now
	}
}

package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// options are drawn from the seed.
type options struct {
	replicas, arbiters, clients int
	duration                    time.Duration // of the first phase
	drift                       float64
	delayMin, delayMax          time.Duration
	slow                        float64 // chance of a slow packet
	loss                        float64
	think                       time.Duration
	coin, reorder               float64
	mirror                      bool
	faultEvery                  time.Duration
	enough                      int
}

func draw(rng *rand.Rand) options {
	o := options{
		replicas: 2 + rng.IntN(2), arbiters: 1 + rng.IntN(2), clients: 1 + rng.IntN(4),
		duration: 8 * time.Second, drift: 0.01,
		delayMin: 20 * time.Microsecond, delayMax: time.Duration(100+rng.IntN(3000)) * time.Microsecond,
		slow: 0.01 * rng.Float64(), think: time.Duration(200+rng.IntN(3000)) * time.Microsecond,
		mirror: rng.IntN(2) == 0, faultEvery: time.Duration(300+rng.IntN(2500)) * time.Millisecond, enough: 20,
	}
	if rng.IntN(2) == 0 {
		o.loss = 0.02 * rng.Float64()
	}
	if rng.IntN(3) > 0 {
		o.coin = 0.05 * rng.Float64()
	}
	if rng.IntN(3) > 0 {
		o.reorder = 0.05 * rng.Float64()
	}
	return o
}

// delay is how long a packet takes.
func (o *options) delay(w *world) time.Duration {
	d := w.between(o.delayMin, o.delayMax)
	if w.chance(o.slow) {
		d += w.between(0, 60*time.Millisecond)
	}
	return d
}

func (o *options) policy() *pb.Policy { return &pb.Policy{SyncTimeoutMs: 2000} }

// Result is what a run saw.
type Result struct {
	Seed      uint64
	Err       error
	Story     string
	Faults    map[string]int
	Answers   int
	Emitted   int
	Takeovers int
	Terms     uint64
	Healed    time.Duration
}

// healing bounds the second phase.
const healing = 60 * time.Second

// Run runs one seed.
func Run(seed uint64) Result {
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	w := &world{opt: draw(rng), rng: rng, cuts: map[[2]*process]bool{}, faults: map[string]int{}}
	w.check = checker{w: w, said: map[[2]int]string{}}
	w.etcd = newEtcd(w)
	for i := range w.opt.arbiters {
		w.newArbiter(fmt.Sprintf("arbiter%d", i+1))
	}
	for i := range w.opt.replicas {
		w.newReplica(fmt.Sprintf("r%d", i+1), i == 0)
	}
	for i := range w.opt.clients {
		w.newClient(i)
	}
	w.schedule(w.between(0, w.opt.faultEvery), w.fault)
	w.run(w.opt.duration, nil)
	w.heal()
	began := w.now
	done := func() bool {
		if w.etcd.record.GetMode() != pb.Mode_MODE_PROTECTED {
			return false
		}
		for _, c := range w.clients {
			if c.answered < w.opt.enough {
				return false
			}
		}
		return true
	}
	if !w.run(w.now+healing, done) {
		w.fail("rule 5: not whole %v after everything healed: term %d %s, clients %s", healing, w.etcd.record.GetTerm(), w.etcd.record.GetMode(), w.progress())
	}
	w.check.linearizable()
	return Result{Seed: seed, Err: w.failed, Story: w.story(), Faults: w.faults, Answers: len(w.check.history), Emitted: w.check.emits,
		Takeovers: w.check.takeover, Terms: w.etcd.record.GetTerm(), Healed: w.now - began}
}

// progress tells where everything stands.
func (w *world) progress() (s string) {
	for _, r := range w.hosts {
		s += fmt.Sprintf("[%s dead %v %s %s term %d attached %v guest %v] ", r.id, r.dead, r.core.Role(), r.core.Mode(), r.core.Term(), r.attach != nil, r.guest != nil)
	}
	for _, a := range w.arbiters {
		s += fmt.Sprintf("[%s dead %v owns %v streams %d] ", a.name, a.dead, a.owns, len(a.streams))
	}
	for _, c := range w.clients {
		s += fmt.Sprintf("%d/%d ", c.answered, w.opt.enough)
	}
	return s
}

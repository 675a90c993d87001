package sim

import (
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// forever is a time that does not come.
const forever = time.Duration(math.MaxInt64)

// options are drawn from the seed.
type options struct {
	vms, arbiters      int
	replicas, clients  int           // of each VM, at most
	duration           time.Duration // of the first phase
	drift              float64
	delayMin, delayMax time.Duration
	slow               float64 // chance of a slow packet
	loss, duplicate    float64 // of the outside network
	lostAnswer         float64 // of etcd
	think, rest        time.Duration
	coin, calls        float64 // of questions
	reorder, tcp       float64
	mirror, candidates bool
	disks              bool          // guests have disks
	sync               time.Duration // of a disk, at most
	cold               float64       // chance that a fault is a cold restart
	dice               int           // rules for the dice, before operators set others; -1: none are thrown
	epochMax           time.Duration // 0: none
	soloAfter          time.Duration // 0: never
	absence            time.Duration // of a lost arbiter, at most
	faultEvery         time.Duration
	enough             int
}

func draw(rng *rand.Rand) options {
	o := options{
		vms: 1, arbiters: 1 + rng.IntN(3), replicas: 2 + rng.IntN(2), clients: 1 + rng.IntN(4),
		duration: 5 * time.Second, drift: 0.01,
		delayMin: 20 * time.Microsecond, delayMax: time.Duration(100+rng.IntN(3000)) * time.Microsecond,
		slow: 0.01 * rng.Float64(), think: time.Duration(100+rng.IntN(2000)) * time.Microsecond,
		rest: time.Duration(5+rng.IntN(30)) * time.Millisecond, calls: 0.05, tcp: 0.7,
		mirror: rng.IntN(2) == 0, faultEvery: time.Duration(200+rng.IntN(2000)) * time.Millisecond, enough: 20,
	}
	maybe := func(most float64) float64 {
		if rng.IntN(2) == 0 {
			return 0
		}
		return most * rng.Float64()
	}
	o.loss, o.duplicate, o.lostAnswer = maybe(0.03), maybe(0.02), maybe(0.02)
	o.coin, o.reorder = maybe(0.08), maybe(0.05)
	if o.candidates = rng.IntN(10) == 0; o.candidates {
		o.replicas, o.duration = 2, 8*time.Second
	}
	if rng.IntN(2) == 0 {
		o.epochMax = time.Duration(30+rng.IntN(100)) * time.Millisecond
		if rng.IntN(2) == 0 {
			o.epochMax *= 10
		}
	}
	o.absence = 2 * time.Second
	if rng.IntN(3) > 0 {
		o.soloAfter = time.Duration(500+rng.IntN(3000)) * time.Millisecond
		if rng.IntN(3) == 0 {
			o.absence, o.duration = 9*time.Second, 9*time.Second
		}
	}
	if o.disks = rng.IntN(2) == 0; o.disks {
		o.sync = time.Duration(200+rng.IntN(4000)) * time.Microsecond
		if rng.IntN(2) == 0 {
			o.cold, o.duration = 0.1, max(o.duration, 8*time.Second)
		}
	}
	if o.dice = -1; rng.IntN(3) == 0 {
		o.dice = rng.IntN(len(diceRules))
	}
	if rng.IntN(4) == 0 {
		o.vms, o.clients = 2+rng.IntN(2), 1+rng.IntN(2)
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

func (o *options) policy() *pb.Policy {
	p := &pb.Policy{SyncTimeoutMs: 2000, EpochMaxMs: uint32(o.epochMax.Milliseconds())}
	if o.dice >= 0 {
		p.FlowRules = diceRules[o.dice]
	}
	return p
}

// Result is what a run saw.
type Result struct {
	Seed      uint64
	Err       error
	Story     string
	Faults    map[string]int
	Happened  map[string]int // what followed
	Events    uint64
	Answers   int
	Emitted   int
	Takeovers int
	Terms     uint64
	Healed    time.Duration
	// Worst is the longest that a client waited for an answer.
	Worst time.Duration
}

// healing bounds the second phase.
const healing = 60 * time.Second

// Run runs one seed.
func Run(seed uint64) Result { return run(seed, "", nil) }

// RunMutated runs one seed with a deliberate defect.
func RunMutated(seed uint64, m Mutation) Result { return run(seed, m, nil) }

// Tell runs one seed and keeps the whole story, not only its end.
func Tell(seed uint64, m Mutation) Result {
	return run(seed, m, func(w *world) { w.tell = true })
}

// run runs one seed; prepare may change the world before anything happens.
func run(seed uint64, m Mutation, prepare func(*world)) Result {
	rng := rand.New(rand.NewPCG(seed, 0x5eed))
	w := &world{opt: draw(rng), rng: rng, cuts: map[[2]*process]int{}, slow: map[[2]*process]time.Duration{}, faults: map[string]int{}, happened: map[string]int{}, mutation: m}
	w.etcd = newEtcd(w)
	for i := range w.opt.arbiters {
		w.newArbiter(fmt.Sprintf("arbiter%d", i+1))
	}
	for i := range w.opt.vms {
		v := w.newVM(fmt.Sprintf("vm%d", i+1))
		for i := range w.opt.replicas {
			v.newReplica(fmt.Sprintf("%s/r%d", v.name, i+1), i == 0)
		}
		for i := range w.opt.clients {
			v.newClient(i)
		}
		if w.opt.dice >= 0 {
			v.newAsker()
		}
	}
	w.schedule(w.between(0, w.opt.faultEvery), w.fault)
	if prepare != nil {
		prepare(w)
	}
	w.run(w.opt.duration, nil)
	w.heal()
	began := w.now
	if !w.run(w.now+healing, w.whole) && !w.over {
		s := ""
		for _, v := range w.vms {
			s += v.progress()
		}
		w.fail("rule 5: not whole %v after everything healed: %s", healing, s)
	}
	r := Result{Seed: seed, Faults: w.faults, Happened: w.happened, Healed: w.now - began, Events: w.seq}
	for _, v := range w.vms {
		if w.failed == nil {
			v.check.tellStreams()
			v.check.durable()
			v.check.linearizable()
		}
		r.Answers += len(v.check.history)
		r.Emitted += v.check.emits
		r.Takeovers += v.check.takeovers
		r.Terms += v.record().GetTerm()
		for _, c := range v.clients {
			r.Worst = max(r.Worst, c.longest)
		}
	}
	r.Err, r.Story = w.failed, w.story()
	return r
}

// whole tells whether all is well.
func (w *world) whole() bool {
	for _, v := range w.vms {
		if !v.whole() {
			return false
		}
	}
	return true
}

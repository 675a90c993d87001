package checkpoint

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// SenderConfig tunes a Sender. Zero fields take the defaults.
type SenderConfig struct {
	// Compress compresses pages and blocks where it saves an eighth or more.
	// It costs a core per about 1 GB/s: leave it off on faster links.
	Compress bool
	// PauseTarget is the transfer time, estimated from the bandwidth seen so
	// far, at which Live leaves the rest to Final. Default 30 ms.
	PauseTarget time.Duration
	// MaxRounds bounds the rounds of Live. Default 16.
	MaxRounds int
	// Now is the clock that measures Live's bandwidth. Default time.Now.
	Now func() time.Time
	// Nonce draws the random number of an attempt. Default crypto/rand.
	Nonce func() uint64
}

func (c *SenderConfig) setDefaults() {
	if c.PauseTarget <= 0 {
		c.PauseTarget = 30 * time.Millisecond
	}
	if c.MaxRounds <= 0 {
		c.MaxRounds = 16
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Nonce == nil {
		c.Nonce = func() uint64 {
			var b [8]byte
			_, _ = rand.Read(b[:]) // never fails
			return binary.LittleEndian.Uint64(b[:])
		}
	}
}

// Sender is the active's side of the checkpoints to one standby. Answer may be
// called by any goroutine at any time, the other methods by one at a time.
type Sender struct {
	guest Guest
	send  Send
	cfg   SenderConfig
	sp    [kinds]space
	pool  chan *chunk
	ahead [kinds]ahead

	// since holds what may differ from the last common epoch. Only Staged
	// removes from it.
	since sets
	// cut is where a guest's dirty bits are drained to, on their way to since
	// and to the attempt.
	cut sets
	try *attempt

	mu sync.Mutex
	in *inbox // of the begin that waits for an answer, or nil
}

// attempt is one try to reach an epoch.
type attempt struct {
	nonce uint64
	out   *outbox
	crew  *crew
	// todo holds what the standby may lack after all that this attempt sent.
	todo sets
	// left collects what a round leaves to the next.
	left      sets
	live      bool
	committed bool
	compared  [kinds]uint64
}

// NewSender returns a sender to a standby of which nothing is known: all pages
// and blocks may differ.
func NewSender(g Guest, send Send, cfg SenderConfig) *Sender {
	cfg.setDefaults()
	s := &Sender{guest: g, send: send, cfg: cfg, sp: spaces(g), pool: newPool()}
	s.since, s.cut = newSets(&s.sp), newSets(&s.sp)
	s.since.fill(&s.sp)
	return s
}

// Collect moves the guest's dirty bits into the sender's, so that a later
// Final finds few of them to move. The guest may run.
func (s *Sender) Collect() error {
	if s.try != nil {
		// The attempt's own cuts must see them.
		return nil
	}
	return s.drain()
}

// drain moves the guest's dirty bits into since, and leaves them in cut, too.
func (s *Sender) drain() error {
	s.cut.clear()
	err := s.cut.drain(s.guest, &s.sp)
	s.since.add(&s.cut) // also of a drain that failed half-way
	if err != nil {
		return fmt.Errorf("drain dirty pages: %w", err)
	}
	return nil
}

// Dirty returns how many pages and blocks may differ from the last common
// epoch, as of the last Collect or cut.
func (s *Sender) Dirty() (pageCount, blockCount int) {
	return s.since[pages].Count(), s.since[blocks].Count()
}

// Answer takes the standby's answer to the last begin. It never blocks, and
// ignores an answer that nothing waits for.
func (s *Sender) Answer(m *pb.DirtyPages) {
	s.mu.Lock()
	in := s.in
	s.mu.Unlock()
	if in != nil {
		in.put(m)
	}
}

// Abort gives the current attempt up. All that was written since the last
// common epoch stays recorded.
func (s *Sender) Abort() {
	s.try = nil
	s.expect(nil)
}

func (s *Sender) expect(in *inbox) {
	s.mu.Lock()
	s.in = in
	s.mu.Unlock()
}

// Staged takes the standby's word that it staged what Final sent: from now on
// the epoch is common. Any other word is ErrNotCommitted.
func (s *Sender) Staged(m *pb.Staged) error {
	t := s.try
	if t == nil || !t.committed || t.nonce != m.Nonce || t.out.epoch != m.Epoch {
		return fmt.Errorf("epoch %d: %w", m.Epoch, ErrNotCommitted)
	}
	s.since.clear()
	s.Abort()
	return nil
}

// Final sends the rest of a checkpoint; after it the caller waits for Staged.
// The guest must be paused and stays so until then. begin needs Epoch, Reason
// and ThroughInput. state returns the encoded Checkpoint; it is called once,
// by another goroutine, while pages are compared. After an error the attempt
// is aborted. PauseUs of the statistics is left to the caller.
func (s *Sender) Final(ctx context.Context, begin *pb.CheckpointBegin, state func() ([]byte, error)) (*pb.SyncStats, error) {
	begin, t := s.attempt(begin)
	t.out.items = chunkItems
	ahead := t.out.sent[pages]
	if err := s.final(ctx, t, begin, state); err != nil {
		s.fail()
		return nil, fmt.Errorf("checkpoint of epoch %d: %w", begin.Epoch, err)
	}
	t.committed = true
	return &pb.SyncStats{
		PagesCompared: t.compared[pages], BlocksCompared: t.compared[blocks],
		PagesSent: t.out.sent[pages], BlocksSent: t.out.sent[blocks],
		BytesSent: t.out.bytes, PagesAhead: ahead,
	}, nil
}

func (s *Sender) final(ctx context.Context, t *attempt, begin *pb.CheckpointBegin, state func() ([]byte, error)) error {
	var (
		encoded  []byte
		stateErr error
		wg       sync.WaitGroup
	)
	defer wg.Wait()
	wg.Go(func() { encoded, stateErr = state() })
	if err := s.round(ctx, t, begin, !t.live, nil); err != nil {
		return err
	}
	wg.Wait()
	if stateErr != nil {
		return fmt.Errorf("save state: %w", stateErr)
	}
	return t.out.finish(ctx, encoded)
}

// Precopy sends a round of a resynchronization's bulk while both guests run.
// It may be called any number of times before Final, with begins of the same
// epoch. After an error the attempt is aborted.
func (s *Sender) Precopy(ctx context.Context, begin *pb.CheckpointBegin) error {
	return s.precopy(ctx, begin, func() bool { return false })
}

func (s *Sender) precopy(ctx context.Context, begin *pb.CheckpointBegin, enough func() bool) error {
	begin, t := s.attempt(begin)
	begin.Precopy = true
	t.out.items = runningItems
	if err := s.round(ctx, t, begin, true, enough); err != nil {
		s.fail()
		return fmt.Errorf("precopy of epoch %d: %w", begin.Epoch, err)
	}
	return nil
}

const (
	// aheadRounds bounds the rounds of Ahead.
	aheadRounds = 3
	// aheadLittle is the number of pages and blocks that are not worth another.
	aheadLittle = 64
)

// Ahead sends rounds of Precopy until one has little to send, or not much less
// than the one before, or until soon after enough is closed, and returns the
// number of pages and blocks sent. Final with the same epoch follows. After an
// error the attempt is aborted.
func (s *Sender) Ahead(ctx context.Context, begin *pb.CheckpointBegin, enough <-chan struct{}) (sent uint64, err error) {
	_, t := s.attempt(begin)
	isEnough := func() bool {
		select {
		case <-enough:
			return true
		default:
			// A receiver stages all that its guest has twice at most, and Final's share may
			// be all.
			return t.out.total() >= s.sp[pages].n+s.sp[blocks].n
		}
	}
	before := ^uint64(0)
	for range aheadRounds {
		if err := s.precopy(ctx, begin, isEnough); err != nil {
			return sent, err
		}
		now := t.out.total() - sent
		sent += now
		if now <= aheadLittle || now > before/4*3 || isEnough() {
			break
		}
		before = now
	}
	return sent, nil
}

// Live sends the first copy while the guest runs, until what it has written
// meanwhile fits PauseTarget, or rounds stop getting shorter, or MaxRounds.
// Final with the same epoch follows. After an error the attempt is aborted.
func (s *Sender) Live(ctx context.Context, begin *pb.CheckpointBegin) error {
	s.Abort()
	s.since.fill(&s.sp)
	begin, t := s.attempt(begin)
	begin.Live, t.live = true, true
	t.out.items = runningItems
	if err := s.live(ctx, t, begin); err != nil {
		s.fail()
		return fmt.Errorf("first copy: %w", err)
	}
	return nil
}

func (s *Sender) live(ctx context.Context, t *attempt, begin *pb.CheckpointBegin) error {
	start := s.cfg.Now()
	if err := s.round(ctx, t, begin, true, nil); err != nil {
		return err
	}
	before, longer := ^uint64(0), 0
	for n := 1; ; n++ {
		if err := s.drain(); err != nil {
			return err
		}
		t.todo.add(&s.cut)
		left := uint64(t.todo[pages].Count()+t.todo[blocks].Count()) * BlockSize
		took := s.cfg.Now().Sub(start)
		rate := float64(t.out.bytes) / max(took.Seconds(), 1e-6) // bytes/s
		if left > before/4*3 {
			longer++
		}
		if float64(left) <= rate*s.cfg.PauseTarget.Seconds() || n == s.cfg.MaxRounds || longer == 3 {
			return nil
		}
		before = left
		if err := s.pass(ctx, t, &round{out: t.out}); err != nil {
			return err
		}
	}
}

// attempt returns the attempt that b goes on with, or a new one, and the begin
// to send.
func (s *Sender) attempt(b *pb.CheckpointBegin) (*pb.CheckpointBegin, *attempt) {
	begin := &pb.CheckpointBegin{Epoch: b.Epoch, Reason: b.Reason, ThroughInput: b.ThroughInput}
	if t := s.try; t != nil && !t.committed && t.out.epoch == b.Epoch {
		begin.Nonce = t.nonce
		return begin, t
	}
	s.Abort()
	for begin.Nonce == 0 {
		begin.Nonce = s.cfg.Nonce()
	}
	s.try = &attempt{
		nonce: begin.Nonce,
		crew:  newCrew(begin.Nonce),
		todo:  newSets(&s.sp),
		left:  newSets(&s.sp),
		out: &outbox{
			send: s.send, compress: s.cfg.Compress, epoch: begin.Epoch,
			pool: s.pool, log: newTranscript(begin.Nonce),
		},
	}
	s.try.todo.add(&s.since)
	return begin, s.try
}

// fail aborts an attempt whose chunks may still be under way.
func (s *Sender) fail() {
	s.Abort()
	s.pool = newPool()
}

// round sends begin, cuts, and sends what the standby lacks of the cut, until
// enough, where not nil, says that the rest may wait for the next round.
func (s *Sender) round(ctx context.Context, t *attempt, begin *pb.CheckpointBegin, answered bool, enough func() bool) error {
	r := &round{out: t.out, crew: t.crew, ahead: &s.ahead, omitZero: begin.Live, enough: enough, left: &t.left}
	if answered {
		r.in = newInbox(begin.Epoch, begin.Nonce, &s.sp)
		s.expect(r.in)
		defer s.expect(nil)
	}
	if err := t.out.begin(ctx, begin); err != nil {
		return err
	}
	if err := s.drain(); err != nil {
		return err
	}
	t.todo.add(&s.cut)
	return s.pass(ctx, t, r)
}

// pass sends what the attempt has to do, as r says.
func (s *Sender) pass(ctx context.Context, t *attempt, r *round) error {
	if r.in != nil {
		stop := s.computeAhead(t, r.omitZero)
		defer stop()
	}
	for k := range kinds {
		if err := r.run(ctx, &s.sp[k], t.todo[k]); err != nil {
			return err
		}
		t.compared[k] += r.compared[k]
	}
	if err := t.out.flush(ctx); err != nil {
		return err
	}
	t.todo.clear()
	t.todo.add(&t.left)
	t.left.clear()
	return nil
}

// computeAhead starts to digest what the attempt has to do, and returns what
// ends that. For a first copy it does nothing: the answer lists little or all.
func (s *Sender) computeAhead(t *attempt, firstCopy bool) (end func()) {
	for k := range kinds {
		if firstCopy {
			s.ahead[k].reset(nil)
		} else {
			s.ahead[k].reset(t.todo[k])
		}
	}
	var wg sync.WaitGroup
	c := newCrew(t.nonce)
	wg.Go(func() {
		for k := range kinds {
			// An item that cannot be read fails the attempt where it is needed.
			_ = s.ahead[k].compute(c, &s.sp[k])
		}
	})
	return func() {
		for k := range kinds {
			s.ahead[k].stop.Store(true)
		}
		wg.Wait()
	}
}

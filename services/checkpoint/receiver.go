package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// ReceiverConfig tunes a Receiver. Zero fields take the defaults.
type ReceiverConfig struct {
	// MemoryZero says that the guest's memory was never written.
	MemoryZero bool
	// DiskZero says that the guest's disk reads as zeros.
	DiskZero bool
	// SpillBytes is the size of staged pages and blocks above which further
	// ones go to a file, and the messages that brought them are freed. Default
	// 256 MiB.
	SpillBytes int64
	// SpillDir is where that file is made, without a name. Default os.TempDir.
	SpillDir string
	// MaxStateBytes bounds the encoded state. Default 64 MiB.
	MaxStateBytes int64
}

func (c *ReceiverConfig) setDefaults() {
	if c.SpillBytes <= 0 {
		c.SpillBytes = 256 << 20
	}
	if c.MaxStateBytes <= 0 {
		c.MaxStateBytes = 64 << 20
	}
}

// Receiver is the standby's side of checkpoints. Its methods, and those of its
// Stage, are called by one goroutine at a time.
type Receiver struct {
	guest Guest
	cfg   ReceiverConfig
	sp    [kinds]space
	// zero tells which spaces are known to be all zero.
	zero [kinds]bool
	// since holds what may differ from the last common epoch. Only Apply
	// removes from it.
	since  sets
	try    *transfer
	staged *Stage
}

// transfer is an attempt of the active's, as the standby sees it.
type transfer struct {
	term  uint64
	begin *pb.CheckpointBegin
	crew  *crew
	log   *transcript
	live  bool // began as a first copy
	store *store
	have  sets // what store holds
	count [kinds]uint64
	// kind and next say what may follow: numbers ascend from begin to begin.
	kind  kind
	next  [kinds]uint64
	state []byte
	// stating is set once the state began: no page or block may follow.
	stating bool
}

// NewReceiver returns a receiver for a guest that shared no epoch with anyone
// yet.
func NewReceiver(g Guest, cfg ReceiverConfig) *Receiver {
	cfg.setDefaults()
	r := &Receiver{guest: g, cfg: cfg, sp: spaces(g)}
	r.zero = [kinds]bool{pages: cfg.MemoryZero, blocks: cfg.DiskZero}
	r.since = newSets(&r.sp)
	r.since.fill(&r.sp)
	return r
}

// Handle takes the next message of a checkpoint: begin, pages, blocks, state
// or commit. It owns m from then on, and calls free once, when it is done with
// the data of pages and blocks: at the latest when the stage is applied or the
// transfer dropped.
//
// Before it gets a begin with neither Live nor Precopy, the guest must be
// paused, and stay so until the stage is applied or dropped; before a Live one
// the guest must never have run. The answer to a begin goes to reply, which
// may block as long as the caller allows.
//
// After an error the transfer is dropped and the guest is as it was before,
// except that a live copy leaves it in no usable state. A checkpoint may then
// begin again, whatever was left out.
func (r *Receiver) Handle(ctx context.Context, m *pb.FromActive, free func(), reply func(*pb.FromStandby) error) error {
	kept, err := r.handle(ctx, m, free, reply)
	if !kept {
		free()
	}
	if err != nil {
		r.Drop()
		return fmt.Errorf("receive checkpoint: %w", err)
	}
	return nil
}

// handle tells whether free is now the stage's to call.
func (r *Receiver) handle(ctx context.Context, m *pb.FromActive, free func(), reply func(*pb.FromStandby) error) (kept bool, err error) {
	if r.staged != nil {
		return false, violation("a checkpoint is staged and not yet applied")
	}
	if b, ok := m.Body.(*pb.FromActive_CheckpointBegin); ok {
		if b.CheckpointBegin == nil {
			return false, violation("empty begin")
		}
		return false, r.begin(ctx, m.Term, b.CheckpointBegin, reply)
	}
	t := r.try
	if t == nil {
		return false, violation("%T without a begin", m.Body)
	}
	if m.Term != t.term {
		return false, violation("term %d in a checkpoint of term %d", m.Term, t.term)
	}
	switch b := m.Body.(type) {
	case *pb.FromActive_Pages:
		p := b.Pages
		return r.items(t, pages, p.GetEpoch(), p.GetNumbers(), p.GetZero(), p.GetData(), p.GetCompressed(), free)
	case *pb.FromActive_Blocks:
		p := b.Blocks
		return r.items(t, blocks, p.GetEpoch(), p.GetNumbers(), p.GetZero(), p.GetData(), p.GetCompressed(), free)
	case *pb.FromActive_State:
		return false, r.state(t, b.State)
	case *pb.FromActive_Commit:
		return false, r.commit(t, b.Commit)
	}
	return false, violation("%T is no part of a checkpoint", m.Body)
}

// Staged returns the stage after the commit was handled without error, until
// it is applied or dropped.
func (r *Receiver) Staged() (*Stage, bool) { return r.staged, r.staged != nil }

// Drop gives up a transfer that is not staged. What the guest wrote since the
// last common epoch stays recorded.
func (r *Receiver) Drop() {
	if r.try != nil && r.staged == nil {
		r.try.store.close()
	}
	r.try = nil
}

func (r *Receiver) begin(ctx context.Context, term uint64, b *pb.CheckpointBegin, reply func(*pb.FromStandby) error) error {
	if b.Nonce == 0 || (b.Live && b.Precopy) {
		return violation("begin with nonce %d, live %t, precopy %t", b.Nonce, b.Live, b.Precopy)
	}
	cut := newSets(&r.sp)
	err := cut.drain(r.guest, &r.sp)
	r.since.add(&cut) // also of a drain that failed half-way
	if err != nil {
		return fmt.Errorf("drain dirty pages: %w", err)
	}
	t := r.try
	switch {
	case t == nil || t.begin.Nonce != b.Nonce:
		r.Drop()
		if t, err = r.newTransfer(term, b); err != nil {
			return err
		}
		r.try = t
		cut = r.since
	case t.term != term || t.begin.Epoch != b.Epoch || b.Live || !(t.begin.Live || t.begin.Precopy) || (t.live && b.Precopy):
		return violation("begin does not go on with the one before")
	default:
		cut.remove(&t.have)
	}
	t.begin = b
	t.kind, t.next = pages, [kinds]uint64{}
	t.log.begin(b)
	if t.live && !b.Live {
		return nil
	}
	return r.answer(ctx, t, cut, reply)
}

func (r *Receiver) newTransfer(term uint64, b *pb.CheckpointBegin) (*transfer, error) {
	t := &transfer{
		term: term, begin: b, live: b.Live,
		crew: newCrew(b.Nonce), log: newTranscript(b.Nonce),
		have:  newSets(&r.sp),
		store: newStore(r.cfg.SpillBytes, r.cfg.SpillDir, 2*(r.sp[pages].n+r.sp[blocks].n)),
	}
	if t.live {
		r.since.fill(&r.sp)
	}
	return t, nil
}

// answerItems bounds the numbers in one message of an answer, for 320 KiB.
const answerItems = 16384

// answer lists the items of cut with their digests: in a live copy without
// those that are zero.
func (r *Receiver) answer(ctx context.Context, t *transfer, cut sets, reply func(*pb.FromStandby) error) error {
	m := t.answer()
	numbers := make([]uint64, 0, answerItems)
	found := make([]digest, answerItems)
	skip := make([]bool, answerItems)
	flush := func(s *space) error {
		err := t.crew.run(len(numbers), func(w *worker, lo, hi int) error {
			for i := lo; i < hi; i++ {
				d, zero, err := w.digest(s, numbers[i])
				if err != nil {
					return fmt.Errorf("%s %d: %w", s.kind, numbers[i], err)
				}
				found[i], skip[i] = d, zero && t.begin.Live
			}
			return nil
		})
		if err != nil {
			return err
		}
		for i, n := range numbers {
			switch {
			case skip[i]:
			case s.kind == pages:
				m.Pages = append(m.Pages, n)
				m.PageDigests = appendDigest(m.PageDigests, found[i])
			default:
				m.Blocks = append(m.Blocks, n)
				m.BlockDigests = appendDigest(m.BlockDigests, found[i])
			}
		}
		numbers = numbers[:0]
		if len(m.Pages)+len(m.Blocks) < answerItems {
			return nil
		}
		full := m
		m = t.answer()
		return reply(&pb.FromStandby{Body: &pb.FromStandby_DirtyPages{DirtyPages: full}})
	}
	for k := range kinds {
		s := &r.sp[k]
		if t.begin.Live && r.zero[k] {
			continue
		}
		for n := range cut[k].All {
			if numbers = append(numbers, n); len(numbers) < answerItems {
				continue
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := flush(s); err != nil {
				return err
			}
		}
		if err := flush(s); err != nil {
			return err
		}
	}
	m.Last = true
	return reply(&pb.FromStandby{Body: &pb.FromStandby_DirtyPages{DirtyPages: m}})
}

func (t *transfer) answer() *pb.DirtyPages {
	return &pb.DirtyPages{Epoch: t.begin.Epoch, Nonce: t.begin.Nonce}
}

// Bounds of one message, above what a Sender makes.
const (
	maxItems   = 256
	maxNumbers = 16384
)

// items takes pages or blocks; see handle about what it returns.
func (r *Receiver) items(t *transfer, k kind, epoch uint64, numbers []uint64, zero []bool, data []byte, compressed bool, free func()) (kept bool, err error) {
	if epoch != t.begin.Epoch || t.stating {
		return false, violation("%ss of epoch %d in epoch %d, state begun: %t", k, epoch, t.begin.Epoch, t.stating)
	}
	if len(numbers) == 0 || len(numbers) > maxNumbers || (len(zero) != 0 && len(zero) != len(numbers)) {
		return false, violation("message with %d %ss and %d zero flags", len(numbers), k, len(zero))
	}
	filled := len(numbers)
	for _, z := range zero {
		if z {
			filled--
		}
	}
	if filled > maxItems {
		return false, violation("message with %d %ss of data", filled, k)
	}
	if err := t.order(&r.sp[k], numbers); err != nil {
		return false, err
	}
	t.log.items(k, numbers, zero, data, compressed)
	t.count[k] += uint64(len(numbers))
	if compressed {
		n, err := s2.DecodedLen(data)
		if err != nil || n != filled*BlockSize {
			return false, violation("compressed data of %d bytes for %d %ss (%v)", n, filled, k, err)
		}
		if data, err = s2.Decode(make([]byte, n), data); err != nil {
			return false, violation("decompress %ss: %v", k, err)
		}
	}
	if len(data) != filled*BlockSize {
		return false, violation("%d bytes for %d %ss", len(data), filled, k)
	}
	if t.begin.Live {
		r.zero[k] = false
		return false, writeItems(&r.sp[k], numbers, zero, data)
	}
	for _, n := range numbers {
		t.have[k].Set(n)
	}
	p := part{kind: k, numbers: numbers, zero: zero, data: data, free: free}
	if compressed {
		p.free = nil // what is kept is no part of the message
	}
	kept, err = t.store.put(p)
	return kept && !compressed, err
}

// order checks that numbers follow what came before. In a live copy, whose
// rounds repeat, they ascend only within a message.
func (t *transfer) order(s *space, numbers []uint64) error {
	var next uint64
	if !t.begin.Live {
		if s.kind < t.kind {
			return violation("pages after blocks")
		}
		t.kind, next = s.kind, t.next[s.kind]
	}
	next, err := ascending(s.kind, numbers, next, s.n)
	if err != nil {
		return err
	}
	t.next[s.kind] = next
	return nil
}

func (r *Receiver) state(t *transfer, m *pb.CheckpointState) error {
	have := len(t.state)
	switch {
	case m.GetEpoch() != t.begin.Epoch || t.begin.Live || t.begin.Precopy:
		return violation("state of epoch %d out of place", m.GetEpoch())
	case m.GetOffset() != uint64(have) || len(m.GetData()) == 0:
		return violation("%d bytes of state at %d, have %d", len(m.GetData()), m.GetOffset(), have)
	case int64(have)+int64(len(m.Data)) > r.cfg.MaxStateBytes:
		return violation("state of more than %d bytes", r.cfg.MaxStateBytes)
	}
	t.stating = true
	t.log.state(m.Offset, m.Data)
	t.state = append(t.state, m.Data...)
	return nil
}

func (r *Receiver) commit(t *transfer, m *pb.CheckpointCommit) error {
	switch {
	case m.GetEpoch() != t.begin.Epoch || t.begin.Live || t.begin.Precopy:
		return violation("commit of epoch %d out of place", m.GetEpoch())
	case m.GetPages() != t.count[pages] || m.GetBlocks() != t.count[blocks] || m.GetStateBytes() != uint64(len(t.state)):
		return violation("commit of %d pages, %d blocks, %d bytes of state; have %d, %d, %d",
			m.GetPages(), m.GetBlocks(), m.GetStateBytes(), t.count[pages], t.count[blocks], len(t.state))
	case !bytes.Equal(m.GetDigest(), t.log.sum()):
		return violation("commit with another digest")
	}
	r.staged = &Stage{r: r, t: t}
	return nil
}

// Stage is a whole checkpoint, checked, that the guest does not have yet.
type Stage struct {
	r *Receiver
	t *transfer
}

// Begin returns the last begin of the checkpoint.
func (s *Stage) Begin() *pb.CheckpointBegin { return s.t.begin }

// Epoch returns the epoch that the checkpoint begins.
func (s *Stage) Epoch() uint64 { return s.t.begin.Epoch }

// State returns the encoded Checkpoint.
func (s *Stage) State() []byte { return s.t.state }

// ChangesDisk tells whether the guest's disk is not what it was, durably, at
// the last common epoch: the guest wrote to it since, or the stage will. While
// that is being applied, the disk is neither the old copy nor the new one.
func (s *Stage) ChangesDisk() bool {
	if s.t.count[blocks] > 0 || s.t.live {
		return s.r.sp[blocks].n > 0
	}
	for range s.r.since[blocks].All {
		return true
	}
	return false
}

// Message returns the word to the active that the checkpoint is staged.
func (s *Stage) Message() *pb.Staged {
	return &pb.Staged{Epoch: s.t.begin.Epoch, Nonce: s.t.begin.Nonce}
}

// Apply writes the pages and blocks into the paused guest, makes its disk
// durable and leaves nothing dirty: the new epoch begins. An engine knows
// nothing of these writes: it must forget what it derived from memory, which
// it does when its state is loaded afterwards. After ErrTorn the copy must be
// discarded.
func (s *Stage) Apply() error {
	r := s.r
	if r.staged != s {
		return errors.New("apply: the stage is gone")
	}
	if err := s.apply(); err != nil {
		s.Drop()
		r.since.fill(&r.sp)
		r.zero = [kinds]bool{}
		return fmt.Errorf("apply checkpoint of epoch %d: %w: %w", s.Epoch(), ErrTorn, err)
	}
	s.Drop()
	r.since.clear()
	r.zero = [kinds]bool{}
	return nil
}

func (s *Stage) apply() error {
	sp := &s.r.sp
	// Blocks first: they can fail.
	for _, k := range [kinds]kind{blocks, pages} {
		if err := s.t.store.write(&sp[k]); err != nil {
			return err
		}
	}
	// Also where no block came: the active may have told the outside of writes
	// that this guest made, too, and did not flush yet.
	if s.ChangesDisk() {
		if err := sp[blocks].disk.Flush(); err != nil {
			return fmt.Errorf("flush disk: %w", err)
		}
	}
	gone := newSets(sp)
	if err := gone.drain(s.r.guest, sp); err != nil {
		return fmt.Errorf("drain dirty pages: %w", err)
	}
	return nil
}

// Drop leaves the guest as it is and frees the stage. Once the active was told
// that it is staged, the guest no longer is a copy of anything.
func (s *Stage) Drop() {
	if s.r.staged == s {
		s.r.staged, s.r.try = nil, nil
		s.t.store.close()
	}
}

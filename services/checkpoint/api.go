package checkpoint

import (
	"context"
	"errors"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

var errNotBuilt = errors.New("not built yet")

// Send hands a message to the feed. It may block for back-pressure, and must
// not after ctx is done. done, where not nil, is called exactly once, by any
// goroutine, when m's memory may be reused: sent, dropped or failed.
type Send func(ctx context.Context, m *pb.FromActive, done func()) error

// SenderConfig tunes a Sender. The zero value takes the defaults.
type SenderConfig struct {
	// Compress compresses pages and blocks where it pays. Leave it off on
	// links that are faster than about 500 MB/s.
	Compress bool
	// PauseTarget is the transfer time for which Live leaves pages to Final.
	// Default 30 ms.
	PauseTarget time.Duration
	// MaxRounds bounds Live's rounds. Default 16.
	MaxRounds int
}

// Sender is the active's side of checkpoints to one standby.
type Sender struct{}

// NewSender returns a sender which assumes that everything may differ.
func NewSender(g Guest, send Send, cfg SenderConfig) *Sender { return &Sender{} }

// Live is the first copy while the guest runs. The caller then pauses the
// guest and calls Final with the same epoch.
func (s *Sender) Live(ctx context.Context, begin *pb.CheckpointBegin) error { return errNotBuilt }

// Precopy is one round of a resynchronization's bulk while both guests run.
// Optional; the caller then calls Final with the same epoch.
func (s *Sender) Precopy(ctx context.Context, begin *pb.CheckpointBegin) error { return errNotBuilt }

// Final transfers the rest. The guest must be paused. state is called once,
// at the same time as pages are compared, for the encoded Checkpoint. begin
// needs Epoch, Reason and ThroughInput.
func (s *Sender) Final(ctx context.Context, begin *pb.CheckpointBegin, state func() ([]byte, error)) (*pb.SyncStats, error) {
	return nil, errNotBuilt
}

// Answer takes the standby's DirtyPages. Never blocks, any goroutine.
func (s *Sender) Answer(m *pb.DirtyPages) {}

// Staged takes the standby's word that it staged what Final sent: the new
// epoch is common. It returns an error for any other Staged.
func (s *Sender) Staged(m *pb.Staged) error { return errNotBuilt }

// Abort gives the attempt up. What was written since the last common epoch
// stays recorded.
func (s *Sender) Abort() {}

// Collect moves the guest's dirty bits into the sender's.
func (s *Sender) Collect() error { return errNotBuilt }

// Dirty returns how many pages and blocks were written since the last common
// epoch, as of the last Collect, Precopy or Final.
func (s *Sender) Dirty() (pages, blocks int) { return 0, 0 }

// ReceiverConfig tunes a Receiver. The zero value takes the defaults.
type ReceiverConfig struct {
	// MemoryZero: the guest's memory was never written.
	MemoryZero bool
	// DiskZero: the guest's disk reads as zeros (FeedWelcome.disk_empty).
	DiskZero bool
	// SpillBytes is the size above which a stage goes to a file. Default 256 MiB.
	SpillBytes int64
	// SpillDir is where; default os.TempDir().
	SpillDir string
	// MaxStateBytes bounds the encoded state. Default 64 MiB.
	MaxStateBytes int64
}

// Receiver is the standby's side of checkpoints.
type Receiver struct{}

// NewReceiver returns a receiver for a guest which never shared an epoch.
func NewReceiver(g Guest, cfg ReceiverConfig) *Receiver { return &Receiver{} }

// Handle takes the next CheckpointBegin, Pages, Blocks, State or Commit and
// owns it. The guest must be paused from a begin with neither Live nor Precopy
// on, until Apply or Drop. The answer to a begin goes to reply, which may
// block. After an error the stage is dropped and the guest is as before
// (except in a live copy).
func (r *Receiver) Handle(ctx context.Context, m *pb.FromActive, reply func(*pb.FromStandby) error) error {
	return errNotBuilt
}

// Staged returns the stage once the commit was handled without error, until
// it is applied or dropped.
func (r *Receiver) Staged() (*Stage, bool) { return nil, false }

// Drop gives up an unfinished transfer.
func (r *Receiver) Drop() {}

// Stage is a whole checked checkpoint.
type Stage struct{}

// Epoch returns the epoch that the stage begins.
func (s *Stage) Epoch() uint64 { return 0 }

// Message returns the Staged message to send.
func (s *Stage) Message() *pb.Staged { return nil }

// Begin returns the begin of the checkpoint.
func (s *Stage) Begin() *pb.CheckpointBegin { return nil }

// State returns the encoded Checkpoint.
func (s *Stage) State() []byte { return nil }

// Apply writes pages and blocks into the paused guest, flushes its disk and
// leaves no page or block dirty. After an error the copy is unusable. An
// engine must forget whatever it derived from memory (Load does).
func (s *Stage) Apply() error { return errNotBuilt }

// Drop leaves the guest as it was.
func (s *Stage) Drop() {}

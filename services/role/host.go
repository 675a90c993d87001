package role

import (
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/packet"
)

// Host is what a Core acts upon. No method blocks or calls the Core back.
type Host interface {
	// ToArbiter, ToStandby and ToActive queue a message on the respective
	// stream, in order; a message for a stream that is down is dropped.
	ToArbiter(*pb.FromReplica)
	ToStandby(*pb.FromActive)
	ToActive(*pb.FromStandby)

	// Emit sends a frame to the outside and owns it from now on. leased says
	// that only the replica's own lease allows it: check it again.
	Emit(frame []byte, leased bool)
	// Room is how many frames the guest would take; where none, the owner calls
	// Flush when there is some. Deliver gives it frames at once, which are copied,
	// and returns how many it took.
	Room() int
	Deliver(frames [][]byte) int
	// Idle is how long the guest has been idle, 0 while it is not.
	Idle() time.Duration

	// Boot builds the machine of a candidate and lets it run.
	Boot()
	// Pause stops the guest; the caller answers by Core.Paused. Resume lets it
	// go on.
	Pause()
	Resume()

	// DialFeed connects to the standby; answered by FeedUp or FeedDown.
	DialFeed(standby *pb.ReplicaRef)
	// CloseFeed ends the feed in either direction. Nothing of it reaches the
	// Core afterwards.
	CloseFeed()
	// CopyLive copies memory and disk while the guest runs; answered by
	// CopyConverged or SyncFailed.
	CopyLive()
	// CopyAhead copies what may differ while both guests run; answered by
	// CopyConverged or SyncFailed. A SendCheckpoint of the same epoch ends it, and
	// goes on from where it was.
	CopyAhead(epoch uint64, reason pb.Reason)
	// SendCheckpoint sends a CheckpointBegin, what may differ, and the state of
	// the paused machine; answered by Checkpointed or SyncFailed. Messages given
	// to ToStandby before it are sent before the CheckpointBegin, later ones
	// after it.
	SendCheckpoint(ck *Checkpoint)
	// AbortSync gives up a copy or a checkpoint that is being sent. What was
	// written since the last common epoch must stay known.
	AbortSync()

	// AnswerDirty lets the checkpoint's receiver begin: it sends what the paused
	// standby wrote in this epoch. Answered by StageReady or SyncFailed.
	AnswerDirty(epoch uint64)
	// ApplyStage puts the checkpoint that StageReady told into the paused machine; answered
	// by Applied. DropStage forgets it or what there is of it.
	ApplyStage(ck *pb.Checkpoint)
	DropStage()

	// Mute says whether the uplink may send. GoLive follows a take-over: it
	// announces the guest's addresses and returns the frames that the muted
	// uplink heard lately, oldest first.
	Mute(bool)
	GoLive(guest []packet.Announcement) (heard [][]byte)

	// ReadRecord asks for what etcd holds about the VM; answered by exactly one
	// Core.RecordRead. Claim asks for a transaction of the replica's own; answered
	// by exactly one Core.Claimed.
	ReadRecord()
	Claim(Claim)

	// Reattach ends the stream to the arbiter; the owner connects anew with
	// Core.Hello.
	Reattach()
	// Discard throws the copy away; the owner starts over as a spare.
	Discard(why string)
	// Exit ends the process: in order where err is nil.
	Exit(err error)
	// Report tells people what happened.
	Report(Event)
}

// Checkpoint is the small part of a checkpoint, which the Core knows.
type Checkpoint struct {
	Epoch  uint64
	Reason pb.Reason
	// First says that the standby has no copy yet.
	First bool
	// ThroughInput is the number of the last input that is part of it.
	ThroughInput uint64
	// Flows is the saved flow table.
	Flows []byte
	// Held are the outputs that the active has not emitted.
	Held []*pb.HeldOutput
}

// Event is something that an operator wants to know.
type Event struct {
	What   string
	Term   uint64
	Epoch  uint64
	Mode   pb.Mode
	Reason pb.Reason
	Detail string
	Stats  *pb.SyncStats
	// Took is set where the event ended something that lasted.
	Took time.Duration
}

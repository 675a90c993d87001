package session

import (
	"errors"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
)

// Conn names one Attach stream for as long as the owner of the Core lives. The
// caller gives every stream another number: a replica that attaches again has
// a new one, so that the late end of its old stream cannot be taken for the
// end of its new one.
type Conn uint64

// Token names a request of an operator; it comes back in a Reply.
type Token uint64

// Config is what a Core needs to know. Durations that are zero take the
// defaults that are named at each field.
type Config struct {
	// VM is the identity of the VM. Replicas of other VMs are refused.
	VM string
	// Speaks are the versions of the protocol that this arbiter knows
	// (protocol.Spoken).
	Speaks protocol.Range
	// Policy holds what an operator has not set for the VM; its zero fields take
	// DefaultPolicy's.
	Policy *pb.Policy
	// Heartbeat is the interval at which each replica hears from the arbiter
	// (50 ms).
	Heartbeat time.Duration
	// Grace is how much longer than the heartbeat time-out a new owner waits
	// for the replicas that the record names (1 s).
	Grace time.Duration
	// FirstCopyMax bounds a first copy to a new standby as a whole (10 min). Its
	// steps have the policy's bound, which the replicas watch.
	FirstCopyMax time.Duration
	// SpareBackoff is how long a spare whose synchronization failed is not
	// tried again (3 s); it doubles with each failure in a row, up to 16 times.
	SpareBackoff time.Duration
	// CommitRetry is the pause before a Commit that could not be answered is
	// tried again (100 ms).
	CommitRetry time.Duration
	// GiveUpAfter is how long an owner that hears no replica keeps the VM
	// (3 s).
	GiveUpAfter time.Duration
}

// Input is one thing that happened. See Step.
type Input interface{ isInput() }

type (
	// Owned says that this arbiter owns the VM from now on, and what etcd held:
	// Record is nil where there was none, and then Revision is 0.
	Owned struct {
		Record   *pb.Record
		Revision int64
	}
	// Disowned says that this arbiter does not own the VM any more, or cannot
	// prove it. Every stream is closed; nothing is released from here on.
	Disowned struct{}

	// Attached is the Hello of a new stream, with the term of the FromReplica
	// that carried it. It may come before Owned.
	Attached struct {
		Conn  Conn
		Hello *pb.Hello
		Term  uint64
	}
	// Detached says that a stream has ended. It is not needed after a Close of
	// the same Conn, and harmless then.
	Detached struct {
		Conn Conn
		Why  string
	}
	// Received is any later message of a stream.
	Received struct {
		Conn Conn
		Msg  *pb.FromReplica
	}

	// Committed answers a Commit whose transaction succeeded; Revision is that
	// of the new record.
	Committed struct {
		Revision int64
	}
	// CommitFailed answers a Commit whose transaction did not succeed.
	CommitFailed struct {
		Cause CommitCause
		// ReplicaID is whose key did not meet its condition, where the caller
		// knows it; for Condition.
		ReplicaID string
		// Record and Revision are what etcd holds now, for Conflict and
		// Condition; Record is nil where etcd holds none.
		Record   *pb.Record
		Revision int64
	}

	// FailOver is an operator's order to make the standby active. By, here and
	// below, names the operator in events; it may be empty.
	FailOver struct {
		Token Token
		By    string
	}
	// SwitchOver is the order to make the standby active after a
	// resynchronization, and the old active its standby. It is answered when the
	// standby has become active.
	SwitchOver struct {
		Token Token
		By    string
	}
	// TestFailOver is the order to fail over, wait for protection and switch
	// back. It is answered when that is done, with a TestResult.
	TestFailOver struct {
		Token Token
		By    string
	}
	// ResyncNow is an operator's order to begin a new epoch.
	ResyncNow struct {
		Token Token
		By    string
	}
	// Drop is an operator's order to drop a standby or a spare.
	Drop struct {
		Token     Token
		ReplicaID string
		By        string
	}
	// Drain is the order not to use a replica as the standby until Undrain or
	// the end of its process. An active is switched over from.
	Drain struct {
		Token     Token
		ReplicaID string
		By        string
	}
	// Undrain takes Drain back.
	Undrain struct {
		Token     Token
		ReplicaID string
		By        string
	}
	// Suspend is the order to do without a standby until Resume.
	Suspend struct {
		Token Token
		By    string
	}
	// Resume takes Suspend back.
	Resume struct {
		Token Token
		By    string
	}
	// SetPolicy is the order to set Fields of the VM's policy to what they are
	// in Policy. It is answered when both copies are in an epoch with it, or when
	// it is stored, for the epoch that comes next.
	SetPolicy struct {
		Token  Token
		By     string
		Policy *pb.Policy
		Fields []string
	}

	// Tick lets time pass. See Core.Due.
	Tick struct{}
)

func (Owned) isInput()        {}
func (Disowned) isInput()     {}
func (Attached) isInput()     {}
func (Detached) isInput()     {}
func (Received) isInput()     {}
func (Committed) isInput()    {}
func (CommitFailed) isInput() {}
func (FailOver) isInput()     {}
func (SwitchOver) isInput()   {}
func (TestFailOver) isInput() {}
func (ResyncNow) isInput()    {}
func (Drop) isInput()         {}
func (Drain) isInput()        {}
func (Undrain) isInput()      {}
func (Suspend) isInput()      {}
func (Resume) isInput()       {}
func (SetPolicy) isInput()    {}
func (Tick) isInput()         {}

// CommitCause says why a Commit failed.
type CommitCause int

// Causes of a failed Commit.
const (
	// Conflict: the record's revision was not the expected one.
	Conflict CommitCause = iota + 1
	// Condition: the revision was as expected, but a lease key was missing, or
	// there where it had to be gone.
	Condition
	// Unavailable: no answer; the transaction may or may not have happened.
	Unavailable
)

func (c CommitCause) String() string {
	switch c {
	case Conflict:
		return "conflict"
	case Condition:
		return "condition"
	case Unavailable:
		return "unavailable"
	}
	return "unknown"
}

// Effect is one thing to do. Effects are done in their order.
type Effect interface{ isEffect() }

type (
	// Send queues a message on a stream. The message is the caller's from now
	// on. A stream whose queue is full is a lost one: end it and tell Detached.
	Send struct {
		Conn Conn
		Msg  *pb.ToReplica
	}
	// Close ends a stream, after sending the refusal where there is one. The
	// Core has already forgotten the Conn.
	Close struct {
		Conn    Conn
		Refusal *pb.Refusal
	}
	// Commit asks for one etcd transaction: if the record's modification
	// revision is Expected (0: there is no record) and all Conditions hold, put
	// Record. It is answered by exactly one Committed or CommitFailed, with a
	// deadline of about a heartbeat time-out; until then there is no other.
	Commit struct {
		Record     *pb.Record
		Expected   int64
		Conditions []LeaseKey
	}
	// Report is an event for people. Its sequence number is the caller's to
	// set.
	Report struct{ Event *pb.Event }
	// Reply answers an operator's order once its outcome is known; Err is nil
	// where it was carried out. Test is set for a TestFailOver that was.
	Reply struct {
		Token Token
		Err   error
		Test  *TestResult
	}
	// GiveUp says that this arbiter has not heard any replica of the VM for
	// long: end the ownership, so that another arbiter may take it, and tell
	// Disowned.
	GiveUp struct{}
)

func (Send) isEffect()   {}
func (Close) isEffect()  {}
func (Commit) isEffect() {}
func (Report) isEffect() {}
func (Reply) isEffect()  {}
func (GiveUp) isEffect() {}

// LeaseKey is a condition on the key that a replica keeps under its own lease.
type LeaseKey struct {
	ReplicaID string
	// LeaseID is the lease that the key must be bound to. Not used with Absent.
	LeaseID int64
	// Absent is true where the key must not exist at all.
	Absent bool
}

// Errors of Reply.
var (
	ErrNotOwned       = errors.New("this arbiter does not own the VM")
	ErrNotProtected   = errors.New("the VM is not protected")
	ErrBusy           = errors.New("another change of the VM is under way")
	ErrUnknownReplica = errors.New("no such replica is attached")
	ErrIsActive       = errors.New("the active replica cannot be dropped: fail over first")
	ErrOvertaken      = errors.New("the order was overtaken by another change of the VM")
	ErrNeverStarted   = errors.New("the VM has never been started")
	ErrTooMany        = errors.New("too many replicas are drained: undrain those that are gone")
	ErrNoRest         = errors.New("the copies did not come to rest in time; nothing was changed")
)

// Counters of one Core, beyond those in VMStatus.
type Counters struct {
	// Stale counts messages and outputs that were ignored: of another term or
	// epoch, told before, or of a replica whose part they do not fit.
	Stale uint64
	// Refused counts streams that were closed with a refusal.
	Refused uint64
	// CommitFailures counts Commits that failed, by whatever cause.
	CommitFailures uint64
}

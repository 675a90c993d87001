package role

import (
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/flow"
	"github.com/understudy-ft/understudy/services/protocol"
)

// Protocol is the lowest version of the protocol that this build speaks.
var Protocol = protocol.Spoken().Min

// heartbeatEvery is the interval of a replica's heartbeats.
const heartbeatEvery = 50 * time.Millisecond

// defaultSyncTimeout bounds each step of a synchronization until an assignment
// brings the policy.
const defaultSyncTimeout = 10 * time.Second

// Config is what a Core is made with.
type Config struct {
	VM      string
	Self    *pb.ReplicaRef
	Version string
	// Process names the process for all of its lives.
	Process string
	// Candidate says that this replica holds a bootable guest and asks to
	// become active; otherwise it is a spare.
	Candidate bool
	// Disk is the replica's writable disk image as it is before the guest has
	// used it; nil for none. CanBoot says that a spare is able to boot from it.
	Disk    *pb.Disk
	CanBoot bool
	// Unfit says why this replica cannot take a copy of the guest, which it has
	// tried; empty: nothing is known against it.
	Unfit string
	// FlowSeed keys the flow identities of a guest that boots here.
	FlowSeed uint64
	// SoloAfter is how long no arbiter that owns the VM was heard until a copy
	// that could serve takes the VM by a transaction of its own; 0: never.
	SoloAfter time.Duration
}

// phase is where a synchronization stands at this replica.
type phase int

const (
	idle phase = iota
	// Active: waiting for the feed to open.
	dialing
	// Active: copying while the guest runs. Standby: receiving the first copy.
	copying
	// Active: copied ahead, waiting for a good moment to pause.
	resting
	// Active and standby: the guest is being paused for a checkpoint.
	pausing
	// Active: the checkpoint is on its way. Standby: it is being received.
	transferring
	// Active, first copy: staged, waiting for the record to say PROTECTED.
	// Standby: the stage is being applied.
	settling
)

func (p phase) String() string {
	return [...]string{"idle", "dialing", "copying", "resting", "pausing", "transferring", "settling"}[p]
}

// synchronization is one that is under way.
type synchronization struct {
	phase    phase
	epoch    uint64
	reason   pb.Reason
	first    bool
	began    time.Duration // of the pause
	deadline time.Duration
	// pauseBy is when the guest is paused at the latest, oldest the oldest output
	// that was held at the last look: while approaching.
	pauseBy time.Duration
	oldest  uint64
	stats   *pb.SyncStats
	// next is an order that came before this one's end was heard of.
	next *pb.Resync
}

// Core is the state of one replica. See the package documentation for the
// caller's duties.
type Core struct {
	cfg  Config
	host Host

	role pb.Role
	mode pb.Mode
	term uint64
	// feedTerm is the term of the feed's handshake (standby).
	feedTerm uint64
	epoch    uint64
	// epochBegan is when the present epoch began (active).
	epochBegan time.Duration
	peer       *pb.ReplicaRef

	syncTimeout time.Duration
	arbiterUp   bool
	// confirmed: the arbiter that is up has said that the term is in force.
	confirmed  bool
	feedUp     bool
	feedSpeaks uint32 // the version that the last feed carried
	// feeding says that inputs go to the standby, too: since the pause of the
	// last checkpoint (active).
	feeding bool
	// holding says that outputs wait for the record to say which mode came of a
	// first copy: since its pause (active).
	holding bool
	// paused says that the guest is to stay paused.
	paused bool
	// takeover is an assignment that waits for a stage to be applied.
	takeover *pb.Assignment
	// ended: nothing happens any more.
	ended bool

	leaseID    int64
	leaseUntil time.Duration
	// actsUnder is the lease that the present term's assignment was made under.
	// A replica alone whose lease is another does not speak: its old one may
	// have run out, and others may have been told to.
	actsUnder int64

	sync  synchronization
	flows *flow.Table
	out   held
	// marks say what has left in this epoch: kept by the active, told to the
	// standby.
	marks flow.Marks
	in    *inbox
	// next collects the inputs of the epoch whose checkpoint is being received
	// (standby); nil otherwise.
	next  *inbox
	heard recent

	// stage is the checkpoint being applied, late what the feed brought for its
	// epoch meanwhile, in lateBytes (standby).
	stage     *pb.Checkpoint
	late      []*pb.FromActive
	lateBytes int
	left      []flow.EmittedMark // reused by confirm

	// ownerHeard is when an arbiter that owns the VM was last heard. While none is,
	// a look at the record may be under way (asking), or a change of it (claim).
	ownerHeard, askAt time.Duration
	asking            bool
	claim             *Claim

	events        uint64 // guest events in this epoch
	bypassed      uint64 // outputs that left past the arbiter
	lastHeartbeat time.Duration
	pace          pace
	gather        gather
}

// New returns the Core of a replica that plays no part yet.
func New(cfg Config, host Host) *Core {
	c := &Core{cfg: cfg, host: host, role: pb.Role_ROLE_SPARE, syncTimeout: defaultSyncTimeout,
		flows: flow.NewTable(cfg.FlowSeed), in: &inbox{}}
	if cfg.Candidate {
		c.role = pb.Role_ROLE_CANDIDATE
	}
	return c
}

// Role, Mode, Term and Epoch tell what part the replica plays.
func (c *Core) Role() pb.Role { return c.role }

// Mode is the mode of the current term.
func (c *Core) Mode() pb.Mode { return c.mode }

// Term is the current term; 0 before the first assignment.
func (c *Core) Term() uint64 { return c.term }

// Epoch is the epoch that this copy is in; 0 without a common one.
func (c *Core) Epoch() uint64 { return c.epoch }

// UseDisk says which image the guest's disk is, from here on; nil for none.
func (c *Core) UseDisk(d *pb.Disk) { c.cfg.Disk = d }

// UseUnfit says why this replica cannot take a copy of the guest, or that it
// can. A spare tells it anew.
func (c *Core) UseUnfit(why string) {
	if why == c.cfg.Unfit {
		return
	}
	c.cfg.Unfit = why
	if c.role == pb.Role_ROLE_SPARE && c.sync.phase == idle {
		c.host.Reattach()
	}
}

// Hello returns the first message of a stream to the arbiter.
func (c *Core) Hello() *pb.FromReplica {
	return &pb.FromReplica{Term: c.term, Body: &pb.FromReplica_Hello{Hello: &pb.Hello{
		Protocol: Protocol, ProtocolMax: protocol.Spoken().Max, Vm: c.cfg.VM, Replica: c.cfg.Self, Role: c.helloRole(), Mode: c.mode,
		Epoch: c.epoch, LeaseId: c.leaseID, Version: c.cfg.Version, Process: c.cfg.Process,
		Disk: c.cfg.Disk, CanBoot: c.cfg.CanBoot && c.role == pb.Role_ROLE_SPARE, Unfit: c.cfg.Unfit,
	}}}
}

// helloRole is the part that the replica can play: a standby without a whole
// copy is no more than a spare.
func (c *Core) helloRole() pb.Role {
	if c.role == pb.Role_ROLE_STANDBY && c.epoch == 0 {
		return pb.Role_ROLE_SPARE
	}
	return c.role
}

// ArbiterUp says that the stream to the arbiter is open and Hello was sent.
func (c *Core) ArbiterUp(now time.Duration) {
	c.arbiterUp, c.confirmed = true, false
	c.lastHeartbeat = now
	if c.role == pb.Role_ROLE_SPARE {
		c.event("waiting for the VM to need a standby", pb.Reason_REASON_UNSPECIFIED, "")
	}
}

// ArbiterDown says that the stream to the arbiter has ended. A PROTECTED
// replica holds its outputs; a SOLO one goes on under its lease.
func (c *Core) ArbiterDown(time.Duration) { c.arbiterUp, c.confirmed = false, false }

// Lease says until when the replica's lease is provably valid; a new lease has
// another ID, and 0 is none. An active alone whose lease is a new one attaches
// anew, so that the arbiter confirms its part under it.
func (c *Core) Lease(now time.Duration, id int64, until time.Duration) {
	changed := id != 0 && id != c.leaseID && id != c.actsUnder
	c.leaseID, c.leaseUntil = id, until
	if changed && c.role == pb.Role_ROLE_ACTIVE && c.mode != pb.Mode_MODE_PROTECTED && c.arbiterUp {
		c.host.Reattach()
	}
	c.emitSolo(now)
}

// Tick lets time pass. Due every 10 ms.
func (c *Core) Tick(now time.Duration) {
	if c.ended {
		return
	}
	if now-c.lastHeartbeat >= heartbeatEvery && c.arbiterUp {
		c.lastHeartbeat = now
		var idleFor time.Duration
		if c.in.waiting() == 0 && !c.paused {
			idleFor = c.host.Idle()
		}
		c.toArbiter(&pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{
			Epoch: c.epoch, DeliveredInput: c.in.delivered, IdleUs: uint64(idleFor.Microseconds()),
			Held: uint32(c.out.len()), FeedLag: uint32(c.in.waiting()), LeaseId: c.leaseID,
			Bypassed: c.bypassed, FeedProtocol: c.spokenOnFeed(),
		}})
	}
	c.emitSolo(now)
	c.helpSelf(now)
	c.hasten(now)
	if d := c.sync.deadline; d != 0 && now >= d {
		c.SyncFailed(now, pb.Reason_REASON_LAGGING,
			fmt.Errorf("%s took longer than %s", c.sync.phase, c.syncTimeout))
	}
}

// spokenOnFeed is the version of the protocol on the feed; 0: there is none.
func (c *Core) spokenOnFeed() uint32 {
	if !c.feedUp {
		return 0
	}
	return c.feedSpeaks
}

// NewestOutput is the number of the newest output of the epoch; 0: none.
func (c *Core) NewestOutput() uint64 { return c.out.last }

func (c *Core) pause() {
	c.paused = true
	c.host.Pause()
}

func (c *Core) resume() {
	if !c.paused {
		return
	}
	c.paused = false
	c.host.Resume()
}

func (c *Core) event(what string, reason pb.Reason, detail string) {
	c.host.Report(Event{What: what, Term: c.term, Epoch: c.epoch, Mode: c.mode, Reason: reason, Detail: detail})
}

// Shutdown says goodbye in order: the arbiter need not wait for a time-out.
func (c *Core) Shutdown(detail string) {
	c.toArbiter(&pb.FromReplica_Left{Left: &pb.Left{Detail: detail}})
}

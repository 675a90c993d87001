package role

import (
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// askEvery is the interval at which a replica that nobody leads looks whether
// it may help itself.
const askEvery = 500 * time.Millisecond

// Claim is a change of the VM's record that a replica asks for itself, as one
// etcd transaction: if nobody owns the VM, the record's revision still is
// Expected, the replica's own key is under the lease LeaseID, and the replica
// Gone, if named, holds no key, then put Record.
type Claim struct {
	Record   *pb.Record
	Expected int64
	LeaseID  int64
	Gone     string
}

// leads notes that the VM's owner was heard.
func (c *Core) leads(now time.Duration) { c.ownerHeard = now }

// helpSelf asks for the record where this copy could serve, and no arbiter that
// owns the VM has been heard for too long.
func (c *Core) helpSelf(now time.Duration) {
	if c.forsaken(now) && c.claim == nil && !c.asking && now >= c.askAt {
		c.asking, c.askAt = true, now+askEvery
		c.host.ReadRecord()
	}
}

// forsaken tells whether this copy waits for an owner of the VM in vain: it is
// the active, and only an arbiter's word lets its outputs leave; or a standby
// with a whole copy. Without a valid lease it could not speak in any case.
func (c *Core) forsaken(now time.Duration) bool {
	if c.cfg.SoloAfter <= 0 || c.ended || c.takeover != nil || now-c.ownerHeard < c.cfg.SoloAfter || now >= c.leaseUntil {
		return false
	}
	switch c.role {
	case pb.Role_ROLE_ACTIVE:
		return c.mode == pb.Mode_MODE_PROTECTED || c.holding || c.leaseID != c.actsUnder
	case pb.Role_ROLE_STANDBY:
		return c.whole()
	}
	return false
}

// whole tells whether a standby has a whole copy, if only a staged one.
func (c *Core) whole() bool { return c.epoch != 0 || c.sync.phase == settling }

// RecordRead answers Host.ReadRecord: what etcd held about the VM at some time
// after the call; nil where there is no record, or it could not be read.
func (c *Core) RecordRead(now time.Duration, r *pb.Record, revision int64) {
	c.asking = false
	if r.GetVm() != c.cfg.VM || r.GetTerm() < c.term || !c.forsaken(now) {
		return
	}
	self := c.cfg.Self.GetId()
	next := proto.CloneOf(r) // what an operator has set stays
	next.Term, next.Mode, next.Reason = r.GetTerm()+1, pb.Mode_MODE_SOLO, pb.Reason_REASON_NO_ARBITER
	next.Active, next.Standby, next.StandbyDisk = proto.CloneOf(c.cfg.Self), nil, ""
	gone := ""
	switch {
	case r.GetMode() == pb.Mode_MODE_ENDED, r.GetActive().GetId() != self && r.GetStandby().GetId() != self:
		c.assign(now, &pb.Assignment{Record: r, Revision: revision}) // nobody was there to tell it
		return
	case r.GetActive().GetId() == self:
	case r.GetMode() == pb.Mode_MODE_PROTECTED && c.role == pb.Role_ROLE_STANDBY:
		// Only once the active is gone: it has what this copy has, and the outside
		// knows where it is.
		next.ActiveDisk, next.StandbyDisk, gone = r.GetStandbyDisk(), r.GetActiveDisk(), r.GetActive().GetId()
	default:
		return
	}
	c.claim = &Claim{Record: next, Expected: revision, LeaseID: c.leaseID, Gone: gone}
	c.host.Claim(*c.claim)
}

// Claimed answers Host.Claim: whether the record is known to have changed so.
// Where it is not known, the next look at the record tells.
func (c *Core) Claimed(now time.Duration, ok bool) {
	claim := c.claim
	c.claim = nil
	if !ok || claim == nil || c.ended {
		return
	}
	c.event("no arbiter owns the VM: going on alone", pb.Reason_REASON_NO_ARBITER, "")
	c.assign(now, &pb.Assignment{Record: claim.Record, LeaseId: claim.LeaseID})
}

package session

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
)

// replica is one attached replica.
type replica struct {
	conn Conn
	ref  *pb.ReplicaRef
	// process names the replica's process, whatever its id; version is its
	// software's.
	process, version string
	// speaks are the versions of the protocol that it knows, protocol is the one
	// that is spoken with it.
	speaks   protocol.Range
	protocol uint32
	role     pb.Role
	lease    int64
	// disk is the image that the Hello named; canBoot: a spare could boot from it.
	disk    *pb.Disk
	canBoot bool
	// unfit is why the replica cannot be the standby of the guest that runs.
	unfit string
	// term and mode are those of the Hello or of the assignment that followed.
	term uint64
	mode pb.Mode
	// acted is the term that its last message was sent in.
	acted uint64
	// epoch is the one that the replica last said to be in.
	epoch uint64
	// heard and sent are when a message came and went last.
	heard, sent time.Time
	beat        *pb.Heartbeat
}

func (r *replica) id() string { return r.ref.GetId() }

// hasCopy tells whether the replica says that it holds a copy of the guest.
func (r *replica) hasCopy() bool {
	return r.role == pb.Role_ROLE_ACTIVE || r.role == pb.Role_ROLE_STANDBY
}

func (c *Core) byConn(conn Conn) *replica {
	for _, r := range c.replicas {
		if r.conn == conn {
			return r
		}
	}
	return nil
}

func (c *Core) byID(id string) *replica {
	for _, r := range c.replicas {
		if r.id() == id {
			return r
		}
	}
	return nil
}

// first returns the replica of that role that attached first and that ok
// accepts.
func (c *Core) first(role pb.Role, ok func(*replica) bool) *replica {
	for _, r := range c.replicas {
		if r.role == role && (ok == nil || ok(r)) {
			return r
		}
	}
	return nil
}

// active and standby return the replicas that the record names, if they are
// attached and hold its copy.
func (c *Core) active() *replica  { return c.member(c.record.GetActive().GetId()) }
func (c *Core) standby() *replica { return c.member(c.record.GetStandby().GetId()) }

func (c *Core) member(id string) *replica {
	if id == "" {
		return nil
	}
	if r := c.byID(id); r != nil && r.hasCopy() {
		return r
	}
	return nil
}

// names tells whether the record counts on the replica.
func (c *Core) names(id string) bool {
	return id != "" && (c.record.GetActive().GetId() == id || c.record.GetStandby().GetId() == id)
}

// lostCopy tells whether the replica is attached and has no copy any more, so
// that there is nothing to wait for.
func (c *Core) lostCopy(id string) bool {
	r := c.byID(id)
	return r != nil && !r.hasCopy()
}

// attach takes the Hello of a new stream.
func (c *Core) attach(in Attached) {
	h := in.Hello
	r := &replica{conn: in.Conn, ref: proto.CloneOf(h.GetReplica()), role: h.GetRole(), lease: h.GetLeaseId(), term: in.Term, acted: in.Term,
		mode: h.GetMode(), epoch: h.GetEpoch(), heard: c.now, sent: c.now, disk: proto.CloneOf(h.GetDisk()), canBoot: h.GetCanBoot(),
		process: h.GetProcess(), version: clip(h.GetVersion()), unfit: clip(h.GetUnfit())}
	if r.process == "" {
		r.process = r.id()
	}
	r.speaks = protocol.Said(h.GetProtocol(), h.GetProtocolMax())
	var unspoken error
	r.protocol, unspoken = c.cfg.Speaks.Agree(r.speaks, "this arbiter", "the replica")
	refuse := func(a pb.Refusal_Action, format string, args ...any) {
		c.counters.Refused++
		c.do(Close{Conn: in.Conn, Refusal: &pb.Refusal{Action: a, Detail: fmt.Sprintf(format, args...)}})
	}
	switch {
	case c.byConn(in.Conn) != nil:
		return // a Conn attaches once
	case unspoken != nil:
		// Another arbiter may speak with it, and its copy may be the VM's only one.
		refuse(pb.Refusal_ACTION_RETRY, "%v", unspoken)
		return
	case h.GetVm() != c.cfg.VM:
		refuse(pb.Refusal_ACTION_EXIT, "it is of VM %q, not of %q", clip(h.GetVm()), c.cfg.VM)
		return
	case r.id() == "" || len(r.id()) > 128 || len(r.ref.GetAddress()) > 256:
		refuse(pb.Refusal_ACTION_EXIT, "its id or address is missing or too long")
		return
	case len(r.disk.GetId()) > 128 || len(r.disk.GetPath()) > 4096 || r.disk != nil && r.disk.GetId() == "":
		refuse(pb.Refusal_ACTION_EXIT, "its disk's name is missing or too long")
		return
	case len(r.process) > 128:
		refuse(pb.Refusal_ACTION_EXIT, "its process's name is too long")
		return
	case r.role < pb.Role_ROLE_SPARE || r.role > pb.Role_ROLE_CANDIDATE || r.term > numberMax || r.epoch > numberMax:
		refuse(pb.Refusal_ACTION_EXIT, "its Hello makes no sense")
		return
	case r.lease == 0:
		refuse(pb.Refusal_ACTION_RETRY, "it has no lease")
		return
	}
	c.heard = c.now
	if old := c.byID(r.id()); old != nil {
		c.do(Close{Conn: old.conn})
		c.forget(old)
	}
	if len(c.replicas) >= replicasMax {
		refuse(pb.Refusal_ACTION_RETRY, "VM %s has %d replicas attached", c.cfg.VM, replicasMax)
		return
	}
	c.replicas = append(c.replicas, r)
	if c.owned {
		c.admit(r)
	}
}

// admit holds a replica's Hello against the record.
func (c *Core) admit(r *replica) {
	rec := c.record
	if r.role == pb.Role_ROLE_SPARE && r.mode == pb.Mode_MODE_SYNCING {
		// It may still be receiving a first copy, which may have failed unheard.
		if rec.GetMode() == pb.Mode_MODE_SYNCING && r.id() == rec.GetStandby().GetId() {
			c.fail(nil, pb.Reason_REASON_ARBITER_CHANGED, r.id()+" lost the arbiter")
		}
		c.refuse(r, pb.Refusal_ACTION_DISCARD, "its first copy did not end under this arbiter")
		return
	}
	if r.hasCopy() && rec != nil {
		switch {
		case r.term > rec.GetTerm():
			c.refuse(r, pb.Refusal_ACTION_RETRY, fmt.Sprintf("it acts under term %d, etcd holds term %d", r.term, rec.GetTerm()))
			return
		case !c.names(r.id()) || r.term == 0:
			c.refuse(r, pb.Refusal_ACTION_DISCARD, c.notNamed(r))
			return
		}
	}
	detail := fmt.Sprintf("%s attached as %s", r.id(), roleWord(r.role))
	if why := c.unfit(r); why != "" {
		detail += ", and cannot be the standby: " + why
	}
	c.report(pb.EventType_EVENT_TYPE_REPLICA_ATTACHED, pb.Reason_REASON_UNSPECIFIED, detail, nil)
	if !r.hasCopy() || rec == nil {
		return
	}
	c.reunite()
	switch rec.GetMode() {
	case pb.Mode_MODE_SYNCING:
		// Word that the copy has failed may have gone to nobody.
		c.sync.resumed = true
		if r.mode == pb.Mode_MODE_SYNCING && r.term == rec.GetTerm() {
			c.seen(r, r.epoch)
		}
	case pb.Mode_MODE_PROTECTED:
		// What was reported on the old stream may be lost: nothing is compared
		// until the resynchronization that follows.
		c.stopComparing(ErrOvertaken)
	}
	c.assign(r) // it may not have got it
}

func (c *Core) notNamed(r *replica) string {
	return fmt.Sprintf("VM %s is in term %d with %s; %s has a copy of term %d",
		c.cfg.VM, c.record.GetTerm(), who(c.record), r.id(), r.term)
}

// reunite looks whether all that the record counts on is attached, and sets how
// long to wait where it is not.
func (c *Core) reunite() {
	a, s := c.active(), c.standby()
	if a != nil && (s != nil || c.record.GetStandby() == nil) {
		c.waitUntil = time.Time{}
	} else if w := c.now.Add(c.heartbeatTimeout()); c.apart && w.After(c.waitUntil) {
		c.waitUntil = w
	}
	c.apart = a == nil && (s == nil || c.record.GetMode() != pb.Mode_MODE_PROTECTED)
}

// waiting tells whether it is too early to do without a replica that the
// record counts on.
func (c *Core) waiting() bool { return c.now.Before(c.waitUntil) }

// forget takes a replica off the list.
func (c *Core) forget(r *replica) {
	for i := range c.replicas {
		if c.replicas[i] == r {
			c.replicas = append(c.replicas[:i], c.replicas[i+1:]...)
			break
		}
	}
	if !c.owned || !r.hasCopy() || !c.names(r.id()) {
		return
	}
	if c.record.GetMode() == pb.Mode_MODE_PROTECTED {
		c.stopComparing(ErrOvertaken)
	}
	if c.reunite(); c.apart {
		c.waitUntil = c.now.Add(c.heartbeatTimeout())
	}
}

// lose takes a replica whose stream has ended.
func (c *Core) lose(r *replica, why string) {
	c.forget(r)
	if !c.owned {
		return
	}
	detail := r.id() + " (" + c.part(r) + ") lost: " + clip(why)
	if c.apart && r.hasCopy() && c.names(r.id()) {
		detail += "; nothing can be done for the VM until it is back"
	}
	c.report(pb.EventType_EVENT_TYPE_REPLICA_LOST, pb.Reason_REASON_LOST_REPLICA, detail, nil)
}

// loseFor is lose for a stream that the Core itself ends, with a refusal unless
// the action is ACTION_UNSPECIFIED.
func (c *Core) loseFor(r *replica, why string, action pb.Refusal_Action) {
	end := Close{Conn: r.conn}
	if action != pb.Refusal_ACTION_UNSPECIFIED {
		end.Refusal = &pb.Refusal{Action: action, Detail: why}
	}
	c.do(end)
	c.lose(r, why)
}

// refuse sends a replica away.
func (c *Core) refuse(r *replica, action pb.Refusal_Action, why string) {
	c.counters.Refused++
	c.do(Close{Conn: r.conn, Refusal: &pb.Refusal{Action: action, Detail: why}})
	c.forget(r)
	if c.owned && action != pb.Refusal_ACTION_RETRY {
		c.report(pb.EventType_EVENT_TYPE_REFUSED, pb.Reason_REASON_UNSPECIFIED, r.id()+" refused: "+why, nil)
	}
}

// refuseCandidates sends candidates away whose VM is running.
func (c *Core) refuseCandidates() {
	for {
		a := c.active()
		cand := c.first(pb.Role_ROLE_CANDIDATE, nil)
		if a == nil || cand == nil || c.proposal != nil || c.record.GetMode() == pb.Mode_MODE_ENDED {
			return
		}
		c.refuse(cand, pb.Refusal_ACTION_EXIT, fmt.Sprintf("VM %s is already active on %s", c.cfg.VM, a.id()))
	}
}

// refuseDisks sends candidates away whose image is not one to boot from.
func (c *Core) refuseDisks() {
	if c.proposal != nil || c.first(pb.Role_ROLE_CANDIDATE, nil) == nil {
		return
	}
	for _, r := range append([]*replica(nil), c.replicas...) {
		if r.role != pb.Role_ROLE_CANDIDATE {
			continue
		}
		if why := c.objection(r); why != "" {
			c.refuse(r, pb.Refusal_ACTION_EXIT, why)
		}
	}
}

// receive takes a message of an attached replica.
func (c *Core) receive(in Received) {
	r := c.byConn(in.Conn)
	if r == nil {
		c.counters.Stale++
		return
	}
	r.heard, c.heard, r.acted = c.now, c.now, in.Msg.GetTerm()
	if !c.owned {
		return
	}
	term, now := in.Msg.GetTerm(), c.record.GetTerm()
	member := c.names(r.id()) && r.hasCopy()
	// The end of a first copy belongs to the term before the one it leads to.
	current := member && (term == now || c.pair.fromSync && c.pair.epoch == 1 && term+1 == now)
	switch b := in.Msg.GetBody().(type) {
	case *pb.FromReplica_Heartbeat:
		c.heartbeat(r, b.Heartbeat, current)
		return
	case *pb.FromReplica_Left:
		why := "it left"
		if d := b.Left.GetDetail(); d != "" {
			why += ": " + clip(d)
		}
		c.loseFor(r, why, pb.Refusal_ACTION_UNSPECIFIED)
		return
	case *pb.FromReplica_Outputs:
		alone := c.alone() && r == c.active() && term >= c.soloSince && term <= now
		if current || alone {
			c.outputs(r, b.Outputs)
			return
		}
	case *pb.FromReplica_ProbeReply:
		if current {
			c.probeReply(r, b.ProbeReply)
			return
		}
	case *pb.FromReplica_EpochStarted:
		if current {
			c.epochStarted(r, b.EpochStarted)
			return
		}
	case *pb.FromReplica_SyncFailed:
		if current {
			c.syncFailed(r, b.SyncFailed)
			return
		}
	}
	c.counters.Stale++
}

// alone tells whether the active's own lease gates its outputs.
func (c *Core) alone() bool {
	m := c.record.GetMode()
	return m == pb.Mode_MODE_SOLO || m == pb.Mode_MODE_SYNCING
}

func (c *Core) heartbeat(r *replica, h *pb.Heartbeat, current bool) {
	r.beat = h
	if id := h.GetLeaseId(); id != 0 {
		r.lease = id
	}
	if current && h.GetEpoch() <= numberMax {
		c.seen(r, h.GetEpoch()) // its word may have gone to another arbiter
		c.progress(r, h)
	}
}

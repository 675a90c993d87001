package session

import (
	"fmt"
	"slices"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// boots tells whether the replica could boot the guest: a candidate asks for
// it; a spare that can is taken where the VM has no other way to go on.
func (r *replica) boots() bool {
	return r.role == pb.Role_ROLE_CANDIDATE || r.role == pb.Role_ROLE_SPARE && r.canBoot
}

// nameDisks writes into a new record which images hold the copies of those that
// it names. A member's image does not change: it is the one of the present
// record, where the member is in it.
func (c *Core) nameDisks(r *pb.Record) {
	of := func(ref *pb.ReplicaRef) string {
		switch id := ref.GetId(); {
		case id == "":
		case id == c.record.GetActive().GetId():
			return c.record.GetActiveDisk()
		case id == c.record.GetStandby().GetId():
			return c.record.GetStandbyDisk()
		}
		return ""
	}
	r.ActiveDisk = of(r.Active)
	if r.Mode == pb.Mode_MODE_SOLO {
		// See objection.
		switch {
		case c.record.GetMode() == pb.Mode_MODE_PROTECTED && r.Active.GetId() == c.record.GetStandby().GetId():
			r.StandbyDisk = c.record.GetActiveDisk()
		case c.record.GetMode() == pb.Mode_MODE_SOLO && r.Active.GetId() == c.record.GetActive().GetId():
			r.StandbyDisk = c.record.GetStandbyDisk()
		}
		return
	}
	// An unfinished copy is none to start from later.
	if r.Mode != pb.Mode_MODE_ENDED || c.record.GetMode() == pb.Mode_MODE_PROTECTED {
		r.StandbyDisk = of(r.Standby)
	}
}

// withSpare names the image that a first copy goes to, if the VM has a disk.
func (c *Core) withSpare(r *pb.Record, spare *replica) *pb.Record {
	if r.ActiveDisk != "" {
		r.StandbyDisk = spare.disk.GetId()
	}
	return r
}

// candidate returns the replica to boot the guest on, nil for none: one that an
// operator forces, else one with the active's image, else one with the
// standby's, but only once nobody with the active's has been here for a while,
// so that the same one boots in whatever order they come and go. Of equal ones
// it is a candidate rather than a spare, and the one that attached first. A
// spare boots only what it knows to be the VM's own disk, and not a VM that has
// ended.
func (c *Core) candidate() *replica {
	var best *replica
	most := 0
	want := c.record.GetActiveDisk()
	for _, r := range c.replicas {
		if !r.boots() || c.objection(r) != "" ||
			r.role == pb.Role_ROLE_SPARE && (want == "" || c.record.GetMode() == pb.Mode_MODE_ENDED) {
			continue
		}
		rank := 0
		switch {
		case r.disk.GetAdopt():
			rank = 5
		case want == "" || r.disk.GetId() == want:
			rank = 3
			c.goodDisk = c.now
		case c.now.Sub(c.goodDisk) >= c.heartbeatTimeout()+c.cfg.Grace:
			rank = 1
		default:
			continue
		}
		if r.role == pb.Role_ROLE_CANDIDATE {
			rank++
		}
		if rank > most {
			best, most = r, rank
		}
	}
	return best
}

// objection says why the guest must not boot from the replica's disk, "" if it
// may. What the outside was told of is on the disk of the active, and in
// PROTECTED, where an output leaves only once both guests have made it, on that
// of the standby as well, unless a checkpoint was being written to it. Then it
// may be that a standby that was to take over never did: a copy does not speak
// before its image's stamp is whole. So where the new active's image is seen to
// be unfinished, the old active's still has everything.
func (c *Core) objection(r *replica) string {
	d, rec, vm := r.disk, c.record, c.cfg.VM
	image := fmt.Sprintf("image %s (disk %s, last used in term %d)", clip(d.GetPath()), d.GetId(), d.GetTerm())
	const adopt = "to boot from it all the same, start once with --disk-adopt"
	switch {
	case d.GetAdopt():
		return ""
	case rec == nil && d.GetTerm() > 0:
		return fmt.Sprintf("etcd has no record of VM %s, but %s was used by it, and a newer one may exist: %s", vm, image, adopt)
	case rec == nil || rec.GetActiveDisk() == "":
		return "" // the VM has had no disk so far
	}
	from := fmt.Sprintf("disk %s, which %s at %s had in term %d", rec.GetActiveDisk(), rec.GetActive().GetId(), rec.GetActive().GetAddress(), rec.GetTerm())
	switch s := rec.GetStandbyDisk(); {
	case s == "" || rec.GetMode() == pb.Mode_MODE_SYNCING:
	case rec.GetMode() == pb.Mode_MODE_SOLO:
		from += fmt.Sprintf(" (or disk %s, if a copy was being written to that one)", s)
	default:
		from += fmt.Sprintf(" (or disk %s of %s at %s)", s, rec.GetStandby().GetId(), rec.GetStandby().GetAddress())
	}
	named := d.GetId() == rec.GetActiveDisk()
	switch rec.GetMode() {
	case pb.Mode_MODE_PROTECTED, pb.Mode_MODE_ENDED:
		named = named || d.GetId() == rec.GetStandbyDisk()
	case pb.Mode_MODE_SOLO:
		named = named || d.GetId() == rec.GetStandbyDisk() && c.unfinished(rec.GetActiveDisk())
	}
	switch {
	case d.GetId() == "":
		return fmt.Sprintf("VM %s has a disk and this replica none: boot from %s", vm, from)
	case !named && d.GetTerm() == 0:
		return fmt.Sprintf("%s was never VM %s's: boot from %s, or give this one to a secondary to be filled; %s", image, vm, from, adopt)
	case !named:
		return fmt.Sprintf("%s lacks what VM %s has written since: boot from %s, or give this one to a secondary to be brought up to date; %s", image, vm, from, adopt)
	case !d.GetWhole():
		return fmt.Sprintf("a copy was being written to %s when it was last used: boot from the other replica's image, or what is left of this one: %s", image, adopt)
	}
	return ""
}

// unfinished tells whether a replica is here whose image is the disk named so,
// and only a part of a copy.
func (c *Core) unfinished(disk string) bool {
	return slices.ContainsFunc(c.replicas, func(r *replica) bool {
		return r.disk.GetId() == disk && !r.disk.GetWhole() && !r.hasCopy()
	})
}

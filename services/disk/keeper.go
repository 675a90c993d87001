package disk

import (
	"errors"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// ErrForeign is returned where an image belongs to another VM.
var ErrForeign = errors.New("the disk image is another VM's")

// Keeper decides what the stamp of a replica's image says, and when, for as long
// as the replica's process lives. It is pure: it reads and writes nothing.
//
// What decides about a boot is the record in etcd, which names the images that
// have all; the stamp says which image this is, and whether it is whole. So only
// two changes must be on stable storage before something else happens: that the
// image is used (Use), and that a copy is being written to it (Hold). The rest
// is for people, and is written when there is time (Follow, Due).
//
// The caller's duties:
//
//  1. A stamp that Use, Hold or Due returns is written by WriteStamp, which makes
//     it durable, and then told by Written. From the question on until then no
//     other stamp is asked for; where the writing fails, Written is not called.
//  2. Use precedes the guest's first instruction on the image.
//  3. Hold precedes the first block of a first copy, and the word that a stage is
//     whole whose application changes the disk: from that word on, outputs leave
//     that only the new state has.
//  4. A copy that is alone does not speak while Whole is false: its image would
//     not be booted from, but the one of the copy that was there before.
//  5. Release follows once the stage is applied and flushed, or is given up
//     without having been begun to be applied.
//
// A Keeper is not safe for use by several goroutines at once.
type Keeper struct {
	stamp Stamp // as it is on stable storage
	adopt bool
	// partial: the image is being written to by a copy.
	partial bool
	// want is the image's part now, offered the one that Due has returned last.
	want, offered part
}

// part is what a stamp says that changes.
type part struct {
	state   State
	term    uint64
	replica string
}

// NewKeeper returns the Keeper of vm's image at the start of a process. found is
// the image's stamp, where ok says that it has one; fresh, from NewStamp, is its
// stamp otherwise. adopt is the operator's word to take the image whatever its
// stamp says. An image that belongs to another VM is refused with ErrForeign.
func NewKeeper(vm string, found Stamp, ok bool, fresh Stamp, adopt bool) (*Keeper, error) {
	switch {
	case adopt:
		return &Keeper{stamp: fresh, adopt: true}, nil
	case !ok:
		return &Keeper{stamp: fresh}, nil
	case found.VM == vm:
		return &Keeper{stamp: found}, nil
	case found.State == New:
		return &Keeper{stamp: fresh}, nil // nobody's data
	}
	return nil, ErrForeign
}

// Stamp returns the stamp as it is on stable storage, or as it is to be where
// the image had none.
func (k *Keeper) Stamp() Stamp { return k.stamp }

// Whole tells whether the stamp on stable storage does not say that a copy is
// being written.
func (k *Keeper) Whole() bool { return k.stamp.State != Partial }

// Hello is the image at path as the arbiter is told of it.
func (k *Keeper) Hello(path string) *pb.Disk {
	return &pb.Disk{Id: k.stamp.Disk, Whole: k.Whole(), Term: k.stamp.Term, Adopt: k.adopt, Path: path}
}

// Use returns the stamp of an image that the guest is about to boot from; due is
// false where it is on stable storage.
func (k *Keeper) Use(term uint64, replica string) (s Stamp, due bool) {
	k.partial, k.adopt = false, false
	return k.as(part{Active, term, replica})
}

// Hold returns the stamp of an image that a copy is about to be written to; due
// is false where it is on stable storage.
func (k *Keeper) Hold() (s Stamp, due bool) {
	k.partial = true
	return k.as(part{Partial, k.stamp.Term, k.stamp.Replica})
}

// Release says that the image is a whole copy, the old one or the new.
func (k *Keeper) Release() { k.partial, k.offered = false, part{} }

// Follow takes the part that the replica plays with this image as its guest's
// disk, and tells whether a stamp is to be written when there is time: one that
// could not be is asked for again where that would change what Whole says.
func (k *Keeper) Follow(role pb.Role, mode pb.Mode, term, epoch uint64, replica string) (due bool) {
	state := Active
	switch {
	case mode == pb.Mode_MODE_ENDED:
		state = Ended
	case role == pb.Role_ROLE_ACTIVE:
	case role == pb.Role_ROLE_STANDBY && epoch > 0:
		state = Standby
	default:
		return false
	}
	k.want = part{state, term, replica}
	return !k.partial && (k.want != k.offered || !k.Whole())
}

// Due returns the stamp of the part that Follow was told last; due is false
// where it is on stable storage, and while a copy is being written.
func (k *Keeper) Due() (s Stamp, due bool) {
	if k.partial || k.want.state == "" {
		return k.stamp, false
	}
	k.offered = k.want
	return k.as(k.want)
}

// Written says that s is on stable storage.
func (k *Keeper) Written(s Stamp) { k.stamp = s }

func (k *Keeper) as(p part) (s Stamp, due bool) {
	s = k.stamp
	if s.State == p.state && s.Term == p.term {
		return s, false
	}
	s.State, s.Term, s.Replica = p.state, p.term, p.replica
	return s, true
}

package sim

import "time"

// coldRestart ends all replicas of a VM in one moment, and maybe arbiters and
// etcd's leader with them. Some hosts lose their power, some processes are only
// killed. They come back in any order, some only when all heals; where one disk
// can be spared, it may be lost, or an old copy put in its place.
func (v *vm) coldRestart() bool {
	w := v.w
	if !v.disks || v.record() == nil || w.now < v.coldUntil {
		return false
	}
	v.coldUntil = w.now + 6*time.Second
	w.log("%s: all is lost at once", v.name)
	kind, arbiters := "all lost at once", 0.5
	if spare := v.sparable(); spare != nil && w.chance(0.6) {
		kind = "all lost at once, and a disk"
		arbiters = 1 // none is to decide in favour of the one whose disk is lost
		old := spare.img
		spare.img = w.newImage()
		if old.backup != nil && w.chance(0.7) {
			kind = "all lost at once, and an old copy put in a disk's place"
			spare.img = old.backup.restored(w)
		}
	}
	for _, a := range w.arbiters {
		if !a.dead && w.chance(arbiters) {
			w.loseArbiter(a, w.chance(0.5))
		}
	}
	for _, r := range v.hosts {
		if r.gone {
			continue
		}
		if !r.dead {
			r.crash(w.chance(0.5))
		}
		r.life++ // whatever was to start it before
		life := r.life
		if w.chance(0.2) {
			continue // until all heals
		}
		w.schedule(w.now+w.between(50*time.Millisecond, 3*time.Second), func() {
			if r.dead && r.life == life {
				r.restart()
			}
		})
	}
	if w.chance(0.3) {
		w.leaderless()
	}
	w.faults[kind]++
	return true
}

// sparable returns a replica whose disk the VM can do without, if there is one:
// all that was told is on the other's.
func (v *vm) sparable() *replica {
	if !v.survivable() {
		return nil
	}
	rec := v.record()
	a, s := v.host(rec.GetActive().GetId()), v.host(rec.GetStandby().GetId())
	if !s.img.whole() || s.img.stamping != nil || v.w.chance(0.5) {
		return s
	}
	return a
}

// backUp copies a host's disk image, as operators do.
func (v *vm) backUp() bool {
	if !v.disks {
		return false
	}
	m := v.hosts[v.w.rng.IntN(len(v.hosts))].img
	c := *m
	c.backup, c.unsynced = nil, nil
	m.backup = &c
	return true
}

// restored is a copy of an image, stamp and all, under the name of another file.
func (m *image) restored(w *world) *image {
	w.inodes++
	return &image{inode: w.inodes, cache: m.cache, stable: m.cache, stamp: m.stamp, kept: m.kept}
}

package sim

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/role"
)

const (
	// imageBlocks is the size of a disk in blocks, blockSectors that of a block.
	imageBlocks  = 12
	blockSectors = 8
)

// block is a block of a disk, with a word for each sector: a sector is written
// as a whole or not at all, a block is not.
type block [blockSectors]uint64

// image is a host's disk image with its stamp. It outlives processes; what was
// not synced does not outlive the host's power.
type image struct {
	inode    uint64
	cache    [imageBlocks]block // what processes see
	stable   [imageBlocks]block
	unsynced []blockWrite
	writes   int // ever; unsynced are the last of them
	// stamp is the file beside the image, nil for none; stamping is what is
	// being written in its place.
	stamp, stamping *disk.Stamp
	// kept: what the guest boots from was kept beside the image.
	kept   bool
	backup *image // an old copy
}

type blockWrite struct {
	n    int
	data block
}

func (w *world) newImage() *image {
	w.inodes++
	return &image{inode: w.inodes}
}

func (m *image) write(n int, b block) {
	m.cache[n] = b
	m.unsynced = append(m.unsynced, blockWrite{n, b})
	m.writes++
}

// sync makes the first n of all writes durable.
func (m *image) sync(n int) {
	n = max(0, n-(m.writes-len(m.unsynced)))
	for _, u := range m.unsynced[:n] {
		m.stable[u.n] = u.data
	}
	m.unsynced = m.unsynced[n:]
}

// killed is the end of the process: its writes are the kernel's, and the stamp
// that it was writing has taken the old one's place or not.
func (m *image) killed(w *world) {
	if m.stamping != nil && w.chance(0.5) {
		m.stamp = m.stamping
	}
	m.stamping = nil
}

// powerLost is the end of the host: each sector holds what was synced, or any of
// the later writes.
func (m *image) powerLost(w *world) {
	m.killed(w)
	reached := w.rng.Float64()
	for _, u := range m.unsynced {
		for i, word := range u.data {
			if w.chance(reached) {
				m.stable[u.n][i] = word
			}
		}
	}
	m.cache, m.unsynced = m.stable, nil
}

// whole tells whether the stamp lets the image be booted from.
func (m *image) whole() bool { return m.stamp != nil && m.stamp.State != disk.Partial }

// openDisk makes the Keeper of the image that a process finds at its start.
func (r *replica) openDisk() {
	w, m := r.w, r.img
	w.inodes++
	fresh := disk.Stamp{Disk: diskName(w.inodes), VM: r.v.name, State: disk.New}
	var found disk.Stamp
	ok := false
	if m.stamp != nil {
		found, ok = *m.stamp, m.stamp.Inode == m.inode
	}
	k, err := disk.NewKeeper(r.v.name, found, ok, fresh, r.adopt)
	if err != nil {
		w.fail("%s does not start: %v", r.name, err)
		return
	}
	r.adopt = false
	if s := k.Stamp(); s.Disk == fresh.Disk && r.boot {
		s.Inode = m.inode
		m.stamp = &s
	}
	r.keeper = k
}

func diskName(n uint64) string { return fmt.Sprintf("disk%d", n) }

// describe is the image in a Hello, and whether a spare could boot from it.
func (r *replica) describe(c *role.Config) {
	if r.keeper == nil {
		return
	}
	s := r.keeper.Stamp()
	c.Disk = r.keeper.Hello(r.name)
	c.CanBoot = !r.boot && s.Whole() && r.img.kept
}

// stampWrite is a stamp to be made durable, and what follows.
type stampWrite struct {
	ask  func() (disk.Stamp, bool)
	then func()
}

// stamp makes the stamp durable that the keeper is asked for, behind those that
// it was asked for before, and then goes on.
func (r *replica) stamp(ask func() (disk.Stamp, bool), then func()) {
	r.stamps = append(r.stamps, stampWrite{ask, then})
	if len(r.stamps) == 1 {
		r.writeStamp()
	}
}

func (r *replica) writeStamp() {
	q := r.stamps[0]
	next := func() {
		if r.stamps = r.stamps[1:]; len(r.stamps) > 0 {
			r.writeStamp()
		}
		q.then()
	}
	s, due := q.ask()
	if !due {
		r.after(0, next)
		return
	}
	m := r.img
	s.Inode = m.inode
	m.stamping = &s
	r.w.hit(stamping, r.v)
	r.after(r.w.syncing(), func() {
		r.stamped(s)
		r.w.hit(stamped, r.v)
		next()
	})
}

func (r *replica) stamped(s disk.Stamp) {
	r.img.stamp, r.img.stamping = &s, nil
	r.keeper.Written(s)
}

// settle ends a life, whose process goes on: what it was writing is waited for.
func (r *replica) settle() {
	r.life++
	if r.img != nil && r.img.stamping != nil {
		r.stamped(*r.img.stamping)
	}
	r.stamps = nil
}

// follow lets the stamp follow the replica's part.
func (r *replica) follow() {
	if r.hasDisk && r.keeper.Follow(r.core.Role(), r.core.Mode(), r.core.Term(), r.core.Epoch(), r.id) && !r.noting {
		r.noting = true
		r.stamp(func() (disk.Stamp, bool) {
			r.noting = false
			return r.keeper.Due()
		}, func() {})
	}
}

// syncing is how long it takes to make something durable.
func (w *world) syncing() time.Duration {
	if w.chance(w.opt.slow) {
		return w.between(0, 200*time.Millisecond)
	}
	return w.between(100*time.Microsecond, w.opt.sync)
}

// unfinished tells whether the stamp still says that a copy is being written: who
// is alone does not speak then.
func (r *replica) unfinished() bool {
	return r.hasDisk && !r.keeper.Whole()
}

// writeBlock is the guest's write.
func (r *replica) writeBlock(n int, b block) {
	r.img.write(n, b)
	r.written |= 1 << n
}

// flush is the guest's flush, answered when all that was written before is
// durable.
func (r *replica) flush() {
	g, m := r.guest, r.img
	g.flushes++
	token := g.flushes
	through := m.writes
	r.w.hit(flushing, r.v)
	r.after(r.w.syncing(), func() {
		if !r.w.mutated(NoSync) {
			m.sync(through)
		}
		r.w.hit(flushed, r.v)
		if r.guest == g && !g.paused && g.flushes == token {
			g.flushed(r.stack())
			r.setTimer()
			r.do(func() {})
		}
	})
}

// bootFromDisk lets a guest that begins find what was written to its disk.
func (r *replica) bootFromDisk() {
	r.hasDisk, r.img.kept = true, true
	r.guest.state.recover(&r.img.cache)
	r.v.check.booted(r)
	r.guest.state.port += uint16(2000 * r.v.check.boots) // that none had before
}

// The toy guest's database is a ring of records, each of which holds all: a
// block with its number, the counter, the last answer of each client, and a
// checksum.

// record makes the guest's state durable: the guest tells nobody of an answer
// before a flush behind its record is done.
func (s *guestState) record() (n int, b block) {
	b[0], b[1] = s.seq, uint64(s.counter)
	for client, a := range s.answers {
		b[2+client] = uint64(a.n)<<32 | uint64(a.value)<<1
	}
	b[blockSectors-1] = b.sum()
	return int(s.seq % imageBlocks), b
}

func (b *block) sum() uint64 {
	var p [8 * (blockSectors - 1)]byte
	for i := range blockSectors - 1 {
		binary.LittleEndian.PutUint64(p[8*i:], b[i])
	}
	return xxh3.Hash(p[:])
}

// recover takes the newest whole record.
func (s *guestState) recover(blocks *[imageBlocks]block) {
	var best *block
	for i := range blocks {
		if b := &blocks[i]; b[0] > 0 && (best == nil || b[0] > best[0]) && b.sum() == b[blockSectors-1] {
			best = b
		}
	}
	if best == nil {
		return
	}
	s.seq, s.counter = best[0], int(best[1])
	for client := range blockSectors - 3 {
		if word := best[2+client]; word != 0 {
			s.answers[client] = answer{n: int(word >> 32), value: int(word & (1<<32 - 1) >> 1)}
		}
	}
}

// owe lets an answer wait until the database is durable.
func (g *guest) owe(s *stack, q question) {
	g.state.owed = append(g.state.owed, q)
	g.commit(s)
}

// commit writes a record, and asks for a flush, unless one is under way.
func (g *guest) commit(s *stack) {
	st := &g.state
	if len(st.committing) > 0 || len(st.owed) == 0 {
		return
	}
	st.committing, st.owed = st.owed, nil
	st.seq++
	s.disk.writeBlock(st.record())
	s.disk.flush()
}

// flushed says what is durable now.
func (g *guest) flushed(s *stack) {
	st := &g.state
	said := st.committing
	st.committing = nil
	for _, q := range said {
		last := st.answers[q.client]
		if last.pending {
			g.call(s, q, last.value)
			continue
		}
		g.answer(s, q, last.value)
		if c := st.conns[q.by]; c != nil {
			g.app(s, c)
		}
	}
	g.commit(s)
}

// owes tells whether an answer waits for the disk.
func (s *guestState) owes(client int) bool {
	is := func(q question) bool { return q.client == client }
	return slices.ContainsFunc(s.owed, is) || slices.ContainsFunc(s.committing, is)
}

// The disk's part of a checkpoint: both sides know which blocks they wrote since
// the last common epoch; those travel that may differ.

// dirtyBlocks is the standby's answer to the begin of a checkpoint: what it wrote,
// with contents in the place of digests.
type dirtyBlocks struct{ blocks map[int]block }

// liveBlocks is a part of a first copy.
type liveBlocks struct{ blocks []blockWrite }

func (r *replica) dirty() *dirtyBlocks {
	d := &dirtyBlocks{map[int]block{}}
	for set := r.written; set != 0; set &= set - 1 {
		n := bits.TrailingZeros64(set)
		d.blocks[n] = r.img.cache[n]
	}
	return d
}

// differing returns the blocks of the active that may differ from the standby's,
// and begins to note what is written anew.
func (r *replica) differing(theirs *dirtyBlocks) (blocks []blockWrite) {
	if r.img == nil {
		return nil
	}
	for n, b := range r.img.cache {
		other, known := theirs.blocks[n]
		if r.w.mutated(LostRepairs) {
			known = false
		}
		if known && other != b || !known && r.written&(1<<n) != 0 {
			blocks = append(blocks, blockWrite{n, b})
		}
	}
	r.written = 0
	return blocks
}

// copyDisk sends all blocks of a first copy, in some messages, while the guest
// runs.
func (r *replica) copyDisk(feed *end, takes time.Duration) {
	if r.img == nil {
		return
	}
	r.written = 0
	const parts = 3
	for part := range parts {
		r.after(takes*time.Duration(part+1)/(parts+1), func() {
			if r.feeding != feed {
				return
			}
			var m liveBlocks
			for n := part * imageBlocks / parts; n < (part+1)*imageBlocks/parts; n++ {
				m.blocks = append(m.blocks, blockWrite{n, r.img.cache[n]})
			}
			feed.send(&m)
		})
	}
}

// changesDisk tells whether the disk is not what it was, durably, at the last
// common epoch, or will not be.
func (r *replica) changesDisk(b *bulk) bool {
	return r.img != nil && (b.first || len(b.blocks) > 0 || r.written != 0)
}

// applyDisk writes the blocks of a stage and makes them durable.
func (r *replica) applyDisk(b *bulk) {
	if r.img == nil {
		return
	}
	changes := r.changesDisk(b)
	half := len(b.blocks) / 2
	for _, blocks := range [][]blockWrite{b.blocks[:half], b.blocks[half:]} {
		r.work(r.w.between(0, time.Millisecond), func() {
			for _, u := range blocks {
				r.img.write(u.n, u.data)
			}
			r.w.hit(blocksWritten, r.v)
		})
	}
	if changes {
		r.work(r.w.syncing(), func() { r.img.sync(r.img.writes) })
	}
	r.work(0, func() {
		r.written = 0
		r.v.check.copied(r, b)
	})
}

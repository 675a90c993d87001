package sim

import (
	"bytes"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Rule 6: no VM is started from a disk that lacks writes which the outside was
// told of. What the outside was told is what left, whether it arrived or not.

// tell notes an answer that the outside was told.
func (c *checker) tell(client, n, value int) {
	if a := c.told[client]; n >= a.n {
		c.told[client] = answer{n: n, value: value}
	}
	c.most = max(c.most, value)
}

// tellStreams notes the answers in what left by TCP.
func (c *checker) tellStreams() {
	for _, k := range c.order {
		said := c.streams[k]
		n := 0
		for n < len(said.known) && said.known[n] {
			n++
		}
		for line := range bytes.Lines(said.bytes[:n]) {
			client, n, value, _, ok := parseAnswer(string(bytes.TrimSuffix(line, []byte("\n"))))
			if ok && line[len(line)-1] == '\n' {
				c.tell(client, n, value)
			}
		}
	}
}

// lacks tells what of that which the outside was told a database has not.
func (c *checker) lacks(s *guestState) (client int, has answer, lacks bool) {
	for client := range c.v.clients {
		t, a := c.told[client], s.answers[client]
		if a.n < t.n || a.n == t.n && a.value != t.value {
			return client, a, true
		}
	}
	return 0, answer{}, s.counter < c.most
}

// durable checks each image that the VM would be booted from if all were lost in
// this moment.
func (c *checker) durable() {
	v := c.v
	if !v.disks {
		return
	}
	rec := v.record()
	named := []string{rec.GetActiveDisk()}
	switch rec.GetMode() {
	case pb.Mode_MODE_PROTECTED:
		named = append(named, rec.GetStandbyDisk())
	case pb.Mode_MODE_SOLO:
		for _, r := range v.hosts {
			if s := r.img.stamp; s != nil && s.Disk == named[0] && !r.img.whole() {
				named = append(named, rec.GetStandbyDisk())
			}
		}
	}
	for _, r := range v.hosts {
		m := r.img
		if m.stamp == nil || !m.whole() || m.stamp.Inode != m.inode || m.stamp.Disk != named[0] && m.stamp.Disk != named[len(named)-1] {
			continue
		}
		db := newGuest().state
		db.recover(&m.stable)
		if client, a, lacks := c.lacks(&db); lacks {
			v.w.fail("rule 6: client %d was told %+v, the disk of %s (%s, %s) has %+v and %d of %d (%s)", client, c.told[client],
				r.name, m.stamp.Disk, m.stamp.State, a, db.counter, c.most, v.stands())
		}
	}
}

// booted checks a guest that has begun from a disk. The outside's connections
// are gone; what it was told stays.
func (c *checker) booted(r *replica) {
	w := c.v.w
	c.tellStreams()
	s := &r.guest.state
	if client, a, lacks := c.lacks(s); lacks {
		w.fail("rule 6: %s boots from a disk (%s) that lacks what client %d was told: it has %+v of %+v, and %d of %d", r.id,
			r.keeper.Stamp().Disk, client, a, c.told[client], s.counter, c.most)
	}
	if c.emits == 0 {
		return // the first boot
	}
	c.boots++
	w.happened["VM booted from a disk"]++
	w.log("%s boots from disk %s: record %d", r.id, r.keeper.Stamp().Disk, s.seq)
	clear(c.said)
	clear(c.streams)
	clear(c.names)
	c.order = nil
	for _, q := range c.v.clients {
		w.schedule(w.now+w.between(0, rebootNoticed), q.rebooted)
	}
}

// copied checks the disk of a standby that has applied a stage.
func (c *checker) copied(r *replica, b *bulk) {
	for n := range b.image {
		if r.img.cache[n] != b.image[n] {
			c.v.w.fail("rule 4: block %d of %s is not the active's at the checkpoint of epoch %d (%s)", n, r.id, b.ck.GetEpoch(), c.v.stands())
			return
		}
	}
}

package replica

import (
	"fmt"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
)

// localDisk is the stamp of a replica's image, for as long as the process
// lives. What decides about a boot is the record in etcd, which names the
// images that have all; the stamp says which image this is, and whether it is
// whole. So only two changes must be on stable storage before something else
// happens: that the image is used, before the guest first runs on it, and that
// it is being written to by a copy, before the first block of it. The rest is
// for people, and is written when there is time.
type localDisk struct {
	path  string // empty: a temporary image, whose stamp nobody will read
	adopt bool
	log   hclog.Logger

	io    sync.Mutex // held while the stamp is read or written
	stamp disk.Stamp

	mu sync.Mutex // held for moments
	// partial: the image is being written to by a copy.
	partial bool
	// want is what is to be written when there is time; busy: somebody will.
	want    disk.Stamp
	busy    bool
	writing sync.WaitGroup
}

// openLocalDisk reads the stamp of cfg's image. An image of another VM is
// refused.
func openLocalDisk(cfg *Config) (*localDisk, error) {
	d := &localDisk{path: cfg.DiskPath, log: cfg.Log}
	fresh, err := disk.NewStamp(cfg.VM)
	if err != nil {
		return nil, err
	}
	if d.path == "" {
		d.stamp = fresh
		return d, nil
	}
	found, ok, err := disk.ReadStamp(d.path)
	switch {
	case cfg.DiskAdopt:
		d.adopt = cfg.Guest != nil
		found = fresh
	case err != nil:
		return nil, fmt.Errorf("--disk: %w", err)
	case ok && found.State != disk.New && found.VM != cfg.VM:
		return nil, fmt.Errorf("--disk: image %s is VM %s's, not %s's: name another one, or start once with --disk-adopt to take it",
			d.path, found.VM, cfg.VM)
	case !ok || found.VM != cfg.VM:
		found = fresh
	}
	if cfg.Guest == nil {
		if err := writable(filepath.Dir(d.path)); err != nil {
			return nil, fmt.Errorf("--disk: %w", err)
		}
	}
	d.stamp = found
	if found.Disk == fresh.Disk && cfg.Guest != nil && cfg.Guest.Disk != nil && !cfg.Guest.readOnly() {
		if err := disk.WriteStamp(d.path, d.stamp); err != nil {
			return nil, fmt.Errorf("--disk: %w", err)
		}
	}
	return d, nil
}

// writable tells whether files can be made in a directory, which a secondary
// would otherwise find out only when it is to shadow a VM.
func writable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("directory %s of the image: %w", dir, err)
	}
	return nil
}

// hello is the image as the arbiter is told of it.
func (d *localDisk) hello() *pb.Disk {
	d.io.Lock()
	defer d.io.Unlock()
	m := &pb.Disk{Id: d.stamp.Disk, Whole: d.stamp.State != disk.Partial, Term: d.stamp.Term, Adopt: d.adopt, Path: d.path}
	if m.Path == "" {
		m.Path = "in a temporary file"
	}
	return m
}

// whole tells whether the image holds a copy to boot from.
func (d *localDisk) whole() bool {
	d.io.Lock()
	defer d.io.Unlock()
	return d.stamp.Whole()
}

// use stamps the image as the active's, before the guest runs on it.
func (d *localDisk) use(term uint64, replica string) error {
	d.setPartial(false)
	d.io.Lock()
	defer d.io.Unlock()
	d.adopt = false
	return d.write(disk.Active, term, replica)
}

// hold stamps the image as no copy, because one is going to be written to it.
func (d *localDisk) hold() error {
	d.setPartial(true)
	d.io.Lock()
	defer d.io.Unlock()
	return d.write(disk.Partial, d.stamp.Term, d.stamp.Replica)
}

// release follows hold: the image is a whole copy, the old one or the new. The
// next note says so.
func (d *localDisk) release() { d.setPartial(false) }

func (d *localDisk) setPartial(partial bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.partial = partial
}

// note lets the image be stamped with its part in a term, and does not wait.
func (d *localDisk) note(state disk.State, term uint64, replica string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.want = disk.Stamp{State: state, Term: term, Replica: replica}
	if !d.busy {
		d.busy = true
		d.writing.Go(d.writeNoted)
	}
}

func (d *localDisk) writeNoted() {
	d.io.Lock() // first: what hold writes comes behind it
	defer d.io.Unlock()
	d.mu.Lock()
	d.busy = false
	want, partial := d.want, d.partial
	d.mu.Unlock()
	if partial {
		return
	}
	if err := d.write(want.State, want.Term, want.Replica); err != nil {
		d.log.Warn("the disk image's stamp is out of date", "error", err)
	}
}

// settle waits for what note began.
func (d *localDisk) settle() { d.writing.Wait() }

func (d *localDisk) write(state disk.State, term uint64, replica string) error {
	if d.stamp.State == state && d.stamp.Term == term {
		return nil
	}
	s := d.stamp
	s.State, s.Term, s.Replica = state, term, replica
	if d.path != "" {
		if err := disk.WriteStamp(d.path, s); err != nil {
			return err
		}
	}
	d.stamp = s
	return nil
}

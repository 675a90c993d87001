package replica

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
)

// localDisk is a replica's image and its stamp, for as long as the process
// lives: the files around a disk.Keeper.
type localDisk struct {
	path string // empty: a temporary image, whose stamp nobody will read
	log  hclog.Logger

	io sync.Mutex // held from the question for a stamp until it is written

	mu       sync.Mutex // held for moments
	keeper   *disk.Keeper
	followed bool // the guest's writable disk is this one
	busy     bool // somebody writes what is due
	again    bool // and is to look once more
	retryAt  time.Time
	writing  sync.WaitGroup
}

// openLocalDisk reads the stamp of cfg's image. An image of another VM is
// refused.
func openLocalDisk(cfg *Config) (*localDisk, error) {
	d := &localDisk{path: cfg.DiskPath, log: cfg.Log}
	fresh, err := disk.NewStamp(cfg.VM)
	if err != nil {
		return nil, err
	}
	var found disk.Stamp
	ok := false
	if d.path != "" && !cfg.DiskAdopt {
		if found, ok, err = disk.ReadStamp(d.path); err != nil {
			return nil, fmt.Errorf("--disk: %w", err)
		}
	}
	d.keeper, err = disk.NewKeeper(cfg.VM, found, ok, fresh, cfg.DiskAdopt && cfg.Guest != nil)
	if errors.Is(err, disk.ErrForeign) {
		return nil, fmt.Errorf("--disk: image %s is VM %s's, not %s's: name another one, or start once with --disk-adopt to take it",
			d.path, found.VM, cfg.VM)
	}
	if err != nil || d.path == "" {
		return d, err
	}
	if cfg.Guest == nil {
		if err := writable(filepath.Dir(d.path)); err != nil {
			return nil, fmt.Errorf("--disk: %w", err)
		}
	}
	if s := d.keeper.Stamp(); s.Disk == fresh.Disk && cfg.Guest != nil && cfg.Guest.Disk != nil && !cfg.Guest.readOnly() {
		if err := disk.WriteStamp(d.path, s); err != nil {
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
	path := d.path
	if path == "" {
		path = "in a temporary file"
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keeper.Hello(path)
}

// whole tells whether the image holds a copy to boot from.
func (d *localDisk) whole() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := d.keeper.Stamp()
	return s.Whole()
}

// speaks tells whether a copy that is alone may speak: its image, if the guest
// has a writable one, would be booted from.
func (d *localDisk) speaks() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return !d.followed || d.keeper.Whole()
}

// use stamps the image as the active's, before the guest runs on it.
func (d *localDisk) use(term uint64, replica string) error {
	return d.write(func() (disk.Stamp, bool) { return d.keeper.Use(term, replica) })
}

// hold stamps the image as no copy, because one is going to be written to it.
func (d *localDisk) hold() error { return d.write(d.keeper.Hold) }

// release follows hold: the image is a whole copy, the old one or the new.
func (d *localDisk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keeper.Release()
}

// follow lets the image be stamped with its part, and does not wait.
func (d *localDisk) follow(role pb.Role, mode pb.Mode, term, epoch uint64, replica string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.followed = true
	switch {
	case !d.keeper.Follow(role, mode, term, epoch, replica) || time.Now().Before(d.retryAt):
	case d.busy:
		d.again = true
	default:
		d.busy = true
		d.writing.Go(d.writeDue)
	}
}

func (d *localDisk) writeDue() {
	for again := true; again; {
		err := d.write(d.keeper.Due)
		d.mu.Lock()
		if err != nil {
			d.retryAt = time.Now().Add(stampRetry)
		}
		again, d.again = d.again && err == nil, false
		d.busy = again
		d.mu.Unlock()
		if err != nil {
			d.log.Warn("the disk image's stamp is out of date", "error", err)
		}
	}
}

// stampRetry is the pause after a stamp could not be written.
const stampRetry = 500 * time.Millisecond

// settle waits for what follow began.
func (d *localDisk) settle() { d.writing.Wait() }

// write makes the stamp durable that the keeper is asked for.
func (d *localDisk) write(ask func() (disk.Stamp, bool)) error {
	d.io.Lock()
	defer d.io.Unlock()
	d.mu.Lock()
	s, due := ask()
	d.mu.Unlock()
	if !due {
		return nil
	}
	if d.path != "" {
		if err := disk.WriteStamp(d.path, s); err != nil {
			return err
		}
	}
	d.mu.Lock()
	d.keeper.Written(s)
	d.mu.Unlock()
	return nil
}

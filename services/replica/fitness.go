package replica

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/understudy-ft/understudy/services/disk"
)

// How often a spare that cannot take a copy looks whether it can by now. The
// time doubles with each copy that failed all the same.
const (
	refitFirst = 2 * time.Second
	refitMax   = time.Minute
)

// fitness is why this process cannot take a copy of the guest that runs, such
// as a disk image of another size. It outlasts the process's lives, whose loops
// alone use it, so that the VM is troubled once and not by each.
type fitness struct {
	why string // empty: it can, as far as is known
	// check tells whether the reason still holds; nil: it does until another
	// guest boots, whose arbiter tries again.
	check func() error
	pause time.Duration
	next  time.Time
	busy  bool
}

// lacks notes why a copy cannot be taken.
func (l *life) lacks(err error, check func() error) {
	f := l.cfg.fitness
	f.why, f.check = err.Error(), check
	f.pause = min(max(2*f.pause, refitFirst), refitMax)
	f.next = time.Now().Add(f.pause)
	l.core.UseUnfit(f.why)
}

// fits notes that a copy is being taken.
func (l *life) fits() {
	*l.cfg.fitness = fitness{}
	l.core.UseUnfit("")
}

// refit looks from time to time whether what was lacking is there.
func (l *life) refit() {
	f := l.cfg.fitness
	if f.check == nil || f.busy || time.Now().Before(f.next) {
		return
	}
	f.busy = true
	check := f.check
	l.busy.Go(func() {
		err := check()
		l.box.put(func() {
			f.busy, f.next = false, time.Now().Add(f.pause)
			switch {
			case f.check == nil: // a copy is being taken
			case err == nil:
				f.why, f.check = "", nil
			default:
				f.why = err.Error()
			}
			l.core.UseUnfit(f.why)
		})
	})
}

// imageFits tells what keeps a file from being the image of a guest's disk.
func imageFits(path string, size uint64) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		return nil // it will be made
	}
	img, err := openFitting(path, size)
	if err != nil {
		return err
	}
	return img.Close()
}

// openFitting opens the image of a guest's disk, which must have its size.
func openFitting(path string, size uint64) (*disk.Image, error) {
	img, err := disk.Open(path, false)
	if err != nil {
		return nil, err
	}
	if img.Size() != size {
		_ = img.Close() // not used
		return nil, fmt.Errorf("disk image %s has %d bytes, the active's has %d: name another path or remove it", path, img.Size(), size)
	}
	return img, nil
}

package disk

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// StampSuffix is what the path of a stamp adds to that of its image.
const StampSuffix = ".understudy"

// State says what an image holds.
type State string

// States of an image. Only New and Partial are no copy to boot from.
const (
	// New: nothing that a protected VM has written.
	New State = "new"
	// Active: the copy whose outputs leave the system.
	Active State = "active"
	// Standby: a whole copy beside the active's.
	Standby State = "standby"
	// Partial: a first copy, or a checkpoint, is being written to it.
	Partial State = "partial"
	// Ended: the guest has switched itself off.
	Ended State = "ended"
)

// Stamp says whose disk an image is, since when, and whether it is whole. It
// is kept in a small file beside the image, so that the image stays a plain
// raw disk. A stamp is bound to the image's file by inode number and time of
// birth: it does not count for a copy of the image, which nobody keeps up to
// date, nor for another file that took the image's name.
type Stamp struct {
	// Disk is the image's random name.
	Disk string `json:"disk"`
	VM   string `json:"vm"`
	// Term is the one that the image was last used in, 0 for New.
	Term  uint64 `json:"term"`
	State State  `json:"state"`
	// Replica used it last; Time is when the stamp was written. For people.
	Replica string    `json:"replica,omitempty"`
	Time    time.Time `json:"time"`
	// Inode and Born (Unix nanoseconds, 0 where the file system does not say)
	// are the image file's.
	Inode uint64 `json:"inode"`
	Born  int64  `json:"born"`
}

// ErrStamp is wrapped where a stamp cannot be understood.
var ErrStamp = errors.New("the disk image's stamp is damaged")

// NewStamp returns the stamp of an image that holds nothing yet.
func NewStamp(vm string) (Stamp, error) {
	var id [8]byte
	if _, err := rand.Read(id[:]); err != nil {
		return Stamp{}, fmt.Errorf("name a disk image: %w", err)
	}
	return Stamp{Disk: hex.EncodeToString(id[:]), VM: vm, State: New}, nil
}

// Whole tells whether the image holds a copy that a guest can boot from.
func (s *Stamp) Whole() bool { return s.State == Active || s.State == Standby || s.State == Ended }

// ReadStamp returns the stamp of the image at path. ok is false where there is
// no image, no stamp, or one of another file. Errors: ErrStamp, and those of
// the file system.
func ReadStamp(path string) (s Stamp, ok bool, err error) {
	inode, born, err := identity(path)
	if errors.Is(err, os.ErrNotExist) {
		return Stamp{}, false, nil
	}
	if err != nil {
		return Stamp{}, false, err
	}
	b, err := os.ReadFile(path + StampSuffix)
	if errors.Is(err, os.ErrNotExist) {
		return Stamp{}, false, nil
	}
	if err != nil {
		return Stamp{}, false, fmt.Errorf("read the stamp of a disk image: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return Stamp{}, false, fmt.Errorf("%s%s: %w: %w", path, StampSuffix, ErrStamp, err)
	}
	switch s.State {
	case New, Active, Standby, Partial, Ended:
	default:
		return Stamp{}, false, fmt.Errorf("%s%s: %w: state %q", path, StampSuffix, ErrStamp, s.State)
	}
	if s.Disk == "" || s.VM == "" {
		return Stamp{}, false, fmt.Errorf("%s%s: %w: it names no disk or no VM", path, StampSuffix, ErrStamp)
	}
	return s, s.Inode == inode && s.Born == born, nil
}

// WriteStamp replaces the stamp of the image at path, which must exist. When it
// returns, the stamp is on stable storage; after a failure or a crash the old
// one may still be there, but never a part of either.
func WriteStamp(path string, s Stamp) (err error) {
	fail := func(err error) error { return fmt.Errorf("stamp disk image %s: %w", path, err) }
	if s.Inode, s.Born, err = identity(path); err != nil {
		return fail(err)
	}
	s.Time = time.Now().UTC()
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fail(err)
	}
	if err := WriteFile(path+StampSuffix, append(b, '\n')); err != nil {
		return fail(err)
	}
	return nil
}

// WriteFile replaces the file at path by one with the contents of parts, as a
// whole and durably.
func WriteFile(path string, parts ...[]byte) (err error) {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // the first error tells more
		}
	}()
	for _, p := range parts {
		if _, err = f.Write(p); err != nil {
			_ = f.Close() // the first error tells more
			return err
		}
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// identity is what tells a file from a copy of it.
func identity(path string) (inode uint64, born int64, err error) {
	var st unix.Statx_t
	const want = unix.STATX_INO | unix.STATX_BTIME
	if err := unix.Statx(unix.AT_FDCWD, path, 0, want, &st); err != nil {
		return 0, 0, fmt.Errorf("look at disk image %s: %w", path, err)
	}
	if st.Mask&unix.STATX_BTIME != 0 {
		born = st.Btime.Sec*1e9 + int64(st.Btime.Nsec)
	}
	return st.Ino, born, nil
}

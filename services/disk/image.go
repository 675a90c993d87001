// Package disk is a guest's disk: a raw image file, locked for one process,
// that knows which blocks were written.
//
// An image belongs to one replica and is part of its state: what the guest
// writes goes to the file at once, a bitmap records the block, and a checkpoint
// reads and writes blocks like pages. Ranges that the guest discards read as
// zeroes afterwards on every host, so that copies stay comparable.
//
// All methods may be called from several goroutines.
package disk

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/understudy-ft/understudy/services/mem"
)

// BlockSize is the size in bytes of the blocks that are tracked and
// transferred. The last block of an image may be shorter.
const BlockSize = 4096

// SectorSize divides every image's size.
const SectorSize = 512

// Errors that callers decide on.
var (
	ErrLocked   = errors.New("disk image is in use by another process")
	ErrSize     = errors.New("disk image size is not a positive multiple of 512 bytes")
	ErrNotFile  = errors.New("disk image is not a regular file")
	ErrReadOnly = errors.New("disk image is read-only")
	ErrBounds   = errors.New("range outside the disk image")
)

// Image is an open raw disk image.
type Image struct {
	path     string
	file     *os.File
	size     uint64
	readOnly bool
	dirty    mem.Bitmap

	// noFallocate is set once the file system turned out unable to zero ranges.
	noFallocate atomic.Bool
}

// Open opens and locks the raw image at path. A read-only image is shared with
// other readers; a writable one is held exclusively. The lock (flock) ends with
// Close or with the process. Errors: ErrLocked, ErrSize, ErrNotFile, and those
// of the file system.
func Open(path string, readOnly bool) (*Image, error) {
	flags, lock := os.O_RDWR, unix.LOCK_EX
	if readOnly {
		flags, lock = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, fmt.Errorf("open disk image: %w", err)
	}
	img, err := fromFile(path, f, lock)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open disk image %s: %w", path, err)
	}
	img.readOnly = readOnly
	return img, nil
}

// Create makes a sparse image of size bytes at path, which must not exist, and
// opens it. A standby creates its local image like this.
func Create(path string, size uint64) (*Image, error) {
	if size == 0 || size%SectorSize != 0 || int64(size) < 0 {
		return nil, fmt.Errorf("create disk image %s of %d bytes: %w", path, size, ErrSize)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create disk image: %w", err)
	}
	fail := func(err error) (*Image, error) {
		f.Close()
		os.Remove(path)
		return nil, fmt.Errorf("create disk image %s: %w", path, err)
	}
	if err := f.Truncate(int64(size)); err != nil {
		return fail(err)
	}
	img, err := fromFile(path, f, unix.LOCK_EX)
	if err != nil {
		return fail(err)
	}
	return img, nil
}

func fromFile(path string, f *os.File, lock int) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, ErrNotFile
	}
	if err := unix.Flock(int(f.Fd()), lock|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	// The size counts only once the lock is held.
	if info, err = f.Stat(); err != nil {
		return nil, err
	}
	size := uint64(info.Size())
	if size == 0 || size%SectorSize != 0 {
		return nil, fmt.Errorf("%d bytes: %w", size, ErrSize)
	}
	img := &Image{path: path, file: f, size: size}
	img.dirty = mem.NewBitmap(img.Blocks())
	return img, nil
}

// Close unlocks and closes the image. Nothing may use it afterwards.
func (d *Image) Close() error { return d.file.Close() }

// Path returns the path that the image was opened at.
func (d *Image) Path() string { return d.path }

// Size returns the size in bytes, a multiple of SectorSize.
func (d *Image) Size() uint64 { return d.size }

// ReadOnly tells whether the guest may not write.
func (d *Image) ReadOnly() bool { return d.readOnly }

// Blocks returns the number of blocks, a shorter last one included.
func (d *Image) Blocks() uint64 { return (d.size + BlockSize - 1) / BlockSize }

// Dirty is the bitmap of blocks written since it was last drained.
func (d *Image) Dirty() mem.Bitmap { return d.dirty }

// DrainDirty moves the numbers of written blocks into dst, a bitmap of Blocks
// numbers.
func (d *Image) DrainDirty(dst mem.Bitmap) { d.dirty.DrainInto(dst) }

// ReadAt fills p from byte offset off. Errors: ErrBounds, and those of the file.
func (d *Image) ReadAt(p []byte, off uint64) error {
	if err := d.check(off, uint64(len(p))); err != nil {
		return err
	}
	if _, err := d.file.ReadAt(p, int64(off)); err != nil {
		return fmt.Errorf("read %d bytes at %d of %s: %w", len(p), off, d.path, noEOF(err))
	}
	return nil
}

// WriteAt writes p at byte offset off and marks the blocks, also when the write
// fails half-way. Errors: ErrBounds, ErrReadOnly, and those of the file.
func (d *Image) WriteAt(p []byte, off uint64) error {
	if err := d.checkWrite(off, uint64(len(p))); err != nil || len(p) == 0 {
		return err
	}
	_, err := d.file.WriteAt(p, int64(off))
	d.mark(off, uint64(len(p)))
	if err != nil {
		return fmt.Errorf("write %d bytes at %d of %s: %w", len(p), off, d.path, err)
	}
	return nil
}

// Flush returns when all that was written is on stable storage (fdatasync).
func (d *Image) Flush() error {
	if d.readOnly {
		return nil
	}
	for {
		err := unix.Fdatasync(int(d.file.Fd()))
		if err == nil {
			return nil
		}
		if err != unix.EINTR {
			return fmt.Errorf("flush %s: %w", d.path, err)
		}
	}
}

// Discard gives the storage of n bytes at off back. They read as zeroes.
func (d *Image) Discard(off, n uint64) error { return d.zero(off, n, true) }

// WriteZeroes makes n bytes at off read as zeroes. With unmap their storage may
// be given back.
func (d *Image) WriteZeroes(off, n uint64, unmap bool) error { return d.zero(off, n, unmap) }

// zero makes a range read as zeroes with the file system's help, else by writing
// them.
func (d *Image) zero(off, n uint64, unmap bool) error {
	if err := d.checkWrite(off, n); err != nil || n == 0 {
		return err
	}
	defer d.mark(off, n)
	mode := uint32(unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE)
	if unmap {
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	}
	if !d.noFallocate.Load() {
		err := unix.Fallocate(int(d.file.Fd()), mode, int64(off), int64(n))
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOSYS):
			// Punching holes is the more widely supported of both.
			d.noFallocate.Store(unmap)
		case errors.Is(err, unix.EINTR):
		default:
			return fmt.Errorf("zero %d bytes at %d of %s: %w", n, off, d.path, err)
		}
	}
	for n > 0 {
		chunk := min(n, uint64(len(zeroes)))
		if _, err := d.file.WriteAt(zeroes[:chunk], int64(off)); err != nil {
			return fmt.Errorf("zero %d bytes at %d of %s: %w", chunk, off, d.path, err)
		}
		off, n = off+chunk, n-chunk
	}
	return nil
}

var zeroes [1 << 18]byte

// BlockLen returns the length of block n in bytes, 0 beyond the image.
func (d *Image) BlockLen(n uint64) int {
	if n >= d.Blocks() {
		return 0
	}
	return int(min(d.size-n*BlockSize, BlockSize))
}

// ReadBlock reads block n into p, which must have BlockLen(n) bytes at least,
// and returns that length. Errors: ErrBounds, and those of the file.
func (d *Image) ReadBlock(n uint64, p []byte) (int, error) {
	size := d.BlockLen(n)
	if size == 0 || len(p) < size {
		return 0, fmt.Errorf("block %d into %d bytes: %w", n, len(p), ErrBounds)
	}
	return size, d.ReadAt(p[:size], n*BlockSize)
}

// WriteBlock writes block n, whose length p must have, as part of a checkpoint:
// it marks the block like a write of the guest. Errors: ErrBounds, ErrReadOnly,
// and those of the file.
func (d *Image) WriteBlock(n uint64, p []byte) error {
	if size := d.BlockLen(n); size == 0 || len(p) != size {
		return fmt.Errorf("block %d of %d bytes: %w", n, len(p), ErrBounds)
	}
	return d.WriteAt(p, n*BlockSize)
}

func (d *Image) check(off, n uint64) error {
	if off > d.size || n > d.size-off {
		return fmt.Errorf("%d bytes at %d of %d: %w", n, off, d.size, ErrBounds)
	}
	return nil
}

func (d *Image) checkWrite(off, n uint64) error {
	if d.readOnly {
		return ErrReadOnly
	}
	return d.check(off, n)
}

func (d *Image) mark(off, n uint64) {
	for b := off / BlockSize; b <= (off+n-1)/BlockSize; b++ {
		d.dirty.Set(b)
	}
}

// noEOF turns the end of a file that someone truncated into an error that does
// not look like a regular end.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

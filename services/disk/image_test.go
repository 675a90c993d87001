package disk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/mem"
)

// file makes an image file of size bytes and returns its path.
func file(t *testing.T, size int64) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t *testing.T, path string, readOnly bool) *Image {
	t.Helper()
	d, err := Open(path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func dirty(d *Image) []uint64 {
	b := mem.NewBitmap(d.Blocks())
	d.DrainDirty(b)
	return slices.Collect(b.All)
}

func TestOpenRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		path string
		want error
	}{
		{"missing file", filepath.Join(t.TempDir(), "none"), os.ErrNotExist},
		{"empty file", file(t, 0), ErrSize},
		{"part of a sector", file(t, 1000), ErrSize},
		{"directory", t.TempDir(), unix.EISDIR},
		{"device", "/dev/null", ErrNotFile},
	} {
		if _, err := Open(tt.path, false); !errors.Is(err, tt.want) {
			t.Errorf("%s: error %v, want %v", tt.name, err, tt.want)
		}
	}
}

// Locks are of open files, not of processes, so that one process shows what two
// would see.
func TestLock(t *testing.T) {
	path := file(t, 8192)
	first, err := Open(path, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, readOnly := range []bool{false, true} {
		if _, err := Open(path, readOnly); !errors.Is(err, ErrLocked) {
			t.Errorf("second open, read-only %v: error %v, want ErrLocked", readOnly, err)
		}
	}
	first.Close()
	open(t, path, true)
	open(t, path, true)
	if _, err := Open(path, false); !errors.Is(err, ErrLocked) {
		t.Errorf("writable open beside readers: error %v, want ErrLocked", err)
	}
}

func TestCreate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new.img")
	d, err := Create(path, 10240)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if d.Size() != 10240 || d.Blocks() != 3 || d.BlockLen(2) != 2048 || d.BlockLen(3) != 0 {
		t.Errorf("size %d, blocks %d, last %d", d.Size(), d.Blocks(), d.BlockLen(2))
	}
	if _, err := Create(path, 10240); !errors.Is(err, os.ErrExist) {
		t.Errorf("existing file: error %v", err)
	}
	if _, err := Create(path+"2", 100); !errors.Is(err, ErrSize) {
		t.Errorf("odd size: error %v", err)
	}
}

func TestReadOnly(t *testing.T) {
	d := open(t, file(t, 8192), true)
	if err := d.ReadAt(make([]byte, 512), 512); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"write": d.WriteAt(make([]byte, 512), 0), "block": d.WriteBlock(0, make([]byte, 4096)),
		"discard": d.Discard(0, 512), "zeroes": d.WriteZeroes(0, 512, false),
	} {
		if !errors.Is(err, ErrReadOnly) {
			t.Errorf("%s: error %v, want ErrReadOnly", name, err)
		}
	}
	if err := d.Flush(); err != nil {
		t.Error(err)
	}
}

func TestDirtyBlocks(t *testing.T) {
	d := open(t, file(t, 10*4096+512), false)
	for _, tt := range []struct {
		name string
		do   func() error
		want []uint64
	}{
		{"write within a block", func() error { return d.WriteAt(make([]byte, 512), 4096+512) }, []uint64{1}},
		{"write across blocks", func() error { return d.WriteAt(make([]byte, 1024), 2*4096-512) }, []uint64{1, 2}},
		{"nothing written", func() error { return d.WriteAt(nil, 4096) }, nil},
		{"read", func() error { return d.ReadAt(make([]byte, 8192), 0) }, nil},
		{"tail block", func() error { return d.WriteBlock(10, make([]byte, 512)) }, []uint64{10}},
		{"discard", func() error { return d.Discard(4096, 8192) }, []uint64{1, 2}},
		{"zeroes", func() error { return d.WriteZeroes(4096*4, 512, false) }, []uint64{4}},
		{"empty discard", func() error { return d.Discard(0, 0) }, nil},
	} {
		if err := tt.do(); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		if got := dirty(d); !slices.Equal(got, tt.want) {
			t.Errorf("%s: dirty %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestBounds(t *testing.T) {
	d := open(t, file(t, 4096+512), false)
	buf := make([]byte, 1024)
	for name, err := range map[string]error{
		"read over the end":    d.ReadAt(buf, 4096),
		"read far away":        d.ReadAt(buf, 1<<63),
		"read that wraps":      d.ReadAt(buf, ^uint64(0)-100),
		"write over the end":   d.WriteAt(buf, 4096),
		"discard that wraps":   d.Discard(512, ^uint64(0)),
		"zeroes over the end":  d.WriteZeroes(4096, 1024, true),
		"block of wrong size":  d.WriteBlock(1, buf),
		"block beyond the end": d.WriteBlock(2, buf),
	} {
		if !errors.Is(err, ErrBounds) {
			t.Errorf("%s: error %v, want ErrBounds", name, err)
		}
	}
	if _, err := d.ReadBlock(2, buf); !errors.Is(err, ErrBounds) {
		t.Errorf("ReadBlock: %v", err)
	}
	if got := dirty(d); got != nil {
		t.Errorf("refused writes marked %v", got)
	}
}

// An image behaves like a byte array, with and without the help of the file
// system for zeroes, and its dirty blocks cover every change.
func TestModel(t *testing.T) {
	path := file(t, 6*4096+1536)
	rapid.Check(t, func(t *rapid.T) {
		d, err := Open(path, false)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		d.noFallocate.Store(rapid.Bool().Draw(t, "no fallocate"))
		model := make([]byte, d.Size())
		if err := d.ReadAt(model, 0); err != nil {
			t.Fatal(err)
		}
		before := bytes.Clone(model)
		for range rapid.IntRange(1, 12).Draw(t, "operations") {
			off := rapid.Uint64Range(0, d.Size()/512-1).Draw(t, "sector") * 512
			n := rapid.Uint64Range(0, min(12288, d.Size()-off)).Draw(t, "length")
			switch rapid.SampledFrom([]string{"write", "discard", "zeroes", "unmap"}).Draw(t, "operation") {
			case "write":
				p := bytes.Repeat([]byte{rapid.Byte().Draw(t, "byte")}, int(n))
				err = d.WriteAt(p, off)
				copy(model[off:], p)
			case "discard":
				err = d.Discard(off, n)
				clear(model[off : off+n])
			case "zeroes":
				err = d.WriteZeroes(off, n, false)
				clear(model[off : off+n])
			case "unmap":
				err = d.WriteZeroes(off, n, true)
				clear(model[off : off+n])
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		marked, buf := dirty(d), make([]byte, BlockSize)
		for b := range d.Blocks() {
			n, err := d.ReadBlock(b, buf)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(buf[:n], model[b*BlockSize:][:n]) {
				t.Fatalf("block %d differs from the model", b)
			}
			if !bytes.Equal(buf[:n], before[b*BlockSize:][:n]) && !slices.Contains(marked, b) {
				t.Fatalf("block %d changed and is not marked", b)
			}
		}
	})
}

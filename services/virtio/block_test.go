package virtio

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/understudy-ft/understudy/services/disk"
)

const testDiskSectors = 64 // 8 blocks

// image makes an empty disk image.
func image(t *testing.T, sectors int64, readOnly bool) *disk.Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, sectors*512)); err != nil {
		t.Fatal(err)
	}
	img, err := disk.Open(path, readOnly)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	return img
}

func blockHeader(kind uint32, sector uint64) []byte {
	b := binary.LittleEndian.AppendUint32(nil, kind)
	b = binary.LittleEndian.AppendUint32(b, 0)
	return binary.LittleEndian.AppendUint64(b, sector)
}

func zeroRange(sector uint64, sectors, flags uint32) []byte {
	b := binary.LittleEndian.AppendUint64(nil, sector)
	b = binary.LittleEndian.AppendUint32(b, sectors)
	return binary.LittleEndian.AppendUint32(b, flags)
}

// ask makes a block request in pieces of the given size and returns the data
// that was read and the status.
func (d *driver) ask(kind uint32, sector uint64, data []byte, in, piece int) ([]byte, byte) {
	d.t.Helper()
	out := append(d.place(blockHeader(kind, sector), piece), d.place(data, piece)...)
	r := d.add(0, out, append(d.room(in, piece), d.place([]byte{0xee}, 1)...), 0)
	if r == nil {
		d.t.Fatal("no descriptors left")
	}
	d.kick(0)
	d.collect(0)
	if !r.done {
		d.t.Fatalf("request was not completed; log: %s", d.log)
	}
	content := d.content(r)
	return content[:in], content[in]
}

func TestBlockConfig(t *testing.T) {
	d := newDriver(t, NewBlock(image(t, testDiskSectors, false), false))
	for _, tt := range []struct {
		name string
		off  uint64
		size int
		want uint64
	}{
		{"capacity", 0, 8, testDiskSectors}, {"segments", 12, 4, blockQueueSize - 2}, {"block size", 20, 4, 512},
		{"physical block exponent", 24, 1, 3}, {"discard segments", 40, 4, 4}, {"write zeroes may unmap", 56, 1, 1},
	} {
		if got := d.dev.Read(regConfig+tt.off, tt.size); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestBlockRequests(t *testing.T) {
	data := bytes.Repeat([]byte{7}, 1024)
	many := bytes.Repeat(zeroRange(0, 1, 0), 5)
	for _, tt := range []struct {
		name   string
		kind   uint32
		sector uint64
		out    []byte
		in     int
		want   byte
	}{
		{"read", blockRead, 0, nil, 1024, blockOK},
		{"read nothing", blockRead, 0, nil, 0, blockOK},
		{"read the last sector", blockRead, testDiskSectors - 1, nil, 512, blockOK},
		{"write", blockWrite, 3, data, 0, blockOK},
		{"write the last sectors", blockWrite, testDiskSectors - 2, data, 0, blockOK},
		{"flush", blockFlush, 0, nil, 0, blockOK},
		{"discard", blockDiscard, 0, zeroRange(8, 8, 0), 0, blockOK},
		{"discard two ranges", blockDiscard, 0, append(zeroRange(0, 1, 0), zeroRange(5, 1, 0)...), 0, blockOK},
		{"write zeroes", blockWriteZeroes, 0, zeroRange(8, 8, 0), 0, blockOK},
		{"write zeroes, may unmap", blockWriteZeroes, 0, zeroRange(8, 8, 1), 0, blockOK},

		{"read over the end", blockRead, testDiskSectors - 1, nil, 1024, blockIOError},
		{"read far away", blockRead, 1 << 60, nil, 512, blockIOError},
		{"sector that overflows", blockRead, ^uint64(0), nil, 512, blockIOError},
		{"read part of a sector", blockRead, 0, nil, 100, blockIOError},
		{"write over the end", blockWrite, testDiskSectors - 1, data, 0, blockIOError},
		{"write part of a sector", blockWrite, 0, data[:100], 0, blockIOError},
		{"discard over the end", blockDiscard, 0, zeroRange(testDiskSectors-1, 2, 0), 0, blockIOError},
		{"discard without a range", blockDiscard, 0, nil, 0, blockIOError},
		{"discard part of a range", blockDiscard, 0, zeroRange(0, 1, 0)[:15], 0, blockIOError},
		{"discard too many ranges", blockDiscard, 0, many, 0, blockIOError},
		{"write zeroes over the end", blockWriteZeroes, 0, zeroRange(^uint64(0), 2, 0), 0, blockIOError},

		{"discard with unmap flag", blockDiscard, 0, zeroRange(0, 1, 1), 0, blockUnsupported},
		{"write zeroes with unknown flag", blockWriteZeroes, 0, zeroRange(0, 1, 2), 0, blockUnsupported},
		{"SCSI command", 2, 0, nil, 512, blockUnsupported},
		{"unknown request", 0xffffffff, 0, nil, 0, blockUnsupported},
	} {
		for _, piece := range []int{4096, 100} { // any layout in descriptors will do
			d := started(t, NewBlock(image(t, testDiskSectors, false), false), blockFeatureFlush|FeatureIndirectDesc)
			if _, got := d.ask(tt.kind, tt.sector, tt.out, tt.in, piece); got != tt.want {
				t.Errorf("%s: status %d, want %d; log: %s", tt.name, got, tt.want, d.log)
			}
			if d.reg(regStatus)&StatusNeedsReset != 0 {
				t.Errorf("%s: the device stopped", tt.name)
			}
		}
	}
}

func TestBlockOffences(t *testing.T) {
	for name, r := range map[string]struct{ out, in int }{
		"no header":      {0, 1},
		"part of header": {15, 513},
		"no status":      {16, 0},
	} {
		d := started(t, NewBlock(image(t, testDiskSectors, false), false), 0)
		d.add(0, d.place(make([]byte, r.out), 4096), d.room(r.in, 4096), 99)
		d.kick(0)
		if !d.broken() {
			t.Errorf("%s: the device did not mind", name)
		}
	}
}

func TestBlockReadOnly(t *testing.T) {
	for name, b := range map[string]*Block{
		"image":  NewBlock(image(t, testDiskSectors, true), false),
		"device": NewBlock(image(t, testDiskSectors, false), true),
	} {
		d := started(t, b, ^uint64(0))
		if !d.dev.negotiated(blockFeatureReadOnly) || d.dev.negotiated(blockFeatureDiscard|blockFeatureWriteZeroes) {
			t.Errorf("%s: features %#x", name, d.dev.driverFeatures)
		}
		for kind, out := range map[uint32][]byte{
			blockWrite: make([]byte, 512), blockDiscard: zeroRange(0, 1, 0), blockWriteZeroes: zeroRange(0, 1, 0),
		} {
			if _, status := d.ask(kind, 0, out, 0, 4096); status != blockIOError {
				t.Errorf("%s: request %d: status %d, want an I/O error", name, kind, status)
			}
		}
		if _, status := d.ask(blockRead, 0, nil, 512, 4096); status != blockOK {
			t.Errorf("%s: read: status %d", name, status)
		}
		if b.image.(*disk.Image).Dirty().Count() != 0 {
			t.Errorf("%s: blocks are dirty", name)
		}
	}
}

// faulty is a disk that counts flushes and fails on demand.
type faulty struct {
	*disk.Image
	flushes int
	err     error
}

func (f *faulty) ReadAt(p []byte, off uint64) error {
	return errors.Join(f.err, f.Image.ReadAt(p, off))
}

func (f *faulty) WriteAt(p []byte, off uint64) error {
	return errors.Join(f.err, f.Image.WriteAt(p, off))
}

func (f *faulty) WriteZeroes(off, n uint64, unmap bool) error {
	return errors.Join(f.err, f.Image.WriteZeroes(off, n, unmap))
}

func (f *faulty) Flush() error {
	f.flushes++
	return errors.Join(f.err, f.Image.Flush())
}

// A driver that knows flushes decides when data is durable; for another one it
// always is.
func TestBlockDurability(t *testing.T) {
	writes := map[uint32][]byte{blockWrite: make([]byte, 512), blockDiscard: zeroRange(0, 1, 0), blockWriteZeroes: zeroRange(0, 1, 0)}
	for features, perWrite := range map[uint64]int{0: 1, blockFeatureFlush: 0} {
		img := &faulty{Image: image(t, testDiskSectors, false)}
		d := started(t, NewBlock(img, false), features)
		for kind, out := range writes {
			img.flushes = 0
			if _, status := d.ask(kind, 0, out, 0, 4096); status != blockOK || img.flushes != perWrite {
				t.Errorf("features %#x, request %d: status %d, %d flushes, want %d", features, kind, status, img.flushes, perWrite)
			}
		}
		img.flushes = 0
		if _, status := d.ask(blockFlush, 0, nil, 0, 4096); status != blockOK || img.flushes != 1 {
			t.Errorf("features %#x: flush: status %d, %d flushes", features, status, img.flushes)
		}
	}
}

// A disk that fails is an I/O error of the guest's and stops nothing.
func TestBlockErrors(t *testing.T) {
	img := &faulty{Image: image(t, testDiskSectors, false)}
	d := started(t, NewBlock(img, false), 0)
	for kind, out := range map[uint32][]byte{
		blockRead: nil, blockWrite: make([]byte, 512), blockFlush: nil,
		blockDiscard: zeroRange(0, 1, 0), blockWriteZeroes: zeroRange(0, 1, 0),
	} {
		in := 0
		if kind == blockRead {
			in = 512
		}
		img.err = errors.New("broken disk")
		if _, status := d.ask(kind, 0, out, in, 4096); status != blockIOError {
			t.Errorf("request %d: status %d, want an I/O error", kind, status)
		}
		img.err = nil
		if _, status := d.ask(kind, 0, out, in, 4096); status != blockOK {
			t.Errorf("request %d: status %d once the disk is well again", kind, status)
		}
	}
	if got := d.reg(regStatus); got != 0xf {
		t.Errorf("status %#x", got)
	}
}

func TestBlockID(t *testing.T) {
	d := started(t, NewBlock(image(t, testDiskSectors, false), false), 0)
	id, status := d.ask(blockGetID, 0, nil, 20, 4096)
	if status != blockOK || string(bytes.TrimRight(id, "\x00")) != blockID {
		t.Errorf("status %d, id %q", status, id)
	}
}

// The device is an array of sectors, however requests lie in descriptors and
// also after it moved to another host with the same disk.
func TestBlockModel(t *testing.T) {
	for _, features := range queueFeatures {
		t.Run(fmt.Sprintf("features=%#x", features), func(t *testing.T) {
			img := image(t, testDiskSectors, false)
			rapid.Check(t, func(rt *rapid.T) {
				model := make([]byte, testDiskSectors*512)
				if err := img.WriteZeroes(0, uint64(len(model)), true); err != nil {
					rt.Fatal(err)
				}
				d := started(t, NewBlock(img, false), features|blockFeatureFlush|blockFeatureDiscard|blockFeatureWriteZeroes)
				for range rapid.IntRange(1, 20).Draw(rt, "steps") {
					sector := rapid.IntRange(0, testDiskSectors-1).Draw(rt, "sector")
					sectors := rapid.IntRange(1, min(8, testDiskSectors-sector)).Draw(rt, "sectors")
					part := model[sector*512:][:sectors*512]
					piece := rapid.SampledFrom([]int{512, 700, 4096}).Draw(rt, "piece")
					status := byte(blockOK)
					switch rapid.SampledFrom([]string{"read", "write", "discard", "zeroes", "move"}).Draw(rt, "step") {
					case "read":
						var got []byte
						got, status = d.ask(blockRead, uint64(sector), nil, len(part), piece)
						if !bytes.Equal(got, part) {
							rt.Fatalf("sectors %d+%d differ", sector, sectors)
						}
					case "write":
						copy(part, bytes.Repeat(rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(rt, "data"), len(part)/8))
						_, status = d.ask(blockWrite, uint64(sector), part, 0, piece)
					case "discard":
						clear(part)
						_, status = d.ask(blockDiscard, 0, zeroRange(uint64(sector), uint32(sectors), 0), 0, piece)
					case "zeroes":
						clear(part)
						_, status = d.ask(blockWriteZeroes, 0, zeroRange(uint64(sector), uint32(sectors), 0), 0, piece)
					case "move":
						d = d.moved(NewBlock(img, false))
					}
					if status != blockOK {
						rt.Fatalf("status %d; log: %s", status, d.log)
					}
				}
			})
		})
	}
}

func TestBlockStateNeedsTheSameDisk(t *testing.T) {
	d := started(t, NewBlock(image(t, testDiskSectors, false), false), 0)
	d.dev.Pause()
	state, err := d.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	for name, other := range map[string]Device{
		"larger disk":    NewBlock(image(t, 2*testDiskSectors, false), false),
		"read-only disk": NewBlock(image(t, testDiskSectors, true), false),
		"another device": NewRNG([32]byte{}),
	} {
		if _, err := newDriver(t, other).dev.Prepare(state); !errors.Is(err, ErrState) {
			t.Errorf("%s: error %v, want ErrState", name, err)
		}
	}
}

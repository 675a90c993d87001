package virtio

import (
	"encoding/binary"
	"fmt"

	understudyv1 "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
)

// Block device (section 5.2).
const (
	blockType      = 2
	blockQueueSize = 128

	blockFeatureSizeMax     = 1 << 1
	blockFeatureSegMax      = 1 << 2
	blockFeatureReadOnly    = 1 << 5
	blockFeatureBlockSize   = 1 << 6
	blockFeatureFlush       = 1 << 9
	blockFeatureTopology    = 1 << 10
	blockFeatureDiscard     = 1 << 13
	blockFeatureWriteZeroes = 1 << 14

	blockRead        = 0
	blockWrite       = 1
	blockFlush       = 4
	blockGetID       = 8
	blockDiscard     = 11
	blockWriteZeroes = 13

	blockOK          = 0
	blockIOError     = 1
	blockUnsupported = 2

	blockHeaderSize  = 16
	blockIDSize      = 20
	blockRangeSize   = 16
	blockRangeUnmap  = 1
	blockConfigSize  = 60
	blockPhysicalLog = 3 // log2 of tracked blocks in sectors

	// Limits that the configuration tells the driver, and that bound what one
	// request may do.
	blockSegmentMax   = 1 << 15 // bytes
	blockSegments     = blockQueueSize - 2
	blockRequestMax   = blockSegments * blockSegmentMax
	blockRangesMax    = 4
	blockRangeSectors = 1 << 16

	blockID = "understudy"
)

// Image is what a block device needs of a disk.Image.
type Image interface {
	// Size is in bytes, a multiple of disk.SectorSize.
	Size() uint64
	ReadOnly() bool
	ReadAt(p []byte, off uint64) error
	WriteAt(p []byte, off uint64) error
	WriteZeroes(off, n uint64, unmap bool) error
	// Flush returns when all writes are on stable storage.
	Flush() error
}

// Block is the block device over a raw image.
//
// A write has reached the image when it completes, and stable storage when a
// flush afterwards completes; without a driver that knows FLUSH, when it
// completes itself. Errors of the image are the guest's I/O errors. Discarded
// ranges read as zeroes.
type Block struct {
	image     Image
	readOnly  bool
	transport *Transport
	buffer    [1 << 16]byte
	errors    uint64
}

// NewBlock returns a block device over image, for reading only if readOnly or
// if the image is.
func NewBlock(image Image, readOnly bool) *Block {
	return &Block{image: image, readOnly: readOnly || image.ReadOnly()}
}

// Info implements Device.
func (b *Block) Info() Info {
	features := uint64(blockFeatureSizeMax | blockFeatureSegMax | blockFeatureBlockSize | blockFeatureFlush | blockFeatureTopology)
	if b.readOnly {
		features |= blockFeatureReadOnly
	} else {
		features |= blockFeatureDiscard | blockFeatureWriteZeroes
	}
	return Info{Type: blockType, Features: features, QueueSizes: []uint16{blockQueueSize}}
}

// Attach implements Device.
func (b *Block) Attach(t *Transport) { b.transport = t }

// PowerOn implements Device.
func (b *Block) PowerOn() {}

// Changed implements Device.
func (b *Block) Changed() {}

// Config implements Device (struct virtio_blk_config, section 5.2.4).
func (b *Block) Config() []byte {
	le := binary.LittleEndian
	c := make([]byte, blockConfigSize)
	le.PutUint64(c[0:], b.image.Size()/disk.SectorSize)
	le.PutUint32(c[8:], blockSegmentMax)
	le.PutUint32(c[12:], blockSegments)
	le.PutUint32(c[20:], disk.SectorSize)
	c[24] = blockPhysicalLog
	le.PutUint16(c[26:], 1<<blockPhysicalLog) // suggested minimum I/O, in sectors
	le.PutUint32(c[36:], blockRangeSectors)   // discard
	le.PutUint32(c[40:], blockRangesMax)
	le.PutUint32(c[44:], 1<<blockPhysicalLog) // alignment
	le.PutUint32(c[48:], blockRangeSectors)   // write zeroes
	le.PutUint32(c[52:], blockRangesMax)
	c[56] = 1 // may unmap
	return c
}

// Process implements Device.
func (b *Block) Process(queue int) (more bool, err error) {
	return b.transport.queues[queue].drain(&b.transport.paused, b.request)
}

// request does one request: a header and data to read, data and a status byte
// to write. Only a chain without room for header and status is an offence.
func (b *Block) request(c *Chain) (uint32, error) {
	if c.ReadLen < blockHeaderSize || c.WriteLen < 1 {
		return 0, fmt.Errorf("block request of %d bytes to read, %d to write: %w", c.ReadLen, c.WriteLen, ErrOffence)
	}
	var header [blockHeaderSize]byte
	if _, err := c.Read(header[:], 0); err != nil {
		return 0, err
	}
	kind, sector := binary.LittleEndian.Uint32(header[:]), binary.LittleEndian.Uint64(header[8:])
	written, status := b.do(c, kind, sector)
	if _, err := c.Write([]byte{status}, c.WriteLen-1); err != nil {
		return 0, err
	}
	if uint64(written) == c.WriteLen-1 {
		written++ // the status follows what was written
	}
	return written, nil
}

func (b *Block) do(c *Chain, kind uint32, sector uint64) (written uint32, status byte) {
	var err error
	switch kind {
	case blockRead:
		written, err = b.read(c, sector)
	case blockWrite:
		err = b.write(c, sector)
	case blockFlush:
		err = b.image.Flush()
	case blockGetID:
		id := make([]byte, min(blockIDSize, c.WriteLen-1))
		copy(id, blockID)
		var n int
		n, err = c.Write(id, 0)
		written = uint32(n)
	case blockDiscard, blockWriteZeroes:
		if b.readOnly {
			return 0, blockIOError
		}
		var supported bool
		if supported, err = b.zero(c, kind == blockDiscard); !supported {
			return 0, blockUnsupported
		}
	default:
		return 0, blockUnsupported
	}
	if err != nil {
		b.errors++
		if b.errors&(b.errors-1) == 0 {
			b.transport.cfg.Log.Warn("guest's disk request failed", "device", b.transport.cfg.Name, "errors", b.errors, "error", err)
		}
		return 0, blockIOError
	}
	return written, blockOK
}

// extent checks where a request of n bytes at a sector lies and returns its
// byte offset.
func (b *Block) extent(sector, n, limit uint64) (uint64, error) {
	sectors := b.image.Size() / disk.SectorSize
	if n%disk.SectorSize != 0 || n > limit || sector > sectors || n/disk.SectorSize > sectors-sector {
		return 0, fmt.Errorf("%d bytes at sector %d of %d", n, sector, sectors)
	}
	return sector * disk.SectorSize, nil
}

func (b *Block) read(c *Chain, sector uint64) (uint32, error) {
	n := c.WriteLen - 1
	off, err := b.extent(sector, n, blockRequestMax)
	if err != nil {
		return 0, err
	}
	for done := uint64(0); done < n; {
		p := b.buffer[:min(n-done, uint64(len(b.buffer)))]
		if err := b.image.ReadAt(p, off+done); err != nil {
			return 0, err
		}
		if _, err := c.Write(p, done); err != nil {
			return 0, err
		}
		done += uint64(len(p))
	}
	return uint32(n), nil
}

func (b *Block) write(c *Chain, sector uint64) error {
	if b.readOnly {
		return disk.ErrReadOnly
	}
	n := c.ReadLen - blockHeaderSize
	off, err := b.extent(sector, n, blockRequestMax)
	if err != nil {
		return err
	}
	for done := uint64(0); done < n; {
		p := b.buffer[:min(n-done, uint64(len(b.buffer)))]
		if _, err := c.Read(p, blockHeaderSize+done); err != nil {
			return err
		}
		if err := b.image.WriteAt(p, off+done); err != nil {
			return err
		}
		done += uint64(len(p))
	}
	if !b.transport.negotiated(blockFeatureFlush) {
		return b.image.Flush()
	}
	return nil
}

// zero does the ranges of a discard or write-zeroes request, after it checked
// them all. It returns false for flags that the request does not know.
func (b *Block) zero(c *Chain, discard bool) (supported bool, err error) {
	n := c.ReadLen - blockHeaderSize
	if n == 0 || n%blockRangeSize != 0 || n > blockRangesMax*blockRangeSize {
		return true, fmt.Errorf("ranges of %d bytes to zero", n)
	}
	ranges := b.buffer[:n]
	if _, err := c.Read(ranges, blockHeaderSize); err != nil {
		return true, err
	}
	type extent struct {
		off, size uint64
		unmap     bool
	}
	var todo [blockRangesMax]extent
	count := 0
	for ; len(ranges) > 0; ranges = ranges[blockRangeSize:] {
		sector, sectors := binary.LittleEndian.Uint64(ranges), uint64(binary.LittleEndian.Uint32(ranges[8:]))
		flags := binary.LittleEndian.Uint32(ranges[12:])
		if flags&^blockRangeUnmap != 0 || discard && flags != 0 {
			return false, nil
		}
		size := sectors * disk.SectorSize
		off, err := b.extent(sector, size, blockRangeSectors*disk.SectorSize)
		if err != nil {
			return true, err
		}
		todo[count] = extent{off, size, discard || flags&blockRangeUnmap != 0}
		count++
	}
	for _, e := range todo[:count] {
		if err := b.image.WriteZeroes(e.off, e.size, e.unmap); err != nil {
			return true, err
		}
	}
	if !b.transport.negotiated(blockFeatureFlush) {
		return true, b.image.Flush()
	}
	return true, nil
}

// Save implements Device.
func (b *Block) Save(s *understudyv1.VirtioState) error {
	s.Device = &understudyv1.VirtioState_Block{Block: &understudyv1.VirtioBlockState{
		SizeBytes: b.image.Size(), ReadOnly: b.readOnly,
	}}
	return nil
}

// Prepare implements Device.
func (b *Block) Prepare(s *understudyv1.VirtioState) (commit func(), err error) {
	state := s.GetBlock()
	if state == nil || state.SizeBytes != b.image.Size() || state.ReadOnly != b.readOnly {
		return nil, fmt.Errorf("disk of %d bytes, read-only %v; have %d bytes, read-only %v",
			state.GetSizeBytes(), state.GetReadOnly(), b.image.Size(), b.readOnly)
	}
	return func() {}, nil
}

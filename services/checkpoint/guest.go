package checkpoint

import "github.com/understudy-ft/understudy/services/mem"

// BlockSize is the size in bytes of the disk blocks that are tracked and
// transferred. It equals the page size, so that both travel in the same form.
const BlockSize = mem.PageSize

// Guest is the part of a machine that a checkpoint transfers.
type Guest interface {
	// Memory is the guest's physical memory.
	Memory() *mem.Memory
	// DrainDirty moves the numbers of the pages written since the last call
	// into dst, a bitmap of Memory().Pages() bits. It may be called while the
	// guest runs; a page whose write is not yet visible to a reader is
	// reported by a later call.
	DrainDirty(dst mem.Bitmap) error
	// Disk is the guest's disk, or nil. It is asked for once.
	Disk() Disk
}

// Disk is a guest's disk as numbered blocks. ReadBlock is called by several
// goroutines at once, also while the guest runs.
type Disk interface {
	// Blocks returns the number of blocks.
	Blocks() uint64
	// ReadBlock reads block n into p, which has BlockSize bytes. What lies
	// after the end of a disk whose last block is short reads as zero.
	ReadBlock(n uint64, p []byte) error
	// WriteBlock writes p, which has BlockSize bytes, to block n. What lies
	// after the end of the disk is ignored.
	WriteBlock(n uint64, p []byte) error
	// DrainDirty moves the numbers of the blocks written since the last call
	// into dst, a bitmap of Blocks() bits. A block is reported only after its
	// write is visible to ReadBlock.
	DrainDirty(dst mem.Bitmap)
	// Flush makes all written blocks durable.
	Flush() error
}

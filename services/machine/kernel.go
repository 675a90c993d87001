package machine

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rv64"
)

// ErrKernel is wrapped by errors about a kernel that the machine cannot boot.
var ErrKernel = errors.New("kernel cannot be booted")

// Header of a RISC-V Linux Image (Linux Documentation/arch/riscv/boot-image-header.rst).
const (
	imageTextOffset = 0x08
	imageSize       = 0x10
	imageFlags      = 0x18
	imageMagic      = 0x38
	imageHeaderSize = 0x40

	imageMagicValue = "RSC\x05"
	imageBigEndian  = 1
)

// fdtReserve is the space at the end of memory for the device tree.
const fdtReserve = 2 << 20

// bootImages are what a machine boots from, unpacked and checked.
type bootImages struct {
	kernel, initrd []byte
	placement
}

// placement says where things lie in guest memory.
type placement struct {
	kernel, initrd, fdt uint64
}

// newBootImages unpacks and checks images for a machine of memoryBytes.
func newBootImages(kernel, initrd []byte, memoryBytes uint64) (*bootImages, error) {
	kernel, err := unpack(kernel, memoryBytes)
	if err != nil {
		return nil, err
	}
	p, err := place(kernel, uint64(len(initrd)), memoryBytes)
	if err != nil {
		return nil, err
	}
	return &bootImages{kernel: kernel, initrd: initrd, placement: p}, nil
}

// unpack returns a kernel as it lies in memory. What does not fit into limit
// bytes is refused before it is unpacked whole.
func unpack(kernel []byte, limit uint64) ([]byte, error) {
	if !isGzip(kernel) {
		return kernel, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(kernel))
	if err != nil {
		return nil, fmt.Errorf("gzip'ed kernel: %w: %w", ErrKernel, err)
	}
	plain, err := io.ReadAll(io.LimitReader(z, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("gzip'ed kernel: %w: %w", ErrKernel, err)
	}
	if uint64(len(plain)) > limit {
		return nil, fmt.Errorf("gzip'ed kernel is larger than the machine's %d bytes of memory: %w", limit, ErrKernel)
	}
	return plain, nil
}

// place checks a kernel's header and finds room for everything.
func place(kernel []byte, initrdBytes, memoryBytes uint64) (placement, error) {
	fail := func(format string, args ...any) (placement, error) {
		return placement{}, fmt.Errorf(format+": %w", append(args, ErrKernel)...)
	}
	if what := foreign(kernel); what != "" {
		return fail("kernel is %s, not a RISC-V Linux Image", what)
	}
	if !isRISCVImage(kernel) {
		return fail("kernel of %d bytes is not a RISC-V Linux Image", len(kernel))
	}
	le := binary.LittleEndian
	textOffset, size := le.Uint64(kernel[imageTextOffset:]), le.Uint64(kernel[imageSize:])
	if le.Uint64(kernel[imageFlags:])&imageBigEndian != 0 {
		return fail("kernel is big-endian")
	}
	if textOffset%mem.PageSize != 0 {
		return fail("kernel's text offset %#x is not a multiple of %d", textOffset, mem.PageSize)
	}
	// The size in memory includes what is zero at the start, and may be absent
	// from the header of old kernels. The file may not be cut short of its PE
	// sections, which the header does not count; its end is all that can be told.
	if size == 0 {
		size = uint64(len(kernel))
	}
	if uint64(len(kernel)) > size {
		return fail("kernel has %d bytes, more than the %d of its header", len(kernel), size)
	}
	if missing := peEnd(kernel); missing > uint64(len(kernel)) {
		return fail("kernel is truncated: %d bytes of %d", len(kernel), missing)
	}
	fdt := memoryBytes - fdtReserve
	if initrdBytes > fdt {
		return fail("initrd of %d bytes is too large for %d bytes of memory", initrdBytes, memoryBytes)
	}
	initrd := (fdt - initrdBytes) &^ (mem.PageSize - 1)
	if textOffset > initrd || size > initrd-textOffset {
		return fail("kernel (%d bytes at offset %#x) and initrd (%d bytes) are too large for %d bytes of memory",
			size, textOffset, initrdBytes, memoryBytes)
	}
	return placement{
		kernel: rv64.RAMBase + textOffset,
		initrd: rv64.RAMBase + initrd,
		fdt:    rv64.RAMBase + fdt,
	}, nil
}

// peEnd returns the end of the last section in the file's data that the PE
// header of a kernel with an EFI stub names; 0 without such a header.
func peEnd(k []byte) uint64 {
	le := binary.LittleEndian
	const sectionSize = 40
	if string(k[:2]) != "MZ" {
		return 0
	}
	pe := uint64(le.Uint32(k[0x3c:]))
	if pe+24 > uint64(len(k)) || string(k[pe:pe+4]) != "PE\x00\x00" {
		return 0
	}
	sections, optional := uint64(le.Uint16(k[pe+6:])), uint64(le.Uint16(k[pe+20:]))
	end, table := uint64(0), pe+24+optional
	for i := range sections {
		s := table + i*sectionSize
		if s+sectionSize > uint64(len(k)) {
			return s + sectionSize
		}
		end = max(end, uint64(le.Uint32(k[s+16:]))+uint64(le.Uint32(k[s+20:])))
	}
	return end
}

// load writes images and device tree into zeroed memory.
func (b *bootImages) load(m *mem.Memory, fdt []byte) error {
	for _, part := range []struct {
		addr uint64
		data []byte
	}{{b.placement.kernel, b.kernel}, {b.placement.initrd, b.initrd}, {b.fdt, fdt}} {
		if err := m.WriteAt(part.data, part.addr); err != nil {
			return fmt.Errorf("load boot images: %w", err)
		}
	}
	return nil
}

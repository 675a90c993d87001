// Package bzimage reads an x86 Linux kernel in its bzImage form and prepares
// what the 64-bit boot protocol hands to it (Linux
// Documentation/arch/x86/boot.rst, zero-page.rst).
//
// A bzImage is a real-mode part that nobody runs any more, whose setup header
// describes the kernel, and behind it the compressed kernel with a loader of its
// own. The monitor puts that second part at the address that the header prefers,
// fills in a page of parameters (the zero page), and starts it in 64-bit mode at
// EntryOffset.
package bzimage

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrKernel is wrapped by errors about a kernel that cannot be booted.
var ErrKernel = errors.New("kernel cannot be booted")

// EntryOffset is the 64-bit entry point's distance from the start of the loaded
// code.
const EntryOffset = 0x200

// SectorSize is the unit of the real-mode part's length.
const sectorSize = 512

// Offsets in the file, the same in the zero page.
const (
	offSetupSects  = 0x1f1
	offSysSize     = 0x1f4 // in units of 16 bytes
	offJump        = 0x201 // its operand ends the header
	offMagic       = 0x202
	offVersion     = 0x206
	offLoaderType  = 0x210
	offLoadFlags   = 0x211
	offInitrdMax   = 0x22c
	offAlignment   = 0x230
	offRelocatable = 0x234
	offXLoadFlags  = 0x236
	offCmdlineSize = 0x238
	offPrefAddress = 0x258
	offInitSize    = 0x260
	headerEnd      = 0x264

	magic          = "HdrS"
	minVersion     = 0x20c // 2.12: the first with xloadflags
	loadedHigh     = 1 << 0
	xlfKernel64    = 1 << 0
	undefinedType  = 0xff // a boot loader without a number
	maxSetupHeader = 0x290
)

// Kernel is a checked kernel. Its slices are those of the file.
type Kernel struct {
	// Code is what is loaded.
	Code []byte
	// PrefAddress is where it is best loaded, InitSize the memory that it needs
	// from there on until it can read the memory map.
	PrefAddress, InitSize uint64
	// InitrdMax is the highest address that the initrd's last byte may have.
	InitrdMax uint64
	// CmdlineMax is the longest command line, without the final NUL.
	CmdlineMax int

	header []byte // from offSetupSects on
}

// Is tells whether a file has the mark of an x86 kernel.
func Is(file []byte) bool {
	return len(file) >= offMagic+len(magic) && string(file[offMagic:offMagic+len(magic)]) == magic
}

// Parse checks a bzImage. Errors wrap ErrKernel and say what is wrong with it.
func Parse(file []byte) (*Kernel, error) {
	fail := func(format string, args ...any) (*Kernel, error) {
		return nil, fmt.Errorf(format+": %w", append(args, ErrKernel)...)
	}
	le := binary.LittleEndian
	switch {
	case !Is(file):
		return fail("kernel of %d bytes is not an x86 bzImage", len(file))
	case len(file) < headerEnd:
		return fail("kernel is truncated: %d bytes do not hold its header", len(file))
	}
	if v := le.Uint16(file[offVersion:]); v < minVersion {
		return fail("kernel has boot protocol %d.%d, %d.%d is the oldest that works",
			v>>8, v&0xff, minVersion>>8, minVersion&0xff)
	}
	if file[offLoadFlags]&loadedHigh == 0 {
		return fail("kernel is a zImage, not a bzImage")
	}
	if le.Uint16(file[offXLoadFlags:])&xlfKernel64 == 0 {
		return fail("kernel is for 32-bit x86 (it has no 64-bit entry point)")
	}
	if file[offRelocatable] == 0 {
		return fail("kernel is not relocatable")
	}
	sectors := uint64(file[offSetupSects])
	if sectors == 0 {
		sectors = 4 // boot.rst: "for backwards compatibility"
	}
	start := (sectors + 1) * sectorSize
	// What follows the code that the header counts is a signature of the file.
	end := start + 16*uint64(le.Uint32(file[offSysSize:]))
	if end > uint64(len(file)) {
		return fail("kernel is truncated: %d bytes of %d", len(file), end)
	}
	if end-start <= EntryOffset {
		return fail("kernel has %d bytes of code", end-start)
	}
	k := &Kernel{
		Code:        file[start:end],
		PrefAddress: le.Uint64(file[offPrefAddress:]),
		InitSize:    uint64(le.Uint32(file[offInitSize:])),
		InitrdMax:   uint64(le.Uint32(file[offInitrdMax:])),
		CmdlineMax:  int(min(le.Uint32(file[offCmdlineSize:]), 1<<16)),
	}
	if k.InitSize < uint64(len(k.Code)) {
		return fail("kernel has %d bytes of code but asks for %d of memory", len(k.Code), k.InitSize)
	}
	if align := uint64(le.Uint32(file[offAlignment:])); align == 0 || align&(align-1) != 0 || k.PrefAddress%align != 0 {
		return fail("kernel wants to be loaded at %#x, which is not a multiple of its alignment %#x", k.PrefAddress, align)
	}
	// The header ends where the jump at its beginning leads to.
	last := min(offJump+1+uint64(file[offJump]), maxSetupHeader, start)
	if last < headerEnd {
		return fail("kernel's header ends at %#x", last)
	}
	k.header = file[offSetupSects:last]
	return k, nil
}

package bzimage

import (
	"encoding/binary"
	"fmt"
)

// ZeroPageSize is the length of the parameters in bytes.
const ZeroPageSize = 4096

// Offsets in the zero page (zero-page.rst, struct boot_params).
const (
	zpRSDP       = 0x070
	zpE820Count  = 0x1e8
	zpInitrd     = 0x218
	zpInitrdSize = 0x21c
	zpCmdline    = 0x228
	zpSetupData  = 0x250
	zpE820       = 0x2d0

	e820EntrySize = 20
	e820Max       = 128
)

// Kinds of regions of the memory map.
const (
	RAM      = 1
	Reserved = 2
)

// Region is an entry of the memory map.
type Region struct {
	Addr, Size uint64
	Kind       uint32
}

// Params are the addresses of what was put into memory for the kernel; 0 where
// there is nothing. Initrd and command line lie below 4 GiB.
type Params struct {
	Cmdline, Initrd, InitrdSize, RSDP, SetupData uint64
	Map                                          []Region
}

// ZeroPage returns the parameters as they lie in memory.
func (k *Kernel) ZeroPage(p Params) ([]byte, error) {
	if len(p.Map) > e820Max {
		return nil, fmt.Errorf("memory map of %d regions, %d fit: %w", len(p.Map), e820Max, ErrKernel)
	}
	for _, addr := range []uint64{p.Cmdline, p.Initrd, p.InitrdSize} {
		if addr >= 1<<32 {
			return nil, fmt.Errorf("boot parameter %#x lies above 4 GiB: %w", addr, ErrKernel)
		}
	}
	z := make([]byte, ZeroPageSize)
	le := binary.LittleEndian
	copy(z[offSetupSects:], k.header)
	z[offLoaderType] = undefinedType
	le.PutUint64(z[zpRSDP:], p.RSDP)
	le.PutUint32(z[zpInitrd:], uint32(p.Initrd))
	le.PutUint32(z[zpInitrdSize:], uint32(p.InitrdSize))
	le.PutUint32(z[zpCmdline:], uint32(p.Cmdline))
	le.PutUint64(z[zpSetupData:], p.SetupData)
	z[zpE820Count] = byte(len(p.Map))
	for i, r := range p.Map {
		e := z[zpE820+i*e820EntrySize:]
		le.PutUint64(e, r.Addr)
		le.PutUint64(e[8:], r.Size)
		le.PutUint32(e[16:], r.Kind)
	}
	return z, nil
}

// setupRNGSeed is the type of setup data that holds entropy (SETUP_RNG_SEED,
// Linux since 6.0; older kernels pass over it).
const setupRNGSeed = 9

// SeedData returns a node of the setup data list with entropy for the kernel.
func SeedData(seed []byte) []byte {
	le := binary.LittleEndian
	d := make([]byte, 8, 16+len(seed)) // no next node
	d = le.AppendUint32(d, setupRNGSeed)
	d = le.AppendUint32(d, uint32(len(seed)))
	return append(d, seed...)
}

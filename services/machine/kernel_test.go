package machine

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/understudy-ft/understudy/services/mem"
	"github.com/understudy-ft/understudy/services/rv64"
)

// kernelImage makes a RISC-V Image of code that begins with a jump over the
// header.
func kernelImage(textOffset, size uint64, code ...uint32) []byte {
	le := binary.LittleEndian
	k := make([]byte, imageHeaderSize)
	le.PutUint32(k, 0x0400006f) // j 0x40
	le.PutUint64(k[imageTextOffset:], textOffset)
	le.PutUint64(k[imageSize:], size)
	copy(k[imageMagic:], imageMagicValue)
	for _, c := range code {
		k = le.AppendUint32(k, c)
	}
	return k
}

func gzipped(p []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(p)
	z.Close()
	return b.Bytes()
}

func TestPlacement(t *testing.T) {
	const memory = 64 << 20
	kernel := kernelImage(0x20_0000, 0x40_0000, 0x13)
	for name, k := range map[string][]byte{"plain": kernel, "gzip'ed": gzipped(kernel)} {
		b, err := newBootImages(k, make([]byte, 5000), memory)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := placement{
			kernel: rv64.RAMBase + 0x20_0000,
			fdt:    rv64.RAMBase + memory - 2<<20,
			initrd: rv64.RAMBase + memory - 2<<20 - 8192,
		}
		if b.placement != want || !bytes.Equal(b.kernel, kernel) {
			t.Errorf("%s: placed %#x, want %#x", name, b.placement, want)
		}
		m, err := mem.New(rv64.RAMBase, memory)
		if err != nil {
			t.Fatal(err)
		}
		if err := b.load(m, []byte("tree")); err != nil {
			t.Error(err)
		}
		if p, _ := m.Slice(want.kernel, uint64(len(kernel))); !bytes.Equal(p, kernel) {
			t.Errorf("%s: the kernel is not there", name)
		}
		m.Close()
	}
}

func TestKernelRefused(t *testing.T) {
	const memory = 64 << 20
	good := kernelImage(0x20_0000, 0x40_0000, 0x13)
	with := func(off int, s string) []byte {
		k := append(bytes.Clone(good), make([]byte, 1024)...)
		copy(k[off:], s)
		return k
	}
	pe := with(0, "MZ")
	copy(pe[0x3c:], "\x40\x00\x00\x00PE\x00\x00\x00\x00\x01\x00")
	binary.LittleEndian.PutUint32(pe[0x40+24+16:], 1000) // the section's size …
	binary.LittleEndian.PutUint32(pe[0x40+24+20:], 512)  // … and offset

	for _, tt := range []struct {
		name, says string
		kernel     []byte
		initrd     int
	}{
		{"empty", "not a RISC-V Linux Image", nil, 0},
		{"part of a header", "not a RISC-V Linux Image", good[:50], 0},
		{"something else", "not a RISC-V Linux Image", make([]byte, 4096), 0},
		{"x86", "x86 bzImage", with(0x202, "HdrS"), 0},
		{"arm64", "arm64", with(0x38, "ARM\x64"), 0},
		{"ELF", "ELF", with(0, "\x7fELF"), 0},
		{"EFI zboot", "unpack it first", with(0, "MZ\x00\x00zimg"), 0},
		{"big-endian", "big-endian", with(imageFlags, "\x01"), 0},
		{"odd text offset", "text offset", kernelImage(0x20_0001, 0x40_0000), 0},
		{"truncated", "truncated", pe, 0},
		{"more than its header says", "more than", kernelImage(0, 64, 0x13), 0},
		{"gzip cut short", "gzip", gzipped(good)[:60], 0},
		{"gzip of something else", "gzip", []byte{0x1f, 0x8b, 0}, 0},
		{"gzip larger than memory", "larger than", gzipped(make([]byte, memory+1)), 0},
		{"too large", "too large", kernelImage(0x20_0000, 61<<20), 0},
		{"size that overflows", "too large", kernelImage(0x20_0000, ^uint64(0)), 0},
		{"text offset that overflows", "too large", kernelImage(^uint64(0xfff), 64), 0},
		{"no room beside the initrd", "too large", good, 58 << 20},
		{"initrd larger than memory", "too large", good, 65 << 20},
	} {
		_, err := newBootImages(tt.kernel, make([]byte, tt.initrd), memory)
		if !errors.Is(err, ErrKernel) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v, want one that says %q", tt.name, err, tt.says)
		}
	}
}

// FuzzKernel: whatever is accepted lies in memory, apart from each other.
func FuzzKernel(f *testing.F) {
	f.Add(kernelImage(0x20_0000, 0x40_0000, 0x13), uint32(5000))
	f.Add(gzipped(kernelImage(0, 0, 0x13)), uint32(0))
	pe := kernelImage(0x20_0000, 0x40_0000, make([]uint32, 64)...)
	copy(pe, "MZ")
	copy(pe[0x3c:], "\x40\x00\x00\x00PE\x00\x00\x00\x00\x02\x00")
	f.Add(pe, uint32(1))
	f.Fuzz(func(t *testing.T, kernel []byte, initrd uint32) {
		const memory = MinMemory
		k, err := unpack(kernel, memory)
		if err != nil {
			return
		}
		p, err := place(k, uint64(initrd), memory)
		if err != nil {
			return
		}
		if p.kernel < rv64.RAMBase || p.kernel+uint64(len(k)) > p.initrd ||
			p.initrd+uint64(initrd) > p.fdt || p.fdt+fdtReserve > rv64.RAMBase+memory {
			t.Errorf("placed %#x: kernel %d, initrd %d bytes", p, len(k), initrd)
		}
	})
}

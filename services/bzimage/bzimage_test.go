package bzimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"strings"
	"testing"
)

// example is a kernel with code of 4 KiB that wants 16 MiB from 16 MiB on.
func example() []byte {
	k := make([]byte, 5*sectorSize+4096, 5*sectorSize+4096+100)
	copy(k[offMagic:], magic)
	k[offSetupSects] = 4
	le.PutUint32(k[offSysSize:], 4096/16)
	k[offJump-1], k[offJump] = 0xeb, 0x6a
	le.PutUint16(k[offVersion:], 0x20f)
	k[offLoadFlags] = loadedHigh
	le.PutUint32(k[offInitrdMax:], 0x7fffffff)
	le.PutUint32(k[offAlignment:], 2<<20)
	k[offRelocatable] = 1
	le.PutUint16(k[offXLoadFlags:], 0x7f)
	le.PutUint32(k[offCmdlineSize:], 2047)
	le.PutUint64(k[offPrefAddress:], 16<<20)
	le.PutUint32(k[offInitSize:], 16<<20)
	for i := range 4096 {
		k[5*sectorSize+i] = byte(i >> 4)
	}
	return k
}

var le = binary.LittleEndian

func TestParse(t *testing.T) {
	file := example()
	signed := append(bytes.Clone(file), "signature"...)
	for name, f := range map[string][]byte{"plain": file, "signed": signed} {
		k, err := Parse(f)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Equal(k.Code, file[5*sectorSize:]) || k.PrefAddress != 16<<20 || k.InitSize != 16<<20 ||
			k.InitrdMax != 0x7fffffff || k.CmdlineMax != 2047 {
			t.Errorf("%s: %d bytes at %#x, %d in all, initrd to %#x, command line %d",
				name, len(k.Code), k.PrefAddress, k.InitSize, k.InitrdMax, k.CmdlineMax)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		name, says string
		change     func(k []byte) []byte
	}{
		{"empty", "not an x86", func(k []byte) []byte { return nil }},
		{"another system", "not an x86", func(k []byte) []byte { k[offMagic]++; return k }},
		{"header cut short", "truncated", func(k []byte) []byte { return k[:headerEnd-1] }},
		{"code cut short", "truncated: 6655 bytes of 6656", func(k []byte) []byte { return k[:len(k)-1] }},
		{"old", "protocol 2.11", func(k []byte) []byte { k[offVersion] = 0x0b; return k }},
		{"zImage", "zImage", func(k []byte) []byte { k[offLoadFlags] = 0; return k }},
		{"32-bit", "32-bit", func(k []byte) []byte { k[offXLoadFlags] = 0; return k }},
		{"fixed", "not relocatable", func(k []byte) []byte { k[offRelocatable] = 0; return k }},
		{"no code", "bytes of code", func(k []byte) []byte { le.PutUint32(k[offSysSize:], 32); return k }},
		{"no memory", "asks for", func(k []byte) []byte { le.PutUint32(k[offInitSize:], 4095); return k }},
		{"odd place", "alignment", func(k []byte) []byte { k[offPrefAddress] = 1; return k }},
		{"no alignment", "alignment", func(k []byte) []byte { le.PutUint32(k[offAlignment:], 0); return k }},
		{"short header", "header ends", func(k []byte) []byte { k[offJump] = 0x10; return k }},
	} {
		_, err := Parse(tt.change(example()))
		if !errors.Is(err, ErrKernel) || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: error %v, want one that says %q", tt.name, err, tt.says)
		}
	}
}

func TestZeroPage(t *testing.T) {
	file := example()
	k, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	z, err := k.ZeroPage(Params{
		Cmdline: 0x20000, Initrd: 0x3000000, InitrdSize: 5000, RSDP: 0xe0000, SetupData: 0x8000,
		Map: []Region{{0, 0x9f000, RAM}, {0x9f000, 0x61000, Reserved}, {4 << 30, 8 << 30, RAM}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(z) != 4096 || z[0x1ef] != 0 {
		t.Errorf("%d bytes, sentinel %d", len(z), z[0x1ef])
	}
	if !bytes.Equal(z[0x22c:0x250], file[0x22c:0x250]) || !bytes.Equal(z[0x258:0x26c], file[0x258:0x26c]) {
		t.Error("the header is not that of the kernel")
	}
	for _, tt := range []struct {
		what      string
		got, want uint64
	}{
		{"magic", uint64(le.Uint32(z[0x202:])), 0x53726448},
		{"type of loader", uint64(z[0x210]), 0xff},
		{"root pointer", le.Uint64(z[0x70:]), 0xe0000},
		{"initrd", uint64(le.Uint32(z[0x218:])), 0x3000000},
		{"initrd's size", uint64(le.Uint32(z[0x21c:])), 5000},
		{"command line", uint64(le.Uint32(z[0x228:])), 0x20000},
		{"setup data", le.Uint64(z[0x250:]), 0x8000},
		{"regions", uint64(z[0x1e8]), 3},
		{"third region", le.Uint64(z[0x2d0+40:]), 4 << 30},
		{"its size", le.Uint64(z[0x2d0+48:]), 8 << 30},
		{"its kind", uint64(le.Uint32(z[0x2d0+56:])), 1},
		{"second region's kind", uint64(le.Uint32(z[0x2d0+36:])), 2},
		{"behind the map", le.Uint64(z[0x2d0+60:]), 0},
	} {
		if tt.got != tt.want {
			t.Errorf("%s: %#x, want %#x", tt.what, tt.got, tt.want)
		}
	}
	for name, p := range map[string]Params{
		"high initrd":       {Initrd: 1 << 32},
		"high command line": {Cmdline: 1 << 32},
		"long map":          {Map: make([]Region, 129)},
	} {
		if _, err := k.ZeroPage(p); !errors.Is(err, ErrKernel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSeedData(t *testing.T) {
	d := SeedData([]byte{1, 2, 3})
	if want := []byte{0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 3, 0, 0, 0, 1, 2, 3}; !bytes.Equal(d, want) {
		t.Errorf("% x, want % x", d, want)
	}
}

// Debian's kernel as it comes.
func TestDebianKernel(t *testing.T) {
	file, err := os.ReadFile("../../build/guest/x86/bzImage")
	if err != nil {
		t.Skipf("SKIPPED: the guest is not built (make guest-x86): %v", err)
	}
	k, err := Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	if k.CmdlineMax != 2047 || k.PrefAddress != 16<<20 || k.InitSize < uint64(len(k.Code)) {
		t.Errorf("%+v", k)
	}
}

// FuzzParse: whatever is accepted has code, and a header that fits.
func FuzzParse(f *testing.F) {
	f.Add(example())
	f.Add(example()[:headerEnd])
	f.Fuzz(func(t *testing.T, file []byte) {
		k, err := Parse(file)
		if err != nil {
			return
		}
		z, err := k.ZeroPage(Params{Cmdline: 1})
		if err != nil || le.Uint32(z[zpCmdline:]) != 1 || len(k.Code) <= EntryOffset || k.InitSize < uint64(len(k.Code)) {
			t.Errorf("%v, %d bytes of code, %d of memory", err, len(k.Code), k.InitSize)
		}
	})
}

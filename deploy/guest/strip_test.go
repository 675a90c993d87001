package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"
)

// relocatable makes a small module: n local symbols of which every third is
// referred to, two global ones, and a signature after the end.
func relocatable(t testing.TB, n int) []byte {
	t.Helper()
	names, symbols, relas := []byte{0}, make([]byte, symLen), []byte(nil)
	add := func(name string, bind elf.SymBind, value uint64) {
		symbol := elf.Sym64{Name: uint32(len(names)), Info: elf.ST_INFO(bind, elf.STT_FUNC), Shndx: 1, Value: value}
		names = append(append(names, name...), 0)
		var err error
		if symbols, err = binary.Append(symbols, le, symbol); err != nil {
			t.Fatal(err)
		}
	}
	relate := func(symbol int) {
		var err error
		if relas, err = binary.Append(relas, le, elf.Rela64{Off: uint64(symbol), Info: uint64(symbol)<<32 | 23, Addend: 7}); err != nil {
			t.Fatal(err)
		}
	}
	for i := 1; i <= n; i++ {
		add(fmt.Sprintf(".L%d", i), elf.STB_LOCAL, uint64(i))
		if i%3 == 0 {
			relate(i)
		}
	}
	add("init_module", elf.STB_GLOBAL, 100)
	add("printk", elf.STB_WEAK, 200)
	relate(n + 2)

	shstr := []byte("\x00.text\x00.rela.text\x00.symtab\x00.strtab\x00.shstrtab\x00.bss\x00")
	name := func(s string) uint32 { return uint32(bytes.Index(shstr, []byte("\x00"+s+"\x00")) + 1) }
	sections := []section{
		{},
		{head: elf.Section64{Name: name(".text"), Type: uint32(elf.SHT_PROGBITS), Off: 64, Addralign: 16}, data: bytes.Repeat([]byte{0x13, 0, 0, 0}, 5)},
		{head: elf.Section64{Name: name(".rela.text"), Type: uint32(elf.SHT_RELA), Off: 65, Link: 4, Info: 1, Addralign: 8, Entsize: relaLen}, data: relas},
		{head: elf.Section64{Name: name(".bss"), Type: uint32(elf.SHT_NOBITS), Off: 66, Size: 1 << 30, Addralign: 4}},
		{head: elf.Section64{Name: name(".symtab"), Type: uint32(elf.SHT_SYMTAB), Off: 67, Link: 5, Info: uint32(n + 1), Addralign: 8, Entsize: symLen}, data: symbols},
		{head: elf.Section64{Name: name(".strtab"), Type: uint32(elf.SHT_STRTAB), Off: 68, Addralign: 1}, data: names},
		{head: elf.Section64{Name: name(".shstrtab"), Type: uint32(elf.SHT_STRTAB), Off: 69, Addralign: 1}, data: shstr},
	}
	header := elf.Header64{Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_RISCV), Version: 1, Ehsize: 64, Shentsize: shdrLen,
		Shnum: uint16(len(sections)), Shstrndx: 6}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	file, err := writeSections(make([]byte, 64), header, sections)
	if err != nil {
		t.Fatal(err)
	}
	return append(file, "signature~Module signature appended~\n"...)
}

// links returns what the file's relocations say, by the symbols' names.
func links(t *testing.T, file []byte) (relocations, symbols []string) {
	t.Helper()
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	all, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		symbols = append(symbols, fmt.Sprintf("%s=%d bind %v", s.Name, s.Value, elf.ST_BIND(s.Info)))
	}
	data, err := f.Section(".rela.text").Data()
	if err != nil {
		t.Fatal(err)
	}
	for ; len(data) > 0; data = data[relaLen:] {
		info := le.Uint64(data[8:])
		relocations = append(relocations, fmt.Sprint(le.Uint64(data), " ", uint32(info), " ", symbols[info>>32-1], " ", le.Uint64(data[16:])))
	}
	return relocations, symbols
}

func TestStripKeepsWhatIsReferredTo(t *testing.T) {
	before := relocatable(t, 10)
	after, err := strip(before)
	if err != nil {
		t.Fatal(err)
	}
	wantRelocations, all := links(t, before)
	relocations, symbols := links(t, after)
	if !slices.Equal(relocations, wantRelocations) {
		t.Errorf("relocations %q, want %q", relocations, wantRelocations)
	}
	want := []string{all[2], all[5], all[8], all[10], all[11]}
	if !slices.Equal(symbols, want) {
		t.Errorf("symbols %q, want %q", symbols, want)
	}
	if bytes.Contains(after, []byte("signature")) || bytes.Contains(after, []byte(".L4")) {
		t.Error("the signature or a needless name is still there")
	}
	f, err := elf.NewFile(bytes.NewReader(after))
	if err != nil {
		t.Fatal(err)
	}
	if info := f.Section(".symtab").Info; info != 4 {
		t.Errorf("%d local symbols, want 4 with the empty one", info)
	}
	if s := f.Section(".bss"); s.Size != 1<<30 {
		t.Errorf(".bss has %d bytes", s.Size)
	}
	if text, err := f.Section(".text").Data(); err != nil || len(text) != 20 || f.Section(".text").Offset%16 != 0 {
		t.Errorf("%d bytes of text at %d, %v", len(text), f.Section(".text").Offset, err)
	}
	again, err := strip(after)
	if err != nil || !bytes.Equal(again, after) {
		t.Errorf("stripping again changes something: %v", err)
	}
}

// Whatever a package holds, strip returns a file that it can read again, or an
// error.
func FuzzStrip(f *testing.F) {
	f.Add(relocatable(f, 4))
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(t *testing.T, module []byte) {
		stripped, err := strip(module)
		if err != nil {
			return
		}
		if _, _, err := readSections(stripped); err != nil {
			t.Fatalf("the result is damaged: %v", err)
		}
	})
}

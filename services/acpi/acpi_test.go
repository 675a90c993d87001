package acpi

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const base = 0xe0000

var example = Machine{
	CPUs: 3, LocalAPIC: 0xfee00000, IOAPIC: 0xfec00000,
	SleepControl: 0x600, SleepStatus: 0x601, PowerOffType: 5,
	Reset: 0xcf9, ResetValue: 6,
	Devices: []Device{
		{Name: "COM1", HID: "PNP0501", Port: 0x3f8, PortSize: 8, IRQ: 4},
		{Name: "VIO0", HID: "LNRO0005", UID: 0, Memory: 0xd0000000, MemorySize: 0x200, IRQ: 16},
		{Name: "VIO1", HID: "LNRO0005", UID: 1, Memory: 0xd0001000, MemorySize: 0x200, IRQ: 17},
	},
}

// memory reads tables where they lie.
type memory []byte

func (m memory) at(addr uint64, n int) []byte { return m[addr-base:][:n] }

// table returns a table that is whole and correct.
func (m memory) table(t *testing.T, addr uint64, signature string) []byte {
	t.Helper()
	if addr%16 != 0 {
		t.Errorf("%s lies at %#x", signature, addr)
	}
	head := m.at(addr, headerSize)
	if string(head[:4]) != signature {
		t.Fatalf("table at %#x is %q, want %s", addr, head[:4], signature)
	}
	whole := m.at(addr, int(le.Uint32(head[4:])))
	if s := sum(whole); s != 0 {
		t.Errorf("the bytes of %s add up to %d", signature, s)
	}
	return whole
}

// A kernel finds every table by the pointers that it follows.
func TestTablesAreFound(t *testing.T) {
	m := memory(Tables(example, base))
	r := m.at(base, rsdpSize)
	if string(r[:8]) != "RSD PTR " || r[15] != 2 || sum(r[:20]) != 0 || sum(r) != 0 {
		t.Fatalf("root pointer % x", r)
	}
	x := m.table(t, le.Uint64(r[24:]), "XSDT")
	if n := len(x) - headerSize; n != 16 {
		t.Fatalf("XSDT with %d bytes of pointers", n)
	}
	f := m.table(t, le.Uint64(x[36:]), "FACP")
	a := m.table(t, le.Uint64(x[44:]), "APIC")
	d := m.table(t, le.Uint64(f[140:]), "DSDT")
	if len(f) != 276 || f[8] < 5 {
		t.Errorf("FADT of %d bytes, revision %d", len(f), f[8])
	}
	if flags := le.Uint32(f[112:]); flags&(1<<20) == 0 || flags&(1<<10) == 0 {
		t.Errorf("FADT flags %#x", flags)
	}
	for what, off := range map[string]int{"reset 0xcf9": 116, "sleep control 0x600": 244, "sleep status 0x601": 256} {
		got := fmt.Sprintf("%s %#x", what[:strings.LastIndexByte(what, ' ')], le.Uint64(f[off+4:]))
		if got != what || f[off] != 1 || f[off+1] != 8 {
			t.Errorf("%s: % x", what, f[off:off+12])
		}
	}
	if f[128] != 6 {
		t.Errorf("reset value %d", f[128])
	}
	if d[8] < 2 {
		t.Errorf("DSDT revision %d has 32-bit integers", d[8])
	}

	var seen []string
	for s := a[44:]; len(s) > 0; s = s[s[1]:] {
		switch s[0] {
		case 0:
			seen = append(seen, fmt.Sprintf("cpu %d apic %d flags %d", s[2], s[3], le.Uint32(s[4:])))
		case 1:
			seen = append(seen, fmt.Sprintf("ioapic %#x from %d", le.Uint32(s[4:]), le.Uint32(s[8:])))
		default:
			seen = append(seen, fmt.Sprintf("type %d % x", s[0], s[2:s[1]]))
		}
	}
	want := "cpu 0 apic 0 flags 1;cpu 1 apic 1 flags 1;cpu 2 apic 2 flags 1;ioapic 0xfec00000 from 0;type 4 ff 00 00 01"
	if got := strings.Join(seen, ";"); got != want || le.Uint32(a[36:]) != 0xfee00000 {
		t.Errorf("MADT: %s, want %s", got, want)
	}
}

func TestEncoding(t *testing.T) {
	for _, tt := range []struct {
		what string
		got  []byte
		want string
	}{
		{"zero", integer(0), "00"},
		{"one", integer(1), "01"},
		{"byte", integer(0xff), "0aff"},
		{"word", integer(0x1234), "0b3412"},
		{"double word", integer(0x12345678), "0c78563412"},
		{"EISA ID", hid("PNP0501"), "0c41d00501"},
		{"EISA ID with letters", hid("PNP0B00"), "0c41d00b00"},
		{"ACPI ID", hid("LNRO0005"), "0d4c4e524f3030303500"},
		{"short block", block([]byte{0x10}, []byte{7}), "100207"},
		{"ports", Device{Port: 0x3f8, PortSize: 8}.resources(), "110d0a0a4701f803f80301087900"},
		{"memory and interrupt", Device{Memory: 0xd0000000, MemorySize: 0x200, IRQ: 16}.resources(),
			"111a0a17" + "86090001000000d000020000" + "890600010110000000" + "7900"},
	} {
		if got := fmt.Sprintf("%x", tt.got); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.what, got, tt.want)
		}
	}
}

// The length of a block counts itself, whatever number of bytes it takes.
func TestBlockLength(t *testing.T) {
	for _, n := range []int{0, 61, 62, 63, 64, 4092, 4093, 4094, 4095, 1<<20 - 5, 1<<20 - 4, 1<<20 - 3} {
		b := block([]byte{amlScope}, make([]byte, n))[1:]
		length, more := int(b[0]), int(b[0]>>6)
		if more > 0 {
			length = int(b[0] & 0xf)
			for i := range more {
				length |= int(b[1+i]) << (4 + 8*i)
			}
		}
		if length != len(b) || len(b) != 1+more+n {
			t.Errorf("%d bytes: length %d in %d bytes, block of %d", n, length, 1+more, len(b))
		}
	}
}

// The reference compiler reads back what was written.
func TestDisassembly(t *testing.T) {
	iasl, err := exec.LookPath("iasl")
	if err != nil {
		t.Skipf("SKIPPED: needs iasl (package acpica-tools): %v", err)
	}
	m := memory(Tables(example, base))
	x := m.table(t, le.Uint64(m[24:]), "XSDT")
	fadt := m.table(t, le.Uint64(x[36:]), "FACP")
	dir := t.TempDir()
	for file, table := range map[string][]byte{
		"facp": fadt,
		"apic": m.table(t, le.Uint64(x[44:]), "APIC"),
		"dsdt": m.table(t, binary.LittleEndian.Uint64(fadt[140:]), "DSDT"),
	} {
		in := filepath.Join(dir, file+".dat")
		if err := os.WriteFile(in, table, 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(iasl, "-d", in).CombinedOutput()
		if err != nil || bytes.Contains(out, []byte("Error")) || bytes.Contains(out, []byte("Warning")) {
			t.Errorf("iasl on %s: %v\n%s", file, err, out)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "dsdt.dsl"))
	if err != nil {
		t.Fatal(err)
	}
	source := strings.Join(strings.Fields(string(text)), " ")
	for _, want := range []string{
		`Device (COM1)`, `EisaId ("PNP0501")`, `IO (Decode16, 0x03F8, // Range Minimum 0x03F8, // Range Maximum 0x01, // Alignment 0x08, // Length )`,
		`Device (VIO1)`, `Name (_HID, "LNRO0005")`, `Memory32Fixed (ReadWrite, 0xD0001000, // Address Base 0x00000200, // Address Length )`,
		`Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive, ,, ) { 0x00000011, }`,
		`Name (\_S5, Package (0x04) // _S5_: S5 System State { 0x05, Zero, Zero, Zero })`,
	} {
		if !strings.Contains(source, want) {
			t.Errorf("the disassembly lacks %s:\n%s", want, text)
		}
	}
	// What it disassembled compiles.
	if out, err := exec.Command(iasl, "-p", filepath.Join(dir, "again"), filepath.Join(dir, "dsdt.dsl")).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("0 Errors, 0 Warnings")) {
		t.Errorf("iasl compiling: %v\n%s", err, out)
	}
}

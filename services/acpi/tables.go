package acpi

import "encoding/binary"

var le = binary.LittleEndian

// Lengths and offsets of tables (ACPI 6.4, sections 5.2.5 to 5.2.12).
const (
	rsdpSize   = 36
	headerSize = 36
	fadtSize   = 276

	offChecksum = 9
)

// Revisions of the tables that are written.
const (
	revRSDP = 2
	revXSDT = 1
	revFADT = 6
	revMADT = 5
	revDSDT = 2 // integers have 64 bits
)

// oem marks who wrote the tables.
const (
	oemID      = "UNDRST"
	oemTableID = "UNDRSTDY"
	creatorID  = "UNDR"
)

// Machine is what the tables describe.
type Machine struct {
	// CPUs have the local APIC IDs 0 and up.
	CPUs int
	// LocalAPIC and IOAPIC are the addresses of the interrupt controllers. The
	// I/O APIC's inputs are the global interrupts 0 and up.
	LocalAPIC, IOAPIC uint32
	// SleepControl and SleepStatus are I/O ports of a byte. PowerOffType is the
	// sleep type, 0 to 7, that switches the machine off.
	SleepControl, SleepStatus uint16
	PowerOffType              uint8
	// Reset is an I/O port of a byte, at which ResetValue resets the machine.
	Reset      uint16
	ResetValue uint8
	Devices    []Device
}

// Device is a device that no bus announces.
type Device struct {
	// Name is its name in the namespace: 4 capital letters or digits.
	Name string
	// HID is its hardware ID: PNPnnnn or of the form LNRO0005. UID tells devices
	// of one HID apart.
	HID string
	UID uint8
	// Memory and Ports are its registers; sizes of 0 mean none.
	Memory, MemorySize uint32
	Port               uint16
	PortSize           uint8
	// IRQ is its level-triggered active-high global interrupt; 0: none.
	IRQ uint32
}

// Tables returns all tables as they lie in memory from addr on, which must be a
// multiple of 16 below 4 GiB. The RSDP comes first.
func Tables(m Machine, addr uint32) []byte {
	out := make([]byte, rsdpSize, 4096)
	put := func(table []byte) (at uint32) {
		for len(out)%16 != 0 {
			out = append(out, 0)
		}
		at = addr + uint32(len(out))
		out = append(out, table...)
		return at
	}
	dsdt := put(m.dsdt())
	fadt := put(m.fadt(dsdt))
	madt := put(m.madt())
	xsdt := put(xsdt(fadt, madt))
	copy(out, rsdp(xsdt))
	return out
}

// rsdp is the root pointer (section 5.2.5.3).
func rsdp(xsdt uint32) []byte {
	const firstPart, offFirstSum, offSum = 20, 8, 32
	r := make([]byte, rsdpSize)
	copy(r, "RSD PTR ")
	copy(r[9:], oemID)
	r[15] = revRSDP
	le.PutUint32(r[20:], rsdpSize)
	le.PutUint64(r[24:], uint64(xsdt))
	r[offFirstSum] = -sum(r[:firstPart])
	r[offSum] = -sum(r)
	return r
}

// xsdt lists the other tables (section 5.2.8).
func xsdt(tables ...uint32) []byte {
	var body []byte
	for _, t := range tables {
		body = le.AppendUint64(body, uint64(t))
	}
	return table("XSDT", revXSDT, body)
}

// table puts the common header before a body (section 5.2.6).
func table(signature string, revision byte, body []byte) []byte {
	t := make([]byte, headerSize, headerSize+len(body))
	copy(t, signature)
	le.PutUint32(t[4:], uint32(headerSize+len(body)))
	t[8] = revision
	copy(t[10:], oemID)
	copy(t[16:], oemTableID)
	le.PutUint32(t[24:], 1)
	copy(t[28:], creatorID)
	le.PutUint32(t[32:], 1)
	t = append(t, body...)
	t[offChecksum] = -sum(t)
	return t
}

// sum is what a checksum brings to zero.
func sum(p []byte) (s byte) {
	for _, b := range p {
		s += b
	}
	return s
}

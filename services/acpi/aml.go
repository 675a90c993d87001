package acpi

import "strings"

// AML opcodes (section 20.2).
const (
	amlZero       = 0x00
	amlOne        = 0x01
	amlName       = 0x08
	amlByte       = 0x0a
	amlWord       = 0x0b
	amlDWord      = 0x0c
	amlString     = 0x0d
	amlScope      = 0x10
	amlBuffer     = 0x11
	amlPackage    = 0x12
	amlExtPrefix  = 0x5b
	amlDevice     = 0x82
	amlRootPrefix = '\\'
)

// Resource descriptors (section 6.4).
const (
	resIO         = 0x47 // 8 bytes
	resIODecode16 = 1
	resMemory32   = 0x86
	resWritable   = 1
	resInterrupt  = 0x89
	resConsumer   = 1 // and with the other flags 0: level, active-high, exclusive
	resEnd        = 0x79
)

// dsdt describes the devices and how to switch off.
func (m Machine) dsdt() []byte {
	var devices []byte
	for _, d := range m.Devices {
		devices = append(devices, d.aml()...)
	}
	// The sleep type is all that hardware-reduced ACPI takes of \_S5 (section
	// 7.4.2); the other elements are of the registers that it lacks.
	s5 := pkg(integer(uint32(m.PowerOffType)), integer(0), integer(0), integer(0))
	return table("DSDT", revDSDT, append(
		scope(string(amlRootPrefix)+"_SB_", devices),
		name(string(amlRootPrefix)+"_S5_", s5)...))
}

func (d Device) aml() []byte {
	body := name("_HID", hid(d.HID))
	body = append(body, name("_UID", integer(uint32(d.UID)))...)
	body = append(body, name("_CRS", d.resources())...)
	return block([]byte{amlExtPrefix, amlDevice}, append([]byte(d.Name), body...))
}

// resources is the buffer of what a device occupies.
func (d Device) resources() []byte {
	var r []byte
	if d.PortSize > 0 {
		r = append(r, resIO, resIODecode16)
		r = le.AppendUint16(r, d.Port)
		r = le.AppendUint16(r, d.Port)
		r = append(r, 1, d.PortSize)
	}
	if d.MemorySize > 0 {
		r = append(r, resMemory32, 9, 0, resWritable)
		r = le.AppendUint32(r, d.Memory)
		r = le.AppendUint32(r, d.MemorySize)
	}
	if d.IRQ > 0 {
		r = append(r, resInterrupt, 6, 0, resConsumer, 1)
		r = le.AppendUint32(r, d.IRQ)
	}
	r = append(r, resEnd, 0) // a checksum of 0 counts as correct
	return block([]byte{amlBuffer}, append(integer(uint32(len(r))), r...))
}

// hid encodes a hardware ID: PNP IDs as the compressed number that old systems
// know, others as a string.
func hid(id string) []byte {
	digits, ok := strings.CutPrefix(id, "PNP")
	if !ok || len(digits) != 4 {
		return append(append([]byte{amlString}, id...), 0)
	}
	const letters = ('P'-'@')<<10 | ('N'-'@')<<5 | ('P' - '@')
	var n uint16
	for _, c := range []byte(digits) {
		n = n<<4 | uint16(strings.IndexByte("0123456789ABCDEF", c))
	}
	return []byte{amlDWord, byte(letters >> 8), byte(letters & 0xff), byte(n >> 8), byte(n)}
}

func name(path string, value []byte) []byte {
	return append(append([]byte{amlName}, path...), value...)
}

func scope(path string, body []byte) []byte {
	return block([]byte{amlScope}, append([]byte(path), body...))
}

func pkg(elements ...[]byte) []byte {
	body := []byte{byte(len(elements))}
	for _, e := range elements {
		body = append(body, e...)
	}
	return block([]byte{amlPackage}, body)
}

// integer encodes a constant in its shortest form (section 20.2.3).
func integer(v uint32) []byte {
	switch {
	case v == 0:
		return []byte{amlZero}
	case v == 1:
		return []byte{amlOne}
	case v < 1<<8:
		return []byte{amlByte, byte(v)}
	case v < 1<<16:
		return le.AppendUint16([]byte{amlWord}, uint16(v))
	}
	return le.AppendUint32([]byte{amlDWord}, v)
}

// block is an opcode with the length of what follows (PkgLength, section
// 20.2.4): the length counts itself, in one byte up to 63, otherwise in up to 4
// bytes of which the first says how many follow and holds the low 4 bits.
func block(op, body []byte) []byte {
	n := len(body) + 1
	if n < 1<<6 {
		return append(append(op, byte(n)), body...)
	}
	more := 1
	for n = len(body) + 2; n >= 1<<(4+8*more); n++ {
		more++
	}
	op = append(op, byte(more)<<6|byte(n&0xf))
	for n >>= 4; more > 0; more-- {
		op = append(op, byte(n))
		n >>= 8
	}
	return append(op, body...)
}

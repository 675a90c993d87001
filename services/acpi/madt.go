package acpi

// Interrupt controller structures (section 5.2.12).
const (
	madtLocalAPIC = 0
	madtIOAPIC    = 1
	madtNMI       = 4

	apicEnabled = 1
	allCPUs     = 0xff
	lint1       = 1
)

// madt lists the interrupt controllers. Global interrupts are the I/O APIC's
// inputs, without exceptions: hardware-reduced ACPI knows no ISA interrupts that
// would need overrides, and the 8259 pair is not told of.
func (m Machine) madt() []byte {
	b := le.AppendUint32(nil, m.LocalAPIC)
	b = le.AppendUint32(b, 0)
	for i := range m.CPUs {
		b = append(b, madtLocalAPIC, 8, byte(i), byte(i))
		b = le.AppendUint32(b, apicEnabled)
	}
	b = append(b, madtIOAPIC, 12, 0, 0)
	b = le.AppendUint32(b, m.IOAPIC)
	b = le.AppendUint32(b, 0)
	b = append(b, madtNMI, 6, allCPUs, 0, 0, lint1)
	return table("APIC", revMADT, b)
}

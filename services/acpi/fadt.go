package acpi

// Offsets in the FADT (section 5.2.9, table 5.9).
const (
	fadtPMProfile     = 45
	fadtCentury       = 108
	fadtBootArch      = 109
	fadtFlags         = 112
	fadtResetReg      = 116
	fadtResetValue    = 128
	fadtMinorRevision = 131
	fadtXDSDT         = 140
	fadtSleepControl  = 244
	fadtSleepStatus   = 256
	fadtHypervisor    = 268
)

const (
	profileServer = 4

	// cmosCentury is the index of the century in the clock's memory.
	cmosCentury = 0x32

	// Of the boot architecture flags only one is set: the absence of others says
	// that there is no keyboard controller and no legacy device.
	archNoVGA = 1 << 2

	flagWBINVD    = 1 << 0
	flagPowerBtn  = 1 << 4 // no fixed power button
	flagSleepBtn  = 1 << 5 // no fixed sleep button
	flagResetReg  = 1 << 10
	flagHWReduced = 1 << 20

	spaceIO    = 1
	accessByte = 1
)

func (m Machine) fadt(dsdt uint32) []byte {
	f := make([]byte, fadtSize)
	f[fadtPMProfile] = profileServer
	f[fadtCentury] = cmosCentury
	le.PutUint16(f[fadtBootArch:], archNoVGA)
	le.PutUint32(f[fadtFlags:], flagWBINVD|flagPowerBtn|flagSleepBtn|flagResetReg|flagHWReduced)
	port(f[fadtResetReg:], m.Reset)
	f[fadtResetValue] = m.ResetValue
	f[fadtMinorRevision] = 4
	le.PutUint64(f[fadtXDSDT:], uint64(dsdt))
	port(f[fadtSleepControl:], m.SleepControl)
	port(f[fadtSleepStatus:], m.SleepStatus)
	copy(f[fadtHypervisor:], oemTableID)
	return table("FACP", revFADT, f[headerSize:])
}

// port writes a generic address structure of a byte-wide I/O port (section
// 5.2.3.2).
func port(p []byte, addr uint16) {
	p[0], p[1], p[2], p[3] = spaceIO, 8, 0, accessByte
	le.PutUint64(p[4:], uint64(addr))
}

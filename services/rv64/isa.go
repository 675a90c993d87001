package rv64

// Physical address map.
const (
	// RAMBase is the guest-physical address at which memory must begin.
	RAMBase = 0x8000_0000
	// PLICBase and PLICSize place the interrupt controller.
	PLICBase = 0x0c00_0000
	PLICSize = 0x0040_0000
)

// Interrupt lines of the PLIC that SetIRQ accepts. MaxIRQ is the riscv,ndev
// of the device tree.
const (
	MinIRQ = 1
	MaxIRQ = 63
)

// TimebaseHz is the rate of the time CSR and of stimecmp.
const TimebaseHz = 10_000_000

const nsPerTick = 1_000_000_000 / TimebaseHz

// ISAString names the harts' instruction set for the device tree (riscv,isa).
func ISAString() string { return "rv64imafdc_zicntr_zicsr_zifencei_zba_zbb_zbs_sstc" }

type privilege uint8

const (
	privU privilege = 0
	privS privilege = 1
)

// Fields of sstatus (privileged ISA, 12.1.1).
const (
	sstatusSIE  = 1 << 1
	sstatusSPIE = 1 << 5
	sstatusSPP  = 1 << 8
	sstatusFS   = 3 << 13
	sstatusSUM  = 1 << 18
	sstatusMXR  = 1 << 19
	sstatusUXL  = 2 << 32 // U-mode is 64 bits wide
	sstatusSD   = 1 << 63

	sstatusWritable = sstatusSIE | sstatusSPIE | sstatusSPP | sstatusFS | sstatusSUM | sstatusMXR

	fsInitial = 1 << 13
	fsDirty   = 3 << 13
)

// Bits of sip and sie.
const (
	irqSoft  = 1 << 1
	irqTimer = 1 << 5
	irqExt   = 1 << 9
	irqAll   = irqSoft | irqTimer | irqExt
)

// Exception causes (privileged ISA, table "scause").
const (
	causeIllegal       = 2
	causeBreakpoint    = 3
	causeLoadMisalign  = 4
	causeStoreMisalign = 6
	causeEcallU        = 8
	causeInterrupt     = 1 << 63
)

var (
	causeAccess = [3]uint64{1, 5, 7}
	causePage   = [3]uint64{12, 13, 15}
)

// CSR numbers.
const (
	csrFflags     = 0x001
	csrFrm        = 0x002
	csrFcsr       = 0x003
	csrSstatus    = 0x100
	csrSie        = 0x104
	csrStvec      = 0x105
	csrScounteren = 0x106
	csrSenvcfg    = 0x10a
	csrSscratch   = 0x140
	csrSepc       = 0x141
	csrScause     = 0x142
	csrStval      = 0x143
	csrSip        = 0x144
	csrStimecmp   = 0x14d
	csrSatp       = 0x180
	csrCycle      = 0xc00
	csrTime       = 0xc01
	csrInstret    = 0xc02
)

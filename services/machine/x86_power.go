package machine

import "github.com/understudy-ft/understudy/services/vmm"

// I/O ports through which a guest ends.
const (
	portKeyboard     = 0x64  // command port of the keyboard controller
	portSleepControl = 0x600 // ACPI
	portSleepStatus  = 0x601
	portReset        = 0xcf9 // reset control register of PCI chipsets
)

const (
	// keyboardReset pulses the line of the keyboard controller that resets the
	// CPU.
	keyboardReset = 0xfe
	// resetCPU of the reset control register begins a reset; resetSystem makes
	// it one of the whole machine.
	resetCPU    = 1 << 2
	resetSystem = 1 << 1
	// The sleep control register holds a type, and begins the sleep with
	// sleepEnable (ACPI 6.4, section 4.8.3.7).
	sleepTypeShift = 2
	sleepTypeMask  = 7
	sleepEnable    = 1 << 5
	sleepPowerOff  = 5
)

// powerRegisters are the ways for a guest to end. They have no state; stop is
// called from a vCPU's goroutine.
func powerRegisters(stop func(vmm.Stop)) []mapping {
	at := func(port uint64, write func(v uint8)) mapping {
		return mapping{window{base: port, size: 1, ports: true}, latch(write)}
	}
	return []mapping{
		at(portSleepControl, func(v uint8) {
			if v&sleepEnable != 0 && v>>sleepTypeShift&sleepTypeMask == sleepPowerOff {
				stop(vmm.Stop{Cause: vmm.PowerOff})
			}
		}),
		at(portSleepStatus, func(uint8) {}),
		at(portReset, func(v uint8) {
			if v&resetCPU != 0 {
				stop(vmm.Stop{Cause: vmm.Reboot})
			}
		}),
		// There is no keyboard controller, but kernels that are told to reset
		// through it do: it reads as one that is ready for a command.
		at(portKeyboard, func(v uint8) {
			if v == keyboardReset {
				stop(vmm.Stop{Cause: vmm.Reboot})
			}
		}),
	}
}

// latch is a register of a byte that acts when written and reads as 0.
type latch func(v uint8)

func (latch) Read(uint64, int) uint64 { return 0 }

func (l latch) Write(_ uint64, _ int, v uint64) { l(uint8(v)) }

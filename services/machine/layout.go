package machine

// Names of the devices in a MachineState, in the order in which they are saved.
const (
	nameUART    = "uart"
	nameRTC     = "rtc"
	nameNet     = "net"
	nameBlock   = "block"
	nameConsole = "console"
	nameRNG     = "rng"
)

// window is a device's place: its registers, in memory or I/O space, and its
// interrupt line. They are part of what a guest's running kernel knows, and must
// not change.
type window struct {
	base, size uint64
	ports      bool
	line       uint32
}

// registers are what lies in a window.
type registers interface {
	Read(off uint64, size int) uint64
	Write(off uint64, size int, v uint64)
}

// device is what the machine does with each of its devices.
type device interface {
	registers
	Pause()
	Resume()
	Reset()
	Save() ([]byte, error)
	Prepare(state []byte) (commit func(), err error)
}

// slot is a device in its place.
type slot struct {
	name    string
	version uint32
	window
	device
}

// bus is a vmm.Bus of registers in their windows.
type bus []mapping

type mapping struct {
	window
	registers
}

// find returns the registers that an access of size bytes at addr hits whole.
func (b bus) find(addr uint64, size int) (r registers, off uint64) {
	for i := range b {
		w := &b[i]
		if off := addr - w.base; off < w.size && uint64(size) <= w.size-off {
			return w.registers, off
		}
	}
	return nil, 0
}

// Read implements vmm.Bus.
func (b bus) Read(addr uint64, size int) (v uint64, ok bool) {
	r, off := b.find(addr, size)
	if r == nil {
		return 0, false
	}
	return r.Read(off, size), true
}

// Write implements vmm.Bus.
func (b bus) Write(addr uint64, size int, v uint64) (ok bool) {
	r, off := b.find(addr, size)
	if r == nil {
		return false
	}
	r.Write(off, size, v)
	return true
}

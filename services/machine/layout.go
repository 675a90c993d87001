package machine

import "github.com/understudy-ft/understudy/services/virtio"

// Names of the devices in a MachineState, in the order in which they are saved.
const (
	nameUART    = "uart"
	nameRTC     = "rtc"
	nameNet     = "net"
	nameBlock   = "block"
	nameConsole = "console"
	nameRNG     = "rng"
)

// window is a device's place: its registers and its interrupt line. They are
// part of what a guest's running kernel knows, and must not change.
type window struct {
	base, size uint64
	line       uint32
}

var layout = map[string]window{
	nameRTC:     {base: 0x0010_1000, size: 0x1000, line: 11},
	nameUART:    {base: 0x1000_0000, size: 0x100, line: 10},
	nameNet:     {base: 0x1000_1000, size: virtio.WindowSize, line: 1},
	nameBlock:   {base: 0x1000_2000, size: virtio.WindowSize, line: 2},
	nameConsole: {base: 0x1000_3000, size: virtio.WindowSize, line: 3},
	nameRNG:     {base: 0x1000_4000, size: virtio.WindowSize, line: 4},
}

// device is what the machine does with each of its devices.
type device interface {
	Read(off uint64, size int) uint64
	Write(off uint64, size int, v uint64)
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

// bus is the vmm.Bus of the machine's devices.
type bus struct{ slots []slot }

// find returns the device that an access of size bytes at addr hits whole.
func (b *bus) find(addr uint64, size int) (s *slot, off uint64) {
	for i := range b.slots {
		s := &b.slots[i]
		if off := addr - s.base; off < s.size && uint64(size) <= s.size-off {
			return s, off
		}
	}
	return nil, 0
}

// Read implements vmm.Bus.
func (b *bus) Read(addr uint64, size int) (v uint64, ok bool) {
	s, off := b.find(addr, size)
	if s == nil {
		return 0, false
	}
	return s.device.Read(off, size), true
}

// Write implements vmm.Bus.
func (b *bus) Write(addr uint64, size int, v uint64) (ok bool) {
	s, off := b.find(addr, size)
	if s == nil {
		return false
	}
	s.device.Write(off, size, v)
	return true
}

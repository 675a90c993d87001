package conform

import "encoding/binary"

// elfImage wraps an image as a static RISC-V executable with one segment that
// can be read, written and executed. The image is followed by bss bytes of
// zeros.
func elfImage(base, entry uint64, image []byte, bss uint64) []byte {
	const offset = 0x1000 // of the image in the file, congruent to base
	le := binary.LittleEndian
	h := append([]byte("\x7fELF"), 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	h = le.AppendUint16(h, 2)   // ET_EXEC
	h = le.AppendUint16(h, 243) // EM_RISCV
	h = le.AppendUint32(h, 1)
	h = le.AppendUint64(h, entry)
	h = le.AppendUint64(h, 64) // program headers
	h = le.AppendUint64(h, 0)  // section headers
	h = le.AppendUint32(h, 5)  // compressed, double-float ABI
	for _, v := range []uint16{64, 56, 1, 64, 0, 0} {
		h = le.AppendUint16(h, v)
	}
	h = le.AppendUint32(h, 1) // PT_LOAD
	h = le.AppendUint32(h, 7) // RWX
	for _, v := range []uint64{offset, base, base, uint64(len(image)), uint64(len(image)) + bss, 0x1000} {
		h = le.AppendUint64(h, v)
	}
	file := make([]byte, offset, offset+len(image))
	copy(file, h)
	return append(file, image...)
}

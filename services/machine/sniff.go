package machine

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"

	"github.com/understudy-ft/understudy/services/bzimage"
)

// ISA is an instruction set.
type ISA string

// Instruction sets that machines exist for.
const (
	RISCV64 ISA = "riscv64"
	X86_64  ISA = "x86-64"
)

// Sniff tells which instruction set a kernel is for, by its mark alone. Errors
// wrap ErrKernel.
func Sniff(kernel []byte) (ISA, error) {
	head := kernel
	if isGzip(kernel) {
		z, err := gzip.NewReader(bytes.NewReader(kernel))
		if err != nil {
			return "", fmt.Errorf("gzip'ed kernel: %w: %w", ErrKernel, err)
		}
		head = make([]byte, imageHeaderSize)
		if _, err := io.ReadFull(z, head); err != nil {
			return "", fmt.Errorf("gzip'ed kernel: %w: %w", ErrKernel, err)
		}
	}
	switch {
	case bzimage.Is(head):
		return X86_64, nil
	case isRISCVImage(head):
		return RISCV64, nil
	}
	if what := foreign(head); what != "" {
		return "", fmt.Errorf("kernel is %s; a RISC-V Linux Image or an x86 bzImage is needed: %w", what, ErrKernel)
	}
	return "", fmt.Errorf("kernel of %d bytes is neither a RISC-V Linux Image nor an x86 bzImage: %w", len(kernel), ErrKernel)
}

func isGzip(p []byte) bool { return bytes.HasPrefix(p, []byte{0x1f, 0x8b}) }

func isRISCVImage(k []byte) bool {
	return len(k) >= imageHeaderSize && string(k[imageMagic:imageMagic+4]) == imageMagicValue
}

// foreign names what a kernel is, if it is a known kind that is not for RISC-V.
func foreign(k []byte) string {
	at := func(off int, magic string) bool {
		return len(k) >= off+len(magic) && string(k[off:off+len(magic)]) == magic
	}
	switch {
	case bzimage.Is(k):
		return "an x86 bzImage"
	case at(0x38, "ARM\x64"):
		return "an arm64 Image"
	case at(0, "\x7fELF"):
		return "an ELF file"
	case at(4, "zimg"):
		return "a compressed EFI image (unpack it first)"
	}
	return ""
}

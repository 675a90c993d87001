#!/bin/sh
# Assembles the test programs. Needs GNU binutils for x86-64 and riscv64.
set -eu
cd "$(dirname "$0")"
build() { # directory, prefix of the tools, assembler's and linker's options
	for s in "$1"/*.S; do
		p=${s%.S}
		"$2as" $3 -I "$1" -o "$p.o" "$s"
		"$2ld" $4 -o "$p.elf" "$p.o"
		"$2objcopy" -O binary -j .text "$p.elf" "$p.bin"
		od -An -v -tx1 "$p.bin" >"$p.hex"
		rm "$p.o" "$p.elf" "$p.bin"
	done
}
build x86 "${X86:-}" --64 "-Ttext=0x100000"
build rv64 "${RV64:-riscv64-linux-gnu-}" "-march=rv64imafd_zicsr" "-Ttext=0x80000000 --no-relax"

// Package acpi writes the tables that describe an x86 machine without firmware
// to its guest (ACPI Specification 6.4): RSDP, XSDT, a FADT for hardware-reduced
// ACPI, a MADT, and a DSDT in AML.
//
// Hardware-reduced ACPI (section 4.1) has no fixed-function registers, no SCI and
// no legacy devices. What is left of them are the sleep control register, through
// which the guest switches itself off, and the reset register.
//
// The package is pure: Machine goes in, bytes come out.
package acpi

package machine

import (
	"fmt"
	"strings"

	"github.com/understudy-ft/understudy/services/fdt"
	"github.com/understudy-ft/understudy/services/rv64"
)

// Phandles of the interrupt controllers.
const (
	phandlePLIC = 1
	phandleHart = 2 // + hart id
)

// uartClockHz gives the divisors that drivers compute; the line has no speed.
const uartClockHz = 3_686_400

// supervisorExternal is a hart's interrupt that a PLIC context drives.
const supervisorExternal = 9

// tree is what the guest is told about its machine.
type tree struct {
	memoryBytes            uint64
	harts                  int
	append                 string
	initrdStart, initrdEnd uint64 // equal: none
	seed                   []byte
	slots                  []slot
}

// encode returns the device tree blob (Linux Documentation/devicetree/bindings).
func (t tree) encode() ([]byte, error) {
	return fdt.Encode(fdt.Node{
		Properties: []fdt.Property{
			fdt.U32("#address-cells", 2),
			fdt.U32("#size-cells", 2),
			fdt.Strings("compatible", "understudy,rv64"),
			fdt.Strings("model", "Understudy rv64"),
		},
		Children: []fdt.Node{t.chosen(), t.memory(), t.cpus(), t.soc()},
	}, 0)
}

func (t tree) chosen() fdt.Node {
	n := fdt.Node{Name: "chosen", Properties: []fdt.Property{
		fdt.Strings("bootargs", t.append),
		fdt.Strings("stdout-path", fmt.Sprintf("/soc/serial@%x", rv64Layout[nameUART].base)),
		fdt.Bytes("rng-seed", t.seed),
	}}
	if t.initrdEnd > t.initrdStart {
		n.Properties = append(n.Properties,
			fdt.U64("linux,initrd-start", t.initrdStart),
			fdt.U64("linux,initrd-end", t.initrdEnd))
	}
	return n
}

func (t tree) memory() fdt.Node {
	return fdt.Node{Name: fmt.Sprintf("memory@%x", uint64(rv64.RAMBase)), Properties: []fdt.Property{
		fdt.Strings("device_type", "memory"),
		fdt.U64("reg", rv64.RAMBase, t.memoryBytes),
	}}
}

func (t tree) cpus() fdt.Node {
	n := fdt.Node{Name: "cpus", Properties: []fdt.Property{
		fdt.U32("#address-cells", 1),
		fdt.U32("#size-cells", 0),
		fdt.U32("timebase-frequency", rv64.TimebaseHz),
	}}
	for i := range uint32(t.harts) {
		n.Children = append(n.Children, fdt.Node{
			Name: fmt.Sprintf("cpu@%x", i),
			Properties: []fdt.Property{
				fdt.Strings("device_type", "cpu"),
				fdt.U32("reg", i),
				fdt.Strings("status", "okay"),
				fdt.Strings("compatible", "riscv"),
				fdt.Strings("riscv,isa", rv64.ISAString()),
				fdt.Strings("riscv,isa-base", "rv64i"),
				fdt.Strings("riscv,isa-extensions", isaExtensions(rv64.ISAString())...),
				fdt.Strings("mmu-type", "riscv,sv39"),
			},
			Children: []fdt.Node{{
				Name: "interrupt-controller",
				Properties: []fdt.Property{
					fdt.Strings("compatible", "riscv,cpu-intc"),
					fdt.Flag("interrupt-controller"),
					fdt.U32("#interrupt-cells", 1),
					fdt.U32("phandle", phandleHart+i),
				},
			}},
		})
	}
	return n
}

// isaExtensions splits an ISA string such as rv64imac_zicsr into its extensions.
func isaExtensions(isa string) []string {
	letters, names, _ := strings.Cut(strings.TrimPrefix(isa, "rv64"), "_")
	list := strings.Split(letters, "")
	if names != "" {
		list = append(list, strings.Split(names, "_")...)
	}
	return list
}

func (t tree) soc() fdt.Node {
	n := fdt.Node{
		Name: "soc",
		Properties: []fdt.Property{
			fdt.Strings("compatible", "simple-bus"),
			fdt.U32("#address-cells", 2),
			fdt.U32("#size-cells", 2),
			fdt.Flag("ranges"),
			fdt.U32("interrupt-parent", phandlePLIC),
		},
		Children: []fdt.Node{t.plic()},
	}
	for _, s := range t.slots {
		n.Children = append(n.Children, s.node())
	}
	return n
}

func (t tree) plic() fdt.Node {
	var contexts []uint32
	for i := range uint32(t.harts) {
		contexts = append(contexts, phandleHart+i, supervisorExternal)
	}
	return fdt.Node{Name: fmt.Sprintf("interrupt-controller@%x", uint64(rv64.PLICBase)), Properties: []fdt.Property{
		fdt.Strings("compatible", "sifive,plic-1.0.0", "riscv,plic0"),
		fdt.U64("reg", rv64.PLICBase, rv64.PLICSize),
		fdt.Flag("interrupt-controller"),
		fdt.U32("#address-cells", 0),
		fdt.U32("#interrupt-cells", 1),
		fdt.U32("interrupts-extended", contexts...),
		fdt.U32("riscv,ndev", rv64.MaxIRQ),
		fdt.U32("phandle", phandlePLIC),
	}}
}

// node describes a device.
func (s slot) node() fdt.Node {
	kind, extra := "virtio_mmio", []fdt.Property{fdt.Strings("compatible", "virtio,mmio"), fdt.Flag("dma-coherent")}
	switch s.name {
	case nameUART:
		kind, extra = "serial", []fdt.Property{
			fdt.Strings("compatible", "ns16550a"),
			fdt.U32("clock-frequency", uartClockHz),
		}
	case nameRTC:
		kind, extra = "rtc", []fdt.Property{fdt.Strings("compatible", "google,goldfish-rtc")}
	}
	return fdt.Node{
		Name: fmt.Sprintf("%s@%x", kind, s.base),
		Properties: append(extra,
			fdt.U64("reg", s.base, s.window.size),
			fdt.U32("interrupts", s.line)),
	}
}

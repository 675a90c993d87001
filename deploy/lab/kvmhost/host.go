package kvmhost

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"github.com/understudy-ft/understudy/deploy/initrd"
	"github.com/understudy-ft/understudy/deploy/process"
)

// QEMU is the emulator.
const QEMU = "qemu-system-x86_64"

// hostCPU is the emulated CPU (see the package comment).
const hostCPU = "EPYC,+svm,+npt,-cx16,-xsave,check=off"

// DefaultMemoryMiB is enough for a host with a guest of 256 MiB.
const DefaultMemoryMiB = 1024

// Config describes a host.
type Config struct {
	// Name is the host's name, unique in Dir.
	Name string
	// Dir takes the host's console as NAME.log, its RAM disk and its control
	// socket.
	Dir string
	// Images is the directory of bzImage and host-initrd.
	Images string
	// Files are added under host/; host/run is what the host does.
	Files []initrd.File
	// MemoryMiB is 0 for DefaultMemoryMiB.
	MemoryMiB int
	// NetDev is QEMU's -netdev without its id; empty: no network card. MAC is the
	// card's address.
	NetDev, MAC string
}

// Check says what is missing for hosts of these images, nil if nothing is.
func Check(images string) error {
	if _, err := exec.LookPath(QEMU); err != nil {
		return fmt.Errorf("emulated hosts need QEMU (package qemu-system-x86): %w", err)
	}
	for _, name := range []string{"bzImage", "initrd", "host-initrd"} {
		if _, err := os.Stat(filepath.Join(images, name)); err != nil {
			return fmt.Errorf("emulated hosts need the amd64 guest (make guest-x86): %w", err)
		}
	}
	return nil
}

// Host is a running host. Its process's log is its console, where its programs
// and their guests print.
type Host struct {
	*process.Process
	control string
}

// card is the network card's name in QEMU.
const card = "n0"

// Start starts a host. Kill ends it as a power failure does.
func Start(c Config) (*Host, error) {
	at := func(suffix string) string { return filepath.Join(c.Dir, c.Name+suffix) }
	if err := initrd.Add(at(".initrd"), filepath.Join(c.Images, "host-initrd"), c.Files); err != nil {
		return nil, err
	}
	if c.MemoryMiB == 0 {
		c.MemoryMiB = DefaultMemoryMiB
	}
	h := &Host{control: at(".qmp")}
	args := []string{
		"-M", "q35", "-accel", "tcg", "-cpu", hostCPU, "-m", strconv.Itoa(c.MemoryMiB), "-smp", "1",
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-qmp", "unix:" + h.control + ",server=on,wait=off",
		"-kernel", filepath.Join(c.Images, "bzImage"), "-initrd", at(".initrd"), "-append", "console=ttyS0 panic=-1 quiet",
	}
	if c.NetDev != "" {
		args = append(args, "-netdev", c.NetDev+",id="+card, "-device", "virtio-net-pci,netdev="+card+",mac="+c.MAC)
	}
	var err error
	if h.Process, err = process.Start(c.Dir, c.Name, QEMU, args...); err != nil {
		return nil, fmt.Errorf("start an emulated host: %w", err)
	}
	return h, nil
}

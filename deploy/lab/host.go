package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"

	"github.com/u-root/u-root/pkg/cpio"
)

// QEMU is the emulator.
const QEMU = "qemu-system-x86_64"

// hostCPU is the emulated CPU (see the package comment).
const hostCPU = "EPYC,+svm,+npt,-cx16"

// DefaultMemoryMiB is enough for a host with a guest of 256 MiB.
const DefaultMemoryMiB = 1024

// File is a file in a host, with mode 0755.
type File struct {
	// Name is its path below /host. /host/run is what the host does.
	Name string
	// From is a file here; if it is empty the file holds Text.
	From, Text string
}

// HostConfig describes a host.
type HostConfig struct {
	// Images is the directory of bzImage and host-initrd.
	Images string
	// Scratch is a directory for the host's RAM disk.
	Scratch string
	Files   []File
	// MemoryMiB is 0 for DefaultMemoryMiB, CPUs 0 for one.
	MemoryMiB, CPUs int
	// Args are further arguments of QEMU, for network cards.
	Args []string
	// Console gets what host and guest print.
	Console io.Writer
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

// Host is a running host.
type Host struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
	once sync.Once
}

// StartHost starts a host. Kill must end it.
func StartHost(cfg HostConfig) (*Host, error) {
	initrd := filepath.Join(cfg.Scratch, "initrd")
	if err := writeInitrd(initrd, filepath.Join(cfg.Images, "host-initrd"), cfg.Files); err != nil {
		return nil, err
	}
	memory, cpus := cfg.MemoryMiB, cfg.CPUs
	if memory == 0 {
		memory = DefaultMemoryMiB
	}
	if cpus == 0 {
		cpus = 1
	}
	line := "console=ttyS0 panic=-1 quiet"
	if cpus > 1 {
		// Otherwise the kernel does not trust the TSCs and reads an emulated HPET.
		line += " tsc=reliable"
	}
	args := append([]string{
		"-M", "q35", "-accel", "tcg", "-cpu", hostCPU, "-m", strconv.Itoa(memory), "-smp", strconv.Itoa(cpus),
		"-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", filepath.Join(cfg.Images, "bzImage"), "-initrd", initrd, "-append", line,
	}, cfg.Args...)
	h := &Host{cmd: exec.Command(QEMU, args...), done: make(chan struct{})}
	h.cmd.Stdout, h.cmd.Stderr = cfg.Console, cfg.Console
	// A host does not outlive whoever started it.
	h.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start an emulated host: %w", err)
	}
	go func() {
		h.err = h.cmd.Wait()
		close(h.done)
	}()
	return h, nil
}

// Done is closed when the host has ended.
func (h *Host) Done() <-chan struct{} { return h.done }

// Err is the error of a host that has ended.
func (h *Host) Err() error { return h.err }

// Kill ends the host as a power failure does, and waits for it.
func (h *Host) Kill() {
	h.once.Do(func() { _ = h.cmd.Process.Kill() }) // it may have ended by itself
	<-h.done
}

// writeInitrd appends an archive with the files to a RAM disk: the kernel
// unpacks one after the other.
func writeInitrd(name, base string, files []File) (err error) {
	out, err := os.Create(name)
	if err != nil {
		return fmt.Errorf("make a host's RAM disk: %w", err)
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	in, err := os.Open(base)
	if err != nil {
		return fmt.Errorf("make a host's RAM disk: %w", err)
	}
	defer in.Close()
	n, err := io.Copy(out, in)
	if err != nil {
		return fmt.Errorf("make a host's RAM disk: %w", err)
	}
	const align = 512
	if _, err := out.Write(make([]byte, (align-n%align)%align)); err != nil {
		return fmt.Errorf("make a host's RAM disk: %w", err)
	}
	var records []cpio.Record
	for _, f := range files {
		text := f.Text
		if f.From != "" {
			b, err := os.ReadFile(f.From)
			if err != nil {
				return fmt.Errorf("make a host's RAM disk: %w", err)
			}
			text = string(b)
		}
		records = append(records, cpio.StaticFile("host/"+f.Name, text, 0o755))
	}
	cpio.MakeAllReproducible(records)
	w := cpio.Newc.Writer(out)
	if err := cpio.WriteRecordsAndDirs(w, records); err != nil {
		return fmt.Errorf("make a host's RAM disk: %w", err)
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return fmt.Errorf("make a host's RAM disk: %w", err)
	}
	return nil
}

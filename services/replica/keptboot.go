package replica

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/zeebo/xxh3"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/disk"
)

// bootSuffix is what the path of a kept boot adds to that of its image.
const bootSuffix = ".understudy-boot"

// A kept boot is what a secondary was given to boot the guest from: a magic
// number, the length of the encoded MachineConfig, the MachineConfig, kernel
// and initrd, and the XXH3 of all that. With it the secondary can start the VM
// from its disk after both copies were lost.
const bootMagic = "udboot1\n"

var errKeptBoot = errors.New("is damaged")

// keptBoot tells whether a boot was kept beside the image.
func keptBoot(image string) bool {
	if image == "" {
		return false
	}
	info, err := os.Stat(image + bootSuffix)
	return err == nil && info.Mode().IsRegular()
}

// keepBoot keeps what a replica needs to boot the guest from its image.
func keepBoot(image string, g *Guest) error {
	m, err := proto.Marshal(&pb.MachineConfig{
		Engine: g.Engine, MemoryBytes: g.MemoryBytes, Cpus: uint32(g.CPUs), Mac: g.MAC[:], Append: g.Append,
		DiskBytes: g.Disk.Size(), KernelBytes: uint64(len(g.Kernel)), InitrdBytes: uint64(len(g.Initrd)),
		CpuBaseline: g.CPUBaseline,
	})
	if err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint32([]byte(bootMagic), uint32(len(m)))
	head = append(head, m...)
	parts := [][]byte{head, g.Kernel, g.Initrd}
	h := xxh3.New()
	size := int64(8)
	for _, p := range parts {
		_, _ = h.Write(p) // a hash takes everything
		size += int64(len(p))
	}
	sum := binary.LittleEndian.AppendUint64(nil, h.Sum64())
	if endsWith(image+bootSuffix, size, sum) {
		return nil // it is there already
	}
	if err := disk.WriteFile(image+bootSuffix, append(parts, sum)...); err != nil {
		return fmt.Errorf("keep what the guest boots from: %w", err)
	}
	return nil
}

// endsWith tells whether a file has a size and ends with sum.
func endsWith(path string, size int64, sum []byte) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil || info.Size() != size {
		return false
	}
	end := make([]byte, len(sum))
	_, err = f.ReadAt(end, size-int64(len(sum)))
	return err == nil && string(end) == string(sum)
}

// readBoot opens the image and reads what was kept beside it.
func readBoot(image string) (*Guest, error) {
	b, err := os.ReadFile(image + bootSuffix)
	if err != nil {
		return nil, err
	}
	m, rest, err := parseBoot(b)
	if err != nil {
		return nil, fmt.Errorf("%s%s: %w", image, bootSuffix, err)
	}
	img, err := disk.Open(image, false)
	if err != nil {
		return nil, err
	}
	if img.Size() != m.GetDiskBytes() {
		_ = img.Close() // not used
		return nil, fmt.Errorf("disk image %s has %d bytes, the guest's disk had %d", image, img.Size(), m.GetDiskBytes())
	}
	return &Guest{
		Engine: m.GetEngine(), MemoryBytes: m.GetMemoryBytes(), CPUs: int(m.GetCpus()), MAC: [6]byte(m.GetMac()), Append: m.GetAppend(),
		Kernel: rest[:m.GetKernelBytes()], Initrd: rest[m.GetKernelBytes():], Disk: img, CPUBaseline: m.GetCpuBaseline(),
	}, nil
}

// parseBoot checks a kept boot and returns the machine, and kernel and initrd
// in one.
func parseBoot(b []byte) (*pb.MachineConfig, []byte, error) {
	head := len(bootMagic) + 4
	if len(b) < head+8 || string(b[:len(bootMagic)]) != bootMagic ||
		xxh3.Hash(b[:len(b)-8]) != binary.LittleEndian.Uint64(b[len(b)-8:]) {
		return nil, nil, errKeptBoot
	}
	b = b[:len(b)-8]
	n := uint64(binary.LittleEndian.Uint32(b[len(bootMagic):]))
	m := &pb.MachineConfig{}
	if n > uint64(len(b)-head) || proto.Unmarshal(b[head:head+int(n)], m) != nil {
		return nil, nil, errKeptBoot
	}
	rest := b[head+int(n):]
	if k, i := m.GetKernelBytes(), m.GetInitrdBytes(); len(m.GetMac()) != 6 || k == 0 || k > uint64(len(rest)) || i != uint64(len(rest))-k {
		return nil, nil, errKeptBoot
	}
	return m, rest, nil
}

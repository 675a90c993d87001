// Command primary boots a VM and runs it as the active replica, protected as
// soon as a secondary is there.
package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/hashicorp/go-hclog"

	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/lastwill"
	"github.com/understudy-ft/understudy/services/replica"
	"github.com/understudy-ft/understudy/services/sched"
)

func main() {
	lastwill.Enter()
	cmd := cli.New("primary", "boots a VM and runs it, protected by the secondaries of the same name")
	shared := replica.AddFlags(cmd)
	kernel := cmd.String("kernel", "", "`FILE` with the guest's kernel (a RISC-V Image or an x86 bzImage)")
	initrd := cmd.String("initrd", "", "`FILE` with the guest's initial RAM disk (default: none)")
	kernelArgs := cmd.String("append", "", "kernel command `LINE`")
	memory := cli.Size(256 << 20)
	cmd.Var(&memory, "memory", "`SIZE` of the guest's memory")
	cpus := cmd.Int("cpus", 1, "`NUMBER` of virtual CPUs")
	mac := cmd.String("mac", "", "`MAC` address of the guest (default: made from the VM's name)")
	engine := cmd.String("engine", "auto", "`ENGINE` that runs the guest: rv64, kvm, or auto for that of the kernel's instruction set")
	baseline := cli.NewList()
	cmd.Var(baseline, "cpu-baseline", "CPU `FEATURES` to hide from the guest, as in /proc/cpuinfo, separated by commas, so that it runs on hosts that lack them (engine kvm)")
	readOnly := cmd.Bool("disk-readonly", false, "attach the disk read-only")
	orSpare := cmd.Bool("or-spare", false, "where the VM is active elsewhere already, go on as a spare instead of ending with an error:\nfor a primary that is started again by itself")
	standalone := cmd.Bool("standalone", false, "run the VM without arbiter and protection")
	cmd.Examples = []string{
		"primary --vm web --kernel Image --initrd initrd --append 'console=ttyS0' --uplink tap:web0,bridge=br0 --arbiter 10.0.0.3:7400 --listen 10.0.0.1:7410",
		"primary --standalone --kernel Image --initrd initrd --append 'console=ttyS0' --console -",
	}
	cli.Main(cmd, func(ctx context.Context, log hclog.Logger) error {
		sched.Coarse()
		cfg, done, err := shared.Config(log)
		if err != nil {
			return err
		}
		defer done()
		g := &replica.Guest{Engine: *engine, MemoryBytes: uint64(memory), CPUs: *cpus, CPUBaseline: baseline.Values, Append: *kernelArgs}
		if g.MAC, err = macAddress(*mac, cfg.VM); err != nil {
			return err
		}
		if *kernel == "" {
			return fmt.Errorf("--kernel: which kernel shall the guest boot? (%w)", cli.ErrUsage)
		}
		if g.Kernel, err = os.ReadFile(*kernel); err != nil {
			return fmt.Errorf("read the kernel (--kernel): %w", err)
		}
		if len(g.Kernel) == 0 {
			return fmt.Errorf("the kernel %s is empty (--kernel)", *kernel)
		}
		if *initrd != "" {
			if g.Initrd, err = os.ReadFile(*initrd); err != nil {
				return fmt.Errorf("read the initial RAM disk (--initrd): %w", err)
			}
		}
		if cfg.DiskPath != "" {
			if g.Disk, err = disk.Open(cfg.DiskPath, *readOnly); err != nil {
				return fmt.Errorf("--disk: %w", err)
			}
		}
		g.DiskReadOnly = *readOnly
		cfg.Guest, cfg.OrSpare = g, *orSpare
		if err := replica.CheckGuest(g); err != nil {
			return err
		}
		sched.Guest(*cpus, log)
		if *standalone {
			return replica.RunStandalone(ctx, cfg)
		}
		return replica.Run(ctx, cfg)
	})
}

// macAddress parses a MAC address, or makes one from the VM's name: locally
// administered, and the same at each start.
func macAddress(text, vm string) (mac [6]byte, err error) {
	if text == "" {
		sum := sha256.Sum256([]byte(vm))
		return [6]byte{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}, nil
	}
	hw, err := net.ParseMAC(text)
	if err == nil && len(hw) != 6 {
		err = errors.New("must have 6 bytes")
	}
	if err == nil && hw[0]&1 != 0 {
		err = errors.New("is a group address")
	}
	if err != nil {
		return mac, fmt.Errorf("--mac %q: %w (%w)", text, err, cli.ErrUsage)
	}
	return [6]byte(hw), nil
}

package main

import (
	"fmt"
	"slices"
	"strings"
)

// An arch is a guest architecture: what Debian calls it, which packages make
// up the guest, and what the monitor's boot protocol calls its kernel file.
type arch struct {
	name          string   // as in --arch
	debian        string   // dpkg architecture
	kernelPackage string   // the metapackage that depends on the newest kernel
	kernelFile    string   // file name prefix below boot/ in the package
	output        string   // file name in the output directory
	modules       []string // loaded at every boot, with what they need
	diskModules   []string // loaded when ud.disk is given, with what they need
	stripModules  bool     // see strip; the kernel then says that they are unsigned
	hostModules   []string // of a host that is itself emulated; none: there is no such host
	cmdline       string   // what the kernel is best started with
}

var arches = []arch{
	{
		name: "rv64", debian: "riscv64",
		kernelPackage: "linux-image-riscv64", kernelFile: "vmlinux-", output: "Image",
		modules:      []string{"virtio_mmio", "virtio_net", "virtio_blk", "virtio_rng"},
		diskModules:  []string{"ext4"},
		stripModules: true,
		// Left out are self-tests and certificates that a guest without
		// signed modules has no use for, and tracing: half of the kernel's
		// own start on an interpreter.
		cmdline: "console=ttyS0 quiet panic=-1 initcall_blacklist=jent_mod_init,load_system_certificate_list," +
			"bpf_tcp_ca_kfunc_init,bpf_dummy_struct_ops_init,init_kprobe_trace,latency_fsnotify_init",
	},
	{
		name: "amd64", debian: "amd64",
		kernelPackage: "linux-image-cloud-amd64", kernelFile: "vmlinuz-", output: "bzImage",
		modules:     []string{"virtio_mmio", "virtio_net", "virtio_blk", "virtio_rng", "virtio_console"},
		diskModules: []string{"ext4"},
		hostModules: []string{"kvm_amd", "virtio_net", "tun", "bridge"},
		cmdline:     "console=ttyS0 quiet panic=-1",
	},
}

// userPackages are the packages of the guest besides its kernel.
var userPackages = []string{"busybox-static", "redis-server"}

// programs are the ELF files of the guest that need shared libraries. A
// symbolic link in a package is followed.
var programs = []string{"usr/bin/redis-server", "usr/bin/redis-cli"}

// applets are the BusyBox commands that get a name in /bin.
var applets = strings.Fields(`
	[ ash awk base64 basename cat chmod chown clear cp cut date dd df dirname dmesg du
	echo env expr false find free fsync getopt grep gunzip gzip halt head hexdump hostname
	httpd id ifconfig insmod ip kill killall less ln ls lsmod md5sum mkdir mknod mktemp more
	mount mv nc netstat nproc nslookup od pidof ping ping6 poweroff printf ps
	pwd reboot reset rm rmdir rmmod route sed seq setsid sh sha256sum sleep sort stat stty
	sync sysctl tail tar tee telnet test time timeout top touch tr traceroute true tty udhcpc
	umount uname uniq uptime usleep vi watch wc wget which xargs yes cttyhack`)

func findArch(name string) (arch, error) {
	i := slices.IndexFunc(arches, func(a arch) bool { return a.name == name })
	if i < 0 {
		var known []string
		for _, a := range arches {
			known = append(known, a.name)
		}
		return arch{}, fmt.Errorf("unknown architecture %q (known: %s)", name, strings.Join(known, ", "))
	}
	return arches[i], nil
}

package main

import (
	"context"
	_ "embed"
	"fmt"

	"github.com/u-root/u-root/pkg/cpio"
)

//go:embed rootfs/host-init
var hostInitScript string

// hostRootfs returns the records of an emulated KVM host's initial RAM disk:
// BusyBox, the modules of KVM and of a network card, and an init that runs what
// is appended.
func hostRootfs(ctx context.Context, a arch, t tree) ([]cpio.Record, error) {
	records := []cpio.Record{
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.Symlink("lib", "usr/lib"),
		cpio.StaticFile("init", hostInitScript, 0o755),
		cpio.StaticFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644),
		cpio.StaticFile("etc/group", "root:x:0:\n", 0o644),
		cpio.StaticFile("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
	}
	for _, d := range []string{"proc", "sys", "tmp", "root", "run"} {
		records = append(records, cpio.Directory(d, 0o755))
	}
	shell, err := busybox(t)
	if err != nil {
		return nil, err
	}
	set, err := newModuleSet(t, false)
	if err != nil {
		return nil, err
	}
	modules, err := moduleFiles(ctx, set, "host", a.hostModules, map[string]bool{})
	if err != nil {
		return nil, fmt.Errorf("modules of an emulated host: %w", err)
	}
	return append(append(records, shell...), modules...), nil
}

package main

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/u-root/u-root/pkg/cpio"
)

var (
	//go:embed rootfs/init
	initScript string
	//go:embed rootfs/udhcpc.sh
	udhcpcScript string
	//go:embed rootfs/index.html
	indexPage string
)

// rootfs returns the records of the initial RAM disk.
func rootfs(ctx context.Context, a arch, t tree) ([]cpio.Record, error) {
	records := []cpio.Record{
		// The kernel opens the console for PID 1 before devtmpfs is mounted.
		cpio.Directory("dev", 0o755),
		cpio.CharDev("dev/console", 0o600, 5, 1),
		cpio.CharDev("dev/null", 0o666, 1, 3),
		cpio.Symlink("lib", "usr/lib"),
		cpio.Symlink("lib64", "usr/lib64"),
		cpio.StaticFile("init", initScript, 0o755),
		cpio.StaticFile("etc/udhcpc.sh", udhcpcScript, 0o755),
		cpio.StaticFile("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n", 0o644),
		cpio.StaticFile("etc/group", "root:x:0:\n", 0o644),
		cpio.StaticFile("etc/hosts", "127.0.0.1 localhost\n::1 localhost\n", 0o644),
		cpio.StaticFile("srv/index.html", indexPage, 0o644),
	}
	for _, d := range []string{"proc", "sys", "tmp", "root", "data", "run"} {
		records = append(records, cpio.Directory(d, 0o755))
	}

	shell, err := busybox(t)
	if err != nil {
		return nil, err
	}
	records = append(records, shell...)

	files, err := programFiles(t)
	if err != nil {
		return nil, err
	}
	records = append(records, files...)

	set, err := newModuleSet(t, a.stripModules)
	if err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	base, err := moduleFiles(ctx, set, "base", a.modules, seen)
	if err != nil {
		return nil, err
	}
	disk, err := moduleFiles(ctx, set, "disk", a.diskModules, seen)
	if err != nil {
		return nil, err
	}
	return slices.Concat(records, base, disk), nil
}

// busybox returns BusyBox with the names of its commands.
func busybox(t tree) ([]cpio.Record, error) {
	_, file, err := t.follow("usr/bin/busybox")
	if err != nil {
		return nil, err
	}
	records := []cpio.Record{cpio.StaticFile("bin/busybox", string(file.data), 0o755)}
	for _, applet := range applets {
		records = append(records, cpio.Symlink("bin/"+applet, "busybox"))
	}
	return records, nil
}

// programFiles returns the programs with their shared libraries. A file that
// has several names is written once.
func programFiles(t tree) ([]cpio.Record, error) {
	contents := map[string]string{}
	for _, p := range programs {
		real, _, err := t.follow(p)
		if err != nil {
			return nil, err
		}
		contents[p] = real
	}
	libs, err := libraries(t, programs)
	if err != nil {
		return nil, err
	}
	maps.Copy(contents, libs)

	var records []cpio.Record
	written := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(contents)) {
		real := contents[name]
		if !written[real] {
			written[real] = true
			records = append(records, cpio.StaticFile(real, string(t[real].data), 0o755))
		}
		if name != real {
			records = append(records, cpio.Symlink(name, "/"+real))
		}
	}
	return records, nil
}

// moduleFiles returns the modules and the list in the order of loading.
func moduleFiles(ctx context.Context, set *moduleSet, list string, wanted []string, seen map[string]bool) ([]cpio.Record, error) {
	ordered, err := set.order(ctx, wanted, seen)
	if err != nil {
		return nil, err
	}
	var records []cpio.Record
	var names strings.Builder
	for _, m := range ordered {
		records = append(records, cpio.StaticFile("usr/lib/modules/"+m.name+".ko", string(m.data), 0o644))
		fmt.Fprintln(&names, m.name)
	}
	return append(records, cpio.StaticFile("etc/modules/"+list, names.String(), 0o644)), nil
}

// writeInitrd writes the records as a newc archive. Equal records give equal
// bytes.
func writeInitrd(w io.Writer, records []cpio.Record) error {
	cpio.MakeAllReproducible(records)
	out := cpio.Newc.Writer(w)
	if err := cpio.WriteRecordsAndDirs(out, records); err != nil {
		return fmt.Errorf("writing the cpio archive: %w", err)
	}
	if err := cpio.WriteTrailer(out); err != nil {
		return fmt.Errorf("ending the cpio archive: %w", err)
	}
	return nil
}

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"sort"
	"strings"
)

// A tree is the wanted content of some packages, held in memory: path without
// leading slash to file. Directories are not kept.
type tree map[string]file

type file struct {
	mode   uint64 // permission bits
	data   []byte
	target string // of a symbolic link
}

// maxFile bounds one file of a package, so that a damaged archive cannot fill
// the memory.
const maxFile = 512 << 20

// addDeb reads the package's files for which want says yes into the tree.
func (t tree) addDeb(ctx context.Context, debFile string, want func(name string) bool) error {
	cmd := exec.CommandContext(ctx, "dpkg-deb", "--fsys-tarfile", debFile)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting dpkg-deb: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting dpkg-deb: %w", err)
	}
	readErr := t.addTar(out, want)
	if _, err := io.Copy(io.Discard, out); readErr == nil {
		readErr = err
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("unpacking %s: %w: %s", debFile, err, strings.TrimSpace(stderr.String()))
	}
	if readErr != nil {
		return fmt.Errorf("unpacking %s: %w", debFile, readErr)
	}
	return nil
}

func (t tree) addTar(r io.Reader, want func(string) bool) error {
	archive := tar.NewReader(r)
	for {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if !want(name) {
			continue
		}
		switch h.Typeflag {
		case tar.TypeReg:
			if h.Size > maxFile {
				return fmt.Errorf("%s is larger than %d bytes", name, maxFile)
			}
			data, err := io.ReadAll(archive)
			if err != nil {
				return fmt.Errorf("reading %s: %w", name, err)
			}
			t[name] = file{mode: uint64(h.Mode) & 0o777, data: data}
		case tar.TypeSymlink:
			t[name] = file{mode: 0o777, target: h.Linkname}
		case tar.TypeLink:
			linked, ok := t[strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")]
			if !ok {
				return fmt.Errorf("%s is a hard link to %s, which is not there", name, h.Linkname)
			}
			t[name] = linked
		}
	}
}

// follow returns the path and content of the regular file behind name. Debian
// merged /lib into /usr/lib; a name is looked up in both.
func (t tree) follow(name string) (string, file, error) {
	start := name
	for range 16 {
		f, ok := t[name]
		if !ok {
			if f, ok = t["usr/"+name]; ok {
				name = "usr/" + name
			} else {
				return "", file{}, fmt.Errorf("%s: %s is in none of the packages", start, name)
			}
		}
		if f.target == "" {
			return name, f, nil
		}
		next := f.target
		if !path.IsAbs(next) {
			next = path.Join("/", path.Dir(name), next)
		}
		name = strings.TrimPrefix(path.Clean(next), "/")
	}
	return "", file{}, fmt.Errorf("%s: too many symbolic links", start)
}

// names returns the paths in order.
func (t tree) names() []string {
	names := make([]string, 0, len(t))
	for n := range t {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path"
	"strings"
)

// kernelImage returns the kernel in the form that the monitor boots: the flat
// "Image" with its RISC-V header for rv64 (Documentation/arch/riscv/boot-image-header.rst),
// the bzImage for amd64 (Documentation/arch/x86/boot.rst).
func kernelImage(a arch, t tree) (release string, image []byte, err error) {
	for _, n := range t.names() {
		if r, ok := strings.CutPrefix(n, "boot/"+a.kernelFile); ok {
			release, image = r, t[n].data
		}
	}
	if release == "" {
		return "", nil, fmt.Errorf("the kernel package has no boot/%s*", a.kernelFile)
	}
	if a.output == "bzImage" {
		if len(image) < 0x206 || string(image[0x202:0x206]) != "HdrS" {
			return "", nil, fmt.Errorf("the kernel %s is no bzImage", release)
		}
		return release, image, nil
	}
	if len(image) > 2 && image[0] == 0x1f && image[1] == 0x8b {
		if image, err = gunzip(image); err != nil {
			return "", nil, fmt.Errorf("unpacking the kernel %s: %w", release, err)
		}
	}
	if len(image) < 64 || binary.LittleEndian.Uint32(image[56:]) != 0x05435352 {
		return "", nil, fmt.Errorf("the kernel %s is no RISC-V Image (a compressed EFI image is not supported)", release)
	}
	return release, image, nil
}

func gunzip(data []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.LimitReader(z, maxFile))
}

// A module is one kernel module, unpacked.
type module struct {
	name    string // with underscores
	data    []byte
	needs   []string // from .modinfo depends=
	prefers []string // from .modinfo softdep=pre:, loaded first where they exist
}

// moduleSet finds the modules of one kernel.
type moduleSet struct {
	tree    tree
	paths   map[string]string // module name to path
	builtin map[string]bool
	strip   bool
	cache   map[string]module
}

func newModuleSet(t tree, strip bool) (*moduleSet, error) {
	s := &moduleSet{tree: t, paths: map[string]string{}, builtin: map[string]bool{}, strip: strip, cache: map[string]module{}}
	for _, n := range t.names() {
		if !strings.Contains(n, "lib/modules/") {
			continue
		}
		if path.Base(n) == "modules.builtin" {
			for line := range strings.Lines(string(t[n].data)) {
				s.builtin[moduleName(strings.TrimSpace(line))] = true
			}
		} else if strings.Contains(path.Base(n), ".ko") {
			s.paths[moduleName(n)] = n
		}
	}
	if len(s.builtin) == 0 {
		return nil, errors.New("the kernel package has no modules.builtin")
	}
	return s, nil
}

// moduleName turns a path into a module's name: the kernel treats dashes and
// underscores alike.
func moduleName(p string) string {
	base, _, _ := strings.Cut(path.Base(p), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

func (s *moduleSet) load(ctx context.Context, name string) (module, error) {
	if m, ok := s.cache[name]; ok {
		return m, nil
	}
	p, ok := s.paths[name]
	if !ok {
		return module{}, fmt.Errorf("the kernel has no module %s", name)
	}
	data := s.tree[p].data
	switch path.Ext(p) {
	case ".ko":
	case ".xz":
		cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout")
		cmd.Stdin = bytes.NewReader(data)
		out, err := cmd.Output()
		if err != nil {
			return module{}, fmt.Errorf("unpacking module %s: %w", name, err)
		}
		data = out
	default:
		return module{}, fmt.Errorf("module %s has the unknown compression %s", name, path.Ext(p))
	}
	if s.strip {
		stripped, err := strip(data)
		if err != nil {
			return module{}, fmt.Errorf("stripping module %s: %w", name, err)
		}
		data = stripped
	}
	m, err := parseModule(name, data)
	if err != nil {
		return module{}, fmt.Errorf("reading module %s: %w", name, err)
	}
	s.cache[name] = m
	return m, nil
}

func parseModule(name string, data []byte) (module, error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return module{}, err
	}
	defer f.Close()
	section := f.Section(".modinfo")
	if section == nil {
		return module{}, errors.New("no .modinfo section")
	}
	info, err := section.Data()
	if err != nil {
		return module{}, err
	}
	m := module{name: name, data: data}
	m.needs, m.prefers = parseModinfo(info)
	return m, nil
}

// parseModinfo reads the NUL-separated key=value strings of a module.
func parseModinfo(info []byte) (needs, prefers []string) {
	for entry := range bytes.SplitSeq(info, []byte{0}) {
		key, value, _ := strings.Cut(string(entry), "=")
		switch key {
		case "depends":
			for n := range strings.SplitSeq(value, ",") {
				if n != "" {
					needs = append(needs, moduleName(n))
				}
			}
		case "softdep":
			before, _, _ := strings.Cut(value, "post:")
			before, ok := strings.CutPrefix(before, "pre:")
			if !ok {
				continue
			}
			for n := range strings.FieldsSeq(before) {
				prefers = append(prefers, moduleName(n))
			}
		}
	}
	return needs, prefers
}

// order returns the named modules with all that they need, each after its
// needs and none twice. Names that are built in are left out; seen holds what
// earlier calls returned.
func (s *moduleSet) order(ctx context.Context, names []string, seen map[string]bool) ([]module, error) {
	var ordered []module
	var visit func(name string, optional bool) error
	visit = func(name string, optional bool) error {
		if optional {
			name = s.provider(name)
		}
		if name == "" || seen[name] || s.builtin[name] {
			return nil
		}
		seen[name] = true
		m, err := s.load(ctx, name)
		if err != nil {
			return err
		}
		for _, n := range m.prefers {
			if err := visit(n, true); err != nil {
				return err
			}
		}
		for _, n := range m.needs {
			if err := visit(n, false); err != nil {
				return err
			}
		}
		ordered = append(ordered, m)
		return nil
	}
	for _, n := range names {
		if err := visit(n, false); err != nil {
			return nil, err
		}
	}
	return ordered, nil
}

// provider returns the module behind the name in a soft dependency, or "" if
// there is none. It may be an alias of the crypto API, whose plain
// implementation of ALGORITHM is the module ALGORITHM_generic.
func (s *moduleSet) provider(name string) string {
	algorithm := strings.TrimPrefix(name, "crypto_")
	for _, n := range []string{name, algorithm, algorithm + "_generic"} {
		if s.paths[n] != "" {
			return n
		}
	}
	return ""
}

package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"path"
	"strings"
)

// libraries returns the shared objects that the programs need, transitively:
// the path at which the dynamic linker looks for each, to the path in the tree
// of its content. The ELF interpreter is among them. All paths are below usr/,
// to which /lib and /lib64 are links in the guest, as in Debian.
func libraries(t tree, programs []string) (map[string]string, error) {
	found := map[string]string{}
	var visit func(name string) error
	visit = func(name string) error {
		real, f, err := t.follow(name)
		if err != nil {
			return err
		}
		needed, interp, err := dynamic(f.data)
		if err != nil {
			return fmt.Errorf("reading the ELF header of %s: %w", real, err)
		}
		var wanted []string
		if interp != "" {
			wanted = append(wanted, "usr/"+strings.TrimPrefix(strings.TrimPrefix(interp, "/"), "usr/"))
		}
		for _, n := range needed {
			at, err := locate(t, n)
			if err != nil {
				return fmt.Errorf("%s needs %w", real, err)
			}
			wanted = append(wanted, at)
		}
		for _, w := range wanted {
			if _, seen := found[w]; seen {
				continue
			}
			content, _, err := t.follow(w)
			if err != nil {
				return err
			}
			found[w] = content
			if err := visit(w); err != nil {
				return err
			}
		}
		return nil
	}
	for _, p := range programs {
		if err := visit(p); err != nil {
			return nil, err
		}
	}
	return found, nil
}

// locate finds a library by the name in a DT_NEEDED entry.
func locate(t tree, soname string) (string, error) {
	for _, n := range t.names() {
		if path.Base(n) == soname && strings.Contains(n, "lib/") && strings.Count(n, "/") <= 3 {
			return n, nil
		}
	}
	return "", fmt.Errorf("%s, which is in none of the packages", soname)
}

func dynamic(data []byte) (needed []string, interp string, err error) {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			text := make([]byte, p.Filesz)
			if _, err := p.ReadAt(text, 0); err != nil {
				return nil, "", err
			}
			interp = string(bytes.TrimRight(text, "\x00"))
		}
	}
	needed, err = f.ImportedLibraries()
	return needed, interp, err
}

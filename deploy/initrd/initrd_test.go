package initrd

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/u-root/u-root/pkg/cpio"
)

// What is added stands behind what was there, where the kernel looks for it.
func TestAdd(t *testing.T) {
	dir := t.TempDir()
	base, program, out := filepath.Join(dir, "base"), filepath.Join(dir, "program"), filepath.Join(dir, "out")
	for name, text := range map[string]string{base: "an archive of whatever size", program: "machine code"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Add(out, base, []File{{Name: "services/one", From: program}, {Name: "host/run", Text: "#!/bin/sh\n"}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(b, []byte("an archive of whatever size\x00")) {
		t.Errorf("it begins with %q", b[:40])
	}
	records, err := cpio.ReadAllRecords(cpio.Newc.Reader(bytes.NewReader(b[align:])))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var order []string
	for _, r := range records {
		order = append(order, r.Name)
		if r.FileSize > 0 {
			text, err := io.ReadAll(io.NewSectionReader(r, 0, int64(r.FileSize)))
			if err != nil || r.Mode&0o777 != 0o755 {
				t.Errorf("%s: mode %o, %v", r.Name, r.Mode, err)
			}
			got[r.Name] = string(text)
		}
	}
	if got["services/one"] != "machine code" || got["host/run"] != "#!/bin/sh\n" {
		t.Errorf("it holds %q", got)
	}
	if slices.Index(order, "services") > slices.Index(order, "services/one") {
		t.Errorf("a directory comes after its file: %q", order)
	}
	if err := Add(out, base, []File{{Name: "x", From: filepath.Join(dir, "none")}}); err == nil {
		t.Error("a file that is not there was added")
	}
}

// Package bundletest reads support bundles in tests.
package bundletest

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"
)

// Read returns the files of a support bundle by their names. It fails the test
// where r is not one.
func Read(t *testing.T, r io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(r)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	for archive := tar.NewReader(zip); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		name, in := strings.CutPrefix(h.Name, "understudy-support/")
		if !in {
			t.Errorf("%s would be unpacked outside the bundle's directory", h.Name)
		}
		content, err := io.ReadAll(archive)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(content)
	}
}

// Package initrd adds files to an initial RAM disk that was built before. The
// kernel unpacks one cpio archive behind the other, so that nothing has to be
// unpacked here.
package initrd

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/u-root/u-root/pkg/cpio"
)

// File is a file to add, with mode 0755.
type File struct {
	// Name is its path in the RAM disk, without leading slash. Its directories
	// are made.
	Name string
	// From is a file here; if it is empty the file holds Text.
	From, Text string
}

// align is what the kernel asks of the place where an archive begins (a multiple
// of 4) and more, so that tools that read in blocks find it, too.
const align = 512

// Add writes to the file name what the file base holds and an archive of the
// files.
func Add(name, base string, files []File) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("add to the initial RAM disk: %w", err)
		}
	}()
	out, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	in, err := os.Open(base)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // only read
	n, err := io.Copy(out, in)
	if err != nil {
		return err
	}
	if _, err := out.Write(make([]byte, (align-n%align)%align)); err != nil {
		return err
	}
	var records []cpio.Record
	for _, f := range files {
		text := f.Text
		if f.From != "" {
			b, err := os.ReadFile(f.From)
			if err != nil {
				return err
			}
			text = string(b)
		}
		records = append(records, cpio.StaticFile(f.Name, text, 0o755))
	}
	cpio.MakeAllReproducible(records)
	buffered := bufio.NewWriter(out)
	w := cpio.Newc.Writer(buffered)
	if err := cpio.WriteRecordsAndDirs(w, records); err != nil {
		return err
	}
	if err := cpio.WriteTrailer(w); err != nil {
		return err
	}
	return buffered.Flush()
}

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestStamp(t *testing.T) {
	path := file(t, 4096)
	if _, ok, err := ReadStamp(path); ok || err != nil {
		t.Fatalf("an image without a stamp: %v, %v", ok, err)
	}
	if _, ok, err := ReadStamp(path + "2"); ok || err != nil {
		t.Fatalf("no image: %v, %v", ok, err)
	}
	s, err := NewStamp("web")
	if err != nil {
		t.Fatal(err)
	}
	other, err := NewStamp("web")
	if err != nil || s.Disk == other.Disk || s.State != New || s.Whole() {
		t.Fatalf("new stamps %+v, %+v: %v", s, other, err)
	}
	for term, state := range []State{New, Active, Partial, Standby, Ended} {
		s.State, s.Term = state, uint64(term)
		if err := WriteStamp(path, s); err != nil {
			t.Fatal(err)
		}
		got, ok, err := ReadStamp(path)
		if err != nil || !ok || got.Disk != s.Disk || got.VM != "web" || got.State != state || got.Term != uint64(term) {
			t.Fatalf("wrote %+v, read %+v, %v, %v", s, got, ok, err)
		}
		if want := state == Active || state == Standby || state == Ended; got.Whole() != want {
			t.Errorf("%s: whole %v", state, got.Whole())
		}
	}
	if b, err := os.ReadFile(path); err != nil || len(b) != 4096 {
		t.Fatalf("the image itself has changed: %d bytes, %v", len(b), err)
	}
	if all, _ := filepath.Glob(path + "*"); len(all) != 2 {
		t.Errorf("files left: %v", all)
	}
	if err := WriteStamp(path+"2", s); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("stamp without an image: %v", err)
	}
}

// A stamp is the image file's, not that of its name: neither a copy that took
// its place nor one beside it counts. A file that moves takes it along.
func TestStampIsBoundToTheFile(t *testing.T) {
	path := file(t, 4096)
	s, err := NewStamp("web")
	if err != nil {
		t.Fatal(err)
	}
	if err := WriteStamp(path, s); err != nil {
		t.Fatal(err)
	}
	moved, copied := path+".moved", path+".copied"
	duplicate := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(to, b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, suffix := range []string{"", StampSuffix} {
		duplicate(path+suffix, copied+suffix)
	}
	if _, ok, err := ReadStamp(copied); ok || err != nil {
		t.Errorf("the stamp counts for a copy: %v, %v", ok, err)
	}
	for _, suffix := range []string{"", StampSuffix} {
		if err := os.Rename(path+suffix, moved+suffix); err != nil {
			t.Fatal(err)
		}
	}
	if got, ok, err := ReadStamp(moved); !ok || err != nil || got.Disk != s.Disk {
		t.Errorf("the stamp does not count for a moved image: %v, %v", ok, err)
	}
}

func TestDamagedStamp(t *testing.T) {
	path := file(t, 4096)
	for _, text := range []string{"", "{", "null", "[]", `{"disk":"a","vm":"b"}`, `{"disk":"a","vm":"b","state":"good"}`,
		`{"disk":"","vm":"b","state":"new"}`, `{"disk":"a","vm":"b","state":"new","term":-1}`} {
		if err := os.WriteFile(path+StampSuffix, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, ok, err := ReadStamp(path); ok || !errors.Is(err, ErrStamp) {
			t.Errorf("%q: %+v, %v, %v", text, s, ok, err)
		}
	}
}

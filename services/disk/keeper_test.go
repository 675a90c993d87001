package disk

import (
	"errors"
	"testing"

	"pgregory.net/rapid"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func TestKeeperTakesWhatItFinds(t *testing.T) {
	fresh := Stamp{Disk: "fresh", VM: "web", State: New}
	for _, c := range []struct {
		what    string
		found   Stamp
		ok      bool
		adopt   bool
		disk    string // "": refused
		adopted bool
	}{
		{"an image without a stamp", Stamp{}, false, false, "fresh", false},
		{"a copy of an image", Stamp{Disk: "old", VM: "web", State: Active}, false, false, "fresh", false},
		{"the VM's image", Stamp{Disk: "old", VM: "web", State: Partial, Term: 7}, true, false, "old", false},
		{"an image that another VM never used", Stamp{Disk: "old", VM: "mail", State: New}, true, false, "fresh", false},
		{"another VM's image", Stamp{Disk: "old", VM: "mail", State: Ended}, true, false, "", false},
		{"another VM's image, adopted", Stamp{Disk: "old", VM: "mail", State: Ended}, true, true, "fresh", true},
		{"the VM's image, adopted", Stamp{Disk: "old", VM: "web", State: Active}, true, true, "fresh", true},
	} {
		k, err := NewKeeper("web", c.found, c.ok, fresh, c.adopt)
		if c.disk == "" {
			if !errors.Is(err, ErrForeign) {
				t.Errorf("%s: %v", c.what, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if h := k.Hello("p"); h.GetId() != c.disk || h.GetAdopt() != c.adopted || h.GetWhole() != (k.Stamp().State != Partial) {
			t.Errorf("%s: it says %v", c.what, h)
		}
	}
}

// Whatever happens in whatever order, and whichever writings fail: from Hold on
// until Release the stamp on stable storage says partial, once it was written;
// and an image never changes its name.
func TestKeeperHolds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		k, err := NewKeeper("web", Stamp{}, false, Stamp{Disk: "d", VM: "web", State: New}, false)
		if err != nil {
			t.Fatal(err)
		}
		held := false // since a Hold that was written
		term := uint64(1)
		write := func(s Stamp, due bool) (written bool) {
			if s.Disk != "d" || s.VM != "web" {
				t.Fatalf("stamp %+v", s)
			}
			if due && rapid.Bool().Draw(t, "written") {
				k.Written(s)
				return true
			}
			return !due
		}
		t.Repeat(map[string]func(*rapid.T){
			"hold":    func(*rapid.T) { held = write(k.Hold()) || held },
			"release": func(*rapid.T) { k.Release(); held = false },
			"use":     func(*rapid.T) { term++; held = false; write(k.Use(term, "r")) },
			"due":     func(*rapid.T) { write(k.Due()) },
			"follow": func(t *rapid.T) {
				term++
				role := rapid.SampledFrom([]pb.Role{pb.Role_ROLE_SPARE, pb.Role_ROLE_STANDBY, pb.Role_ROLE_ACTIVE}).Draw(t, "role")
				mode := rapid.SampledFrom([]pb.Mode{pb.Mode_MODE_SOLO, pb.Mode_MODE_PROTECTED, pb.Mode_MODE_ENDED}).Draw(t, "mode")
				if k.Follow(role, mode, term, rapid.Uint64Range(0, 1).Draw(t, "epoch"), "r") && held {
					t.Fatal("a stamp is due while the image is held")
				}
			},
			"": func(t *rapid.T) {
				s := k.Stamp()
				if held && (s.State != Partial || s.Whole() || k.Whole()) {
					t.Fatalf("held, the image is %s", s.State)
				}
			},
		})
	})
}

// What Follow was told is offered once, and again after a release.
func TestKeeperFollows(t *testing.T) {
	k, err := NewKeeper("web", Stamp{}, false, Stamp{Disk: "d", VM: "web", State: New}, false)
	if err != nil {
		t.Fatal(err)
	}
	follow := func() bool {
		return k.Follow(pb.Role_ROLE_STANDBY, pb.Mode_MODE_PROTECTED, 3, 1, "r")
	}
	if s, due := k.Due(); due {
		t.Errorf("due before there is a part: %+v", s)
	}
	if !follow() {
		t.Fatal("the first part is not to be written")
	}
	s, due := k.Due()
	if !due || s.State != Standby || s.Term != 3 || s.Replica != "r" || follow() {
		t.Fatalf("due %v: %+v; or due again", due, s)
	}
	k.Written(s)
	held, due := k.Hold()
	if !due {
		t.Fatal("a whole image is held without a word")
	}
	k.Written(held)
	if _, due := k.Due(); due || follow() {
		t.Error("due while the image is held")
	}
	if k.Release(); !follow() {
		t.Error("the part is not written again after a release")
	}
	if s, due := k.Due(); !due || s.State != Standby {
		t.Errorf("due %v: %+v", due, s)
	}
	if !follow() {
		t.Error("a stamp that could not be written, so that the image is none to boot from, is not tried again")
	}
}

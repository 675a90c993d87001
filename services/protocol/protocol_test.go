package protocol

import "testing"

func TestAgree(t *testing.T) {
	for _, tc := range []struct {
		self, peer Range
		want       uint32
		refusal    string
	}{
		{Range{1, 1}, Said(1, 0), 1, ""}, // a build that knew no range
		{Range{1, 2}, Said(1, 0), 1, ""},
		{Range{1, 2}, Range{1, 2}, 2, ""},
		{Range{1, 2}, Range{2, 3}, 2, ""},
		{Range{2, 3}, Range{1, 2}, 2, ""},
		{Range{1, 1}, Range{1, 2}, 1, ""},
		{Range{2, 3}, Said(1, 0), 0, "this arbiter speaks protocol 2 to 3, the replica 1: upgrade the replica first, to a release that speaks both or the same"},
		{Range{1, 1}, Range{2, 3}, 0, "this arbiter speaks protocol 1, the replica 2 to 3: upgrade this arbiter first, to a release that speaks both or the same"},
		{Range{1, 2}, Said(0, 0), 0, "this arbiter speaks protocol 1 to 2, the replica 0: upgrade the replica first, to a release that speaks both or the same"},
		{Range{1, 2}, Range{3, 2}, 0, "this arbiter speaks protocol 1 to 2, the replica 3 to 2: upgrade this arbiter first, to a release that speaks both or the same"},
		{Range{}, Range{}, 0, "this arbiter speaks protocol 0, the replica 0: upgrade this arbiter first, to a release that speaks both or the same"},
	} {
		got, err := tc.self.Agree(tc.peer, "this arbiter", "the replica")
		refusal := ""
		if err != nil {
			refusal = err.Error()
		}
		if got != tc.want || refusal != tc.refusal {
			t.Errorf("%v with %v: %d, %q", tc.self, tc.peer, got, refusal)
		}
		back, err := tc.peer.Agree(tc.self, "a", "b")
		if back != got || (err == nil) != (refusal == "") {
			t.Errorf("%v with %v: %d, and the other way round %d, %v", tc.self, tc.peer, got, back, err)
		}
	}
}

func TestParse(t *testing.T) {
	for s, want := range map[string]Range{"1": {1, 1}, "1-2": {1, 2}, "2-1": {}, "": {}, "x": {}, "1-": {}, "-1": {}} {
		if got := parse(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
	if s := Spoken(); s.Min == 0 || s.Max < s.Min {
		t.Errorf("this build speaks %v", s)
	}
}

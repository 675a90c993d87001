package session

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// A peer's text is cut between characters, wherever the limit falls.
func TestClip(t *testing.T) {
	for _, lead := range []string{"", "x", "xx", "xxx"} {
		got := clip(lead + strings.Repeat("€", textMax))
		if !utf8.ValidString(got) || len(got) > textMax+len("…") || !strings.HasSuffix(got, "€…") {
			t.Errorf("after %q: %d bytes, %q at the end", lead, len(got), got[len(got)-6:])
		}
	}
	if got := clip("short"); got != "short" {
		t.Errorf("got %q", got)
	}
}

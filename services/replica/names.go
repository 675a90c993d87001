package replica

import (
	"strings"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// modeName and reasonName are enum values as people read them.
func modeName(m pb.Mode) string { return plain(m.String(), "MODE_") }

func reasonName(r pb.Reason) string { return plain(r.String(), "REASON_") }

func plain(s, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(s, prefix)), "_", " ")
}

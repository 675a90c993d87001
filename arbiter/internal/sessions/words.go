package sessions

import (
	"strings"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Words is an enumeration's value as people write it: "lost replica" for
// REASON_LOST_REPLICA.
func Words(v interface{ String() string }) string {
	prefix := ""
	switch v.(type) {
	case pb.Mode:
		prefix = "MODE_"
	case pb.Reason:
		prefix = "REASON_"
	case pb.EventType:
		prefix = "EVENT_TYPE_"
	case pb.Role:
		prefix = "ROLE_"
	case pb.OutputKind:
		prefix = "OUTPUT_KIND_"
	}
	s := strings.TrimPrefix(v.String(), prefix)
	return strings.ToLower(strings.ReplaceAll(s, "_", " "))
}

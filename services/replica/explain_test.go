package replica

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/hashicorp/go-hclog"
)

// An arbiter that cannot be spoken to is told in the words of the cause, and
// where certificates are on one side only, with what mends it.
func TestExplain(t *testing.T) {
	for _, tc := range []struct {
		text         string
		certificates bool
		want         string
	}{
		{`connection error: desc = "transport: Error while dialing: dial tcp 127.0.0.1:9: connect: connection refused"`, false,
			"dial tcp 127.0.0.1:9: connect: connection refused"},
		{`connection error: desc = "error reading server preface: EOF"`, false,
			"it wants a certificate, and there is none here: give --tls-ca, --tls-cert and --tls-key (error reading server preface: EOF)"},
		{`connection error: desc = "transport: authentication handshake failed: tls: first record does not look like a TLS handshake"`, true,
			"it runs without certificates, and they are given here: give it some, too (authentication handshake failed: tls: first record does not look like a TLS handshake)"},
		{`connection error: desc = "transport: authentication handshake failed: \"x\" is no CA"`, true, `authentication handshake failed: "x" is no CA`},
		{"too busy", true, "too busy"},
	} {
		cause := status.Error(codes.Unavailable, tc.text)
		err := explain(cause, tc.certificates)
		if err.Error() != tc.want || !errors.Is(err, cause) {
			t.Errorf("%s:\n got %v\nwant %s", tc.text, err, tc.want)
		}
	}
}

// A secondary says at its start that it will not be able to keep its image, not
// only when it is needed.
func TestSecondaryRefusesADirectoryThatIsNotThere(t *testing.T) {
	cfg := Config{VM: "web", DiskPath: filepath.Join(t.TempDir(), "none", "web.img"), Log: hclog.NewNullLogger()}
	if _, err := openLocalDisk(&cfg); err == nil || !strings.Contains(err.Error(), "none of the image: no such file or directory") {
		t.Errorf("got %v", err)
	}
}

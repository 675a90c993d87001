package etcd

import (
	"crypto/rand"
	"os"
	"strings"
)

// NewID makes up a name for an arbiter: the host's name and random letters.
func NewID() string {
	host, _ := os.Hostname()
	host, _, _ = strings.Cut(host, ".")
	host = strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-':
			return r
		}
		return '-'
	}, host)
	host = strings.Trim(host, "-")
	if host == "" {
		host = "arbiter"
	}
	return host[:min(len(host), 40)] + "-" + strings.ToLower(rand.Text()[:8])
}

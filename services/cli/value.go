package cli

import (
	"fmt"
	"math"
	"net"
	"strconv"
	"strings"
)

// Size is a flag value in bytes, written like "512M" or "2GiB": K, M, G and T
// are powers of 1024.
type Size uint64

const sizeUnits = "KMGT"

// Set reads a size.
func (s *Size) Set(text string) error {
	t := strings.ToUpper(strings.TrimSpace(text))
	t = strings.TrimSuffix(strings.TrimSuffix(t, "B"), "I")
	shift := 0
	if t != "" {
		if i := strings.IndexByte(sizeUnits, t[len(t)-1]); i >= 0 {
			shift, t = 10*(i+1), t[:len(t)-1]
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(t), 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return fmt.Errorf("%q is not a size such as 512M or 2G", text)
	}
	*s = Size(n << shift)
	return nil
}

// String writes the size with the largest unit that divides it.
func (s *Size) String() string {
	if s == nil || *s == 0 {
		return "0"
	}
	n, unit := uint64(*s), ""
	for i := 0; i < len(sizeUnits) && n%1024 == 0; i++ {
		n, unit = n/1024, sizeUnits[i:i+1]
	}
	return strconv.FormatUint(n, 10) + unit
}

// List is a flag value of several strings, separated by commas or given by
// repeating the flag.
type List struct {
	Values []string
	set    bool
}

// NewList returns a list with default values, which the first Set replaces.
func NewList(defaults ...string) *List { return &List{Values: defaults} }

// Set appends the comma-separated values.
func (l *List) Set(text string) error {
	if !l.set {
		l.Values, l.set = nil, true
	}
	for v := range strings.SplitSeq(text, ",") {
		if v = strings.TrimSpace(v); v != "" {
			l.Values = append(l.Values, v)
		}
	}
	if len(l.Values) == 0 {
		return fmt.Errorf("%q is empty", text)
	}
	return nil
}

// String joins the values with commas.
func (l *List) String() string {
	if l == nil {
		return ""
	}
	return strings.Join(l.Values, ",")
}

// CheckAddress tells what is wrong with a host:port address to listen on or to
// dial. The error wraps ErrUsage and names the flag.
func CheckAddress(flagName, addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	if err != nil {
		return fmt.Errorf("--%s %q: must be host:port, such as 127.0.0.1:7400 (%w)", flagName, addr, ErrUsage)
	}
	return nil
}

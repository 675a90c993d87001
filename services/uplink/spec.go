package uplink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// parsed is what a spec says: a TAP device, a gateway, or neither.
type parsed struct {
	tap              tapSpec
	network, address string // of the gateway, as for net.Dial
}

type tapSpec struct {
	name, bridge string
	// port is the device, or the prefix of the device's address, that joins
	// the bridge.
	port       string
	noLearning bool
}

// nameMax is IFNAMSIZ without the terminating zero.
const nameMax = 15

func parse(spec string) (parsed, error) {
	kind, rest, _ := strings.Cut(spec, ":")
	var p parsed
	var err error
	switch {
	case spec == "none":
	case kind == "tap":
		p.tap, err = parseTAP(rest)
	case kind == "gateway":
		p.network, p.address, err = parseGateway(rest)
	default:
		err = errors.New("must be tap:NAME[,bridge=BRIDGE[,port=PORT]][,learning=off], gateway:unix:PATH, gateway:HOST:PORT or none")
	}
	if err != nil {
		return parsed{}, fmt.Errorf("%w %q: %w", ErrSpec, spec, err)
	}
	return p, nil
}

func parseTAP(text string) (tapSpec, error) {
	name, options, _ := strings.Cut(text, ",")
	s := tapSpec{name: name}
	if err := checkName(name); err != nil {
		return s, err
	}
	for option := range strings.SplitSeq(options, ",") {
		key, value, _ := strings.Cut(option, "=")
		switch key {
		case "":
			if option != "" || strings.HasSuffix(text, ",") {
				return s, errors.New("an option is empty")
			}
		case "bridge":
			if err := checkName(value); err != nil {
				return s, err
			}
			s.bridge = value
		case "port":
			if err := checkPort(value); err != nil {
				return s, err
			}
			s.port = value
		case "learning":
			if value != "on" && value != "off" {
				return s, fmt.Errorf("learning=%s: must be on or off", value)
			}
			s.noLearning = value == "off"
		default:
			return s, fmt.Errorf("unknown option %q (known: bridge, port, learning)", key)
		}
	}
	if s.noLearning && s.bridge == "" {
		return s, errors.New("learning=off needs bridge=BRIDGE")
	}
	if s.port != "" && s.bridge == "" {
		return s, errors.New("port=PORT needs bridge=BRIDGE")
	}
	if s.port != "" && (s.port == s.bridge || s.port == s.name) {
		return s, fmt.Errorf("port=%s: must be another device than the TAP device and the bridge", s.port)
	}
	return s, nil
}

// checkPort takes a device's name, or a prefix such as 10.98.0.0/24.
func checkPort(text string) error {
	if !strings.Contains(text, "/") {
		return checkName(text)
	}
	if p, err := netip.ParsePrefix(text); err != nil || p.Masked() != p {
		return fmt.Errorf("port=%s: must be a device's name or the prefix of its address, such as 10.98.0.0/24", text)
	}
	return nil
}

// checkName refuses what the kernel would not take as a device's name, and
// "%", which it would replace by a number.
func checkName(name string) error {
	if name == "" || len(name) > nameMax || name == "." || name == ".." || strings.ContainsAny(name, "/:% \t\n\v\f\r\x00") {
		return fmt.Errorf("%q is not a device name of 1 to %d characters", name, nameMax)
	}
	return nil
}

func parseGateway(text string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		if path == "" {
			return "", "", errors.New("the socket's path is missing")
		}
		return "unix", path, nil
	}
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		return "", "", fmt.Errorf("%q is neither unix:PATH nor HOST:PORT", text)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || host == "" {
		return "", "", fmt.Errorf("%q needs a host and a port from 1 to 65535", text)
	}
	return "tcp", text, nil
}

package identity

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/understudy-ft/understudy/services/cli"
)

// Flags are the command-line flags of every party.
type Flags struct {
	files    Files
	insecure bool
}

// AddFlags declares --tls-ca, --tls-cert, --tls-key and --insecure.
func AddFlags(cmd *cli.Command) *Flags {
	f := &Flags{}
	cmd.StringVar(&f.files.CA, "tls-ca", "", "`FILE` with the certificate of the deployment's CA (made by the certs tool)")
	cmd.StringVar(&f.files.Cert, "tls-cert", "", "`FILE` with this party's certificate, which says its role")
	cmd.StringVar(&f.files.Key, "tls-key", "", "`FILE` with the certificate's key")
	cmd.BoolVar(&f.insecure, "insecure", false, "go without TLS on addresses other than loopback: whoever reaches them can do everything")
	return f
}

// Self returns the credentials with which a program asks another process that
// was started with the same flags, such as itself.
func (f *Flags) Self() (credentials.TransportCredentials, error) {
	if f.files.Cert == "" {
		return insecure.NewCredentials(), nil
	}
	s, err := Load(f.files, hclog.NewNullLogger())
	if err != nil {
		return nil, err
	}
	return s.ClientCredentials(s.ID()), nil
}

// Address is an address that a flag says.
type Address struct{ Flag, Addr string }

// Load returns the party's certificates, whose identity must fit the pattern
// want, or nil for plain text. Without certificates all addresses must be on
// the loopback interface, unless --insecure was given.
func (f *Flags) Load(want ID, log hclog.Logger, addresses ...Address) (*Source, error) {
	given := 0
	for _, name := range []string{f.files.CA, f.files.Cert, f.files.Key} {
		if name != "" {
			given++
		}
	}
	switch {
	case given == 3 && f.insecure:
		return nil, fmt.Errorf("--insecure and certificates exclude each other (%w)", cli.ErrUsage)
	case given == 3:
		s, err := Load(f.files, log)
		if err != nil {
			return nil, err
		}
		if !s.ID().Matches(want) {
			return nil, fmt.Errorf("certificate %s is that of %v, this is %v (--tls-cert)", f.files.Cert, s.ID(), want)
		}
		return s, nil
	case given != 0:
		return nil, fmt.Errorf("--tls-ca, --tls-cert and --tls-key belong together: give all three (%w)", cli.ErrUsage)
	case f.insecure:
		return nil, nil
	}
	for _, a := range addresses {
		if !loopback(a.Addr) {
			return nil, fmt.Errorf("--%s %s is not a loopback address and there are no certificates: "+
				"make some (certs --help) and give --tls-ca, --tls-cert and --tls-key, or say --insecure on a network of your own (%w)",
				a.Flag, a.Addr, cli.ErrUsage)
		}
	}
	return nil, nil
}

// loopback tells whether a host:port stays on this host. Of names only
// localhost does for sure.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

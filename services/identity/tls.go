package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// ServerTLS returns the configuration of a TLS server: clients need a
// certificate of the CA, and where patterns are given, an identity that fits
// one of them. nil for a nil Source.
func (s *Source) ServerTLS(patterns ...ID) *tls.Config {
	if s == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			c := s.held.Load()
			return &tls.Config{
				MinVersion:   tls.VersionTLS13,
				Certificates: []tls.Certificate{c.cert},
				ClientAuth:   tls.RequireAndVerifyClientCert,
				ClientCAs:    c.roots,
				Time:         s.now,
				// Each connection proves its certificate anew.
				SessionTicketsDisabled: true,
				VerifyConnection: func(state tls.ConnectionState) error {
					if len(patterns) == 0 {
						return nil
					}
					return checkIdentity("client", state, patterns)
				},
			}, nil
		},
	}
}

// ClientTLS returns the configuration of a TLS client whose servers need a
// certificate of the CA and an identity that fits one of the patterns. nil for
// a nil Source.
func (s *Source) ClientTLS(patterns ...ID) *tls.Config {
	if s == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       s.now,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &s.held.Load().cert, nil
		},
		// The library would look for the host's name. VerifyConnection checks
		// the chain and the role instead, for every connection.
		InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) == 0 {
				return errors.New("the server has no certificate")
			}
			if _, err := verify(state.PeerCertificates, s.held.Load().roots, s.now(), x509.ExtKeyUsageServerAuth); err != nil {
				return fmt.Errorf("the server's certificate is not trusted: %w", err)
			}
			return checkIdentity("server", state, patterns)
		},
	}
}

// Client returns conn with TLS as a client, or as it is where config is nil.
func Client(conn net.Conn, config *tls.Config) net.Conn {
	if config == nil {
		return conn
	}
	return abrupt{tls.Client(conn, config)}
}

// Server returns conn with TLS as a server, or as it is where config is nil.
func Server(conn net.Conn, config *tls.Config) net.Conn {
	if config == nil {
		return conn
	}
	return abrupt{tls.Server(conn, config)}
}

// abrupt is a connection whose Close does not wait for a peer that does not
// read, to take TLS's farewell.
type abrupt struct{ *tls.Conn }

func (a abrupt) Close() error { return a.NetConn().Close() }

// checkIdentity looks at the role of a verified peer.
func checkIdentity(peer string, state tls.ConnectionState, patterns []ID) error {
	id, err := Of(state.PeerCertificates[0])
	if err != nil {
		return fmt.Errorf("the %s's %w", peer, err)
	}
	if !id.Matches(patterns...) {
		return fmt.Errorf("the %s is %v, must be %v", peer, id, patterns[0])
	}
	return nil
}

// ServerCredentials are ServerTLS for gRPC; plain text for a nil Source. Who
// fails the handshake is logged.
func (s *Source) ServerCredentials() credentials.TransportCredentials {
	if s == nil {
		return insecure.NewCredentials()
	}
	return &logged{TransportCredentials: credentials.NewTLS(s.ServerTLS()), log: s.log}
}

// ClientCredentials are ClientTLS for gRPC; plain text for a nil Source.
func (s *Source) ClientCredentials(patterns ...ID) credentials.TransportCredentials {
	if s == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.ClientTLS(patterns...))
}

// logged tells of failed handshakes, at most once a second.
type logged struct {
	credentials.TransportCredentials
	log hclog.Logger

	mu   sync.Mutex
	last time.Time
}

func (l *logged) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := l.TransportCredentials.ServerHandshake(raw)
	if err != nil && !errors.Is(err, io.EOF) {
		l.mu.Lock()
		due := time.Since(l.last) >= time.Second
		if due {
			l.last = time.Now()
		}
		l.mu.Unlock()
		if due {
			l.log.Warn("connection refused", "peer", raw.RemoteAddr(), "error", err)
		}
	}
	return conn, info, err
}

func (l *logged) Clone() credentials.TransportCredentials {
	return &logged{TransportCredentials: l.TransportCredentials.Clone(), log: l.log}
}

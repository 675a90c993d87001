// Package health asks a program of this project over the standard gRPC health
// service whether it is well.
package health

import (
	"context"
	"errors"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// Errors of Check that callers may decide by.
var (
	// ErrUnwell says that the program answers and is not well.
	ErrUnwell = errors.New("answers, but is not well")
	// ErrNoPort says that the port is not known beforehand.
	ErrNoPort = errors.New("the program is to listen on a port that is chosen when it starts: give it one")
)

// Check asks the program that was told to listen on addr, host:port, from the
// same host, over a connection with the credentials creds. It returns nil where
// the program says SERVING.
func Check(ctx context.Context, addr string, creds credentials.TransportCredentials) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("check %s: %w", addr, err)
	}
	if port == "0" {
		return fmt.Errorf("check %s: %w", addr, ErrNoPort)
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
		if ip.To4() != nil {
			host = "127.0.0.1"
		}
	}
	target := net.JoinHostPort(host, port)
	conn, err := grpc.NewClient("passthrough:///"+target, grpc.WithTransportCredentials(creds))
	if err != nil {
		return fmt.Errorf("check %s: %w", target, err)
	}
	defer func() { _ = conn.Close() }() // it served one question
	r, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{})
	switch {
	case err != nil:
		return fmt.Errorf("check %s: %s", target, status.Convert(err).Message())
	case r.GetStatus() != healthpb.HealthCheckResponse_SERVING:
		return fmt.Errorf("the program at %s %w", target, ErrUnwell)
	}
	return nil
}

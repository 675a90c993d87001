package health

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

func TestCheck(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	state := health.NewServer()
	healthpb.RegisterHealthServer(s, state)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for _, addr := range []string{"127.0.0.1:" + port, "0.0.0.0:" + port} {
		state.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
		if err := Check(ctx, addr, insecure.NewCredentials()); err != nil {
			t.Errorf("%s is well: %v", addr, err)
		}
		state.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
		if err := Check(ctx, addr, insecure.NewCredentials()); !errors.Is(err, ErrUnwell) {
			t.Errorf("%s is not well: %v", addr, err)
		}
	}
	if err := Check(ctx, "127.0.0.1:0", insecure.NewCredentials()); !errors.Is(err, ErrNoPort) {
		t.Errorf("no port: %v", err)
	}
	s.Stop()
	if err := <-served; err != nil {
		t.Fatal(err)
	}
	if err := Check(ctx, "127.0.0.1:"+port, insecure.NewCredentials()); err == nil || errors.Is(err, ErrUnwell) {
		t.Errorf("nobody is there: %v", err)
	}
}

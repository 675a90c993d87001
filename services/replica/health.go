package replica

import (
	"context"
	"sync/atomic"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// healthTimeout is how long the loop may take to answer.
const healthTimeout = time.Second

// wellness serves the standard health service of a replica: it is well while
// its loop runs and an arbiter knows of it.
type wellness struct {
	healthpb.UnimplementedHealthServer
	now *atomic.Pointer[life]
}

// Check implements healthpb.HealthServer.
func (w wellness) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	answer := &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING}
	l := w.now.Load()
	if l == nil {
		return answer, nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	attached := make(chan bool, 1)
	l.box.put(func() { attached <- l.attached })
	select {
	case well := <-attached:
		if well {
			answer.Status = healthpb.HealthCheckResponse_SERVING
		}
	case <-ctx.Done():
	}
	return answer, nil
}

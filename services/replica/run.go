package replica

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/lastwill"
	"github.com/understudy-ft/understudy/services/role"
)

// Run lives as a replica until ctx is done, the guest ends, or the arbiter
// will not have it. A replica that has to give its copy up goes on as a spare,
// and so does one that is refused before it has booted, where the configuration
// says OrSpare.
func Run(ctx context.Context, cfg Config) error {
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for the feed (--listen): %w", err)
	}
	advertise := cfg.Advertise
	if advertise == "" {
		advertise = ln.Addr().String()
	}
	if cfg.disk, err = openLocalDisk(&cfg); err != nil {
		_ = ln.Close() // nobody was served
		return err
	}
	cfg.fitness = &fitness{}
	if cfg.will, err = lastwill.New(); err != nil {
		cfg.Log.Warn("the arbiter will hear of this process's death some milliseconds later", "error", err)
	}
	var now atomic.Pointer[life]
	go cfg.Identity.Watch(ctx)
	server := grpc.NewServer(append(feed.ServerOptions(feed.Config{SilentAfter: cfg.Silence}), cfg.Identity.ServerOptions(callers(cfg.VM))...)...)
	pb.RegisterReplicationServer(server, feed.NewServer(
		func(s *feed.Standby, term uint64, hello *pb.FeedHello) (feed.StandbyHandler, *pb.FeedWelcome, error) {
			if l := now.Load(); l != nil {
				return l.accept(s, term, hello)
			}
			return nil, nil, errors.New("this replica is starting")
		}, feed.Config{SilentAfter: cfg.Silence}))
	healthpb.RegisterHealthServer(server, wellness{now: &now})
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(ln); err != nil {
			cfg.Log.Error("feed server ended", "error", err)
		}
	}()
	defer func() {
		server.Stop()
		<-served
	}()
	var pause time.Duration
	for {
		l, err := newLife(cfg, advertise)
		if err != nil {
			return err
		}
		began := time.Now()
		now.Store(l)
		err = l.run(ctx)
		now.Store(nil)
		unwanted := errors.Is(err, role.ErrRefused) && cfg.OrSpare && cfg.Guest != nil && !l.booted
		if !unwanted && !errors.Is(err, errDiscarded) || ctx.Err() != nil {
			return err
		}
		if unwanted && cfg.Guest.Disk != nil {
			// No machine has taken it: the spare opens the image itself.
			if err := cfg.Guest.Disk.Close(); err != nil {
				return fmt.Errorf("close the disk image: %w", err)
			}
		}
		cfg.Guest = nil
		// A life that ended soon is likely to end so again, such as for want of
		// room for the disk: the VM is not to be troubled by it all the time.
		if time.Since(began) > longLife {
			pause = 0
		}
		cfg.Log.Warn("starting over as a spare", "why", err, "in", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = min(max(2*pause, firstPause), maxPause)
	}
}

// The pause before a new life doubles with each short one.
const (
	longLife   = time.Minute
	firstPause = 250 * time.Millisecond
	maxPause   = 10 * time.Second
)

// callers says who may call a replica of the VM: another replica of the VM
// feeds it, anyone asks after its health.
func callers(vm string) identity.Rules {
	return identity.Rules{
		pb.Replication_ServiceDesc.ServiceName:  {{Role: identity.Replica, Name: vm}},
		healthpb.Health_ServiceDesc.ServiceName: identity.Anyone,
	}
}

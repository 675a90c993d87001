package feed

import (
	"context"
	"time"

	"google.golang.org/grpc/tap"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// A standby must deliver all that it received of an active that died. gRPC's
// server cancels a stream when its connection breaks, and from then on may
// drop what it has read and nobody has asked for yet. So a feed's stream gets a
// context that outlives its connection until the reader has taken everything.

// lingerer is what linger leaves in a stream's context.
type lingerer struct {
	broken context.Context // done when the connection or the stream has ended
	cancel context.CancelFunc
}

type lingerKey struct{}

// linger is gRPC's hook into the making of a stream's context.
func linger(ctx context.Context, info *tap.Info) (context.Context, error) {
	if info.FullMethodName != pb.Replication_Feed_FullMethodName {
		return ctx, nil
	}
	l := &lingerer{broken: ctx}
	outliving := context.WithoutCancel(ctx)
	outliving, l.cancel = context.WithCancel(outliving)
	return context.WithValue(outliving, lingerKey{}, l), nil
}

// lingering returns the context that is done when the stream's connection has
// ended, and what ends the stream's own. They are the same where the server
// was made without ServerOptions.
func lingering(ctx context.Context) (broken context.Context, release func()) {
	if l, ok := ctx.Value(lingerKey{}).(*lingerer); ok {
		return l.broken, l.cancel
	}
	return ctx, func() {}
}

// drain waits until the reader has taken what the broken stream still holds,
// or the link ends, or Config.SilentAfter is over.
func (l *link[S, R]) drain() {
	tick := time.NewTicker(l.cfg.drained / 4)
	defer tick.Stop()
	begin := now()
	for now()-begin < int64(l.cfg.SilentAfter) {
		if w := l.waiting.Load(); w != 0 && now()-max(w, begin) >= int64(l.cfg.drained) {
			return
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return
		}
	}
}

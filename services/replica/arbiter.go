package replica

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/protocol"
	"github.com/understudy-ft/understudy/services/role"
)

// Bounds of looking for an arbiter.
const (
	discoverTimeout = 2 * time.Second
	discoverMaxWait = 3 * time.Second
	// etcdTimeout bounds a replica's own question to etcd.
	etcdTimeout = 2 * time.Second
)

// The parties that a replica dials, besides another replica of its VM. The
// embedded etcd is the arbiter's.
var (
	anArbiter = identity.ID{Role: identity.Arbiter}
	anEtcd    = identity.ID{Role: identity.Etcd}
	aGateway  = identity.ID{Role: identity.Gateway}
)

// connect finds an arbiter, learns from it where etcd is, and takes the lease
// that a replica holds in every mode. It tries until ctx is done, and says so.
func (l *life) connect(ctx context.Context) error {
	found, err := l.discover(ctx)
	if err != nil {
		return err
	}
	l.etcd, err = fence.Connect(found.GetEtcdEndpoints(), l.cfg.Identity.ClientTLS(anArbiter, anEtcd))
	if err != nil {
		return err
	}
	l.store = fence.NewStore(l.etcd)
	l.lease = fence.NewLease(l.etcd, fence.LeaseConfig{
		Key: fence.ReplicaKey(l.cfg.VM, l.self.GetId()), Value: l.self.GetAddress(),
		TTL:    time.Duration(found.GetLeaseTtlMs()) * time.Millisecond,
		Margin: time.Duration(found.GetLeaseMarginMs()) * time.Millisecond,
		Log:    l.log,
		OnChange: func(g fence.Grant) {
			l.box.put(func() { l.core.Lease(fence.Now(), g.ID, g.Until) })
		},
	})
	if err := l.lease.Wait(ctx); err != nil {
		return fmt.Errorf("take the replica's lease: %w", err)
	}
	g := l.lease.Grant()
	l.core.Lease(fence.Now(), g.ID, g.Until)
	return nil
}

// discover asks the arbiters, one after the other, until one answers.
func (l *life) discover(ctx context.Context) (*pb.DiscoverResponse, error) {
	wait := 100 * time.Millisecond
	said := false
	for {
		var last error
		for _, addr := range l.cfg.Arbiters {
			r, err := discoverAt(ctx, addr, l.cfg.Identity.ClientCredentials(anArbiter))
			if err == nil {
				if _, err = protocol.Spoken().Agree(protocol.Said(r.GetProtocol(), 0), "this replica", "the arbiter"); err == nil {
					return r, nil
				}
			}
			last = fmt.Errorf("arbiter %s: %w", addr, explain(err, l.cfg.Identity != nil))
		}
		if !said {
			said = true
			l.log.Warn("no arbiter answers; trying until one does", "error", last)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", last, ctx.Err())
		case <-time.After(wait):
		}
		wait = min(2*wait, discoverMaxWait)
	}
}

// explain adds to the error of a first call what it comes from where only one of
// both sides uses certificates.
func explain(err error, certificates bool) error {
	plain := fence.Plain(err)
	switch text := plain.Error(); {
	case !certificates && strings.Contains(text, "reading server preface"):
		return fmt.Errorf("it wants a certificate, and there is none here: give --tls-ca, --tls-cert and --tls-key (%w)", plain)
	case certificates && strings.Contains(text, "does not look like a TLS handshake"):
		return fmt.Errorf("it runs without certificates, and they are given here: give it some, too (%w)", plain)
	}
	return plain
}

func discoverAt(ctx context.Context, addr string, creds credentials.TransportCredentials) (*pb.DiscoverResponse, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // it served one question
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	return pb.NewArbiterClient(conn).Discover(ctx, &pb.DiscoverRequest{Protocol: role.Protocol, ProtocolMax: protocol.Spoken().Max})
}

// attachToArbiter opens a stream to the arbiter.
func (l *life) attachToArbiter() {
	l.publish()
	a := &attachment{life: l}
	l.attachment = a
	n := l.firstArbiter % len(l.cfg.Arbiters)
	l.attach = feed.NewAttach(slices.Concat(l.cfg.Arbiters[n:], l.cfg.Arbiters[:n]), l.hello.Load, a, feed.Config{
		SilentAfter: l.cfg.Silence, Credentials: l.cfg.Identity.ClientCredentials(anArbiter), Keep: l.cfg.will.Keep,
	})
}

// reattach ends the stream to the arbiter; a new one says Hello anew.
func (l *life) reattach() {
	if l.attach == nil {
		return
	}
	old := l.attach
	l.attach, l.attachment, l.attached = nil, nil, false
	l.core.ArbiterDown(fence.Now())
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), byeTimeout)
		defer cancel()
		old.Close(ctx)
		timer := time.NewTimer(reattachPause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-l.ended:
			return
		}
		l.box.put(func() {
			if !l.done && l.attach == nil {
				l.attachToArbiter()
			}
		})
	}()
}

// reattachPause keeps a replica that is sent away from asking all the time.
const reattachPause = 200 * time.Millisecond

// attachment takes what a stream to the arbiter brings.
type attachment struct{ life *life }

// post lets the loop call fn unless the stream has been given up by then.
func (a *attachment) post(fn func(l *life)) {
	a.life.box.put(func() {
		if a.life.attachment == a {
			fn(a.life)
		}
	})
}

func (a *attachment) OnUp(addr string) {
	a.post(func(l *life) {
		l.attached = true
		l.log.Debug("attached", "arbiter", addr)
		l.core.ArbiterUp(fence.Now())
	})
}

func (a *attachment) OnMessage(m *pb.ToReplica) {
	a.post(func(l *life) {
		if m.GetRefusal().GetAction() == pb.Refusal_ACTION_RETRY {
			// It may be unable to own the VM for long: the others come first.
			l.firstArbiter++
		}
		l.core.FromArbiter(fence.Now(), m)
		l.trace.released(m.GetRelease())
	})
}

func (a *attachment) OnDown(err error) {
	a.post(func(l *life) {
		l.attached = false
		l.log.Warn("arbiter lost; trying to reach it", "error", err)
		l.core.ArbiterDown(fence.Now())
	})
}

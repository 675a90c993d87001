package fence

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
)

// Defaults of a lease.
const (
	DefaultTTL    = 3 * time.Second
	DefaultMargin = 500 * time.Millisecond
)

// Grant is what the holder of a lease may rely on.
type Grant struct {
	// ID is the lease that the holder's key is attached to; 0: none.
	ID int64
	// Until is the time of Now from which on the lease is not provable any more.
	Until time.Duration
}

// Valid tells whether the lease is provably valid at now.
func (g Grant) Valid(now time.Duration) bool { return g.ID != 0 && now < g.Until }

// LeaseConfig says what lease to hold.
type LeaseConfig struct {
	// Key is put under the lease with Value. No other living process may hold it.
	Key, Value string
	// TTL is asked of the server, in whole seconds, rounded up; what the server
	// grants counts. Margin is how long before its end the lease counts as
	// lost. Zero values stand for the defaults.
	TTL, Margin time.Duration
	// OnChange, if set, is told each new grant: a new lease, a later end, or
	// (the zero Grant) the server's word that the lease is gone. Calls come one
	// at a time from the lease's own goroutine, whose keep-alives they hold up.
	OnChange func(Grant)
	Log      hclog.Logger
}

// Lease is an etcd lease that is kept alive for as long as possible. When the
// server has let it end, it is granted anew under another ID. Methods may be
// called from any goroutine.
type Lease struct {
	cfg    LeaseConfig
	client *clientv3.Client
	leases pb.LeaseClient

	grant atomic.Pointer[Grant]
	err   atomic.Pointer[error]
	cause string // last problem logged

	ready     chan struct{}
	readyOnce sync.Once
	cancel    context.CancelFunc
	done      chan struct{}
}

// ErrKeyTaken says that another lease holds the key: a second process runs
// under the same name, or this process's earlier life has not run out yet.
var ErrKeyTaken = errors.New("another process holds the key")

// NewLease begins to hold a lease. It does not wait for the first grant.
func NewLease(client *clientv3.Client, cfg LeaseConfig) *Lease {
	if cfg.TTL <= 0 {
		cfg.TTL = DefaultTTL
	}
	if cfg.Margin <= 0 {
		cfg.Margin = DefaultMargin
	}
	if cfg.Log == nil {
		cfg.Log = hclog.NewNullLogger()
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Lease{
		cfg: cfg, client: client, leases: pb.NewLeaseClient(client.ActiveConnection()),
		ready: make(chan struct{}), cancel: cancel, done: make(chan struct{}),
	}
	l.grant.Store(&Grant{})
	go l.run(ctx)
	return l
}

// Grant returns the present grant.
func (l *Lease) Grant() Grant { return *l.grant.Load() }

// ID returns the lease's ID, or 0.
func (l *Lease) ID() int64 { return l.Grant().ID }

// Valid tells whether the lease is provably valid at now.
func (l *Lease) Valid(now time.Duration) bool { return l.Grant().Valid(now) }

// ValidUntil is the time of Now from which on the lease is not provable.
func (l *Lease) ValidUntil() time.Duration { return l.Grant().Until }

// Err is what the last call to etcd failed with, or nil after a success.
func (l *Lease) Err() error {
	if e := l.err.Load(); e != nil {
		return *e
	}
	return nil
}

// Wait returns when the lease was granted for the first time.
func (l *Lease) Wait(ctx context.Context) error {
	select {
	case <-l.ready:
		return nil
	case <-l.done:
		select {
		case <-l.ready: // both are so: it was granted before it was closed
			return nil
		default:
			return errors.New("lease was closed")
		}
	case <-ctx.Done():
		if err := l.Err(); err != nil {
			return err
		}
		return fmt.Errorf("wait for an etcd lease: %w", ctx.Err())
	}
}

// Close gives the lease up: it is invalid from now on, and revoked, so that
// nobody has to wait for its end. An error says that the revocation had no
// answer; the lease then ends by itself.
func (l *Lease) Close(ctx context.Context) error {
	l.cancel()
	<-l.done
	g := l.grant.Swap(&Grant{})
	if g.ID == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := l.leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: g.ID}); err != nil && !isGone(err) {
		return fmt.Errorf("revoke etcd lease %x: %w", g.ID, Plain(err))
	}
	return nil
}

func (l *Lease) run(ctx context.Context) {
	defer close(l.done)
	t := timing{ttl: l.cfg.TTL, margin: l.cfg.Margin, due: Now()}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		what, at := t.next()
		timer.Reset(max(0, at-Now()))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		l.note(what, l.do(ctx, &t, what))
		l.publish(t.grant())
	}
}

// do takes one step and notes its outcome in t.
func (l *Lease) do(ctx context.Context, t *timing, what step) error {
	ctx, cancel := context.WithTimeout(ctx, t.attempt())
	defer cancel()
	sent := Now()
	var err error
	switch what {
	case stepGrant:
		var r *pb.LeaseGrantResponse
		seconds := int64((t.ttl + time.Second - 1) / time.Second)
		if r, err = l.leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: seconds}, grpc.WaitForReady(true)); err == nil {
			t.grantedAt(r.ID, time.Duration(r.TTL)*time.Second, sent)
			return nil
		}
	case stepPut:
		if err = l.put(ctx, t.id); err == nil {
			t.putDone()
			return nil
		}
	case stepRenew:
		var ttl time.Duration
		if ttl, err = l.renew(ctx, t.id); err == nil {
			t.renewedAt(ttl, sent)
			if t.id == 0 {
				return rpctypes.ErrLeaseNotFound
			}
			return nil
		}
	}
	if isGone(err) {
		t.gone(Now())
	} else {
		t.failed(Now())
	}
	return err
}

// put attaches the key to the lease, unless another lease holds it.
func (l *Lease) put(ctx context.Context, id int64) error {
	key := l.cfg.Key
	put := clientv3.OpPut(key, l.cfg.Value, clientv3.WithLease(clientv3.LeaseID(id)))
	// Of an absent key the lease is 0, as of one that no lease holds.
	free := clientv3.Compare(clientv3.LeaseValue(key), "=", 0)
	ours := clientv3.Compare(clientv3.LeaseValue(key), "=", id)
	r, err := l.client.Txn(ctx).If(free).Then(put).Else(clientv3.OpTxn([]clientv3.Cmp{ours}, nil, nil)).Commit()
	if err != nil {
		return err
	}
	if !r.Succeeded && !r.Responses[0].GetResponseTxn().Succeeded {
		return fmt.Errorf("%s: %w", key, ErrKeyTaken)
	}
	return nil
}

// renew sends one keep-alive. The client library's KeepAliveOnce is not used
// because it repeats by itself, in a busy loop while no member can be reached.
func (l *Lease) renew(ctx context.Context, id int64) (time.Duration, error) {
	stream, err := l.leases.LeaseKeepAlive(ctx, grpc.WaitForReady(true))
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
		return 0, err
	}
	if err := stream.CloseSend(); err != nil {
		return 0, err
	}
	r, err := stream.Recv()
	if err != nil {
		return 0, err
	}
	if r.ID != id {
		return 0, fmt.Errorf("keep-alive of lease %x was answered for %x", id, r.ID)
	}
	return time.Duration(r.TTL) * time.Second, nil
}

// note keeps the outcome for Err and logs a problem once, and its end.
func (l *Lease) note(what step, err error) {
	if err == nil {
		l.err.Store(nil)
		if what != stepGrant && l.cause != "" {
			l.cause = ""
			l.cfg.Log.Info("etcd lease is held again", "key", l.cfg.Key)
		}
		return
	}
	err = fmt.Errorf("%s: %w", map[step]string{stepGrant: "get an etcd lease", stepPut: "put a key under the etcd lease",
		stepRenew: "keep the etcd lease alive"}[what], Plain(err))
	l.err.Store(&err)
	if errors.Is(err, context.Canceled) {
		return
	}
	if cause := err.Error(); cause != l.cause {
		l.cause = cause
		l.cfg.Log.Warn("no etcd lease; trying again", "key", l.cfg.Key, "error", err)
	}
}

func (l *Lease) publish(g Grant) {
	if g == l.Grant() {
		return
	}
	l.grant.Store(&g)
	if g.ID != 0 {
		l.readyOnce.Do(func() { close(l.ready) })
	}
	if l.cfg.OnChange != nil {
		l.cfg.OnChange(g)
	}
}

// EndLeaseOf revokes the lease that holds key, if one does. It is for a caller
// who knows that the holder is dead, and would otherwise wait for the lease's
// end.
func EndLeaseOf(ctx context.Context, client *clientv3.Client, key string) error {
	err := repeat(ctx, func(ctx context.Context) error {
		r, err := client.Get(ctx, key)
		if err != nil || len(r.Kvs) == 0 || r.Kvs[0].Lease == 0 {
			return err
		}
		if _, err = client.Revoke(ctx, clientv3.LeaseID(r.Kvs[0].Lease)); isGone(err) {
			return nil
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("end the lease of %s: %w", key, Plain(err))
	}
	return nil
}

// isGone tells whether an error says that the server knows no such lease.
func isGone(err error) bool {
	return errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseNotFound)
}

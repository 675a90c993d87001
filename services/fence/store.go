package fence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// MaxVMs bounds what List reads.
const MaxVMs = 10000

// Errors that callers decide upon.
var (
	// ErrConflict says that a condition of a commit did not hold; the error is
	// a *ConflictError.
	ErrConflict = errors.New("the record's conditions do not hold")
	// ErrOwned says that another arbiter owns the VM; the error is an *OwnedError.
	ErrOwned = errors.New("another arbiter owns the VM")
	// ErrUnknown says that a commit had no answer in time: it may have happened.
	ErrUnknown = errors.New("outcome unknown")
)

// Owner is the arbiter that owns a VM, as others see it.
type Owner struct {
	// ID names the arbiter; Address is where replicas reach it.
	ID      string `json:"id"`
	Address string `json:"address"`
	// Page is the URL of its status page, or empty.
	Page string `json:"page,omitempty"`
	// Lease is the arbiter's lease that the ownership is attached to.
	Lease int64 `json:"-"`
}

// OwnedError names the arbiter that owns a VM.
type OwnedError struct {
	VM    string
	Owner Owner
}

func (e *OwnedError) Error() string {
	return fmt.Sprintf("VM %s is owned by arbiter %s at %s", e.VM, e.Owner.ID, e.Owner.Address)
}

// Unwrap returns ErrOwned.
func (e *OwnedError) Unwrap() error { return ErrOwned }

// Claim is the ownership of one VM under one lease. It ends with the lease:
// after that its commits are refused.
type Claim struct {
	VM    string
	Lease int64
}

// View is what etcd says about one VM.
type View struct {
	VM string
	// Record is nil where there is none yet. Revision is its mod revision.
	Record   *pb.Record
	Revision int64
	// Owner is nil where no arbiter owns the VM.
	Owner *Owner
	// Replicas maps the living replicas to their leases.
	Replicas map[string]int64
}

// Store reads and changes records. Methods may be called from any goroutine.
// A call ends by its context's deadline, or by DefaultTimeout if that is earlier.
type Store struct {
	client *clientv3.Client
}

// NewStore returns a store on a client, which stays the caller's to close.
func NewStore(client *clientv3.Client) *Store { return &Store{client: client} }

// Load returns what etcd holds about a VM now (a linearizable read). A VM that
// nobody knows has no record and revision 0.
func (s *Store) Load(ctx context.Context, vm string) (View, error) {
	v, _, err := s.load(ctx, vm)
	return v, err
}

// load returns the store's revision of the view, too.
func (s *Store) load(ctx context.Context, vm string) (View, int64, error) {
	v := View{VM: vm, Replicas: map[string]int64{}}
	if err := CheckName("VM", vm); err != nil {
		return v, 0, err
	}
	var r *clientv3.GetResponse
	err := repeat(ctx, func(ctx context.Context) (err error) {
		r, err = s.client.Get(ctx, vmPrefix(vm), clientv3.WithPrefix(), clientv3.WithLimit(1000))
		return err
	})
	if err != nil {
		return v, 0, fmt.Errorf("load VM %s from etcd: %w", vm, Plain(err))
	}
	for _, kv := range r.Kvs {
		if err := v.apply(string(kv.Key), kv.Value, kv.ModRevision, kv.Lease, false); err != nil {
			return v, 0, err
		}
	}
	return v, r.Header.Revision, nil
}

// List returns every VM that etcd knows, by name.
func (s *Store) List(ctx context.Context) ([]View, error) {
	var r *clientv3.GetResponse
	err := repeat(ctx, func(ctx context.Context) (err error) {
		r, err = s.client.Get(ctx, vmsPrefix, clientv3.WithPrefix(), clientv3.WithLimit(4*MaxVMs))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list VMs in etcd: %w", Plain(err))
	}
	var all []View
	for _, kv := range r.Kvs { // in the order of keys
		vm, _, ok := splitVMKey(string(kv.Key))
		if !ok {
			continue
		}
		if len(all) == 0 || all[len(all)-1].VM != vm {
			if len(all) == MaxVMs {
				break
			}
			all = append(all, View{VM: vm, Replicas: map[string]int64{}})
		}
		if err := all[len(all)-1].apply(string(kv.Key), kv.Value, kv.ModRevision, kv.Lease, false); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// Arbiters returns the arbiters that hold a lease, by ID, without their pages.
func (s *Store) Arbiters(ctx context.Context) ([]Owner, error) {
	var r *clientv3.GetResponse
	err := repeat(ctx, func(ctx context.Context) (err error) {
		r, err = s.client.Get(ctx, ArbiterKey(""), clientv3.WithPrefix(), clientv3.WithLimit(1000))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list arbiters in etcd: %w", Plain(err))
	}
	var all []Owner
	for _, kv := range r.Kvs { // in the order of keys
		all = append(all, Owner{ID: strings.TrimPrefix(string(kv.Key), ArbiterKey("")), Address: string(kv.Value), Lease: kv.Lease})
	}
	return all, nil
}

// apply takes one key into the view, or with gone, out of it.
func (v *View) apply(key string, value []byte, revision, lease int64, gone bool) error {
	_, rest, ok := splitVMKey(key)
	if !ok {
		return nil
	}
	if id, isReplica := strings.CutPrefix(rest, "replicas/"); isReplica {
		if gone {
			delete(v.Replicas, id)
		} else {
			v.Replicas[id] = lease
		}
		return nil
	}
	switch rest {
	case "record":
		v.Record, v.Revision = nil, 0
		if gone {
			return nil
		}
		rec, err := decodeRecord(value)
		if err != nil {
			return fmt.Errorf("%s in etcd: %w", key, err)
		}
		v.Record, v.Revision = rec, revision
	case "owner":
		v.Owner = nil
		if gone {
			return nil
		}
		owner := Owner{Lease: lease}
		if err := json.Unmarshal(value, &owner); err != nil {
			return fmt.Errorf("%s in etcd: %w", key, err)
		}
		v.Owner = &owner
	}
	return nil
}

// Own takes the ownership of a VM under the arbiter's lease, self.Lease, if
// nobody has it. To own it already under that lease is no error. Otherwise the
// error is an *OwnedError.
func (s *Store) Own(ctx context.Context, vm string, self Owner) (Claim, error) {
	if err := CheckName("VM", vm); err != nil {
		return Claim{}, err
	}
	if self.Lease == 0 {
		return Claim{}, fmt.Errorf("own VM %s: this arbiter holds no etcd lease", vm)
	}
	key := ownerKey(vm)
	value, err := json.Marshal(self)
	if err != nil {
		return Claim{}, err
	}
	free := clientv3.Compare(clientv3.CreateRevision(key), "=", 0)
	put := clientv3.OpPut(key, string(value), clientv3.WithLease(clientv3.LeaseID(self.Lease)))
	var r *clientv3.TxnResponse
	err = repeat(ctx, func(ctx context.Context) (err error) {
		r, err = s.client.Txn(ctx).If(free).Then(put).Else(clientv3.OpGet(key)).Commit()
		return err
	})
	if err != nil {
		return Claim{}, fmt.Errorf("own VM %s: %w", vm, Plain(err))
	}
	if !r.Succeeded {
		kv := r.Responses[0].GetResponseRange().Kvs[0] // not free, so there is one
		owner := Owner{Lease: kv.Lease}
		if err := json.Unmarshal(kv.Value, &owner); err != nil {
			return Claim{}, fmt.Errorf("%s in etcd: %w", key, err)
		}
		if owner.Lease != self.Lease {
			return Claim{}, &OwnedError{VM: vm, Owner: owner}
		}
	}
	return Claim{VM: vm, Lease: self.Lease}, nil
}

// Disown gives a claim up. A claim that has ended already is no error.
func (s *Store) Disown(ctx context.Context, c Claim) error {
	key := ownerKey(c.VM)
	err := repeat(ctx, func(ctx context.Context) error {
		_, err := s.client.Txn(ctx).If(clientv3.Compare(clientv3.LeaseValue(key), "=", c.Lease)).
			Then(clientv3.OpDelete(key)).Commit()
		return err
	})
	if err != nil {
		return fmt.Errorf("give up VM %s: %w", c.VM, Plain(err))
	}
	return nil
}

// repeat calls do, each time with a quarter of the time, until it succeeds,
// fails for good or runs out of time: a member that does not answer is not
// waited for to the end. do must be harmless to repeat.
func repeat(ctx context.Context, do func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, DefaultTimeout)
	defer cancel()
	end, _ := ctx.Deadline()
	quarter := max(time.Until(end)/4, 100*time.Millisecond)
	for {
		attempt, stop := context.WithTimeout(ctx, quarter)
		err := do(attempt)
		stop()
		if err == nil || !transient(err) || ctx.Err() != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// transient tells whether an error says nothing about the request itself.
func transient(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	type coder interface{ Code() codes.Code } // rpctypes.EtcdError
	var c coder
	if errors.As(err, &c) {
		return c.Code() == codes.Unavailable || c.Code() == codes.DeadlineExceeded
	}
	code := status.Code(err)
	return code == codes.Unavailable || code == codes.DeadlineExceeded
}

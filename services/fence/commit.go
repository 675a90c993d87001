package fence

import (
	"context"
	"errors"
	"fmt"

	etcdpb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Condition is a demand on a replica's key at the moment of a commit.
type Condition struct {
	ReplicaID string
	// MustExist: the replica's key is attached to the lease LeaseID. Otherwise
	// the replica has no key under any lease.
	MustExist bool
	LeaseID   int64
}

// Cause says which condition of a commit did not hold.
type Cause int

// Causes of a conflict.
const (
	// RecordChanged: the record has another revision than expected.
	RecordChanged Cause = iota + 1
	// NotOwner: the claim has ended, or for CommitUnowned: there is an owner.
	NotOwner
	// ReplicaGone: a replica's key is not attached to the lease demanded.
	ReplicaGone
	// ReplicaAlive: a replica that must be gone has its key.
	ReplicaAlive
)

func (c Cause) String() string {
	switch c {
	case RecordChanged:
		return "the record was changed"
	case NotOwner:
		return "the VM's owner is another"
	case ReplicaGone:
		return "a replica's lease is gone"
	case ReplicaAlive:
		return "a replica still holds its lease"
	}
	return "unknown cause"
}

// ConflictError says why a commit was refused, and what holds instead. Where
// several conditions fail, the cause is that of the owner, then of the record,
// then of the replicas in their order.
type ConflictError struct {
	Cause Cause
	// ReplicaID is set with ReplicaGone and ReplicaAlive.
	ReplicaID string
	// Record and Revision are the present ones (nil and 0: none).
	Record   *pb.Record
	Revision int64
}

func (e *ConflictError) Error() string {
	if e.ReplicaID != "" {
		return fmt.Sprintf("%v (replica %s)", e.Cause, e.ReplicaID)
	}
	return fmt.Sprintf("%v (revision %d)", e.Cause, e.Revision)
}

// Unwrap returns ErrConflict.
func (e *ConflictError) Unwrap() error { return ErrConflict }

// Commit replaces the VM's record by new, if its revision still is expect (0:
// there is none), the claim still holds and every condition does. It returns
// the new revision, a *ConflictError, or an error that wraps ErrUnknown where
// nothing is known about the outcome.
//
// A record that reads exactly like new and is not the one expected counts as
// committed by this call: it is what an earlier try, whose answer was lost, has
// written.
func (s *Store) Commit(ctx context.Context, c Claim, new *pb.Record, expect int64, conds ...Condition) (int64, error) {
	if c.VM != new.GetVm() || c.Lease == 0 {
		return 0, fmt.Errorf("commit record of VM %q under a claim to %q, lease %x: not the same VM, or no lease", new.GetVm(), c.VM, c.Lease)
	}
	return s.commit(ctx, clientv3.Compare(clientv3.LeaseValue(ownerKey(c.VM)), "=", c.Lease), new, expect, conds)
}

// CommitUnowned is Commit for a replica that helps itself: the condition on the
// owner is that there is none.
func (s *Store) CommitUnowned(ctx context.Context, new *pb.Record, expect int64, conds ...Condition) (int64, error) {
	return s.commit(ctx, clientv3.Compare(clientv3.CreateRevision(ownerKey(new.GetVm())), "=", 0), new, expect, conds)
}

func (s *Store) commit(ctx context.Context, owner clientv3.Cmp, new *pb.Record, expect int64, conds []Condition) (int64, error) {
	vm := new.GetVm()
	if err := CheckName("VM", vm); err != nil {
		return 0, err
	}
	value, err := encodeRecord(new)
	if err != nil {
		return 0, fmt.Errorf("encode record of VM %s: %w", vm, err)
	}
	// Each compare is evaluated in a transaction of its own within the Else
	// branch, too, so that a refusal names the one that failed.
	cmps := []clientv3.Cmp{owner, clientv3.Compare(clientv3.ModRevision(recordKey(vm)), "=", expect)}
	for _, c := range conds {
		if err := CheckName("replica", c.ReplicaID); err != nil {
			return 0, err
		}
		key := ReplicaKey(vm, c.ReplicaID)
		if c.MustExist {
			if c.LeaseID == 0 {
				return 0, fmt.Errorf("commit record of VM %s: condition on replica %s names no lease", vm, c.ReplicaID)
			}
			cmps = append(cmps, clientv3.Compare(clientv3.LeaseValue(key), "=", c.LeaseID))
		} else {
			cmps = append(cmps, clientv3.Compare(clientv3.CreateRevision(key), "=", 0))
		}
	}
	put := clientv3.OpPut(recordKey(vm), value)
	explain := []clientv3.Op{clientv3.OpGet(recordKey(vm))}
	for _, c := range cmps {
		explain = append(explain, clientv3.OpTxn([]clientv3.Cmp{c}, nil, nil))
	}

	var r *clientv3.TxnResponse
	err = repeat(ctx, func(ctx context.Context) (err error) {
		r, err = s.client.Txn(ctx).If(cmps...).Then(put).Else(explain...).Commit()
		return err
	})
	if err != nil {
		if transient(err) || errors.Is(err, context.Canceled) {
			return 0, fmt.Errorf("commit record of VM %s: %w: %w", vm, ErrUnknown, Plain(err))
		}
		return 0, fmt.Errorf("commit record of VM %s: %w", vm, Plain(err))
	}
	if r.Succeeded {
		return r.Header.Revision, nil
	}
	conflict, err := explained(r.Responses, conds)
	if err != nil {
		return 0, fmt.Errorf("record of VM %s in etcd: %w", vm, err)
	}
	if conflict.Revision != expect && conflict.Record != nil && proto.Equal(conflict.Record, new) {
		return conflict.Revision, nil
	}
	return 0, fmt.Errorf("commit record of VM %s: %w", vm, conflict)
}

// explained reads the Else branch of a refused commit.
func explained(rs []*etcdpb.ResponseOp, conds []Condition) (*ConflictError, error) {
	e := &ConflictError{Cause: RecordChanged}
	if kvs := rs[0].GetResponseRange().Kvs; len(kvs) > 0 {
		rec, err := decodeRecord(kvs[0].Value)
		if err != nil {
			return nil, err
		}
		e.Record, e.Revision = rec, kvs[0].ModRevision
	}
	for i, r := range rs[1:] {
		if r.GetResponseTxn().Succeeded {
			continue
		}
		switch i {
		case 0:
			e.Cause = NotOwner
		case 1:
			e.Cause = RecordChanged
		default:
			c := conds[i-2]
			e.ReplicaID = c.ReplicaID
			if e.Cause = ReplicaAlive; c.MustExist {
				e.Cause = ReplicaGone
			}
		}
		break
	}
	return e, nil
}

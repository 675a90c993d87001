// Package sessions runs the arbiter's VMs: for each VM that a replica of which
// is attached, one goroutine drives the pure core of package session, carries
// out its effects against etcd and the replicas' streams, and holds the VM's
// ownership.
//
// A VM exists here from its first replica's Hello until this arbiter neither
// owns it nor has a stream of it. It is owned under the arbiter's own lease:
// before anything is sent to a replica, the lease is checked by the arbiter's
// own clock, and where it cannot be proved, what waits is dropped and the VM is
// given up. Its replicas attach again, here or elsewhere.
//
// A replica that sends faster than its VM can take is held back by its stream;
// one that does not read is closed when its bounded queue is full.
package sessions

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/protocol"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/events"
)

// Errors of the registry.
var (
	// ErrNoVM says that no VM of this name is known.
	ErrNoVM = errors.New("no such VM")
	// ErrGone says that the VM was given up meanwhile.
	ErrGone = errors.New("this arbiter has given the VM up")
)

// ElsewhereError says that the VM does not run here.
type ElsewhereError struct {
	VM string
	// Owner is the arbiter that owns it; nil for none.
	Owner *pb.ArbiterRef
}

func (e *ElsewhereError) Error() string {
	if e.Owner == nil {
		return fmt.Sprintf("no arbiter owns VM %s now: none of its replicas is attached to one", e.VM)
	}
	return fmt.Sprintf("VM %s is owned by arbiter %s at %s", e.VM, e.Owner.Id, e.Owner.Address)
}

// Holder tells the arbiter's own lease. *fence.Lease is one.
type Holder interface{ Grant() fence.Grant }

// Config is what a Registry needs.
type Config struct {
	Store *fence.Store
	Lease Holder
	// Self is this arbiter's ID and the address that other arbiters send
	// replicas to. Its Lease is not used.
	Self fence.Owner
	// Session is the template of each VM's configuration.
	Session session.Config
	Events  *events.Log
	Log     hclog.Logger
	// MaxVMs and MaxStreams (of one VM) bound what replicas can cause. Zero
	// values stand for 4096 and 32.
	MaxVMs, MaxStreams int
	// OnCommit, if set, is told how long each etcd transaction took.
	OnCommit func(time.Duration, error)
}

// Registry holds the VMs of one arbiter. Methods may be called from any
// goroutine.
type Registry struct {
	cfg Config

	mu       sync.Mutex
	vms      map[string]*vm
	moved    map[string]moved // VMs that were handed over lately
	conn     session.Conn
	stopping bool
	running  sync.WaitGroup
}

// New returns an empty registry.
func New(cfg Config) *Registry {
	if cfg.MaxVMs == 0 {
		cfg.MaxVMs = 4096
	}
	if cfg.MaxStreams == 0 {
		cfg.MaxStreams = 32
	}
	return &Registry{cfg: cfg, vms: map[string]*vm{}, moved: map[string]moved{}}
}

// refuse makes a Refusal that is an error, too.
func refuse(action pb.Refusal_Action, format string, args ...any) *pb.Refusal {
	return &pb.Refusal{Action: action, Detail: fmt.Sprintf(format, args...)}
}

// CheckHello tells what is wrong with the first message of a stream, or nil.
func CheckHello(first *pb.FromReplica) *pb.Refusal {
	h := first.GetHello()
	switch {
	case h == nil:
		return refuse(pb.Refusal_ACTION_EXIT, "the first message must be a Hello")
	}
	if _, err := protocol.Spoken().Agree(protocol.Said(h.Protocol, h.ProtocolMax), "this arbiter", "the replica"); err != nil {
		// Another arbiter may speak with it, and its copy may be the VM's only one.
		return refuse(pb.Refusal_ACTION_RETRY, "%v", err)
	}
	if err := fence.CheckName("VM", h.Vm); err != nil {
		return refuse(pb.Refusal_ACTION_EXIT, "%v", err)
	}
	if err := fence.CheckName("replica", h.Replica.GetId()); err != nil {
		return refuse(pb.Refusal_ACTION_EXIT, "%v", err)
	}
	if len(h.Replica.Address) > 255 || len(h.Version) > 255 {
		return refuse(pb.Refusal_ACTION_EXIT, "the replica's address or version is longer than 255 bytes")
	}
	return nil
}

// Attach joins a stream, whose first message is a Hello that passed CheckHello.
// A refusal is to be sent to the replica.
func (r *Registry) Attach(ctx context.Context, first *pb.FromReplica) (*Stream, *pb.Refusal) {
	name := first.GetHello().GetVm()
	r.mu.Lock()
	if r.stopping {
		r.mu.Unlock()
		return nil, refuse(pb.Refusal_ACTION_RETRY, whyStopping)
	}
	if to := r.movedTo(name); to != "" {
		r.mu.Unlock()
		return nil, &pb.Refusal{Action: pb.Refusal_ACTION_REDIRECT, Address: to, Detail: "VM " + name + " was handed over to the arbiter there"}
	}
	v := r.vms[name]
	switch {
	case v == nil && len(r.vms) >= r.cfg.MaxVMs:
		r.mu.Unlock()
		return nil, refuse(pb.Refusal_ACTION_RETRY, "the arbiter has its limit of %d VMs", r.cfg.MaxVMs)
	case v == nil:
		v = newVM(r, name)
		r.vms[name] = v
		r.running.Go(v.run)
	case v.refs >= r.cfg.MaxStreams:
		r.mu.Unlock()
		return nil, refuse(pb.Refusal_ACTION_RETRY, "VM %s has its limit of %d replicas", name, r.cfg.MaxStreams)
	}
	v.refs++
	r.conn++
	s := &Stream{Queue: newQueue(), conn: r.conn, vm: v, replica: first.GetHello().GetReplica().GetId()}
	r.mu.Unlock()

	in := session.Attached{Conn: s.conn, Hello: first.GetHello(), Term: first.GetTerm()}
	if err := v.tell(ctx, task{in: in, stream: s}); err != nil {
		v.release()
		return nil, refuse(pb.Refusal_ACTION_RETRY, "%v", err)
	}
	return s, nil
}

// all returns the VMs that run here, in no order.
func (r *Registry) all() (vms []*vm) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.vms {
		vms = append(vms, v)
	}
	return vms
}

// find returns a VM that runs here.
func (r *Registry) find(name string) *vm {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.vms[name]
}

// Local returns the status of every VM that runs here, by name.
func (r *Registry) Local(ctx context.Context) []*pb.VMStatus {
	var out []*pb.VMStatus
	for _, v := range r.all() {
		if s, err := v.status(ctx); err == nil {
			out = append(out, s)
		}
	}
	sortByName(out)
	return out
}

// Lookup returns the status of one VM: from here, or else its record in etcd.
// The error is ErrNoVM where nobody knows it.
func (r *Registry) Lookup(ctx context.Context, name string) (*pb.VMStatus, error) {
	if v := r.find(name); v != nil {
		if s, err := v.status(ctx); !errors.Is(err, ErrGone) {
			return s, err
		}
	}
	if fence.CheckName("VM", name) != nil {
		return nil, ErrNoVM
	}
	view, err := r.cfg.Store.Load(ctx, name)
	if err != nil {
		return nil, err
	}
	if view.Record == nil && view.Owner == nil {
		return nil, ErrNoVM
	}
	return r.distant(view), nil
}

// All returns the status of every VM that runs here or that etcd knows, by
// name. Where etcd cannot be read, the error comes along with those that run
// here.
func (r *Registry) All(ctx context.Context) ([]*pb.VMStatus, error) {
	out := r.Local(ctx)
	here := map[string]bool{}
	for _, s := range out {
		here[s.Record.GetVm()] = true
	}
	known, err := r.Recorded(ctx)
	for _, s := range known {
		if !here[s.Record.GetVm()] {
			out = append(out, s)
		}
	}
	sortByName(out)
	return out, err
}

// Here returns the status of a VM that runs here, nil for one that does not or
// does not answer.
func (r *Registry) Here(ctx context.Context, name string) *pb.VMStatus {
	v := r.find(name)
	if v == nil {
		return nil
	}
	s, err := v.status(ctx)
	if err != nil {
		return nil
	}
	return s
}

// Arbiters returns the arbiters that hold a lease, by name, with the VMs that
// they own.
func (r *Registry) Arbiters(ctx context.Context) ([]*pb.ArbiterStatus, error) {
	living, err := r.cfg.Store.Arbiters(ctx)
	if err != nil {
		return nil, err
	}
	vms, err := r.cfg.Store.List(ctx)
	if err != nil {
		return nil, err
	}
	var out []*pb.ArbiterStatus
	for _, o := range living {
		a := &pb.ArbiterStatus{Arbiter: &pb.ArbiterRef{Id: o.ID, Address: o.Address}}
		for _, v := range vms {
			if v.Owner != nil && v.Owner.ID == o.ID {
				a.Arbiter.Page = v.Owner.Page
				a.Vms = append(a.Vms, v.VM)
			}
		}
		if o.ID == r.cfg.Self.ID {
			a.Arbiter.Page = r.cfg.Self.Page
		}
		out = append(out, a)
	}
	return out, nil
}

// Recorded returns what etcd says about every VM that it knows, by name: for a
// VM that runs here, less than Local and Sample do.
func (r *Registry) Recorded(ctx context.Context) ([]*pb.VMStatus, error) {
	var out []*pb.VMStatus
	views, err := r.cfg.Store.List(ctx)
	for _, view := range views {
		if view.Record != nil || view.Owner != nil {
			s := r.distant(view)
			s.Record.Vm = view.VM
			out = append(out, s)
		}
	}
	sortByName(out)
	return out, err
}

func sortByName(vms []*pb.VMStatus) {
	slices.SortFunc(vms, func(a, b *pb.VMStatus) int { return strings.Compare(a.Record.GetVm(), b.Record.GetVm()) })
}

// distant is the status of a VM that does not run here.
func (r *Registry) distant(view fence.View) *pb.VMStatus {
	s := &pb.VMStatus{Record: view.Record}
	if s.Record == nil {
		s.Record = &pb.Record{Vm: view.VM}
	}
	switch o := view.Owner; {
	case o == nil:
		s.Summary = "no arbiter owns this VM now"
	case o.ID == r.cfg.Self.ID:
		s.Summary = "owned by this arbiter, no replica attached"
	default:
		s.Summary = fmt.Sprintf("owned by arbiter %s at %s", o.ID, o.Address)
	}
	if o := view.Owner; o != nil {
		s.Owner = &pb.ArbiterRef{Id: o.ID, Address: o.Address, Page: o.Page}
	}
	for id := range view.Replicas {
		s.Replicas = append(s.Replicas, &pb.ReplicaStatus{Replica: &pb.ReplicaRef{Id: id}, Vm: view.VM})
	}
	slices.SortFunc(s.Replicas, func(a, b *pb.ReplicaStatus) int { return strings.Compare(a.Replica.Id, b.Replica.Id) })
	return s
}

// Order gives an operator's order to a VM and waits for its outcome. Errors are
// those of package session, which are the reply's, and of this package.
func (r *Registry) Order(ctx context.Context, name string, order func(session.Token) session.Input) (session.Reply, error) {
	v := r.find(name)
	if v == nil {
		s, err := r.Lookup(ctx, name)
		if err != nil {
			return session.Reply{}, err
		}
		return session.Reply{}, &ElsewhereError{VM: name, Owner: s.Owner}
	}
	return v.order(ctx, order)
}

// Stop gives every VM up and ends its streams. It returns when all have ended,
// or with the context's error.
func (r *Registry) Stop(ctx context.Context) error {
	r.mu.Lock()
	r.stopping = true
	for _, v := range r.vms {
		v.stopOnce.Do(func() { close(v.stop) })
	}
	r.mu.Unlock()
	done := make(chan struct{})
	go func() { r.running.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("give the VMs up: %w", ctx.Err())
	}
}

// Stream is one replica's Attach stream.
type Stream struct {
	*Queue
	conn    session.Conn
	vm      *vm
	replica string // its ID
	// waiting times the outputs of the active's stream; else nil. It is the VM's
	// goroutine's, as is pending.
	waiting *waiting
	// pending is what the VM's goroutine queues at the end of its batch.
	pending []*pb.ToReplica
}

// Received hands over a message, which is the VM's from now on. It waits while
// the VM is behind. An error ends the stream.
func (s *Stream) Received(ctx context.Context, m *pb.FromReplica) error {
	return s.vm.tell(ctx, task{in: session.Received{Conn: s.conn, Msg: m}, at: time.Now()})
}

// assigned tells the stream's part in a new term.
func (s *Stream) assigned(r *pb.Record) {
	switch active := r.GetActive().GetId() == s.replica; {
	case active && s.waiting == nil:
		s.waiting = new(waiting)
	case !active:
		s.waiting = nil
	}
}

// Detach says that the stream has ended. It must be called exactly once.
func (s *Stream) Detach(why string) {
	// The VM's goroutine always takes from its inbox until it ends.
	s.vm.tell(context.Background(), task{in: session.Detached{Conn: s.conn, Why: why}})
	s.vm.release()
}

// add puts a message behind those that wait, a release into the release before.
func (s *Stream) add(m *pb.ToReplica) {
	const most = 4096
	if rel := m.GetRelease(); rel != nil && len(s.pending) > 0 {
		last := s.pending[len(s.pending)-1]
		if prev := last.GetRelease(); prev != nil && last.Term == m.Term && prev.Epoch == rel.Epoch &&
			len(prev.Outputs)+len(rel.Outputs) <= most {
			prev.Outputs = append(prev.Outputs, rel.Outputs...)
			return
		}
	}
	s.pending = append(s.pending, m)
}

func cloneRecord(r *pb.Record) *pb.Record { return proto.Clone(r).(*pb.Record) }

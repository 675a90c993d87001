package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/role"

	"github.com/understudy-ft/understudy/deploy/cluster"
)

// batchEvery is how often each toy VM reports outputs.
const batchEvery = 50 * time.Millisecond

// Outputs of a toy VM's report.
const (
	quietBatch = 10 // 200 outputs a second
	bulkBatch  = 100
	// bulkShare of the VMs with bulkBatch make as many outputs as all with
	// quietBatch.
	bulkShare = bulkBatch / quietBatch
)

// toyPatience is for what a busy arbiter does with thousands of replicas.
const toyPatience = "10s"

// arbiter loads one arbiter process with many VMs, each with two replicas that
// speak the protocol over streams of their own and have no guest; then with a
// tenth of the VMs, which make as many outputs in fewer messages.
func (b *bench) arbiter(ctx context.Context) error {
	// What is collected here seldom leaves time for what is measured.
	defer debug.SetGCPercent(debug.SetGCPercent(400))
	return errors.Join(b.quietVMs(ctx), b.bulkVMs(ctx))
}

func (b *bench) bulkVMs(ctx context.Context) error {
	r, err := b.manyVMs(ctx, max(1, b.vms/bulkShare), bulkBatch)
	if r == nil {
		return err
	}
	b.report.note(figArbiterCPU, "µs", r.cpuPerOutput)
	b.report.note(figBulkOutputs, "/s", r.perSecond)
	b.report.note(figBulkDecision, "ms", r.decisions...)
	return err
}

func (b *bench) quietVMs(ctx context.Context) error {
	r, err := b.manyVMs(ctx, b.vms, quietBatch)
	if r == nil {
		return err
	}
	b.report.note(figArbiterCPUMany, "µs", r.cpuPerOutput)
	b.report.note(figArbiterMemory, "MiB", r.memoryPerVM)
	b.report.note(figArbiterCores, "", r.cores)
	b.report.note(figOutputs, "/s", r.perSecond)
	b.report.note(figDecision, "ms", r.decisions...)
	return err // what was measured counts, with what went wrong beside it
}

// manyResult is what an arbiter did with many VMs.
type manyResult struct {
	cpuPerOutput, memoryPerVM, cores, perSecond float64
	decisions                                   []float64 // ms
}

// arbiterSpan is how long many VMs report.
const arbiterSpan = 10 * time.Second

// manyVMs starts an arbiter and lets n VMs report to it, batch outputs at a time.
func (b *bench) manyVMs(ctx context.Context, n, batch int) (*manyResult, error) {
	c, err := cluster.Start(cluster.Config{Bin: b.bin, Guest: b.guest, LogLevel: "error", HeartbeatTimeout: toyPatience,
		ArbiterArgs: []string{"--lease-ttl", "30s", "--heartbeat", beatEvery.String()}})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	bare, err := resident(c.Arbiter)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t, err := startToys(ctx, c.GRPC, n, batch)
	if err != nil {
		return nil, err
	}
	defer t.close()
	b.say("%d VMs are protected", n)
	t.report.Store(true)
	pause(ctx, time.Second) // the first batches find cold caches
	before, err := cpuTime(c.Arbiter)
	if err != nil {
		return nil, err
	}
	t.begin()
	began := time.Now()
	pause(ctx, arbiterSpan)
	took := time.Since(began)
	outputs, decisions := t.end()
	after, err := cpuTime(c.Arbiter)
	if err != nil {
		return nil, err
	}
	full, err := resident(c.Arbiter)
	if err != nil {
		return nil, err
	}
	if outputs == 0 {
		return nil, errors.Join(errors.New("no output was released"), t.err())
	}
	return &manyResult{
		cpuPerOutput: float64((after - before).Microseconds()) / float64(outputs),
		memoryPerVM:  (full - bare) / float64(n),
		cores:        (after - before).Seconds() / took.Seconds(),
		perSecond:    float64(outputs) / took.Seconds(),
		decisions:    decisions,
	}, t.err()
}

// toys are VMs without guests.
type toys struct {
	batch     uint64      // outputs of a report
	report    atomic.Bool // they report outputs
	measuring atomic.Bool
	released  atomic.Uint64
	vms       []*toyVM
	ended     atomic.Pointer[error]
	closers   []func()
	wg        sync.WaitGroup
	cancel    context.CancelFunc
}

// toyVM are two replicas of one VM.
type toyVM struct {
	toys     *toys
	replicas [2]*toy
	mu       sync.Mutex
	sent     map[uint64]time.Time // by the last output of a batch, when its later report was handed over
	waits    []time.Duration
}

// toy is a replica without a guest.
type toy struct {
	vm     *toyVM
	lease  int64
	active bool
	stream *toyStream
	term   atomic.Uint64
	up     chan pb.Mode
}

// startToys attaches the replicas of n VMs and brings each under protection.
func startToys(ctx context.Context, arbiter string, n, batch int) (_ *toys, err error) {
	ctx, cancel := context.WithCancel(ctx)
	t := &toys{batch: uint64(batch), cancel: cancel}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	conn, err := grpc.NewClient(arbiter, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }() // it served one question
	found, err := pb.NewArbiterClient(conn).Discover(ctx, &pb.DiscoverRequest{Protocol: role.Protocol}, grpc.WaitForReady(true))
	if err != nil {
		return nil, fmt.Errorf("ask the arbiter: %w", err)
	}
	etcd, err := fence.Connect(found.GetEtcdEndpoints(), nil)
	if err != nil {
		return nil, err
	}
	t.closers = append(t.closers, func() { _ = etcd.Close() }) // nothing waits for it
	var mu sync.Mutex                                          // of t's lists
	join := func(vm *toyVM, name, id string, active bool) (*toy, error) {
		lease := fence.NewLease(etcd, fence.LeaseConfig{
			Key: fence.ReplicaKey(name, id), Value: "127.0.0.1:1", TTL: time.Duration(found.GetLeaseTtlMs()) * time.Millisecond,
			Margin: time.Duration(found.GetLeaseMarginMs()) * time.Millisecond,
		})
		mu.Lock()
		t.closers = append(t.closers, func() {
			gone, cancel := context.WithCancel(context.Background())
			cancel()
			_ = lease.Close(gone) // its etcd is about to end
		})
		mu.Unlock()
		if err := lease.Wait(ctx); err != nil {
			return nil, fmt.Errorf("take a replica's lease: %w", err)
		}
		y := &toy{vm: vm, lease: lease.ID(), active: active, up: make(chan pb.Mode, 16)}
		part := pb.Role_ROLE_SPARE
		if active {
			part = pb.Role_ROLE_CANDIDATE
		}
		hello := &pb.Hello{Protocol: role.Protocol, Vm: name, Replica: &pb.ReplicaRef{Id: id, Address: "127.0.0.1:1"}, Role: part, LeaseId: y.lease, Version: "bench"}
		var err error
		y.stream, err = openToyStream(ctx, arbiter, &pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: hello}}, y.received, func(err error) {
			if ctx.Err() == nil {
				t.fail(fmt.Errorf("a replica lost the arbiter: %w", err))
			}
		})
		if err != nil {
			return nil, fmt.Errorf("attach a replica: %w", err)
		}
		mu.Lock()
		t.closers = append(t.closers, func() { _ = y.stream.conn.Close() }) // nobody sends any more
		mu.Unlock()
		return y, nil
	}
	work := make(chan int)
	results := make(chan error, n)
	for range min(n, 16) {
		t.wg.Go(func() {
			for i := range work {
				vm := &toyVM{toys: t, sent: map[uint64]time.Time{}}
				err := vm.protect(ctx, fmt.Sprintf("toy-%d", i), join)
				if err == nil {
					mu.Lock()
					t.vms = append(t.vms, vm)
					mu.Unlock()
				}
				results <- err
			}
		})
	}
	go func() {
		defer close(work)
		for i := range n {
			select {
			case work <- i:
			case <-ctx.Done():
				return
			}
		}
	}()
	for range n {
		select {
		case err := <-results:
			if err != nil {
				return nil, err
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for i, vm := range t.vms {
		t.wg.Go(func() { vm.run(ctx, time.Duration(i)*batchEvery/time.Duration(n)) })
	}
	return t, nil
}

// protect attaches both replicas, each after the other's part is clear.
func (vm *toyVM) protect(ctx context.Context, name string, join func(*toyVM, string, string, bool) (*toy, error)) (err error) {
	for i, mode := range []pb.Mode{pb.Mode_MODE_SOLO, pb.Mode_MODE_SYNCING} {
		y, err := join(vm, name, fmt.Sprintf("%s-r%d", name, i), i == 0)
		if err != nil {
			return err
		}
		vm.replicas[i] = y
		if err := y.await(ctx, mode); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		vm.toys.wg.Go(func() { y.beat(ctx) })
	}
	active, standby := vm.replicas[0], vm.replicas[1]
	if err := active.await(ctx, pb.Mode_MODE_SYNCING); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	for _, y := range []*toy{standby, active} {
		y.send(&pb.FromReplica{Body: &pb.FromReplica_EpochStarted{EpochStarted: &pb.EpochStarted{Epoch: 1, Stats: &pb.SyncStats{}}}})
	}
	return errors.Join(active.await(ctx, pb.Mode_MODE_PROTECTED), standby.await(ctx, pb.Mode_MODE_PROTECTED))
}

// beatEvery is often enough, in both directions, for those whose patience is
// toyPatience.
const beatEvery = time.Second

// beat sends heartbeats until ctx is done.
func (y *toy) beat(ctx context.Context) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			y.send(&pb.FromReplica{Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: 1, LeaseId: y.lease}}})
		}
	}
}

// await waits for a part in a mode.
func (y *toy) await(ctx context.Context, mode pb.Mode) error {
	for {
		select {
		case m := <-y.up:
			if m == mode {
				return nil
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(readyTimeout):
			return errors.Join(fmt.Errorf("no part in mode %v", mode), y.vm.toys.err())
		}
	}
}

func (y *toy) send(m *pb.FromReplica) {
	m.Term = y.term.Load()
	if err := y.stream.send(m); err != nil {
		y.vm.toys.fail(fmt.Errorf("a replica cannot send: %w", err))
	}
}

func (t *toys) fail(err error) { t.ended.CompareAndSwap(nil, &err) }

func (t *toys) err() error {
	if p := t.ended.Load(); p != nil {
		return *p
	}
	return nil
}

func (y *toy) received(m *pb.ToReplica) {
	switch body := m.GetBody().(type) {
	case *pb.ToReplica_Assignment:
		y.term.Store(body.Assignment.GetRecord().GetTerm())
		select {
		case y.up <- body.Assignment.GetRecord().GetMode():
		default:
		}
	case *pb.ToReplica_Release:
		if y.active {
			y.vm.releasedNow(body.Release)
		}
	case *pb.ToReplica_Resync:
		y.vm.toys.fail(fmt.Errorf("the arbiter wants a resynchronization: %s", body.Resync.GetDetail()))
	case *pb.ToReplica_Refusal:
		y.vm.toys.fail(fmt.Errorf("the arbiter refuses a replica: %s", body.Refusal.GetDetail()))
	}
}

func (vm *toyVM) releasedNow(m *pb.Release) {
	now := time.Now()
	measuring := vm.toys.measuring.Load()
	if measuring {
		vm.toys.released.Add(uint64(len(m.GetOutputs())))
	}
	vm.mu.Lock()
	defer vm.mu.Unlock()
	for _, r := range m.GetOutputs() {
		if at, ok := vm.sent[r.GetId()]; ok {
			delete(vm.sent, r.GetId())
			if measuring {
				vm.waits = append(vm.waits, now.Sub(at))
			}
		}
	}
}

// run reports batches of both replicas until ctx is done.
func (vm *toyVM) run(ctx context.Context, offset time.Duration) {
	pause(ctx, offset)
	tick := time.NewTicker(batchEvery)
	defer tick.Stop()
	for id := uint64(0); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !vm.toys.report.Load() {
			continue
		}
		last := id + vm.toys.batch
		report := outputs(id, last)
		for i, y := range vm.replicas {
			if i == 1 {
				vm.mu.Lock()
				vm.sent[last] = time.Now()
				vm.mu.Unlock()
			}
			y.send(&pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: report}})
		}
		id = last
	}
}

// outputs are those behind from through last, the same at both replicas.
func outputs(from, last uint64) *pb.Outputs {
	n := last - from
	made, digests := make([]pb.Output, n), make([]byte, 16*n)
	m := &pb.Outputs{Epoch: 1, Outputs: make([]*pb.Output, n)}
	for i := range m.Outputs {
		id, digest, o := from+1+uint64(i), digests[16*i:16*i+16], &made[i]
		binary.LittleEndian.PutUint64(digest, id*0x9e3779b97f4a7c15)
		o.Id, o.Kind, o.Flow, o.End, o.Digest = id, pb.OutputKind_OUTPUT_KIND_STREAM, 7, id*100, digest
		o.Ack, o.Edge, o.Flags = id*10, id*10+65536, 8
		if id == 1 {
			o.Name = "tcp 10.0.0.2:6379 > 10.0.0.9:4711"
		}
		m.Outputs[i] = o
	}
	return m
}

// begin begins to count, end ends it.
func (t *toys) begin() { t.measuring.Store(true) }

func (t *toys) end() (outputs uint64, decisions []float64) {
	t.measuring.Store(false)
	for _, vm := range t.vms {
		vm.mu.Lock()
		for _, w := range vm.waits {
			decisions = append(decisions, ms(w))
		}
		vm.mu.Unlock()
	}
	return t.released.Load(), decisions
}

func (t *toys) close() {
	t.cancel()
	t.wg.Wait()
	for i := len(t.closers) - 1; i >= 0; i-- {
		t.closers[i]()
	}
}

package replica

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/checkpoint"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/machine"
	"github.com/understudy-ft/understudy/services/protocol"
	"github.com/understudy-ft/understudy/services/role"
)

// Bounds of opening a feed. The standby may hear of its part a little later
// than the active.
const (
	dialRetry      = 20 * time.Millisecond
	dialPatience   = 3 * time.Second
	bootImageChunk = 512 << 10
)

var errFeedClosed = errors.New("feed closed")

// feeding is the active's end of a feed, from the dial to its end.
type feeding struct {
	life   *life
	term   uint64
	to     *pb.ReplicaRef
	ctx    context.Context
	cancel context.CancelCauseFunc
	// after is life.shadowed: who drains the machine's dirty pages until then.
	after <-chan struct{}

	active *feed.Active       // set before the Core hears FeedUp
	sender *checkpoint.Sender // likewise
	begins atomic.Pointer[gate]
	ahead  *aheadCopy // the loop's; nil: none is under way

	mu    sync.Mutex
	queue []outgoing
	bytes int
	wake  chan struct{}
}

// outgoing is a message of the loop to the standby, or the place in their
// order where a checkpoint begins.
type outgoing struct {
	msg  *pb.FromActive
	size int
	gate *gate
}

// gate lets a checkpoint's begin leave at its place: the queue waits at
// reached until begun.
type gate struct{ reached, begun chan struct{} }

func (h *host) DialFeed(standby *pb.ReplicaRef) {
	ctx, cancel := context.WithCancelCause(context.Background())
	f := &feeding{life: (*life)(h), term: h.core.Term(), to: standby, ctx: ctx, cancel: cancel, after: h.shadowed, wake: make(chan struct{}, 1)}
	h.feeding = f
	h.busy.Go(f.open)
}

func (h *host) CloseFeed() {
	if f := h.feeding; f != nil {
		h.feeding = nil
		f.cancel(errFeedClosed)
	}
	if f := h.following; f != nil {
		h.following = nil
		f.cancel(errFeedClosed)
		f.standby.Close(errFeedClosed)
	}
}

// post lets the loop call fn unless the feed has been closed by then.
func (f *feeding) post(fn func(l *life)) {
	f.life.box.put(func() {
		if f.life.feeding == f {
			fn(f.life)
		}
	})
}

func (f *feeding) failed(err error) {
	f.post(func(l *life) { l.core.FeedDown(fence.Now(), err) })
}

// open dials the standby, sends what it boots from, and then carries the
// loop's messages until the feed ends.
func (f *feeding) open() {
	if f.after != nil {
		select {
		case <-f.after:
		case <-f.ctx.Done():
			return
		}
	}
	m, err := f.machine()
	if err != nil {
		f.failed(err)
		return
	}
	cfg := m.Config()
	cpu, err := m.CPU()
	if err != nil {
		f.failed(err)
		return
	}
	hello := &pb.FeedHello{
		Protocol: role.Protocol, ProtocolMax: protocol.Spoken().Max, Vm: f.life.cfg.VM, ActiveId: f.life.self.GetId(), StandbyId: f.to.GetId(),
		Machine: &pb.MachineConfig{
			Engine: cfg.Engine, MemoryBytes: cfg.MemoryBytes, Cpus: uint32(cfg.CPUs), Mac: cfg.MAC[:], Append: cfg.Append,
			KernelBytes: uint64(len(cfg.Kernel)), InitrdBytes: uint64(len(cfg.Initrd)), CpuBaseline: cfg.CPUBaseline, Cpu: cpu,
		},
	}
	if d := m.Disk(); d != nil {
		hello.Machine.DiskBytes, hello.Machine.DiskReadOnly = d.Size(), cfg.DiskReadOnly || d.ReadOnly()
	}
	a, speaks, err := f.dial(hello)
	if err != nil {
		f.failed(fmt.Errorf("open the feed to %s at %s: %w", f.to.GetId(), f.to.GetAddress(), err))
		return
	}
	defer a.Close(errFeedClosed)
	f.active = a
	f.sender = checkpoint.NewSender(guest{m}, f.send, checkpoint.SenderConfig{})
	for _, img := range []struct {
		image pb.BootImage_Image
		data  []byte
	}{{pb.BootImage_IMAGE_KERNEL, cfg.Kernel}, {pb.BootImage_IMAGE_INITRD, cfg.Initrd}} {
		for at := 0; at < len(img.data); at += bootImageChunk {
			b := &pb.BootImage{Image: img.image, Offset: uint64(at), Data: img.data[at:min(at+bootImageChunk, len(img.data))]}
			if err := a.Send(f.ctx, &pb.FromActive{Body: &pb.FromActive_BootImage{BootImage: b}}, nil); err != nil {
				f.failed(fmt.Errorf("send the boot images: %w", err))
				return
			}
		}
	}
	f.post(func(l *life) {
		l.log.Info("feed open", "term", f.term, "to", f.to.GetId(), "protocol", speaks)
		l.core.FeedUp(fence.Now(), speaks)
	})
	f.carry()
}

// machine waits for a machine that is being built: a spare may be there before
// the guest has begun to boot.
func (f *feeding) machine() (*machine.Machine, error) {
	for deadline := time.Now().Add(dialPatience); ; {
		if m := f.life.worker.machine.Load(); m != nil {
			return m, nil
		}
		if time.Now().After(deadline) {
			return nil, errors.New("there is no machine to copy")
		}
		select {
		case <-f.ctx.Done():
			return nil, context.Cause(f.ctx)
		case <-time.After(dialRetry):
		}
	}
}

// dial returns the feed and the version of the protocol that it carries.
func (f *feeding) dial(hello *pb.FeedHello) (*feed.Active, uint32, error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialPatience)
	defer cancel()
	// The guest's memory goes to a replica of its own VM alone.
	creds := f.life.cfg.Identity.ClientCredentials(identity.ID{Role: identity.Replica, Name: f.life.cfg.VM})
	for {
		a, welcome, err := feed.Dial(ctx, f.to.GetAddress(), f.term, hello, f.life.worker.guestTime, f, feed.Config{SilentAfter: f.life.cfg.Silence, Credentials: creds})
		if err == nil {
			speaks, err := role.Welcomed(welcome)
			if err != nil {
				a.Close(err)
			}
			return a, speaks, err
		}
		if ctx.Err() != nil || !errors.Is(err, feed.ErrRefused) {
			return nil, 0, err
		}
		select {
		case <-ctx.Done():
			return nil, 0, err
		case <-time.After(dialRetry):
		}
	}
}

// OnMessage takes what the standby answers, in the feed's goroutine.
func (f *feeding) OnMessage(m *pb.FromStandby) {
	switch b := m.GetBody().(type) {
	case *pb.FromStandby_DirtyPages:
		f.sender.Answer(b.DirtyPages)
	case *pb.FromStandby_Staged:
		// Behind the worker's Final, whose outcome the Core is told first.
		f.life.worker.do(func() {
			if err := f.sender.Staged(b.Staged); err != nil {
				f.failed(fmt.Errorf("standby: %w", err))
				return
			}
			f.post(func(l *life) { l.core.FromStandby(fence.Now(), m) })
		})
	default:
		f.post(func(l *life) { l.core.FromStandby(fence.Now(), m) })
	}
}

// OnDown is the feed's last call.
func (f *feeding) OnDown(err error) {
	f.cancel(err)
	f.failed(err)
}

// put queues a message of the loop. A standby that lets too much wait lags.
func (f *feeding) put(m *pb.FromActive) {
	size := proto.Size(m)
	f.mu.Lock()
	f.bytes += size
	lags := f.bytes > outboxBytes
	f.mu.Unlock()
	if lags {
		f.post(func(l *life) {
			l.core.SyncFailed(fence.Now(), pb.Reason_REASON_LAGGING,
				fmt.Errorf("%d MiB wait for the standby", outboxBytes>>20))
		})
		return
	}
	f.push(outgoing{msg: m, size: size})
}

func (f *feeding) push(o outgoing) {
	f.mu.Lock()
	f.queue = append(f.queue, o)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// carry hands the loop's messages to the feed until it ends.
func (f *feeding) carry() {
	for {
		select {
		case <-f.ctx.Done():
			return
		case <-f.wake:
		}
		f.mu.Lock()
		queue := f.queue
		f.queue = nil
		f.mu.Unlock()
		for _, o := range queue {
			if err := f.carryOne(o); err != nil {
				f.failed(err)
				return
			}
		}
	}
}

func (f *feeding) carryOne(o outgoing) error {
	if g := o.gate; g != nil {
		close(g.reached)
		select {
		case <-g.begun:
			return nil
		case <-f.ctx.Done():
			return context.Cause(f.ctx)
		}
	}
	err := f.active.Send(f.ctx, o.msg, nil)
	f.mu.Lock()
	f.bytes -= o.size
	f.mu.Unlock()
	return err
}

// send is how checkpoints reach the feed. When a checkpoint's begin has left,
// the loop's messages behind it may.
func (f *feeding) send(ctx context.Context, m *pb.FromActive, done func()) error {
	err := f.active.Send(ctx, m, done)
	if b := m.GetCheckpointBegin(); b != nil && !b.GetLive() && !b.GetPrecopy() {
		if g := f.begins.Swap(nil); g != nil {
			close(g.begun)
		}
	}
	return err
}

func (h *host) CopyLive() {
	f := h.feeding
	if f == nil {
		return
	}
	began := time.Now()
	h.busy.Go(func() {
		err := f.sender.Live(f.ctx, &pb.CheckpointBegin{Epoch: 1, Reason: pb.Reason_REASON_NEW_STANDBY, Live: true})
		f.post(func(l *life) {
			if err != nil {
				l.core.SyncFailed(fence.Now(), pb.Reason_REASON_LOST_FEED, fmt.Errorf("first copy: %w", err))
				return
			}
			l.log.Info("first copy converged", "took", time.Since(began).Round(time.Millisecond))
			l.core.CopyConverged(fence.Now())
		})
	})
}

// aheadCopy is a Sender.Ahead under way.
type aheadCopy struct{ enough, done chan struct{} }

func (h *host) CopyAhead(epoch uint64, reason pb.Reason) {
	f := h.feeding
	if f == nil {
		return
	}
	a := &aheadCopy{enough: make(chan struct{}), done: make(chan struct{})}
	f.ahead = a
	began := time.Now()
	h.busy.Go(func() {
		defer close(a.done)
		sent, err := f.sender.Ahead(f.ctx, &pb.CheckpointBegin{Epoch: epoch, Reason: reason}, a.enough)
		f.post(func(l *life) {
			if err != nil {
				l.core.SyncFailed(fence.Now(), pb.Reason_REASON_LOST_FEED, fmt.Errorf("copy ahead: %w", err))
				return
			}
			l.log.Debug("copied ahead", "epoch", epoch, "pages_and_blocks", sent, "took", time.Since(began).Round(10*time.Microsecond))
			l.core.CopyConverged(fence.Now())
		})
	})
}

func (h *host) SendCheckpoint(ck *role.Checkpoint) {
	f := h.feeding
	if f == nil {
		return
	}
	ahead := f.ahead
	if f.ahead = nil; ahead != nil {
		close(ahead.enough)
	}
	g := &gate{reached: make(chan struct{}), begun: make(chan struct{})}
	f.push(outgoing{gate: g})
	h.worker.do(func() {
		if ahead != nil {
			<-ahead.done // soon, or its feed has ended
		}
		stats, err := f.checkpoint(g, ck)
		f.post(func(l *life) {
			if err != nil {
				l.core.SyncFailed(fence.Now(), pb.Reason_REASON_LOST_FEED, fmt.Errorf("checkpoint: %w", err))
				return
			}
			l.core.Checkpointed(fence.Now(), stats)
		})
	})
}

// checkpoint sends the paused machine's checkpoint from its place in the order
// of messages on.
func (f *feeding) checkpoint(g *gate, ck *role.Checkpoint) (*pb.SyncStats, error) {
	select {
	case <-g.reached:
	case <-f.ctx.Done():
		return nil, context.Cause(f.ctx)
	}
	f.begins.Store(g)
	return f.sender.Final(f.ctx, &pb.CheckpointBegin{Epoch: ck.Epoch, Reason: ck.Reason, ThroughInput: ck.ThroughInput},
		func() ([]byte, error) { return f.life.worker.state(ck) })
}

// AbortSync needs no more than the end of the feed, which always follows: a
// new standby gets a new sender, which assumes that everything may differ.
func (h *host) AbortSync() {
	if h.feeding != nil {
		h.feeding.cancel(errFeedClosed)
	}
}

package replica

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/checkpoint"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/machine"
)

// Bounds of what an active may make a standby hold.
const (
	maxGuestMemory = 64 << 30
	maxBootImage   = 1 << 30
	acceptTimeout  = 2 * time.Second
)

// following is the standby's end of a feed.
type following struct {
	life    *life
	standby *feed.Standby
	ctx     context.Context
	cancel  context.CancelCauseFunc

	guest *Guest
	wantK uint64
	wantI uint64
	empty bool          // the local disk reads as zeros
	begin chan struct{} // AnswerDirty's word

	// The receiver is the feed's goroutine's until a checkpoint is whole (lent),
	// then the loop's and the worker's until that is in the machine (back).
	receiver *checkpoint.Receiver
	lent     bool          // known to the feed's goroutine alone
	back     chan struct{} // capacity 1

	staged   *checkpoint.Stage // a whole checkpoint, while the Core is told of it
	applying bool              // one is being put into the machine
}

// accept decides about a feed that an active opens; called by a goroutine of
// the server.
func (l *life) accept(s *feed.Standby, term uint64, hello *pb.FeedHello) (feed.StandbyHandler, *pb.FeedWelcome, error) {
	type answer struct {
		f      *following
		speaks uint32
		err    error
	}
	answers := make(chan answer, 1)
	l.box.put(func() {
		speaks, err := l.core.AcceptFeed(fence.Now(), term, hello)
		if err != nil {
			answers <- answer{err: err}
			return
		}
		f, err := l.follow(s, hello.GetMachine())
		if err != nil {
			l.log.Warn("cannot shadow the active", "error", err)
			var check func() error
			if path, size := l.cfg.DiskPath, hello.GetMachine().GetDiskBytes(); path != "" && size > 0 {
				check = func() error { return imageFits(path, size) }
			}
			l.lacks(err, check)
		} else {
			l.fits()
			l.following, l.shadowed = f, s.Done()
			l.busy.Go(func() { <-s.Done() }) // its goroutine writes the machine's memory
			l.log.Info("feed accepted", "term", term, "from", hello.GetActiveId(), "protocol", speaks)
			l.core.FeedUp(fence.Now(), speaks)
		}
		answers <- answer{f, speaks, err}
	})
	select {
	case a := <-answers:
		if a.err != nil {
			return nil, nil, a.err
		}
		return a.f, &pb.FeedWelcome{DiskEmpty: a.f.empty, Protocol: a.speaks}, nil
	case <-l.ended:
		return nil, nil, errors.New("this replica is ending")
	case <-time.After(acceptTimeout):
		return nil, nil, errors.New("this replica is busy")
	}
}

// follow prepares for the machine that the active describes.
func (l *life) follow(s *feed.Standby, m *pb.MachineConfig) (*following, error) {
	switch {
	case len(m.GetMac()) != 6:
		return nil, fmt.Errorf("machine has a MAC address of %d bytes", len(m.GetMac()))
	case m.GetMemoryBytes() > maxGuestMemory:
		return nil, fmt.Errorf("machine has %d bytes of memory, this replica takes at most %d", m.GetMemoryBytes(), uint64(maxGuestMemory))
	case m.GetKernelBytes() > maxBootImage || m.GetInitrdBytes() > maxBootImage:
		return nil, fmt.Errorf("machine boots from images above %d bytes", maxBootImage)
	}
	if err := machine.CheckHost(m.GetEngine(), m.GetCpu()); err != nil {
		return nil, fmt.Errorf("this host cannot shadow the guest: %w", err)
	}
	g := &Guest{
		Engine: m.GetEngine(), MemoryBytes: m.GetMemoryBytes(), CPUs: int(m.GetCpus()), MAC: [6]byte(m.GetMac()), Append: m.GetAppend(),
		DiskReadOnly: m.GetDiskReadOnly(), CPUBaseline: m.GetCpuBaseline(),
	}
	f := &following{life: l, standby: s, guest: g, wantK: m.GetKernelBytes(), wantI: m.GetInitrdBytes(), begin: make(chan struct{}, 1), back: make(chan struct{}, 1)}
	if m.GetDiskBytes() == 0 || m.GetDiskReadOnly() {
		l.core.UseDisk(nil)
	}
	if n := m.GetDiskBytes(); n > 0 {
		img, empty, err := l.worker.openDisk(n)
		if err != nil {
			return nil, err
		}
		g.Disk, f.empty = img, empty
		l.stamped = !g.DiskReadOnly
	}
	f.ctx, f.cancel = context.WithCancelCause(context.Background())
	return f, nil
}

// post lets the loop call fn unless the feed has been closed by then.
func (f *following) post(fn func(l *life)) {
	f.life.box.put(func() {
		if f.life.following == f {
			fn(f.life)
		}
	})
}

func (f *following) failed(err error) {
	f.post(func(l *life) { l.core.SyncFailed(fence.Now(), pb.Reason_REASON_LOST_FEED, err) })
}

// put sends a message of the loop to the active, and never waits: the way back
// carries little, so that a full queue is a peer that hangs.
func (f *following) put(m *pb.FromStandby) {
	if err := f.standby.Send(hurry, m); err != nil {
		f.standby.Close(fmt.Errorf("answer the active: %w", err))
	}
}

// hurry is a context that is done: what needs to wait fails.
var hurry = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// OnMessage takes the feed's messages in order, in the feed's goroutine.
func (f *following) OnMessage(m *pb.FromActive, free func()) {
	if err := f.take(m, free); err != nil && f.ctx.Err() == nil {
		f.failed(err)
	}
}

func (f *following) take(m *pb.FromActive, free func()) error {
	switch b := m.GetBody().(type) {
	case *pb.FromActive_BootImage:
		return f.bootImage(b.BootImage)
	case *pb.FromActive_CheckpointBegin:
		if err := f.machine(); err != nil {
			return err
		}
		if !f.owns() {
			return nil
		}
		if !b.CheckpointBegin.GetLive() && !b.CheckpointBegin.GetPrecopy() {
			f.post(func(l *life) { l.core.FromActive(fence.Now(), m) })
			select {
			case <-f.begin: // the guest stands still
			case <-f.ctx.Done():
				return nil
			}
		}
		return f.receive(m, free)
	case *pb.FromActive_Pages, *pb.FromActive_Blocks, *pb.FromActive_State:
		return f.receive(m, free)
	case *pb.FromActive_Commit:
		if err := f.receive(m, free); err != nil {
			return err
		}
		return f.stage()
	default:
		f.post(func(l *life) { l.core.FromActive(fence.Now(), m) })
		return nil
	}
}

// owns waits until the last checkpoint is in the machine, and tells whether the
// receiver takes another: not where the feed has ended.
func (f *following) owns() bool {
	if !f.lent {
		return true
	}
	select {
	case <-f.back:
		f.lent = false
		return true
	case <-f.ctx.Done():
		return false
	}
}

// receive hands a part of a checkpoint to the receiver.
func (f *following) receive(m *pb.FromActive, free func()) error {
	switch {
	case f.receiver == nil:
		return errors.New("the feed brought a checkpoint before the machine")
	case f.lent:
		return fmt.Errorf("the feed brought %T after a commit", m.GetBody())
	}
	return f.receiver.Handle(f.ctx, m, free, func(reply *pb.FromStandby) error { return f.standby.Send(f.ctx, reply) })
}

// stage tells the Core of a whole checkpoint.
func (f *following) stage() error {
	stage, ok := f.receiver.Staged()
	if !ok {
		return errors.New("the checkpoint is not whole after its commit")
	}
	ck, err := parseState(stage.State())
	if err != nil {
		return err
	}
	// A guest that rebooted may see more of its host's CPU than before.
	if err := f.life.worker.machine.Load().CheckHost(ck.GetMachine()); err != nil {
		return fmt.Errorf("this host cannot go on with the guest: %w", err)
	}
	// From the word that it is staged on, the active lets out what only the new
	// state has: the image with the old one must not be booted from then.
	held := f.guest.Disk != nil && stage.ChangesDisk()
	if held {
		if err := f.life.cfg.disk.hold(); err != nil {
			return err
		}
	}
	f.lent = true
	f.life.box.put(func() {
		if f.life.following == f {
			f.staged = stage
			f.life.core.StageReady(fence.Now(), ck)
			f.staged = nil
		}
		if f.applying {
			return
		}
		stage.Drop() // the old state stays
		if held {
			f.life.cfg.disk.release()
		}
	})
	return nil
}

// bootImage takes a chunk of the kernel or initrd, in order.
func (f *following) bootImage(b *pb.BootImage) error {
	into, want := &f.guest.Kernel, f.wantK
	if b.GetImage() == pb.BootImage_IMAGE_INITRD {
		into, want = &f.guest.Initrd, f.wantI
	}
	if b.GetOffset() != uint64(len(*into)) || uint64(len(*into)+len(b.GetData())) > want {
		return fmt.Errorf("boot image chunk of %d bytes at %d after %d of %d bytes", len(b.GetData()), b.GetOffset(), len(*into), want)
	}
	*into = append(*into, b.GetData()...)
	return nil
}

// machine builds the machine before the first checkpoint, when the boot images
// are there.
func (f *following) machine() error {
	if f.receiver != nil {
		return nil
	}
	if uint64(len(f.guest.Kernel)) != f.wantK || uint64(len(f.guest.Initrd)) != f.wantI {
		return errors.New("the feed brought a checkpoint before all of the boot images")
	}
	if err := f.life.worker.build(f.guest); err != nil {
		return fmt.Errorf("build the machine: %w", err)
	}
	if f.guest.Disk != nil && !f.guest.DiskReadOnly {
		f.life.keepBoot(f.guest)
	}
	m := f.life.worker.machine.Load()
	f.receiver = checkpoint.NewReceiver(guest{m}, checkpoint.ReceiverConfig{MemoryZero: true, DiskZero: f.empty})
	return nil
}

// keepBoot keeps what the guest boots from beside its disk, for a later life as a
// spare.
func (l *life) keepBoot(g *Guest) {
	if l.cfg.DiskPath == "" {
		return
	}
	l.busy.Go(func() {
		if err := keepBoot(l.cfg.DiskPath, g); err != nil {
			l.log.Warn("this replica will not be able to boot its disk by itself", "error", err)
		}
	})
}

// OnDown is the feed's last call. A checkpoint that is whole is the loop's: the
// Core applies it, or it is dropped there.
func (f *following) OnDown(err error) {
	f.cancel(err)
	f.post(func(l *life) { l.core.FeedDown(fence.Now(), err) })
	if f.receiver != nil && !f.lent {
		f.receiver.Drop()
	}
}

func (h *host) AnswerDirty(uint64) {
	if h.following == nil {
		return
	}
	select {
	case h.following.begin <- struct{}{}:
	default:
	}
}

func (h *host) ApplyStage(ck *pb.Checkpoint) {
	f := h.following
	if f == nil {
		return
	}
	stage := f.staged
	f.applying = true
	h.worker.do(func() {
		err := h.worker.apply(stage, ck, f.activeGuestTime)
		f.back <- struct{}{}
		h.box.put(func() {
			f.applying = false
			if err == nil {
				h.cfg.disk.release()
			}
			h.core.Applied(fence.Now(), err)
		})
	})
}

// activeGuestTime is an upper bound of the active's guest time now.
func (f *following) activeGuestTime() (uint64, bool) {
	s, ok := f.standby.GuestTime()
	if !ok {
		return 0, false
	}
	return s.GuestNs + uint64(s.Uncertainty+time.Since(s.At)), true
}

// DropStage needs nothing but the end of the feed, which always follows it:
// what the receiver has is dropped then, and a stage that comes later, too.
func (h *host) DropStage() {}

package replica

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/packet"
	"github.com/understudy-ft/understudy/services/role"
	"github.com/understudy-ft/understudy/services/uplink"
)

// errDiscarded ends a life whose copy was given up; the process goes on with a
// new one as a spare.
var errDiscarded = errors.New("copy discarded")

// life is a replica from its start, or from the loss of its copy, to its end.
// Each life has an identity of its own, so that nobody takes what it holds for
// what an earlier one held.
type life struct {
	cfg  Config
	log  hclog.Logger
	self *pb.ReplicaRef

	box  *mailbox
	core *role.Core
	// hello is the Core's present Hello, for the stream's goroutine.
	hello atomic.Pointer[pb.FromReplica]
	// backlog is the Core's InputBacklog after the last batch.
	backlog atomic.Int64
	// awaitsRest: the Core has something to send that waits for a time, or for the
	// guest to be idle.
	awaitsRest atomic.Bool

	uplink     uplink.Uplink
	announcer  *uplink.Announcer
	emitter    *emitter
	etcd       *clientv3.Client
	lease      *fence.Lease
	store      *fence.Store
	attach     *feed.Attach
	attachment *attachment // what the present attach reports to
	// firstArbiter is the index of the arbiter that the next attach tries first.
	firstArbiter int
	attached     bool // an arbiter has answered and is not lost
	booted       bool // this life has begun to boot the guest
	worker       *worker
	feeding      *feeding   // the active's end of the feed
	following    *following // the standby's end of the feed
	// shadowed is closed when the last feed to this copy has let go of the
	// machine; nil: there was none.
	shadowed <-chan struct{}
	// stamped: the guest has a writable disk here.
	stamped bool
	// reported is the Core's last event.
	reported role.Event
	// busy counts the goroutines that use the machine's memory or etcd.
	busy sync.WaitGroup
	// trace is nil but for measurements.
	trace *trace

	ended  chan struct{} // closed when result is set
	result error
	done   bool
}

// process names this process to the arbiter, whatever identities its lives have.
var process = rand.Text()

// newLife prepares a life; run lives it.
func newLife(cfg Config, advertise string) (*life, error) {
	var random [12]byte
	if _, err := rand.Read(random[:]); err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	l := &life{cfg: cfg, box: newMailbox(), ended: make(chan struct{})}
	l.self = &pb.ReplicaRef{Id: cfg.Name + "-" + hex.EncodeToString(random[:4]), Address: advertise}
	l.log = cfg.Log.With("vm", cfg.VM, "replica", l.self.Id)
	cfg.fitness.busy = false // who looked has ended with the last life
	image := cfg.disk.hello()
	if g := cfg.Guest; g != nil && (g.Disk == nil || g.readOnly()) {
		image = nil
	}
	l.core = role.New(role.Config{
		VM: cfg.VM, Self: l.self, Version: cfg.Version, Process: process, Candidate: cfg.Guest != nil,
		Disk: image, CanBoot: cfg.Guest == nil && cfg.disk.whole() && keptBoot(cfg.DiskPath), Unfit: cfg.fitness.why,
		FlowSeed: binary.LittleEndian.Uint64(random[4:]), SoloAfter: cfg.SoloAfter,
	}, (*host)(l))
	l.worker = newWorker(l)
	l.trace = newTrace(cfg.Trace, l.log)
	return l, nil
}

// run attaches to the arbiter and does what it says until the life ends: nil
// after an orderly end, errDiscarded where a new life is to follow.
func (l *life) run(ctx context.Context) error {
	defer l.close()
	up, err := uplink.OpenTLS(l.cfg.Uplink, l.inputFromUplink, l.cfg.Identity.ClientTLS(aGateway), l.log)
	if err != nil {
		return err
	}
	l.uplink = up
	l.uplink.Mute(true)
	l.announcer = uplink.NewAnnouncer(l.announce)
	l.emitter = newEmitter(up, func() bool { return l.lease.Valid(fence.Now()) && l.cfg.disk.speaks() }, l.log)
	if err := l.connect(ctx); err != nil {
		return err
	}
	l.attachToArbiter()
	l.loop(ctx)
	return l.result
}

// loop handles what comes until the life ends or ctx is done.
func (l *life) loop(ctx context.Context) {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	due := time.NewTimer(tickEvery)
	defer due.Stop()
	var batch []event
	var lastTick time.Duration
	for !l.done {
		select {
		case <-l.box.wake:
		case <-tick.C:
		case <-due.C:
		case <-ctx.Done():
			l.core.Shutdown("the replica was told to end")
			l.end(nil)
			return
		}
		batch = l.box.take(batch)
		now := fence.Now()
		changed := false // frames change nothing of what the replica is
		for i := range batch {
			switch e := &batch[i]; e.kind {
			case guestSent:
				l.core.Output(now, e.frame)
				l.trace.made(now, l.core.Epoch(), l.core.NewestOutput())
			case heard:
				l.core.Input(now, e.frame)
			default:
				e.fn()
				changed = true
			}
			batch[i] = event{}
		}
		if now-lastTick >= tickEvery {
			lastTick, changed = now, true
			l.core.Tick(now)
			l.refit()
		}
		// Set before, so that a guest that becomes idle behind Flush's look is told of.
		l.awaitsRest.Store(true)
		l.core.Flush(now)
		if at := l.core.Due(); at != 0 {
			due.Reset(at - now)
		} else {
			l.awaitsRest.Store(false)
		}
		l.trace.flush()
		l.backlog.Store(int64(l.core.InputBacklog()))
		if !changed {
			continue
		}
		l.publish()
		if l.stamped {
			l.cfg.disk.follow(l.core.Role(), l.core.Mode(), l.core.Term(), l.core.Epoch(), l.self.GetId())
		}
	}
}

// rested is told by a hart that the guest is idle.
func (l *life) rested() {
	if l.awaitsRest.CompareAndSwap(true, false) {
		l.box.look()
	}
}

// publish renews what the next stream to the arbiter will say first.
func (l *life) publish() {
	old := l.hello.Load()
	h := l.core.Hello()
	if old == nil || old.GetTerm() != h.GetTerm() || !sameHello(old.GetHello(), h.GetHello()) {
		l.hello.Store(h)
	}
}

func sameHello(a, b *pb.Hello) bool {
	return a.GetRole() == b.GetRole() && a.GetMode() == b.GetMode() && a.GetEpoch() == b.GetEpoch() &&
		a.GetLeaseId() == b.GetLeaseId() && a.GetUnfit() == b.GetUnfit()
}

// end sets the result of this life; the loop ends after the present batch.
func (l *life) end(err error) {
	if l.done {
		return
	}
	l.done, l.result = true, err
	close(l.ended)
}

// close frees everything, peers first, so that they notice at once.
func (l *life) close() {
	ctx, cancel := context.WithTimeout(context.Background(), byeTimeout)
	defer cancel()
	if l.uplink != nil {
		l.uplink.Mute(true)
	}
	if l.attach != nil {
		l.attach.Close(ctx)
	}
	(*host)(l).CloseFeed()
	l.box.close()
	l.busy.Wait() // each ends with its feed
	if l.lease != nil {
		if err := l.lease.Close(ctx); err != nil {
			l.log.Debug("lease not revoked; it ends by itself", "error", err)
		}
	}
	if l.etcd != nil {
		_ = l.etcd.Close() // closing is all that is left to do with it
	}
	l.worker.close()
	l.cfg.disk.settle()
	if l.announcer != nil {
		l.announcer.Stop()
		l.emitter.close()
	}
	if l.uplink != nil {
		if err := l.uplink.Close(); err != nil {
			l.log.Debug("close uplink", "error", err)
		}
	}
}

// inputFromUplink takes a frame that the uplink heard. It blocks, and so slows
// the uplink down, while the guest or the standby is behind.
func (l *life) inputFromUplink(frame []byte) {
	for l.backlog.Load() > inputBacklog {
		select {
		case <-l.ended:
			return
		case <-time.After(time.Millisecond):
		}
	}
	l.box.putFrame(heard, frame)
}

// announce sends a frame that tells where the guest is, for as long as this
// replica may speak.
func (l *life) announce(frame []byte) error {
	if !l.lease.Valid(fence.Now()) {
		return errors.New("no valid lease")
	}
	return l.uplink.Send(frame)
}

// host is a life as the Core sees it: the methods of role.Host, called by the
// loop.
type host life

var _ role.Host = (*host)(nil)

func (h *host) ToArbiter(m *pb.FromReplica) {
	if h.attach == nil {
		return
	}
	h.trace.reported(m.GetOutputs())
	if err := h.attach.Send(m); err != nil && !errors.Is(err, feed.ErrClosed) {
		h.log.Debug("message to the arbiter dropped", "error", err)
	}
}

func (h *host) ToStandby(m *pb.FromActive) {
	if h.feeding != nil {
		h.feeding.put(m)
	}
}

func (h *host) ToActive(m *pb.FromStandby) {
	f := h.following
	if f == nil {
		return
	}
	if s := m.GetStaged(); s != nil && f.staged != nil {
		// The stage's own word names the attempt that was staged, too.
		m = &pb.FromStandby{Term: m.GetTerm(), Body: &pb.FromStandby_Staged{Staged: f.staged.Message()}}
	}
	f.put(m)
}

func (h *host) Emit(frame []byte, leased bool) {
	h.emitter.emit(frame, leased)
}

func (h *host) Room() int { return h.worker.room() }

func (h *host) Deliver(frames [][]byte) int { return h.worker.deliver(frames) }

func (h *host) Idle() time.Duration { return h.worker.idle() }

func (h *host) Boot() {
	h.booted = true
	h.worker.boot(h.cfg.Guest, h.core.Term())
}

func (h *host) Pause()  { h.worker.pause() }
func (h *host) Resume() { h.worker.resume() }

func (h *host) Mute(mute bool) { h.uplink.Mute(mute) }

func (h *host) GoLive(guest []packet.Announcement) [][]byte {
	h.announcer.Announce(packet.Announce(guest))
	var frames [][]byte
	for _, f := range h.uplink.Recent() {
		frames = append(frames, f.Data)
	}
	return frames
}

func (h *host) ReadRecord() {
	h.busy.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
		defer cancel()
		view, err := h.store.Load(ctx, h.cfg.VM)
		if err != nil {
			h.log.Debug("no arbiter, and etcd does not answer", "error", err)
		}
		h.box.put(func() { h.core.RecordRead(fence.Now(), view.Record, view.Revision) })
	})
}

func (h *host) Claim(c role.Claim) {
	rec := proto.CloneOf(c.Record)
	rec.SinceUnixMs = time.Now().UnixMilli()
	conds := []fence.Condition{{ReplicaID: h.self.GetId(), MustExist: true, LeaseID: c.LeaseID}}
	if c.Gone != "" {
		conds = append(conds, fence.Condition{ReplicaID: c.Gone})
	}
	h.busy.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), etcdTimeout)
		defer cancel()
		_, err := h.store.CommitUnowned(ctx, rec, c.Expected, conds...)
		if err != nil {
			h.log.Debug("not going on alone", "why", err)
		}
		h.box.put(func() { h.core.Claimed(fence.Now(), err == nil) })
	})
}

func (h *host) Reattach() { (*life)(h).reattach() }

func (h *host) Discard(why string) { (*life)(h).end(fmt.Errorf("%w: %s", errDiscarded, why)) }

func (h *host) Exit(err error) { (*life)(h).end(err) }

// Report logs an event. What is only said again, such as that an arbiter still
// will not have this replica, is for who asks for details.
func (h *host) Report(e role.Event) {
	level := hclog.Info
	if e == h.reported {
		level = hclog.Debug
	}
	h.reported = e
	args := []any{"term", e.Term, "epoch", e.Epoch, "mode", modeName(e.Mode)}
	if e.Reason != pb.Reason_REASON_UNSPECIFIED {
		args = append(args, "reason", reasonName(e.Reason))
	}
	if e.Detail != "" {
		args = append(args, "detail", e.Detail)
	}
	if s := e.Stats; s != nil {
		args = append(args, "pause", e.Took.Round(10*time.Microsecond), "pages_compared", s.GetPagesCompared(),
			"pages_sent", s.GetPagesSent(), "pages_ahead", s.GetPagesAhead(), "blocks_sent", s.GetBlocksSent())
	}
	h.log.Log(level, e.What, args...)
}

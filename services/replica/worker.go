package replica

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/checkpoint"
	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/machine"
	"github.com/understudy-ft/understudy/services/role"
	"github.com/understudy-ft/understudy/services/vmm"
)

// checkpointVersion is the version of the encoded Checkpoint.
const checkpointVersion = 1

// worker does, one after the other, what takes time and needs the machine to
// itself: boot, pause, resume, save, load, reset.
type worker struct {
	life    *life
	machine atomic.Pointer[machine.Machine]

	mu     sync.Mutex
	queue  []func()
	closed bool
	wake   chan struct{}
	done   chan struct{}

	running  bool // the owner wants the guest to run
	disk     *disk.Image
	tempDisk string
}

func newWorker(l *life) *worker {
	w := &worker{life: l, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go w.run()
	return w
}

func (w *worker) do(fn func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.queue = append(w.queue, fn)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) run() {
	defer close(w.done)
	for range w.wake {
		for {
			w.mu.Lock()
			queue := w.queue
			w.queue = nil
			closed := w.closed
			w.mu.Unlock()
			if closed {
				return
			}
			if len(queue) == 0 {
				break
			}
			for _, fn := range queue {
				fn()
			}
		}
	}
}

// close ends the worker and the machine. The mailbox must be closed before, so
// that no hart waits for the loop.
func (w *worker) close() {
	w.mu.Lock()
	w.closed = true
	select {
	case w.wake <- struct{}{}:
	default:
	}
	w.mu.Unlock()
	<-w.done
	if m := w.machine.Swap(nil); m != nil {
		w.disk = m.Disk()
		if err := m.Close(); err != nil {
			w.life.log.Warn("close machine", "error", err)
		}
	}
	if w.disk != nil {
		if err := w.disk.Close(); err != nil {
			w.life.log.Warn("close disk", "error", err)
		}
	}
	if w.tempDisk != "" {
		_ = os.Remove(w.tempDisk) // a copy that nobody needs any more
	}
}

func (w *worker) fail(err error) { w.life.box.put(func() { w.life.end(err) }) }

// machine is the machine's configuration with a fresh seed.
func (g *Guest) machine() (machine.Config, error) {
	cfg := machine.Config{
		Engine: g.Engine, MemoryBytes: g.MemoryBytes, CPUs: g.CPUs, CPUBaseline: g.CPUBaseline, MAC: g.MAC,
		Kernel: g.Kernel, Initrd: g.Initrd, Append: g.Append,
		Disk: g.Disk, DiskReadOnly: g.DiskReadOnly,
	}
	if _, err := rand.Read(cfg.RNGSeed[:]); err != nil {
		return cfg, fmt.Errorf("seed the machine's generator: %w", err)
	}
	return cfg, nil
}

// build makes the machine, paused.
func (w *worker) build(g *Guest) error {
	cfg, err := g.machine()
	if err != nil {
		return err
	}
	m, err := machine.New(cfg, machine.Host{
		Transmit: func(frame []byte) { w.life.box.putFrame(guestSent, append([]byte(nil), frame...)) },
		NetReady: w.life.box.look,
		Console:  w.life.cfg.Console,
		OnStop:   w.stopped,
		OnIdle:   w.life.rested,
		Log:      w.life.log.Named("machine"),
	})
	if err != nil {
		return err
	}
	w.machine.Store(m)
	if in := w.life.cfg.ConsoleInput; in != nil {
		go copyConsole(in, m)
	}
	return nil
}

// boot starts the guest in a term; nil is the guest whose boot was kept beside
// its disk.
func (w *worker) boot(g *Guest, term uint64) {
	w.do(func() {
		if g == nil {
			var err error
			if g, err = readBoot(w.life.cfg.DiskPath); err != nil {
				w.fail(fmt.Errorf("boot the guest from its disk: %w", err))
				return
			}
		}
		if err := w.build(g); err != nil {
			w.fail(err)
			return
		}
		if g.Disk != nil && !g.readOnly() {
			// The guest takes what it finds for durable, and may answer with it; but a
			// process that was killed has left it with the kernel at most.
			if err := g.Disk.Flush(); err != nil {
				w.fail(fmt.Errorf("boot the guest: %w", err))
				return
			}
			if err := w.life.cfg.disk.use(term, w.life.self.GetId()); err != nil {
				w.fail(fmt.Errorf("boot the guest: %w", err))
				return
			}
			w.life.box.put(func() { w.life.stamped = true })
			w.life.keepBoot(g)
		}
		w.running = true
		if err := w.machine.Load().Start(); err != nil {
			w.fail(fmt.Errorf("boot the guest: %w", err))
		}
	})
}

// stopped is called by a hart when the guest has stopped by itself.
func (w *worker) stopped(s vmm.Stop) {
	w.life.box.put(func() { w.life.core.GuestEvent(fence.Now(), guestEvent(s.Cause), s.Detail) })
	if s.Cause != vmm.Reboot {
		return
	}
	w.do(func() {
		m := w.machine.Load()
		m.Pause()
		if err := m.Reset(); err != nil {
			w.fail(fmt.Errorf("reboot the guest: %w", err))
			return
		}
		if w.running {
			m.Resume()
		}
	})
}

func guestEvent(c vmm.StopCause) pb.GuestEvent {
	switch c {
	case vmm.PowerOff:
		return pb.GuestEvent_GUEST_EVENT_POWEROFF
	case vmm.Reboot:
		return pb.GuestEvent_GUEST_EVENT_REBOOT
	}
	return pb.GuestEvent_GUEST_EVENT_FAULT
}

func (w *worker) pause() {
	w.do(func() {
		w.running = false
		if m := w.machine.Load(); m != nil {
			m.Pause()
		}
		w.life.box.put(func() { w.life.core.Paused(fence.Now()) })
	})
}

func (w *worker) resume() {
	w.do(func() {
		w.running = true
		if m := w.machine.Load(); m != nil {
			m.Resume()
		}
		w.life.box.look() // there may be room for inputs now
	})
}

func (w *worker) deliver(frames [][]byte) int {
	if m := w.machine.Load(); m != nil {
		return m.Deliver(frames...)
	}
	return 0
}

func (w *worker) room() int {
	if m := w.machine.Load(); m != nil {
		return m.Room()
	}
	return 0
}

func (w *worker) idle() time.Duration {
	if m := w.machine.Load(); m != nil {
		return m.Idle()
	}
	return 0
}

// guestTime is the guest clock, for the feed's pings.
func (w *worker) guestTime() uint64 {
	if m := w.machine.Load(); m != nil {
		return m.Clock().Now()
	}
	return 0
}

// state encodes all of a checkpoint but pages and blocks; the machine is
// paused. From here on both copies read the same entropy.
func (w *worker) state(ck *role.Checkpoint) ([]byte, error) {
	m := w.machine.Load()
	saved, err := m.Save()
	if err != nil {
		return nil, fmt.Errorf("save the machine: %w", err)
	}
	var seed [32]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return nil, fmt.Errorf("seed the epoch's generator: %w", err)
	}
	m.ReseedRNG(seed)
	return proto.Marshal(&pb.Checkpoint{
		Version: checkpointVersion, Epoch: ck.Epoch, Machine: saved, Flows: ck.Flows, Held: ck.Held,
		ThroughInput: ck.ThroughInput, RngSeed: seed[:],
	})
}

// parseState is the inverse of state for what came from a peer.
func parseState(b []byte) (*pb.Checkpoint, error) {
	ck := &pb.Checkpoint{}
	if err := proto.Unmarshal(b, ck); err != nil {
		return nil, fmt.Errorf("decode the checkpoint: %w", err)
	}
	if ck.GetVersion() != checkpointVersion {
		return nil, fmt.Errorf("checkpoint has version %d, this replica knows %d", ck.GetVersion(), checkpointVersion)
	}
	if len(ck.GetRngSeed()) != 32 || ck.GetMachine() == nil {
		return nil, errors.New("checkpoint lacks the machine or its seed")
	}
	return ck, nil
}

// apply puts a stage into the paused machine. now bounds the active's guest
// time from above, so that this copy's clock is never behind the active's.
func (w *worker) apply(stage *checkpoint.Stage, ck *pb.Checkpoint, now func() (uint64, bool)) error {
	m := w.machine.Load()
	if err := stage.Apply(); err != nil {
		return err
	}
	if err := m.Load(ck.GetMachine()); err != nil {
		return fmt.Errorf("load the machine: %w", err)
	}
	if t, ok := now(); ok && t > ck.GetMachine().GetGuestNs() {
		m.Clock().Set(t)
	}
	m.ReseedRNG([32]byte(ck.GetRngSeed()))
	return nil
}

// openDisk opens or makes the local image of a standby and says whether it
// reads as zeros. From here on a copy is written to it.
func (w *worker) openDisk(size uint64) (img *disk.Image, empty bool, err error) {
	img, empty, err = w.openImage(size)
	if err != nil {
		return nil, false, err
	}
	w.disk = img // closed with the worker
	if err := w.life.cfg.disk.hold(); err != nil {
		return nil, false, err
	}
	return img, empty, nil
}

func (w *worker) openImage(size uint64) (img *disk.Image, empty bool, err error) {
	path := w.life.cfg.DiskPath
	if path == "" {
		f, err := os.CreateTemp("", "understudy-disk-*.img")
		if err != nil {
			return nil, false, fmt.Errorf("make a temporary disk image: %w", err)
		}
		path = f.Name()
		_ = f.Close() // disk.Create opens it by name
		_ = os.Remove(path)
		w.tempDisk = path
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		img, err = disk.Create(path, size)
		return img, true, err
	}
	if err == nil && info.Mode().IsRegular() && info.Size() == 0 {
		if err := os.Truncate(path, int64(size)); err != nil {
			return nil, false, fmt.Errorf("give the empty disk image its size: %w", err)
		}
		empty = true
	}
	img, err = openFitting(path, size)
	return img, empty, err
}

// guest is a machine as checkpoints see it.
type guest struct{ *machine.Machine }

func (g guest) Disk() checkpoint.Disk {
	if d := g.Machine.Disk(); d != nil {
		return blocks{d}
	}
	return nil
}

// blocks is a disk image in whole blocks: the end of a short last block reads
// as zeros and is ignored when written.
type blocks struct{ *disk.Image }

func (b blocks) ReadBlock(n uint64, p []byte) error {
	got, err := b.Image.ReadBlock(n, p)
	if err == nil {
		clear(p[got:])
	}
	return err
}

func (b blocks) WriteBlock(n uint64, p []byte) error {
	return b.Image.WriteBlock(n, p[:b.BlockLen(n)])
}

// copyConsole hands input to the guest's console until the input ends.
func copyConsole(in interface{ Read([]byte) (int, error) }, m *machine.Machine) {
	buf := make([]byte, 256)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			m.ConsoleInput(buf[:n])
		}
		if err != nil {
			return
		}
	}
}

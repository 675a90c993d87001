package replica

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/checkpoint"
	"github.com/understudy-ft/understudy/services/disk"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/flow"
	"github.com/understudy-ft/understudy/services/machine"
	"github.com/understudy-ft/understudy/services/role"
)

// patience bounds what must happen; only a failing test waits so long.
const patience = time.Minute

// shadow is a replica that was told to be the standby of "a", without arbiter,
// etcd and uplink.
type shadow struct {
	*life
	addr string
}

func newShadow(t *testing.T) *shadow {
	t.Helper()
	cfg := Config{VM: "web", Name: "b", DiskPath: filepath.Join(t.TempDir(), "disk.img"), Log: hclog.NewNullLogger(), fitness: &fitness{}}
	var err error
	if cfg.disk, err = openLocalDisk(&cfg); err != nil {
		t.Fatal(err)
	}
	l, err := newLife(cfg, "")
	if err != nil {
		t.Fatal(err)
	}
	l.core.FromArbiter(fence.Now(), &pb.ToReplica{Term: 1, Body: &pb.ToReplica_Assignment{Assignment: &pb.Assignment{
		Record: &pb.Record{Vm: "web", Term: 1, Mode: pb.Mode_MODE_SYNCING, Active: &pb.ReplicaRef{Id: "a"}, Standby: l.self}}}})
	ended := make(chan struct{})
	looped := make(chan struct{})
	go func() {
		defer close(looped)
		var batch []event
		for {
			select {
			case <-l.box.wake:
			case <-ended:
				return
			}
			batch = l.box.take(batch)
			for i := range batch {
				if batch[i].kind == call {
					batch[i].fn()
				}
			}
		}
	}()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(feed.ServerOptions(feed.Config{})...)
	pb.RegisterReplicationServer(s, feed.NewServer(l.accept, feed.Config{}))
	go s.Serve(ln)
	t.Cleanup(func() {
		s.Stop()
		l.box.close()
		l.busy.Wait()
		close(ended)
		<-looped
		l.worker.close()
		l.cfg.disk.settle()
	})
	return &shadow{life: l, addr: ln.Addr().String()}
}

// on lets the loop call fn, and waits for it.
func (s *shadow) on(fn func()) {
	done := make(chan struct{})
	s.box.put(func() { fn(); close(done) })
	<-done
}

// copier is the active's end of a feed, without a role.
type copier struct {
	*feed.Active
	sender   *checkpoint.Sender
	staged   chan *pb.Staged
	answered func() // the standby has answered a begin; nil: nothing to do
}

func (c *copier) OnMessage(m *pb.FromStandby) {
	switch b := m.GetBody().(type) {
	case *pb.FromStandby_DirtyPages:
		if c.answered != nil {
			c.answered()
		}
		c.sender.Answer(b.DirtyPages)
	case *pb.FromStandby_Staged:
		c.staged <- b.Staged
	}
}

func (c *copier) OnDown(error) {}

// copyTo opens a feed to s and copies m.
func copyTo(t *testing.T, s *shadow, m *machine.Machine) *copier {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := &copier{staged: make(chan *pb.Staged, 1)}
	c.sender = checkpoint.NewSender(guest{m}, func(ctx context.Context, m *pb.FromActive, done func()) error {
		return c.Send(ctx, m, done)
	}, checkpoint.SenderConfig{})
	hello := &pb.FeedHello{Protocol: role.Protocol, Vm: "web", ActiveId: "a", StandbyId: s.self.GetId(), Machine: &pb.MachineConfig{
		Engine: machine.EngineRV64, MemoryBytes: m.Memory().Size(), Cpus: 1, Mac: []byte{2, 0, 0, 0, 0, 1}, DiskBytes: m.Disk().Size()}}
	a, _, err := feed.Dial(ctx, s.addr, 1, hello, func() uint64 { return 0 }, c, feed.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(nil) })
	c.Active = a
	if err := c.sender.Live(ctx, &pb.CheckpointBegin{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	c.checkpoint(t, m, 1)
	select {
	case w := <-c.staged:
		if err := c.sender.Staged(w); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("the first copy is not staged")
	}
	return c
}

// checkpoint sends the rest of m's checkpoint.
func (c *copier) checkpoint(t *testing.T, m *machine.Machine, epoch uint64) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	saved, err := m.Save()
	if err != nil {
		t.Fatal(err)
	}
	ck := &pb.Checkpoint{Version: checkpointVersion, Epoch: epoch, Machine: saved, RngSeed: make([]byte, 32), Flows: flow.NewTable(1).Save()}
	if _, err := c.sender.Final(ctx, &pb.CheckpointBegin{Epoch: epoch}, func() ([]byte, error) { return proto.Marshal(ck) }); err != nil {
		t.Fatal(err)
	}
}

// inEpoch waits until the standby is in an epoch.
func (s *shadow) inEpoch(t *testing.T, want uint64) {
	t.Helper()
	var epoch uint64
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if s.on(func() { epoch = s.core.Epoch() }); epoch == want {
			return
		}
	}
	t.Fatalf("the standby is in epoch %d", epoch)
}

// first returns the first byte of the standby's page n.
func (s *shadow) first(n uint64) byte { return s.worker.machine.Load().Memory().Page(n)[0] }

// newMachine is a machine with a disk that has something in its memory.
func newMachine(t *testing.T) *machine.Machine {
	t.Helper()
	img, err := disk.Create(filepath.Join(t.TempDir(), "active.img"), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close() })
	g := &Guest{Engine: machine.EngineRV64, MemoryBytes: machine.MinMemory, CPUs: 1, MAC: [6]byte{2, 0, 0, 0, 0, 1}, Disk: img}
	cfg, err := g.machine()
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.New(cfg, machine.Host{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	for n := range uint64(1000) {
		m.Memory().Page(n)[0] = 1
	}
	return m
}

// The feed may end while what it brought is being put into the machine: that
// stays whole.
func TestFeedEndsWhileStageIsApplied(t *testing.T) {
	s := newShadow(t)
	m := newMachine(t)
	c := copyTo(t, s, m)
	s.inEpoch(t, 1)
	last := m.Memory().Pages() - 1
	for n := range m.Memory().Pages() {
		m.Memory().Page(n)[0] = 2
	}
	m.Memory().MarkDirty(m.Memory().Base(), m.Memory().Size())
	c.checkpoint(t, m, 2)
	<-c.staged
	c.Close(nil)
	s.busy.Wait()
	s.inEpoch(t, 2)
	if got := s.first(last); got != 2 {
		t.Fatalf("memory has %d", got)
	}
}

// A stage that the loop comes to after the end of its feed was told to nobody:
// it is dropped, and the old state stays.
func TestStageOfAnEndedFeedIsDropped(t *testing.T) {
	s := newShadow(t)
	m := newMachine(t)
	c := copyTo(t, s, m)
	s.inEpoch(t, 1)
	var f *following
	s.on(func() { f = s.following })
	if err := m.Memory().WriteAt([]byte{2}, m.Memory().Address(999)); err != nil {
		t.Fatal(err)
	}
	if err := m.Disk().WriteAt([]byte{2}, 4096); err != nil {
		t.Fatal(err)
	}
	m.Memory().MarkDirty(m.Memory().Address(999), 1)
	goOn := make(chan struct{})
	c.answered = func() {
		busy := make(chan struct{})
		s.box.put(func() {
			close(busy)
			<-goOn
			s.core.FeedDown(fence.Now(), errors.New("lost"))
		})
		<-busy
	}
	c.checkpoint(t, m, 2)
	for staged := false; !staged; time.Sleep(time.Millisecond) { // the loop is to hear of it
		s.box.mu.Lock()
		staged = len(s.box.queue) > 0
		s.box.mu.Unlock()
	}
	close(goOn)
	s.busy.Wait()
	s.inEpoch(t, 1)
	if got := s.first(999); got != 1 {
		t.Errorf("memory has %d", got)
	}
	if _, staged := f.receiver.Staged(); staged {
		t.Error("the stage is kept")
	}
	if len(c.staged) > 0 {
		t.Error("the active was told that it is staged")
	}
	s.cfg.disk.follow(pb.Role_ROLE_STANDBY, pb.Mode_MODE_PROTECTED, 1, 1, s.self.GetId())
	s.cfg.disk.settle()
	if !s.cfg.disk.whole() {
		t.Error("the image counts as being written")
	}
}

package checkpoint

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/feed"
	"github.com/understudy-ft/understudy/services/mem"
)

// BenchmarkDigest digests pages on one core and on all.
func BenchmarkDigest(b *testing.B) {
	g := newToy(b, 1<<15, 0)
	for n := range g.mem.Pages() {
		g.writePage(n, byte(n), 0)
	}
	sp := spaces(g)
	for _, cores := range []int{1, 0} {
		b.Run(fmt.Sprintf("cores=%d", cores), func(b *testing.B) {
			c := newCrew(7)
			if cores > 0 {
				c.workers = c.workers[:cores]
			}
			b.SetBytes(int64(g.mem.Size()))
			for b.Loop() {
				err := c.run(int(g.mem.Pages()), func(w *worker, lo, hi int) error {
					for n := lo; n < hi; n++ {
						if _, _, err := w.digest(&sp[pages], uint64(n)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// wired is a pair over a feed on the loopback interface.
type wired struct {
	sender   *Sender
	receiver *Receiver
	staged   chan *pb.Staged
	b        testing.TB
}

type wiredActive struct{ *wired }

func (w wiredActive) OnMessage(m *pb.FromStandby) {
	switch b := m.Body.(type) {
	case *pb.FromStandby_DirtyPages:
		w.sender.Answer(b.DirtyPages)
	case *pb.FromStandby_Staged:
		w.staged <- b.Staged
	}
}
func (w wiredActive) OnDown(error) {}

type wiredStandby struct {
	*wired
	feed *feed.Standby
}

func (w wiredStandby) OnMessage(m *pb.FromActive, free func()) {
	err := w.receiver.Handle(w.feed.Context(), m, free, func(m *pb.FromStandby) error {
		return w.feed.Send(w.feed.Context(), m)
	})
	if err != nil {
		w.b.Error(err)
		w.feed.Close(err)
		return
	}
	if stage, ok := w.receiver.Staged(); ok {
		if err := w.feed.Send(w.feed.Context(), &pb.FromStandby{Body: &pb.FromStandby_Staged{Staged: stage.Message()}}); err != nil {
			w.b.Error(err)
		}
		if err := stage.Apply(); err != nil {
			w.b.Error(err)
		}
	}
}
func (w wiredStandby) OnDown(error) {}

func wire(b testing.TB, active, standby *toy, sc SenderConfig, rc ReceiverConfig) *wired {
	w := &wired{staged: make(chan *pb.Staged, 1), receiver: NewReceiver(standby, rc), b: b}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := grpc.NewServer(feed.ServerOptions(feed.Config{})...)
	pb.RegisterReplicationServer(server, feed.NewServer(func(s *feed.Standby, _ uint64, _ *pb.FeedHello) (feed.StandbyHandler, *pb.FeedWelcome, error) {
		return wiredStandby{w, s}, &pb.FeedWelcome{}, nil
	}, feed.Config{SilentAfter: time.Minute}))
	go func() { _ = server.Serve(ln) }()
	b.Cleanup(server.Stop)
	cfg := feed.Config{SilentAfter: time.Minute, SendTimeout: time.Minute}
	a, _, err := feed.Dial(b.Context(), ln.Addr().String(), testTerm, &pb.FeedHello{}, func() uint64 { return 0 }, wiredActive{w}, cfg)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { a.Close(nil); <-a.Done() })
	w.sender = NewSender(active, a.Send, sc)
	return w
}

func (w *wired) final(ctx context.Context, epoch uint64) (*pb.SyncStats, error) {
	stats, err := w.sender.Final(ctx, &pb.CheckpointBegin{Epoch: epoch}, func() ([]byte, error) { return make([]byte, 100_000), nil })
	if err != nil {
		return nil, err
	}
	select {
	case m := <-w.staged:
		return stats, w.sender.Staged(m)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func TestOverAFeed(t *testing.T) {
	active, standby := newToy(t, 4000, 300), newToy(t, 4000, 300)
	active.garbage(1)
	w := wire(t, active, standby, SenderConfig{}, ReceiverConfig{MemoryZero: true, DiskZero: true})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stop := active.run(2, 1000, 100)
	defer stop()
	if err := w.sender.Live(ctx, &pb.CheckpointBegin{Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	stop()
	if _, err := w.final(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for epoch := range uint64(3) {
		// The standby has not applied for certain until it answers again.
		if err := w.sender.Precopy(ctx, &pb.CheckpointBegin{Epoch: 2 + epoch}); err != nil {
			t.Fatal(err)
		}
		p := &pair{active: active, standby: standby}
		p.diverge(byte(epoch))
		if _, err := w.final(ctx, 2+epoch); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.sender.Precopy(ctx, &pb.CheckpointBegin{Epoch: 9}); err != nil {
		t.Fatal(err)
	}
	if !active.equal(standby) {
		t.Error("differ")
	}
}

// BenchmarkPause is a resynchronization as the paused guests see it, from the
// begin to the word that it is staged, over a feed on the loopback interface.
func BenchmarkPause(b *testing.B) {
	for _, test := range []struct{ dirty, differ uint64 }{{1000, 0}, {1000, 250}, {10_000, 0}, {10_000, 2500}, {30_000, 30_000}} {
		b.Run(fmt.Sprintf("dirty=%d/differ=%d", test.dirty, test.differ), func(b *testing.B) {
			const pageCount = 1 << 15
			active, standby := newToy(b, pageCount, 8), newToy(b, pageCount, 8)
			for n := range uint64(pageCount) {
				active.writePage(n, byte(n), 0)
				standby.writePage(n, byte(n), 0)
			}
			w := wire(b, active, standby, SenderConfig{}, ReceiverConfig{})
			epoch := uint64(1)
			if _, err := w.final(b.Context(), epoch); err != nil {
				b.Fatal(err)
			}
			// Apply is behind the word: a precopy is answered only after it.
			settle := func() {
				if err := w.sender.Precopy(b.Context(), &pb.CheckpointBegin{Epoch: epoch + 1}); err != nil {
					b.Fatal(err)
				}
			}
			settle()
			b.ResetTimer()
			for i := 0; i < b.N; i++ {
				b.StopTimer()
				for n := range test.dirty {
					active.writePage(n, byte(i), 8)
					fill := byte(i)
					if n < test.differ {
						fill++
					}
					standby.writePage(n, fill, 8)
				}
				b.StartTimer()
				epoch++
				stats, err := w.final(b.Context(), epoch)
				b.StopTimer()
				if err != nil || stats.PagesSent != test.differ {
					b.Fatal(stats, err)
				}
				settle()
				b.StartTimer()
			}
		})
	}
}

// BenchmarkFirstCopy copies memory of which half is zero.
func BenchmarkFirstCopy(b *testing.B) {
	const pageCount = 1 << 16
	active := newToy(b, pageCount, 8)
	for n := range uint64(pageCount / 2) {
		active.writePage(n, byte(n), 0)
	}
	b.SetBytes(pageCount / 2 * BlockSize)
	for i := 0; i < b.N; i++ {
		b.StopTimer()
		m, err := mem.New(0, pageCount*BlockSize)
		if err != nil {
			b.Fatal(err)
		}
		standby := &toy{mem: m, disk: newToy(b, 1, 8).disk}
		w := wire(b, active, standby, SenderConfig{}, ReceiverConfig{MemoryZero: true, DiskZero: true})
		b.StartTimer()
		if err := w.sender.Live(b.Context(), &pb.CheckpointBegin{Epoch: 1}); err != nil {
			b.Fatal(err)
		}
		if _, err := w.final(b.Context(), 1); err != nil {
			b.Fatal(err)
		}
	}
}

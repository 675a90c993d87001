package checkpoint

import (
	"math/rand/v2"
	"sync"
	"testing"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// run lets guest threads write at random until stop is called.
func (g *toy) run(seed uint64, pageRange, blockRange uint64) (stop func()) {
	var wg sync.WaitGroup
	quit := make(chan struct{})
	for thread := range uint64(2) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, thread))
			for {
				select {
				case <-quit:
					return
				default:
				}
				for range 20 {
					g.writePage(r.Uint64N(pageRange), byte(r.Uint32()), r.IntN(3900))
				}
				g.writeBlock(r.Uint64N(blockRange), byte(r.Uint32N(2)))
			}
		})
	}
	return sync.OnceFunc(func() { close(quit); wg.Wait() })
}

func (g *toy) garbage(seed uint64) {
	r := rand.New(rand.NewPCG(seed, 9))
	for n := range g.mem.Pages() {
		g.writePage(n, byte(r.Uint32()), 0)
	}
	for n := range g.disk.Blocks() {
		g.writeBlock(n, byte(r.Uint32N(2)))
	}
}

func TestFirstCopyWhileTheGuestRuns(t *testing.T) {
	const pageCount, blockCount = 4000, 300
	for _, test := range []struct {
		name string
		sc   SenderConfig
		rc   ReceiverConfig
		old  bool
	}{
		{"fresh standby", SenderConfig{}, ReceiverConfig{MemoryZero: true, DiskZero: true}, false},
		{"compressed", SenderConfig{Compress: true}, ReceiverConfig{MemoryZero: true, DiskZero: true}, false},
		{"old image", SenderConfig{}, ReceiverConfig{}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			active, standby := newToy(t, pageCount, blockCount), newToy(t, pageCount, blockCount)
			for n := range uint64(pageCount / 2) {
				active.writePage(2*n, byte(n), 30)
			}
			if test.old {
				standby.garbage(4)
			}
			p := newPair(t, active, standby, test.sc, test.rc)
			stop := active.run(1, 200, 100)
			defer stop()
			if err := p.sender.Live(t.Context(), p.begin()); err != nil {
				t.Fatal(err)
			}
			stop()
			p.mustFinal()
			p.diverge(3)
			p.mustFinal()
		})
	}
}

func TestZeroPagesOfAFirstCopyStayAtHome(t *testing.T) {
	p := newPair(t, newToy(t, 4000, 300), newToy(t, 4000, 300), SenderConfig{}, ReceiverConfig{MemoryZero: true, DiskZero: true})
	p.active.writePage(17, 1, 0)
	p.active.writeBlock(200, 1)
	if err := p.sender.Live(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	if stats := p.mustFinal(); stats.PagesSent != 1 || stats.BlocksSent != 1 {
		t.Errorf("stats: %v", stats)
	}
}

func TestOldImageIsNotSentAgain(t *testing.T) {
	p := newPair(t, newToy(t, 10, 300), newToy(t, 10, 300), SenderConfig{}, ReceiverConfig{MemoryZero: true})
	p.active.garbage(5)
	p.standby.garbage(5)
	p.active.writeBlock(7, 99)
	p.active.writeBlock(8, 0)
	clear(p.standby.mem.Bytes())
	if err := p.sender.Live(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	if len(p.sent[blocks]) > 2 {
		t.Errorf("sent blocks %v", p.sent[blocks])
	}
	p.mustFinal()
}

func TestFirstCopyBrokenOffBeginsAgain(t *testing.T) {
	p := newPair(t, newToy(t, 1000, 100), newToy(t, 1000, 100), SenderConfig{}, ReceiverConfig{MemoryZero: true, DiskZero: true})
	p.active.garbage(6)
	for at := range 12 {
		p.active.garbage(uint64(at))
		clear(p.active.mem.Page(uint64(at))) // some turn zero again
		p.tamper = faults["cut"](at)
		if err := p.sender.Live(t.Context(), p.begin()); err == nil {
			t.Fatal("no error")
		}
		p.recv.Drop()
	}
	p.tamper = nil
	if err := p.sender.Live(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	p.mustFinal()
}

func TestLostLiveMessageIsNoticedAtTheCommit(t *testing.T) {
	p := newPair(t, newToy(t, 1000, 100), newToy(t, 1000, 100), SenderConfig{}, ReceiverConfig{MemoryZero: true, DiskZero: true})
	p.active.garbage(7)
	p.tamper = faults["lost"](3)
	if err := p.sender.Live(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	if _, err := p.final(nil); err == nil {
		t.Fatal("no error")
	}
	if _, ok := p.recv.Staged(); ok {
		t.Fatal("staged")
	}
	// Even a plain resynchronization then brings all.
	p.tamper = nil
	p.mustFinal()
}

func TestResyncAfterALiveCopyElsewhere(t *testing.T) {
	// The standby is replaced by one that knows nothing: a new sender and a new
	// receiver need no first copy to be right.
	p := synced(t, 1000, 100, SenderConfig{}, ReceiverConfig{})
	p.diverge(1)
	p.recv = NewReceiver(p.standby, ReceiverConfig{})
	p.mustFinal()
	p.diverge(2)
	p.sender = NewSender(p.active, p.send, SenderConfig{})
	p.mustFinal()
}

func TestLiveRoundsEnd(t *testing.T) {
	// A guest that writes everything all the time is paused in the end, too.
	p := newPair(t, newToy(t, 500, 50), newToy(t, 500, 50), SenderConfig{PauseTarget: 1}, ReceiverConfig{MemoryZero: true, DiskZero: true})
	rounds := 0
	p.tamper = func(m *pb.FromActive) (messages, error) {
		rounds++
		for n := range uint64(500) {
			p.active.writePage(n, byte(rounds), 0)
		}
		return messages{m}, nil
	}
	if err := p.sender.Live(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	p.tamper = nil
	p.mustFinal()
}

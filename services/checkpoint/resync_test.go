package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"pgregory.net/rapid"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// write is one write by one guest or by both.
type write struct {
	Kind kind
	N    uint64
	Fill byte
	At   int
	By   int // 1 active, 2 standby, 3 both
}

func writes(pageCount, blockCount uint64) *rapid.Generator[[]write] {
	one := rapid.Custom(func(t *rapid.T) write {
		w := write{
			Kind: kind(rapid.IntRange(0, 1).Draw(t, "kind")),
			Fill: byte(rapid.IntRange(0, 3).Draw(t, "fill")),
			By:   rapid.IntRange(1, 3).Draw(t, "by"),
		}
		limit := pageCount
		if w.Kind == blocks {
			limit = blockCount
		}
		w.N = rapid.Uint64Range(0, limit-1).Draw(t, "n")
		w.At = rapid.IntRange(0, 3900).Draw(t, "at")
		return w
	})
	return rapid.SliceOfN(one, 0, 60)
}

func (p *pair) apply(ws []write) {
	for _, w := range ws {
		for i, g := range []*toy{p.active, p.standby} {
			if w.By&(1<<i) == 0 {
				continue
			}
			if w.Kind == pages {
				g.writePage(w.N, w.Fill, w.At)
			} else {
				g.writeBlock(w.N, w.Fill)
			}
		}
	}
}

func TestResyncMakesEqualAndSendsOnlyWhatMayDiffer(t *testing.T) {
	const pageCount, blockCount = 300, 70
	rapid.Check(t, func(rt *rapid.T) {
		sc := SenderConfig{Compress: rapid.Bool().Draw(rt, "compress")}
		rc := ReceiverConfig{SpillDir: t.TempDir()}
		if rapid.Bool().Draw(rt, "spill") {
			rc.SpillBytes = 3 * BlockSize
		}
		p := synced(t, pageCount, blockCount, sc, rc)
		gen := writes(pageCount, blockCount)
		for range rapid.IntRange(1, 3).Draw(rt, "epochs") {
			ws := gen.Draw(rt, "writes")
			p.apply(ws)
			if rapid.Bool().Draw(rt, "collect") {
				if err := p.sender.Collect(); err != nil {
					rt.Fatal(err)
				}
			}
			// Equal where the standby wrote: must not be sent.
			var equal, standbyWrote, activeWrote [kinds]map[uint64]bool
			for k := range kinds {
				equal[k], standbyWrote[k], activeWrote[k] = map[uint64]bool{}, map[uint64]bool{}, map[uint64]bool{}
			}
			for _, w := range ws {
				a, s := p.active.mem.Bytes(), p.standby.mem.Bytes()
				if w.Kind == blocks {
					a, s = p.active.disk.data, p.standby.disk.data
				}
				at := w.N * BlockSize
				equal[w.Kind][w.N] = bytes.Equal(a[at:at+BlockSize], s[at:at+BlockSize])
				if w.By&1 != 0 {
					activeWrote[w.Kind][w.N] = true
				}
				if w.By&2 != 0 {
					standbyWrote[w.Kind][w.N] = true
				}
			}
			p.sent = [kinds]map[uint64]int{}
			stats := p.mustFinal()
			for k := range kinds {
				for n, times := range p.sent[k] {
					if times != 1 {
						rt.Fatalf("%s %d sent %d times", k, n, times)
					}
					if standbyWrote[k][n] && equal[k][n] {
						rt.Fatalf("%s %d is equal and was sent", k, n)
					}
					if !standbyWrote[k][n] && !activeWrote[k][n] {
						rt.Fatalf("%s %d was written by nobody and was sent", k, n)
					}
				}
			}
			want := &pb.SyncStats{
				PagesCompared: uint64(len(standbyWrote[pages])), BlocksCompared: uint64(len(standbyWrote[blocks])),
				PagesSent: uint64(len(p.sent[pages])), BlocksSent: uint64(len(p.sent[blocks])),
			}
			if stats.PagesCompared != want.PagesCompared || stats.BlocksCompared != want.BlocksCompared ||
				stats.PagesSent != want.PagesSent || stats.BlocksSent != want.BlocksSent {
				rt.Fatalf("stats %v, want %v", stats, want)
			}
		}
	})
}

func TestPrecopyWhileBothRun(t *testing.T) {
	const pageCount, blockCount = 300, 70
	rapid.Check(t, func(rt *rapid.T) {
		rc := ReceiverConfig{SpillDir: t.TempDir()}
		if rapid.Bool().Draw(rt, "spill") {
			rc.SpillBytes = 3 * BlockSize
		}
		p := synced(t, pageCount, blockCount, SenderConfig{}, rc)
		gen := writes(pageCount, blockCount)
		p.apply(gen.Draw(rt, "before"))
		for range rapid.IntRange(1, 3).Draw(rt, "rounds") {
			before := p.standby.clone(t)
			if err := p.sender.Precopy(t.Context(), p.begin()); err != nil {
				rt.Fatal(err)
			}
			if !before.equal(p.standby) {
				rt.Fatal("a precopy changed the standby")
			}
			p.apply(gen.Draw(rt, "between"))
		}
		if rapid.Bool().Draw(rt, "give up") {
			p.sender.Abort()
		}
		p.mustFinal()
		p.apply(gen.Draw(rt, "after"))
		p.mustFinal()
	})
}

func TestPrecopyLeavesLittleToThePause(t *testing.T) {
	p := synced(t, 2000, 100, SenderConfig{}, ReceiverConfig{})
	for n := range uint64(1000) {
		p.active.writePage(n, 1, 0)
		p.standby.writePage(n, 2, 0)
	}
	if err := p.sender.Precopy(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	p.active.writePage(5, 3, 0)
	p.active.writePage(1500, 3, 0)
	p.standby.writePage(6, 3, 0)
	p.standby.writePage(1501, 3, 0)
	p.sent = [kinds]map[uint64]int{}
	p.mustFinal()
	if got := len(p.sent[pages]); got != 3 {
		t.Errorf("%d pages sent in the pause, want 5, 1500 and 1501: %v", got, p.sent[pages])
	}
}

func TestGuestWithoutDisk(t *testing.T) {
	p := newPair(t, newToy(t, 100, 0), newToy(t, 100, 0), SenderConfig{}, ReceiverConfig{MemoryZero: true})
	p.active.writePage(3, 4, 5)
	if err := p.sender.Live(t.Context(), p.begin()); err != nil {
		t.Fatal(err)
	}
	p.mustFinal()
	p.active.writePage(99, 4, 5)
	p.standby.writePage(98, 4, 5)
	if stats := p.mustFinal(); stats.PagesSent != 2 || stats.PagesCompared != 1 {
		t.Errorf("stats: %v", stats)
	}
}

func TestLargeStateAndManyAnswers(t *testing.T) {
	const n = 3 * answerItems / 2
	p := synced(t, n, 8, SenderConfig{}, ReceiverConfig{})
	for i := range uint64(n) {
		p.standby.writePage(i, 1, 0)
	}
	state := make([]byte, 3*stateChunk/2)
	state[len(state)-1] = 1
	if _, err := p.final(state); err != nil {
		t.Fatal(err)
	}
	if !p.active.equal(p.standby) {
		t.Error("differ")
	}
}

func TestStateThatCannotBeSavedAborts(t *testing.T) {
	p := synced(t, 10, 2, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	boom := errors.New("boom")
	_, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, boom })
	if !errors.Is(err, boom) {
		t.Fatal(err)
	}
	p.mustFinal()
}

func TestSilentStandbyEndsWithTheDeadline(t *testing.T) {
	p := synced(t, 10, 2, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	p.tamper = func(*pb.FromActive) ([]*pb.FromActive, error) { return nil, nil }
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := p.sender.Final(ctx, p.begin(), func() ([]byte, error) { return nil, nil })
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	p.tamper = nil
	p.mustFinal()
}

func TestStagedNeedsItsOwnCheckpoint(t *testing.T) {
	p := synced(t, 10, 2, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	if err := p.sender.Staged(&pb.Staged{Epoch: p.epoch + 1}); !errors.Is(err, ErrNotCommitted) {
		t.Fatalf("before Final: %v", err)
	}
	if _, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	stage, _ := p.recv.Staged()
	other := stage.Message()
	other.Nonce++
	if err := p.sender.Staged(other); !errors.Is(err, ErrNotCommitted) {
		t.Fatalf("another nonce: %v", err)
	}
	// The word is lost, and both sides give up: nothing may be forgotten.
	p.sender.Abort()
	if err := p.sender.Staged(stage.Message()); !errors.Is(err, ErrNotCommitted) {
		t.Fatalf("after Abort: %v", err)
	}
	stage.Drop()
	if err := stage.Apply(); err == nil {
		t.Fatal("a dropped stage was applied")
	}
	p.mustFinal()
}

func TestAppliedButTheWordWasLost(t *testing.T) {
	p := synced(t, 10, 2, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	if _, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	stage, _ := p.recv.Staged()
	if err := stage.Apply(); err != nil {
		t.Fatal(err)
	}
	p.sender.Abort()
	p.active.writePage(2, 2, 2)
	p.standby.writePage(1, 3, 3)
	p.standby.writePage(4, 3, 3)
	p.mustFinal()
}

func TestWritesAfterTheCutBelongToTheNextEpoch(t *testing.T) {
	p := synced(t, 10, 2, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	if _, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	p.active.writePage(2, 2, 2)
	if err := p.sender.Collect(); err != nil {
		t.Fatal(err)
	}
	stage, _ := p.recv.Staged()
	if err := p.sender.Staged(stage.Message()); err != nil {
		t.Fatal(err)
	}
	if err := stage.Apply(); err != nil {
		t.Fatal(err)
	}
	p.epoch++
	p.mustFinal()
}

func TestNothingIsHandledWhileAStageWaits(t *testing.T) {
	p := synced(t, 10, 2, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	if _, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil }); !errors.Is(err, ErrProtocol) {
		t.Fatal(err)
	}
	stage, ok := p.recv.Staged()
	if !ok {
		t.Fatal("the stage is gone")
	}
	if err := stage.Apply(); err != nil || !p.active.equal(p.standby) {
		t.Fatal("the stage is spoilt", err)
	}
}

func TestSpilledStageLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	p := synced(t, 2000, 100, SenderConfig{}, ReceiverConfig{SpillBytes: 100 * BlockSize, SpillDir: dir})
	for n := range uint64(2000) {
		p.active.writePage(n, byte(n), 7)
	}
	if _, err := p.sender.Final(t.Context(), p.begin(), func() ([]byte, error) { return nil, nil }); err != nil {
		t.Fatal(err)
	}
	stage, _ := p.recv.Staged()
	if st := stage.t.store; st.inFile < 1000*BlockSize || st.inMem > 100*BlockSize {
		t.Errorf("%d bytes in the file, %d in memory", st.inFile, st.inMem)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 0 {
		t.Errorf("files with names: %v, %v", names, err)
	}
	file := stage.t.store.file
	if err := stage.Apply(); err != nil {
		t.Fatal(err)
	}
	if !p.active.equal(p.standby) {
		t.Error("differ")
	}
	if _, err := file.Stat(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("the file is still open: %v", err)
	}
}

func TestUnwritableSpillDropsTheTransfer(t *testing.T) {
	p := synced(t, 100, 10, SenderConfig{}, ReceiverConfig{SpillBytes: BlockSize, SpillDir: t.TempDir()})
	for n := range uint64(100) {
		p.active.writePage(n, byte(n), 7)
	}
	before := p.standby.clone(t)
	good := p.recv.cfg.SpillDir
	p.recv.cfg.SpillDir = good + "/missing"
	if _, err := p.final(nil); !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if !before.equal(p.standby) {
		t.Fatal("the standby changed")
	}
	p.recv.cfg.SpillDir = good
	p.mustFinal()
}

func TestTornApplySaysSoAndIsRepaired(t *testing.T) {
	p := synced(t, 100, 10, SenderConfig{}, ReceiverConfig{})
	p.active.writePage(1, 1, 1)
	p.active.writeBlock(1, 1)
	p.standby.disk.failing = true
	if _, err := p.final(nil); !errors.Is(err, ErrTorn) || !errors.Is(err, errToyDisk) {
		t.Fatal(err)
	}
	p.standby.disk.failing = false
	p.mustFinal()
}

func TestApplyFlushesTheDisk(t *testing.T) {
	p := synced(t, 100, 10, SenderConfig{}, ReceiverConfig{})
	before := p.standby.disk.flushes
	p.active.writePage(1, 1, 1)
	p.mustFinal()
	if p.standby.disk.flushes != before {
		t.Error("flushed without a block")
	}
	p.active.writeBlock(1, 1)
	p.mustFinal()
	if p.standby.disk.flushes != before+1 {
		t.Error("blocks were not flushed")
	}
}

// divergeEach lets both guests write n pages, each its own.
func (p *pair) divergeEach(n uint64, fill byte) {
	for i := range n {
		p.active.writePage(i, fill, 0)
		p.standby.writePage(i, fill+1, 0)
	}
}

func TestAheadEndsWhenLittleIsLeft(t *testing.T) {
	p := synced(t, 2000, 100, SenderConfig{}, ReceiverConfig{})
	p.divergeEach(1000, 1)
	rounds := 0
	p.tamper = func(m *pb.FromActive) (messages, error) {
		if b := m.GetCheckpointBegin(); b != nil {
			if rounds++; rounds == 2 {
				p.active.writePage(1500, 3, 0)
				p.standby.writePage(1501, 3, 0)
			}
		}
		return messages{m}, nil
	}
	sent, err := p.sender.Ahead(t.Context(), p.begin(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if rounds != 2 || sent != 1002 {
		t.Errorf("%d pages in %d rounds, want 1002 in 2", sent, rounds)
	}
	p.sent = [kinds]map[uint64]int{}
	p.mustFinal()
	if got := len(p.sent[pages]); got != 0 {
		t.Errorf("%d pages sent in the pause", got)
	}
}

// What a hurried Ahead has sent counts, and what it has not, on either side, is
// sent in the pause.
func TestAheadCutShort(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := synced(t, 600, 40, SenderConfig{}, ReceiverConfig{})
		gen := writes(600, 40)
		p.apply(gen.Draw(rt, "before"))
		p.divergeEach(rapid.Uint64Range(0, 500).Draw(rt, "diverge"), 1)
		enough := make(chan struct{})
		left := rapid.IntRange(0, 20).Draw(rt, "messages until it is enough")
		p.tamper = func(m *pb.FromActive) (messages, error) {
			if left--; left == -1 {
				close(enough)
			}
			return messages{m}, nil
		}
		ahead, err := p.sender.Ahead(t.Context(), p.begin(), enough)
		if err != nil {
			rt.Fatal(err)
		}
		p.tamper = nil
		p.apply(gen.Draw(rt, "between"))
		stats := p.mustFinal()
		if stats.PagesAhead > ahead || stats.PagesSent+stats.BlocksSent < ahead {
			rt.Fatalf("%v, of which %d ahead", stats, ahead)
		}
		p.mustFinal()
	})
}

// Guests that write everything all the time do not get more staged than the
// receiver takes.
func TestAheadOfGuestsThatWriteEverything(t *testing.T) {
	p := synced(t, 500, 50, SenderConfig{}, ReceiverConfig{})
	rounds := 0
	p.tamper = func(m *pb.FromActive) (messages, error) {
		if m.GetCheckpointBegin() != nil {
			rounds++
			p.divergeEach(500, byte(2*rounds))
		}
		return messages{m}, nil
	}
	if _, err := p.sender.Ahead(t.Context(), p.begin(), nil); err != nil {
		t.Fatal(err)
	}
	p.tamper = nil
	if rounds > 2 {
		t.Errorf("%d rounds that get no shorter", rounds)
	}
	p.divergeEach(500, 100)
	p.mustFinal()
}

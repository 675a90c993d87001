package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/mem"
)

// toy is a guest with memory and perhaps a disk that tests write to.
type toy struct {
	mem  *mem.Memory
	disk *toyDisk
}

func newToy(t testing.TB, pageCount, blockCount uint64) *toy {
	t.Helper()
	m, err := mem.New(0x8000_0000, pageCount*BlockSize)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	g := &toy{mem: m}
	if blockCount > 0 {
		g.disk = &toyDisk{data: make([]byte, blockCount*BlockSize), dirty: mem.NewBitmap(blockCount)}
	}
	return g
}

func (g *toy) Memory() *mem.Memory { return g.mem }

func (g *toy) DrainDirty(dst mem.Bitmap) error {
	g.mem.Dirty().DrainInto(dst)
	return nil
}

func (g *toy) Disk() Disk {
	if g.disk == nil {
		return nil
	}
	return g.disk
}

// writePage and writeBlock write as the guest would: and are dirty after it.
func (g *toy) writePage(n uint64, fill byte, at int) {
	addr := g.mem.Base() + n*BlockSize
	if err := g.mem.WriteAt(bytes.Repeat([]byte{fill}, 100), addr+uint64(at)); err != nil {
		panic(err)
	}
}

func (g *toy) writeBlock(n uint64, fill byte) {
	if err := g.disk.WriteBlock(n, bytes.Repeat([]byte{fill}, BlockSize)); err != nil {
		panic(err)
	}
}

func (g *toy) clone(t testing.TB) *toy {
	c := newToy(t, g.mem.Pages(), uint64(len(g.disk.data))/BlockSize)
	copy(c.mem.Bytes(), g.mem.Bytes())
	copy(c.disk.data, g.disk.data)
	return c
}

func (g *toy) equal(o *toy) bool {
	return bytes.Equal(g.mem.Bytes(), o.mem.Bytes()) && (g.disk == nil || bytes.Equal(g.disk.data, o.disk.data))
}

// clean tells whether no page or block is dirty.
func (g *toy) clean() bool {
	return g.mem.Dirty().Count() == 0 && (g.disk == nil || g.disk.dirty.Count() == 0)
}

type toyDisk struct {
	mu      sync.RWMutex
	data    []byte
	dirty   mem.Bitmap
	failing bool
	flushes int
}

var errToyDisk = errors.New("toy disk fails")

func (d *toyDisk) Blocks() uint64 { return uint64(len(d.data)) / BlockSize }

func (d *toyDisk) ReadBlock(n uint64, p []byte) error {
	d.mu.RLock()
	defer d.mu.RUnlock()
	copy(p, d.data[n*BlockSize:])
	return nil
}

func (d *toyDisk) WriteBlock(n uint64, p []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failing {
		return errToyDisk
	}
	copy(d.data[n*BlockSize:(n+1)*BlockSize], p)
	d.dirty.Set(n)
	return nil
}

func (d *toyDisk) DrainDirty(dst mem.Bitmap) { d.dirty.DrainInto(dst) }

func (d *toyDisk) Flush() error {
	d.flushes++
	return nil
}

// pair is an active and a standby, and the way between them.
type pair struct {
	t       testing.TB
	active  *toy
	standby *toy
	sender  *Sender
	recv    *Receiver
	// sent are the pages and blocks that were sent since it was last cleared.
	sent [kinds]map[uint64]int
	// tamper, where set, gets each message as it is on its way and returns
	// what arrives in its place. An error breaks the way.
	tamper func(m *pb.FromActive) ([]*pb.FromActive, error)
	epoch  uint64
	lent   int // messages that are not freed
}

const testTerm = 7

func newPair(t testing.TB, active, standby *toy, sc SenderConfig, rc ReceiverConfig) *pair {
	p := &pair{t: t, active: active, standby: standby}
	p.sender = NewSender(active, p.send, sc)
	p.recv = NewReceiver(standby, rc)
	return p
}

// send carries a message as the wire does: encoded.
func (p *pair) send(ctx context.Context, m *pb.FromActive, done func()) error {
	m.Term = testTerm
	m = reencode(p.t, m)
	if done != nil {
		done()
	}
	arriving := []*pb.FromActive{m}
	if p.tamper != nil {
		var err error
		if arriving, err = p.tamper(m); err != nil {
			return err
		}
	}
	for _, m := range arriving {
		p.note(m)
		p.lent++
		data := [][]byte{m.GetPages().GetData(), m.GetBlocks().GetData()}
		free := func() {
			p.lent--
			for _, d := range data {
				for i := range d {
					d[i] = 0xee // as the next message would
				}
			}
		}
		if err := p.recv.Handle(ctx, m, free, p.reply); err != nil {
			return err
		}
	}
	return nil
}

func (p *pair) reply(m *pb.FromStandby) error {
	p.sender.Answer(reencode(p.t, m).GetDirtyPages())
	return nil
}

func (p *pair) note(m *pb.FromActive) {
	for k, numbers := range [kinds][]uint64{m.GetPages().GetNumbers(), m.GetBlocks().GetNumbers()} {
		if p.sent[k] == nil {
			p.sent[k] = map[uint64]int{}
		}
		for _, n := range numbers {
			p.sent[k][n]++
		}
	}
}

// begin returns the next epoch's begin.
func (p *pair) begin() *pb.CheckpointBegin {
	return &pb.CheckpointBegin{Epoch: p.epoch + 1, Reason: pb.Reason_REASON_MISMATCH, ThroughInput: 11}
}

// final does a whole resynchronization of two paused guests.
func (p *pair) final(state []byte) (*pb.SyncStats, error) {
	stats, err := p.sender.Final(p.t.Context(), p.begin(), func() ([]byte, error) { return state, nil })
	if err != nil {
		return nil, err
	}
	stage, ok := p.recv.Staged()
	if !ok {
		return nil, errors.New("final sent, nothing staged")
	}
	if !bytes.Equal(stage.State(), state) || stage.Epoch() != p.epoch+1 || stage.Begin().ThroughInput != 11 {
		return nil, errors.New("stage holds something else")
	}
	if err := p.sender.Staged(stage.Message()); err != nil {
		return nil, err
	}
	if err := stage.Apply(); err != nil {
		return nil, err
	}
	p.epoch++
	if p.lent != 0 {
		return nil, fmt.Errorf("%d messages are not freed", p.lent)
	}
	return stats, nil
}

func (p *pair) mustFinal() *pb.SyncStats {
	p.t.Helper()
	stats, err := p.final([]byte("state"))
	if err != nil {
		p.t.Fatal(err)
	}
	if !p.active.equal(p.standby) {
		p.t.Fatal("the standby differs after a resynchronization")
	}
	if !p.standby.clean() {
		p.t.Fatal("the new epoch of the standby begins with dirty pages")
	}
	return stats
}

// synced returns a pair that shares an epoch and random contents.
func synced(t testing.TB, pageCount, blockCount uint64, sc SenderConfig, rc ReceiverConfig) *pair {
	active := newToy(t, pageCount, blockCount)
	r := rand.New(rand.NewPCG(1, 2))
	for range pageCount / 2 {
		active.writePage(r.Uint64N(pageCount), byte(r.Uint32()), r.IntN(3900))
	}
	for range blockCount / 2 {
		active.writeBlock(r.Uint64N(blockCount), byte(r.Uint32()))
	}
	p := newPair(t, active, newToy(t, pageCount, blockCount), sc, rc)
	p.mustFinal()
	p.sent = [kinds]map[uint64]int{}
	return p
}

func reencode[M proto.Message](t testing.TB, m M) M {
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	out := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(b, out); err != nil {
		t.Fatal(err)
	}
	return out.(M)
}

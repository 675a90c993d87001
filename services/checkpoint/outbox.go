package checkpoint

import (
	"context"

	"github.com/klauspost/compress/s2"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Send hands a message to the feed. It may block for back-pressure, but not
// after ctx is done. done, where not nil, is called exactly once, by any
// goroutine, when m's memory may be reused: it was encoded, or will not be.
type Send func(ctx context.Context, m *pb.FromActive, done func()) error

const (
	// chunkItems bounds the pages with data in one message, for 1 MiB with
	// everything around it; runningItems does so while guests run, for 128 KiB.
	chunkItems   = 240
	runningItems = 31
	// chunkNumbers bounds the numbers in one message, zero pages included.
	chunkNumbers = 4096
	// chunkCount is the number of messages that may be under way.
	chunkCount = 4
	// stateChunk is the size in bytes of a message's share of the state.
	stateChunk = 512 << 10
)

// chunk is a message of pages or blocks with the memory that it needs.
type chunk struct {
	msg        pb.FromActive
	pages      pb.CheckpointPages
	blocks     pb.CheckpointBlocks
	pagesBody  pb.FromActive_Pages
	blocksBody pb.FromActive_Blocks
	done       func()

	kind    kind
	numbers []uint64
	zero    []bool
	hasZero bool
	data    []byte
	packed  []byte
}

// newPool returns the chunks that one attempt after the other uses.
func newPool() chan *chunk {
	pool := make(chan *chunk, chunkCount)
	for range chunkCount {
		c := &chunk{data: make([]byte, 0, chunkItems*BlockSize)}
		c.pagesBody.Pages = &c.pages
		c.blocksBody.Blocks = &c.blocks
		c.done = func() { pool <- c }
		pool <- c
	}
	return pool
}

// outbox gathers pages and blocks into messages.
type outbox struct {
	send     Send
	compress bool
	epoch    uint64
	items    int
	pool     chan *chunk
	cur      *chunk
	log      *transcript
	sent     [kinds]uint64
	bytes    uint64
	// skip counts the chunks not to compress, after one that did not pay.
	skip int
}

// add puts item n of s into the current message, and sends it when it is full.
// Zero items are left out where omitZero is set.
func (o *outbox) add(ctx context.Context, s *space, n uint64, omitZero bool) error {
	c, err := o.chunk(ctx, s.kind)
	if err != nil {
		return err
	}
	at := len(c.data)
	item, err := s.read(n, c.data[at:at+BlockSize])
	if err != nil {
		return err
	}
	zero := isZero(item)
	if zero && omitZero {
		return nil
	}
	if !zero {
		c.data = c.data[:at+BlockSize]
		if s.kind == pages {
			copy(c.data[at:], item)
		}
	}
	c.numbers = append(c.numbers, n)
	c.zero = append(c.zero, zero)
	c.hasZero = c.hasZero || zero
	o.sent[s.kind]++
	if len(c.data) >= o.items*BlockSize || len(c.numbers) == chunkNumbers {
		return o.flush(ctx)
	}
	return nil
}

// chunk returns a chunk of the kind with room for one more item.
func (o *outbox) chunk(ctx context.Context, k kind) (*chunk, error) {
	if o.cur != nil && o.cur.kind != k {
		if err := o.flush(ctx); err != nil {
			return nil, err
		}
	}
	if o.cur == nil {
		select {
		case c := <-o.pool:
			c.kind, c.numbers, c.zero, c.hasZero, c.data = k, c.numbers[:0], c.zero[:0], false, c.data[:0]
			o.cur = c
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return o.cur, nil
}

// flush sends what was gathered.
func (o *outbox) flush(ctx context.Context) error {
	c := o.cur
	if c == nil {
		return nil
	}
	o.cur = nil
	if len(c.numbers) == 0 {
		c.done()
		return nil
	}
	data, compressed := o.pack(c)
	zero := c.zero
	if !c.hasZero {
		zero = nil
	}
	o.log.items(c.kind, c.numbers, zero, data, compressed)
	o.bytes += uint64(len(data))
	if c.kind == pages {
		m := &c.pages
		m.Epoch, m.Numbers, m.Zero, m.Data, m.Compressed = o.epoch, c.numbers, zero, data, compressed
		c.msg.Body = &c.pagesBody
	} else {
		m := &c.blocks
		m.Epoch, m.Numbers, m.Zero, m.Data, m.Compressed = o.epoch, c.numbers, zero, data, compressed
		c.msg.Body = &c.blocksBody
	}
	return o.send(ctx, &c.msg, c.done)
}

// pack compresses a chunk's data where that saves an eighth or more.
func (o *outbox) pack(c *chunk) (data []byte, compressed bool) {
	if !o.compress || len(c.data) == 0 {
		return c.data, false
	}
	if o.skip > 0 {
		o.skip--
		return c.data, false
	}
	if c.packed == nil {
		c.packed = make([]byte, s2.MaxEncodedLen(chunkItems*BlockSize))
	}
	p := s2.Encode(c.packed, c.data)
	if len(p) > len(c.data)/8*7 {
		o.skip = 7
		return c.data, false
	}
	return p, true
}

// total returns how many pages and blocks were sent.
func (o *outbox) total() uint64 { return o.sent[pages] + o.sent[blocks] }

// begin sends b.
func (o *outbox) begin(ctx context.Context, b *pb.CheckpointBegin) error {
	o.log.begin(b)
	return o.send(ctx, &pb.FromActive{Body: &pb.FromActive_CheckpointBegin{CheckpointBegin: b}}, nil)
}

// finish sends the state and the commit.
func (o *outbox) finish(ctx context.Context, state []byte) error {
	for off := 0; off < len(state); off += stateChunk {
		data := state[off:min(off+stateChunk, len(state))]
		o.log.state(uint64(off), data)
		o.bytes += uint64(len(data))
		m := &pb.CheckpointState{Epoch: o.epoch, Offset: uint64(off), Data: data}
		if err := o.send(ctx, &pb.FromActive{Body: &pb.FromActive_State{State: m}}, nil); err != nil {
			return err
		}
	}
	m := &pb.CheckpointCommit{
		Epoch: o.epoch, Pages: o.sent[pages], Blocks: o.sent[blocks],
		StateBytes: uint64(len(state)), Digest: o.log.sum(),
	}
	return o.send(ctx, &pb.FromActive{Body: &pb.FromActive_Commit{Commit: m}}, nil)
}

package feed

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

func bulkMessages() []*pb.FromActive {
	data := bytes.Repeat([]byte("0123456789abcdef"), 3*4096/16)
	return []*pb.FromActive{
		{Term: 3, Body: &pb.FromActive_Pages{Pages: &pb.CheckpointPages{Epoch: 9, Numbers: []uint64{0, 5, 300, 1 << 40}, Zero: []bool{false, true, false, false}, Data: data}}},
		{Term: 1 << 60, Body: &pb.FromActive_Blocks{Blocks: &pb.CheckpointBlocks{Numbers: []uint64{1, 2, 3}, Data: data, Compressed: true}}},
		{Body: &pb.FromActive_Pages{Pages: &pb.CheckpointPages{Data: data}}},
	}
}

// TestBulkIsProtobuf encodes bulk in pieces: protobuf reads it as the same
// message, and so does decodeBulk, whose data is no copy.
func TestBulkIsProtobuf(t *testing.T) {
	for _, m := range bulkMessages() {
		called := 0
		o := &outgoing{msg: m, done: func() { called++ }}
		parts, err := newCodec().Marshal(o)
		if err != nil || !o.taken {
			t.Fatalf("%v, taken %t", err, o.taken)
		}
		wire := parts.Materialize()
		parts.Free()
		if called != 1 {
			t.Errorf("done was called %d times", called)
		}
		plain, found := &pb.FromActive{}, &pb.FromActive{}
		if err := proto.Unmarshal(wire, plain); err != nil || !proto.Equal(plain, m) {
			t.Errorf("protobuf reads %v, %v", plain, err)
		}
		if !decodeBulk(wire, found) || !proto.Equal(found, m) {
			t.Errorf("decodeBulk reads %v", found)
		}
		clear(wire)
		data := append(found.GetPages().GetData(), found.GetBlocks().GetData()...)
		if !bytes.Equal(data, make([]byte, len(data))) {
			t.Error("the data was copied")
		}
	}
}

// TestBulkReference keeps what was received until it is freed.
func TestBulkReference(t *testing.T) {
	m := bulkMessages()[0]
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	for _, encoded := range [][]byte{wire, mustEncode(t, m)} {
		var i incoming
		half := len(encoded) / 2
		parts := mem.BufferSlice{mem.SliceBuffer(encoded[:half]), mem.SliceBuffer(encoded[half:])}
		if err := newCodec().Unmarshal(parts, &i); err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(i.msg, m) {
			t.Errorf("received %v", i.msg)
		}
		i.free()
	}
}

func mustEncode(t *testing.T, m *pb.FromActive) []byte {
	parts, err := newCodec().Marshal(&outgoing{msg: m})
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Free()
	return parts.Materialize()
}

// FuzzBulk decodes anything: what decodeBulk takes, protobuf reads as the same
// message.
func FuzzBulk(f *testing.F) {
	for _, m := range bulkMessages() {
		head, data := encodeBulk(m)
		f.Add(append(head, data...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		found, want := &pb.FromActive{}, &pb.FromActive{}
		if !decodeBulk(b, found) {
			return
		}
		if err := proto.Unmarshal(b, want); err != nil {
			t.Fatalf("protobuf does not read it: %v", err)
		}
		if !proto.Equal(found, want) {
			t.Errorf("read %v instead of %v", found, want)
		}
	})
}

// TestBulkAllocations counts what a message of 240 pages costs each end, beyond
// what is pooled: its size must not matter.
func TestBulkAllocations(t *testing.T) {
	const pages = 240
	p := &pb.CheckpointPages{Epoch: 1, Data: make([]byte, pages*4096)}
	for n := range uint64(pages) {
		p.Numbers = append(p.Numbers, n)
	}
	m := &pb.FromActive{Term: 1, Body: &pb.FromActive_Pages{Pages: p}}
	c := newCodec()
	allocs := testing.AllocsPerRun(100, func() {
		parts, err := c.Marshal(&outgoing{msg: m})
		if err != nil {
			t.Fatal(err)
		}
		var i incoming
		if err := c.Unmarshal(parts, &i); err != nil {
			t.Fatal(err)
		}
		i.free()
		parts.Free()
	})
	if allocs > 40 {
		t.Errorf("%v allocations for a message of %d pages at both ends", allocs, pages)
	}
}

// TestBulkOverhead bounds what a page costs on the wire beside its bytes.
func TestBulkOverhead(t *testing.T) {
	const pages = 240
	p := &pb.CheckpointPages{Epoch: 1 << 30, Data: make([]byte, pages*4096)}
	for n := range uint64(pages) {
		p.Numbers = append(p.Numbers, 1<<20-n) // of a guest with 4 GiB
	}
	m := &pb.FromActive{Term: 1 << 30, Body: &pb.FromActive_Pages{Pages: p}}
	if over := len(mustEncode(t, m)) - len(p.Data); over > 4*pages+64 {
		t.Errorf("%d bytes beside the data of %d pages", over, pages)
	}
}

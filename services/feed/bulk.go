package feed

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/encoding"
	protocodec "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Nearly all that a feed carries is the data of pages and blocks. Protobuf
// would copy it into a message at one end, and out of it into fresh memory at
// the other. codec does not: what it sends refers to the sender's memory, and
// what it receives to the transport's, until the owner is done with it. On the
// wire it is the protobuf message.

// outgoing is a message to the standby. done is called once its memory may be
// reused, but for a transport that dies with the message.
type outgoing struct {
	msg  *pb.FromActive
	done func()
	// taken: done is the codec's to call.
	taken bool
}

// incoming is a message from the active. It is valid until free.
type incoming struct {
	msg *pb.FromActive
	buf mem.Buffer // what msg refers to, or nil
}

func (i *incoming) free() {
	if i.buf != nil {
		i.buf.Free()
	}
}

// codec is gRPC's codec for protobuf, which also knows outgoing and incoming, and
// is quick with outputs and releases.
type codec struct{ encoding.CodecV2 }

func newCodec() codec { return codec{encoding.GetCodecV2(protocodec.Name)} }

func (c codec) Marshal(v any) (mem.BufferSlice, error) {
	switch m := v.(type) {
	case *outgoing:
		return c.marshalBulk(m)
	case *pb.FromReplica:
		if b := encodeOutputs(m); b != nil {
			return b, nil
		}
	case *pb.ToReplica:
		if b := encodeRelease(m); b != nil {
			return b, nil
		}
	}
	return c.CodecV2.Marshal(v)
}

func (c codec) marshalBulk(o *outgoing) (mem.BufferSlice, error) {
	head, data := encodeBulk(o.msg)
	// gRPC does not count the references to small memory.
	if mem.IsBelowBufferPoolingThreshold(cap(data)) {
		return c.CodecV2.Marshal(o.msg)
	}
	o.taken = true
	return mem.BufferSlice{mem.SliceBuffer(head), mem.NewBuffer(&data, whenFreed(o.done))}, nil
}

func (c codec) Unmarshal(data mem.BufferSlice, v any) error {
	switch m := v.(type) {
	case *incoming:
		return unmarshalBulk(data, m)
	case *pb.FromReplica:
		return unmarshalQuick(data, m, decodeOutputs)
	case *pb.ToReplica:
		return unmarshalQuick(data, m, decodeRelease)
	}
	return c.CodecV2.Unmarshal(data, v)
}

// unmarshalQuick decodes into m by decode, or else by protobuf. m refers to
// nothing of data.
func unmarshalQuick[M proto.Message](data mem.BufferSlice, m M, decode func([]byte, M) bool) error {
	buf := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer buf.Free()
	proto.Reset(m)
	if decode(buf.ReadOnlyData(), m) {
		return nil
	}
	return proto.Unmarshal(buf.ReadOnlyData(), m)
}

func unmarshalBulk(data mem.BufferSlice, i *incoming) error {
	i.msg = &pb.FromActive{}
	buf := data.MaterializeToBuffer(&received)
	if decodeBulk(buf.ReadOnlyData(), i.msg) {
		i.buf = buf
		return nil
	}
	defer buf.Free()
	return proto.Unmarshal(buf.ReadOnlyData(), i.msg)
}

// whenFreed is the pool of one buffer: it is called when nobody refers to that
// any more.
type whenFreed func()

func (whenFreed) Get(n int) *[]byte {
	b := make([]byte, n)
	return &b
}

func (f whenFreed) Put(*[]byte) {
	call(f)
}

// Numbers of fields in replication.proto: of FromActive, and of
// CheckpointPages, which are those of CheckpointBlocks.
const (
	fieldTerm   protowire.Number = 1
	fieldPages  protowire.Number = 7
	fieldBlocks protowire.Number = 8

	fieldEpoch      protowire.Number = 1
	fieldNumbers    protowire.Number = 2
	fieldZero       protowire.Number = 3
	fieldData       protowire.Number = 4
	fieldCompressed protowire.Number = 5
)

// items are the fields of a CheckpointPages or CheckpointBlocks.
type items struct {
	epoch      uint64
	numbers    []uint64
	zero       []bool
	data       []byte
	compressed bool
}

// encodeBulk returns the encoding of pages or blocks in two pieces, of which
// the second is their data itself; none for other messages.
func encodeBulk(m *pb.FromActive) (head, data []byte) {
	field, i := fieldPages, items{}
	switch b := m.GetBody().(type) {
	case *pb.FromActive_Pages:
		p := b.Pages
		i = items{p.GetEpoch(), p.GetNumbers(), p.GetZero(), p.GetData(), p.GetCompressed()}
	case *pb.FromActive_Blocks:
		p := b.Blocks
		field, i = fieldBlocks, items{p.GetEpoch(), p.GetNumbers(), p.GetZero(), p.GetData(), p.GetCompressed()}
	default:
		return nil, nil
	}
	packed := 0
	for _, n := range i.numbers {
		packed += protowire.SizeVarint(n)
	}
	body := make([]byte, 0, packed+len(i.zero)+64)
	body = appendVarint(body, fieldEpoch, i.epoch)
	body = appendVarint(body, fieldCompressed, protowire.EncodeBool(i.compressed))
	body = protowire.AppendTag(body, fieldNumbers, protowire.BytesType)
	body = protowire.AppendVarint(body, uint64(packed))
	for _, n := range i.numbers {
		body = protowire.AppendVarint(body, n)
	}
	body = protowire.AppendTag(body, fieldZero, protowire.BytesType)
	body = protowire.AppendVarint(body, uint64(len(i.zero)))
	for _, z := range i.zero {
		body = protowire.AppendVarint(body, protowire.EncodeBool(z))
	}
	body = protowire.AppendTag(body, fieldData, protowire.BytesType)
	body = protowire.AppendVarint(body, uint64(len(i.data)))

	head = make([]byte, 0, len(body)+32)
	head = appendVarint(head, fieldTerm, m.GetTerm())
	head = protowire.AppendTag(head, field, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(len(body)+len(i.data)))
	return append(head, body...), i.data
}

func appendVarint(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

// decodeBulk decodes pages or blocks into m, whose data refers to b. It returns
// false for what is not encoded as encodeBulk does, which protobuf decodes.
func decodeBulk(b []byte, m *pb.FromActive) bool {
	term, b, ok := varint(b, fieldTerm)
	if !ok {
		return false
	}
	field, kind, n := protowire.ConsumeTag(b)
	if n < 0 || kind != protowire.BytesType || field != fieldPages && field != fieldBlocks {
		return false
	}
	body, rest := protowire.ConsumeBytes(b[n:])
	if rest < 0 || n+rest != len(b) {
		return false
	}
	i, ok := decodeItems(body)
	if !ok {
		return false
	}
	m.Term = term
	if field == fieldPages {
		m.Body = &pb.FromActive_Pages{Pages: &pb.CheckpointPages{
			Epoch: i.epoch, Numbers: i.numbers, Zero: i.zero, Data: i.data, Compressed: i.compressed}}
	} else {
		m.Body = &pb.FromActive_Blocks{Blocks: &pb.CheckpointBlocks{
			Epoch: i.epoch, Numbers: i.numbers, Zero: i.zero, Data: i.data, Compressed: i.compressed}}
	}
	return true
}

func decodeItems(b []byte) (i items, ok bool) {
	var compressed uint64
	var numbers, zero []byte
	if i.epoch, b, ok = varint(b, fieldEpoch); !ok {
		return i, false
	}
	if compressed, b, ok = varint(b, fieldCompressed); !ok {
		return i, false
	}
	i.compressed = protowire.DecodeBool(compressed)
	if numbers, b, ok = span(b, fieldNumbers); !ok {
		return i, false
	}
	if i.numbers, ok = varints(numbers, func(v uint64) uint64 { return v }); !ok {
		return i, false
	}
	if zero, b, ok = span(b, fieldZero); !ok {
		return i, false
	}
	if i.zero, ok = varints(zero, protowire.DecodeBool); !ok {
		return i, false
	}
	i.data, b, ok = span(b, fieldData)
	return i, ok && len(b) == 0
}

// varint takes a field with a number off b.
func varint(b []byte, field protowire.Number) (v uint64, rest []byte, ok bool) {
	f, kind, n := protowire.ConsumeTag(b)
	if n < 0 || f != field || kind != protowire.VarintType {
		return 0, b, false
	}
	return number(b[n:])
}

// span takes a field with bytes off b.
func span(b []byte, field protowire.Number) (v, rest []byte, ok bool) {
	f, kind, n := protowire.ConsumeTag(b)
	if n < 0 || f != field || kind != protowire.BytesType {
		return nil, b, false
	}
	return length(b[n:])
}

// varints returns the packed numbers in b.
func varints[T any](b []byte, as func(uint64) T) ([]T, bool) {
	count := 0
	for _, c := range b {
		if c < 0x80 {
			count++
		}
	}
	if count == 0 {
		return nil, len(b) == 0
	}
	vs := make([]T, 0, count)
	for len(b) > 0 {
		v, rest, ok := number(b)
		if !ok {
			return nil, false
		}
		vs, b = append(vs, as(v)), rest
	}
	return vs, true
}

// activeStream is the active's end of a feed.
type activeStream struct {
	plain[pb.FromActive, pb.FromStandby]
	grpc grpc.ClientStream
}

func newActiveStream(s grpc.BidiStreamingClient[pb.FromActive, pb.FromStandby]) activeStream {
	return activeStream{plain[pb.FromActive, pb.FromStandby]{s}, s}
}

func (s activeStream) Send(m *pb.FromActive, done func()) error {
	o := &outgoing{msg: m, done: done}
	err := s.grpc.SendMsg(o)
	if !o.taken {
		call(done)
	}
	return err
}

// standbyStream is the standby's end.
type standbyStream struct {
	plain[pb.FromStandby, pb.FromActive]
	grpc grpc.ServerStream
}

func newStandbyStream(s grpc.BidiStreamingServer[pb.FromActive, pb.FromStandby]) standbyStream {
	return standbyStream{plain[pb.FromStandby, pb.FromActive]{s}, s}
}

func (s standbyStream) Recv() (*pb.FromActive, func(), error) {
	var i incoming
	if err := s.grpc.RecvMsg(&i); err != nil {
		return nil, nil, err
	}
	return i.msg, i.free, nil
}

package feed

import (
	"unicode/utf8"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// Nearly all messages between replica and arbiter are reports of outputs and
// their releases, with up to a hundred and more outputs in each. Protobuf takes
// two pieces of memory for each output that it decodes, and finds its fields by
// tables. Here a message takes a few pieces, however many outputs it has. On the
// wire it is the protobuf message, and what does not look like one of these is
// left to protobuf.

// Codec returns gRPC's codec for protobuf, which is quick with Outputs and
// Release.
func Codec() encoding.CodecV2 { return newCodec() }

// Tags of arbiter.proto and common.proto: a field's number and its encoding.
const (
	tagTerm    = 1<<3 | byte(protowire.VarintType) // of FromReplica and ToReplica
	tagOutputs = 4<<3 | byte(protowire.BytesType)  // of FromReplica
	tagRelease = 3<<3 | byte(protowire.BytesType)  // of ToReplica

	tagEpoch = 1<<3 | byte(protowire.VarintType) // of Outputs and Release
	tagItem  = 2<<3 | byte(protowire.BytesType)

	tagID         = 1<<3 | byte(protowire.VarintType) // of Output and Released
	tagEdgeMax    = 2<<3 | byte(protowire.VarintType) // of Released
	tagKind       = 2<<3 | byte(protowire.VarintType) // of Output, as are these
	tagFlow       = 3<<3 | byte(protowire.Fixed64Type)
	tagEnd        = 4<<3 | byte(protowire.VarintType)
	tagDigest     = 5<<3 | byte(protowire.BytesType)
	tagAck        = 6<<3 | byte(protowire.VarintType)
	tagEdge       = 7<<3 | byte(protowire.VarintType)
	tagFlags      = 8<<3 | byte(protowire.VarintType)
	tagAfterInput = 9<<3 | byte(protowire.VarintType)
	tagName       = 10<<3 | byte(protowire.BytesType)
)

// decodeOutputs decodes a report of outputs into m, which is empty. It returns
// false, and leaves m as it is, for what is anything else.
func decodeOutputs(b []byte, m *pb.FromReplica) bool {
	e, ok := openEnvelope(b, tagOutputs)
	if !ok {
		return false
	}
	var (
		slab    = make([]pb.Output, e.items)
		outputs = make([]*pb.Output, e.items)
		digests = make([]byte, 0, e.items*digestSize)
	)
	for i := range slab {
		item, rest, ok := length(e.body[1:]) // openEnvelope has seen it
		if !ok {
			return false
		}
		e.body, outputs[i] = rest, &slab[i]
		if digests, ok = decodeOutput(item, &slab[i], digests); !ok {
			return false
		}
	}
	m.Term = e.term
	m.Body = &pb.FromReplica_Outputs{Outputs: &pb.Outputs{Epoch: e.epoch, Outputs: outputs}}
	return true
}

// digestSize is the size in bytes of a digest.
const digestSize = 16

// decodeOutput decodes one output, whose digest it appends to digests.
func decodeOutput(b []byte, o *pb.Output, digests []byte) ([]byte, bool) {
	for len(b) > 0 {
		tag := b[0]
		switch tag {
		case tagFlow:
			v, n := protowire.ConsumeFixed64(b[1:])
			if n < 0 {
				return digests, false
			}
			o.Flow, b = v, b[1+n:]
			continue
		case tagDigest:
			d, rest, ok := length(b[1:])
			if !ok || len(d) > cap(digests)-len(digests) {
				return digests, false
			}
			from := len(digests)
			digests = append(digests, d...)
			o.Digest, b = digests[from:len(digests):len(digests)], rest
			continue
		case tagName:
			s, rest, ok := length(b[1:])
			if !ok || !utf8.Valid(s) {
				return digests, false
			}
			o.Name, b = string(s), rest
			continue
		}
		v, rest, ok := number(b[1:])
		if !ok {
			return digests, false
		}
		b = rest
		switch tag {
		case tagID:
			o.Id = v
		case tagKind:
			o.Kind = pb.OutputKind(v)
		case tagEnd:
			o.End = v
		case tagAck:
			o.Ack = v
		case tagEdge:
			o.Edge = v
		case tagFlags:
			o.Flags = uint32(v)
		case tagAfterInput:
			o.AfterInput = v
		default:
			return digests, false
		}
	}
	return digests, true
}

// decodeRelease decodes a release into m, as decodeOutputs does.
func decodeRelease(b []byte, m *pb.ToReplica) bool {
	e, ok := openEnvelope(b, tagRelease)
	if !ok {
		return false
	}
	slab, released := make([]pb.Released, e.items), make([]*pb.Released, e.items)
	for i := range slab {
		item, rest, ok := length(e.body[1:])
		if !ok {
			return false
		}
		e.body, released[i] = rest, &slab[i]
		for len(item) > 0 {
			tag := item[0]
			v, rest, ok := number(item[1:])
			if !ok {
				return false
			}
			item = rest
			switch tag {
			case tagID:
				slab[i].Id = v
			case tagEdgeMax:
				slab[i].EdgeMax = v
			default:
				return false
			}
		}
	}
	m.Term = e.term
	m.Body = &pb.ToReplica_Release{Release: &pb.Release{Epoch: e.epoch, Outputs: released}}
	return true
}

// envelope is a message of a term whose body has an epoch and a list of items.
type envelope struct {
	term, epoch uint64
	body        []byte // nothing but the items, each behind its tag
	items       int
}

// openEnvelope opens a message with nothing in it but the term and that body.
func openEnvelope(b []byte, tag byte) (e envelope, ok bool) {
	if len(b) > 0 && b[0] == tagTerm {
		if e.term, b, ok = number(b[1:]); !ok {
			return e, false
		}
	}
	if len(b) == 0 || b[0] != tag {
		return e, false
	}
	var rest []byte
	if e.body, rest, ok = length(b[1:]); !ok || len(rest) > 0 {
		return e, false
	}
	if len(e.body) > 0 && e.body[0] == tagEpoch {
		if e.epoch, e.body, ok = number(e.body[1:]); !ok {
			return e, false
		}
	}
	for b := e.body; len(b) > 0; e.items++ {
		if b[0] != tagItem {
			return e, false
		}
		if _, b, ok = length(b[1:]); !ok {
			return e, false
		}
	}
	return e, e.items > 0
}

// number takes a varint off b.
func number(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) > 0 && b[0] < 0x80 {
		return uint64(b[0]), b[1:], true
	}
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, b, false
	}
	return v, b[n:], true
}

// length takes bytes behind their length off b.
func length(b []byte) (v, rest []byte, ok bool) {
	n, b, ok := number(b)
	if !ok || n > uint64(len(b)) {
		return nil, b, false
	}
	return b[:n], b[n:], true
}

// encodeOutputs returns the encoding of a report of outputs; nil for what
// protobuf is to encode.
func encodeOutputs(m *pb.FromReplica) mem.BufferSlice {
	size, ok := sizeOutputs(m)
	if !ok {
		return nil
	}
	return encoded(sizeNumber(m.Term)+1+protowire.SizeBytes(size), func(b []byte) []byte {
		b = appendHead(b, m.Term, tagOutputs, size, m.GetOutputs().GetEpoch())
		for _, o := range m.GetOutputs().GetOutputs() {
			b = protowire.AppendVarint(append(b, tagItem), uint64(sizeOutput(o)))
			b = appendOutput(b, o)
		}
		return b
	})
}

// sizeOutputs returns the size of the outputs' encoding without the message
// around; false for what is not a report, or not one for encodeOutputs.
func sizeOutputs(m *pb.FromReplica) (size int, ok bool) {
	body, ok := m.GetBody().(*pb.FromReplica_Outputs)
	if !ok || len(m.ProtoReflect().GetUnknown()) > 0 || len(body.Outputs.ProtoReflect().GetUnknown()) > 0 {
		return 0, false
	}
	size = sizeNumber(body.Outputs.GetEpoch())
	for _, o := range body.Outputs.GetOutputs() {
		if o == nil || !utf8.ValidString(o.Name) || len(o.ProtoReflect().GetUnknown()) > 0 {
			return 0, false
		}
		size += 1 + protowire.SizeBytes(sizeOutput(o))
	}
	return size, true
}

// sizeOf returns the size of a message's encoding in bytes.
func sizeOf(m proto.Message) int {
	if r, ok := m.(*pb.FromReplica); ok {
		if size, ok := sizeOutputs(r); ok {
			return sizeNumber(r.Term) + 1 + protowire.SizeBytes(size)
		}
	}
	return proto.Size(m)
}

func sizeOutput(o *pb.Output) int {
	n := sizeNumber(o.Id) + sizeNumber(uint64(o.Kind)) + sizeNumber(o.End) + sizeNumber(o.Ack) + sizeNumber(o.Edge) +
		sizeNumber(uint64(o.Flags)) + sizeNumber(o.AfterInput)
	if o.Flow != 0 {
		n += 1 + protowire.SizeFixed64()
	}
	if len(o.Digest) > 0 {
		n += 1 + protowire.SizeBytes(len(o.Digest))
	}
	if len(o.Name) > 0 {
		n += 1 + protowire.SizeBytes(len(o.Name))
	}
	return n
}

func appendOutput(b []byte, o *pb.Output) []byte {
	b = appendNumber(b, tagID, o.Id)
	b = appendNumber(b, tagKind, uint64(o.Kind))
	if o.Flow != 0 {
		b = protowire.AppendFixed64(append(b, tagFlow), o.Flow)
	}
	b = appendNumber(b, tagEnd, o.End)
	if len(o.Digest) > 0 {
		b = protowire.AppendBytes(append(b, tagDigest), o.Digest)
	}
	b = appendNumber(b, tagAck, o.Ack)
	b = appendNumber(b, tagEdge, o.Edge)
	b = appendNumber(b, tagFlags, uint64(o.Flags))
	b = appendNumber(b, tagAfterInput, o.AfterInput)
	if len(o.Name) > 0 {
		b = protowire.AppendString(append(b, tagName), o.Name)
	}
	return b
}

// encodeRelease returns the encoding of a release, as encodeOutputs does.
func encodeRelease(m *pb.ToReplica) mem.BufferSlice {
	body, ok := m.GetBody().(*pb.ToReplica_Release)
	if !ok || len(m.ProtoReflect().GetUnknown()) > 0 || len(body.Release.ProtoReflect().GetUnknown()) > 0 {
		return nil
	}
	size := sizeNumber(body.Release.GetEpoch())
	for _, r := range body.Release.GetOutputs() {
		if r == nil || len(r.ProtoReflect().GetUnknown()) > 0 {
			return nil
		}
		size += 1 + protowire.SizeBytes(sizeReleased(r))
	}
	return encoded(sizeNumber(m.Term)+1+protowire.SizeBytes(size), func(b []byte) []byte {
		b = appendHead(b, m.Term, tagRelease, size, body.Release.GetEpoch())
		for _, r := range body.Release.GetOutputs() {
			b = protowire.AppendVarint(append(b, tagItem), uint64(sizeReleased(r)))
			b = appendNumber(b, tagID, r.Id)
			b = appendNumber(b, tagEdgeMax, r.EdgeMax)
		}
		return b
	})
}

func sizeReleased(r *pb.Released) int { return sizeNumber(r.Id) + sizeNumber(r.EdgeMax) }

// appendHead appends all but the items of a message with an envelope.
func appendHead(b []byte, term uint64, tag byte, size int, epoch uint64) []byte {
	b = appendNumber(b, tagTerm, term)
	b = protowire.AppendVarint(append(b, tag), uint64(size))
	return appendNumber(b, tagEpoch, epoch)
}

// sizeNumber is the size of a field that appendNumber appends: nothing of a 0.
func sizeNumber(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

func appendNumber(b []byte, tag byte, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, tag), v)
}

// encoded lets fill append a message of that size to memory of gRPC's.
func encoded(size int, fill func([]byte) []byte) mem.BufferSlice {
	if mem.IsBelowBufferPoolingThreshold(size) {
		return mem.BufferSlice{mem.SliceBuffer(fill(make([]byte, 0, size)))}
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(size)
	*buf = fill((*buf)[:0])
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}
}

package feed

import (
	"bytes"
	"testing"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// reportOf is a report of n outputs.
func reportOf(n int) *pb.FromReplica {
	m := &pb.Outputs{Epoch: 3}
	for i := range n {
		o := &pb.Output{Id: uint64(i + 1), Kind: pb.OutputKind_OUTPUT_KIND_STREAM, Flow: 1 << 63, End: uint64(i) << 20, Digest: bytes.Repeat([]byte{byte(i + 1)}, 16),
			Ack: 300, Edge: 70_000, Flags: 8, AfterInput: uint64(i) * 5}
		if i == 0 {
			o.Name = "tcp 10.0.0.2:6379 > 10.0.0.9:4711"
		}
		m.Outputs = append(m.Outputs, o)
	}
	return &pb.FromReplica{Term: 1 << 40, Body: &pb.FromReplica_Outputs{Outputs: m}}
}

// releaseOf is a release of n outputs.
func releaseOf(n int) *pb.ToReplica {
	m := &pb.Release{Epoch: 3}
	for i := range n {
		m.Outputs = append(m.Outputs, &pb.Released{Id: uint64(i), EdgeMax: uint64(i%3) << 30})
	}
	return &pb.ToReplica{Term: 9, Body: &pb.ToReplica_Release{Release: m}}
}

func reports() []*pb.FromReplica {
	of := func(os ...*pb.Output) *pb.FromReplica {
		return &pb.FromReplica{Body: &pb.FromReplica_Outputs{Outputs: &pb.Outputs{Outputs: os}}}
	}
	return []*pb.FromReplica{
		reportOf(1), reportOf(100), of(&pb.Output{}, &pb.Output{Kind: -1, Digest: []byte{1}}),
		of(&pb.Output{Digest: make([]byte, 1000)}), of(), of(nil),
		{Term: 1, Body: &pb.FromReplica_Outputs{}}, {Body: &pb.FromReplica_Heartbeat{Heartbeat: &pb.Heartbeat{Epoch: 1}}}, {},
	}
}

func releases() []*pb.ToReplica {
	return []*pb.ToReplica{
		releaseOf(1), releaseOf(100), releaseOf(0), {Body: &pb.ToReplica_Release{}}, {Term: 4, Body: &pb.ToReplica_Resync{Resync: &pb.Resync{Epoch: 1}}}, {},
	}
}

// same holds the codec against protobuf, both ways.
func same[M proto.Message](t *testing.T, m, empty M) {
	t.Helper()
	want, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := newCodec().Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Free()
	if n := sizeOf(m); n != len(want) {
		t.Errorf("%v is %d bytes long, not %d", m, n, len(want))
	}
	if got := parts.Materialize(); !bytes.Equal(got, want) {
		t.Errorf("%v is encoded as %x, by protobuf as %x", m, got, want)
	}
	if err := newCodec().Unmarshal(parts, empty); err != nil || !proto.Equal(empty, m) {
		t.Errorf("%v is decoded as %v, %v", m, empty, err)
	}
}

func TestOutputsAreProtobuf(t *testing.T) {
	for _, m := range reports() {
		if len(m.GetOutputs().GetOutputs()) == 1 && m.GetOutputs().GetOutputs()[0] == nil {
			continue // comes back as an empty one
		}
		same(t, m, &pb.FromReplica{})
	}
	for _, m := range releases() {
		same(t, m, &pb.ToReplica{})
	}
}

// What was decoded is whole when the transport's memory is another's.
func TestOutputsAreCopied(t *testing.T) {
	m := reportOf(10)
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	got := &pb.FromReplica{}
	if !decodeOutputs(wire, got) {
		t.Fatal("not decoded")
	}
	clear(wire)
	if !proto.Equal(got, m) {
		t.Errorf("%v", got)
	}
}

// A text that protobuf refuses is refused.
func TestOutputsTexts(t *testing.T) {
	m := reportOf(2)
	m.GetOutputs().GetOutputs()[1].Name = "\xff"
	if _, err := newCodec().Marshal(m); err == nil {
		t.Error("it was encoded")
	}
	m.GetOutputs().GetOutputs()[1].Name = "12345"
	wire, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	wire = bytes.Replace(wire, []byte("12345"), []byte("123\xff5"), 1)
	if err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(wire)}, &pb.FromReplica{}); err == nil {
		t.Error("it was decoded")
	}
}

// FuzzOutputs decodes anything, and encodes what comes of it: the codec says
// what protobuf says.
func FuzzOutputs(f *testing.F) {
	seed := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, m := range reports() {
		seed(m)
	}
	for _, m := range releases() {
		seed(m)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		likeProtobuf(t, b, &pb.FromReplica{}, &pb.FromReplica{})
		likeProtobuf(t, b, &pb.ToReplica{}, &pb.ToReplica{})
	})
}

func likeProtobuf[M proto.Message](t *testing.T, b []byte, got, want M) {
	wrong := proto.Unmarshal(b, want)
	err := newCodec().Unmarshal(mem.BufferSlice{mem.SliceBuffer(b)}, got)
	if (err == nil) != (wrong == nil) {
		t.Fatalf("decoded with %v, by protobuf with %v", err, wrong)
	}
	if err != nil {
		return
	}
	if !proto.Equal(got, want) {
		t.Fatalf("decoded %v, by protobuf %v", got, want)
	}
	encoded, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := newCodec().Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	defer parts.Free()
	if !bytes.Equal(parts.Materialize(), encoded) {
		t.Fatalf("encoded %x, by protobuf %x", parts.Materialize(), encoded)
	}
}

// TestOutputsAllocations counts what a report and a release cost both ends: the
// number of outputs must not matter.
func TestOutputsAllocations(t *testing.T) {
	c := newCodec()
	report, release := reportOf(100), releaseOf(100)
	allocs := testing.AllocsPerRun(100, func() {
		for _, m := range []struct{ in, out proto.Message }{{report, &pb.FromReplica{}}, {release, &pb.ToReplica{}}} {
			parts, err := c.Marshal(m.in)
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Unmarshal(parts, m.out); err != nil {
				t.Fatal(err)
			}
			parts.Free()
		}
	})
	if allocs > 40 {
		t.Errorf("%v allocations for 100 outputs and their release, at both ends", allocs)
	}
}

func BenchmarkOutputs(b *testing.B) {
	wire, err := proto.Marshal(reportOf(100))
	if err != nil {
		b.Fatal(err)
	}
	b.Run("quick", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if !decodeOutputs(wire, &pb.FromReplica{}) {
				b.Fatal("not decoded")
			}
		}
	})
	b.Run("protobuf", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := proto.Unmarshal(wire, &pb.FromReplica{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

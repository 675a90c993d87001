package api

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/fence"
	"github.com/understudy-ft/understudy/services/session"

	"github.com/understudy-ft/understudy/arbiter/internal/admin"
	"github.com/understudy-ft/understudy/arbiter/internal/events"
	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

// leaseless is an arbiter that never gets a lease, so that it owns nothing.
type leaseless struct{}

func (leaseless) Grant() fence.Grant { return fence.Grant{} }

// saidStream is that of a replica that has said what it had to and is gone.
type saidStream struct {
	grpc.ServerStream
	ctx  context.Context
	said []*pb.FromReplica
}

func (s *saidStream) Context() context.Context   { return s.ctx }
func (s *saidStream) Send(m *pb.ToReplica) error { return nil }
func (s *saidStream) SendMsg(any) error          { return nil }
func (s *saidStream) Recv() (*pb.FromReplica, error) {
	if len(s.said) == 0 {
		return nil, io.EOF
	}
	m := s.said[0]
	s.said = s.said[1:]
	return m, nil
}

// FuzzAttach gives the Attach service messages in any order, of any content.
// The stream ends, whatever it says, and a VM that it caused ends with it.
func FuzzAttach(f *testing.F) {
	say := func(messages ...*pb.FromReplica) (data []byte) {
		for _, m := range messages {
			b, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			data = append(binary.BigEndian.AppendUint16(data, uint16(len(b))), b...)
		}
		return data
	}
	hello := &pb.FromReplica{Term: 3, Body: &pb.FromReplica_Hello{Hello: &pb.Hello{
		Protocol: session.ProtocolVersion, Vm: "web", Role: pb.Role_ROLE_ACTIVE, Mode: pb.Mode_MODE_SOLO, Epoch: 1, LeaseId: 7,
		Replica: &pb.ReplicaRef{Id: "r-1", Address: "h:1"},
	}}}
	outputs := &pb.FromReplica{Term: 3, Body: &pb.FromReplica_Outputs{Outputs: &pb.Outputs{Epoch: 1, Outputs: []*pb.Output{
		{Id: 1, Kind: pb.OutputKind_OUTPUT_KIND_STREAM, End: ^uint64(0), Digest: []byte{1}}, nil}}}}
	f.Add(say(hello, outputs))
	f.Add(say(hello, hello))
	f.Add(say(outputs))
	f.Add(say(hello, &pb.FromReplica{}))
	f.Add(say(hello, &pb.FromReplica{Body: &pb.FromReplica_Left{}}))
	f.Add(say(&pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: &pb.Hello{Protocol: session.ProtocolVersion, Vm: "../web"}}}))

	vms := unowning(f)
	service := &arbiter{cfg: Config{VMs: vms, Log: hclog.NewNullLogger()}}
	f.Fuzz(func(t *testing.T, data []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		stream := &saidStream{ctx: ctx}
		for len(data) >= 2 {
			n := min(int(binary.BigEndian.Uint16(data)), len(data)-2)
			m := new(pb.FromReplica)
			if proto.Unmarshal(data[2:2+n], m) == nil {
				stream.said = append(stream.said, m)
			}
			data = data[2+n:]
		}
		_ = service.Attach(stream) // however it ends
		if ctx.Err() != nil {
			t.Fatal("the stream did not end")
		}
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for len(vms.Local(ctx)) > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				t.Fatal("a VM without a replica and an owner stays")
			}
		}
	})
}

// unowning is the registry of an arbiter that cannot reach etcd and owns nothing.
func unowning(f *testing.F) *sessions.Registry {
	client, err := fence.Connect([]string{"127.0.0.1:1"}, nil) // nobody is there
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { client.Close() })
	return sessions.New(sessions.Config{Store: fence.NewStore(client), Lease: leaseless{}, Self: fence.Owner{ID: "A"},
		Events: events.New(10), Log: hclog.NewNullLogger()})
}

// FuzzUnary calls each method that answers once with any request, of Admin and
// of Arbiter: there is an answer or an error in time, and nothing comes to be.
func FuzzUnary(f *testing.F) {
	vms := unowning(f)
	cfg := Config{VMs: vms, Log: hclog.NewNullLogger(),
		Endpoints: func(net.Addr, net.Addr) ([]string, error) { return []string{"http://127.0.0.1:1"}, nil }}
	operators := admin.New(admin.Config{VMs: vms, Events: events.New(10), ArbiterID: "A", Ready: func() error { return nil }, Log: hclog.NewNullLogger()})
	type method struct {
		grpc.MethodDesc
		on any
	}
	var methods []method
	for _, m := range pb.Admin_ServiceDesc.Methods {
		methods = append(methods, method{m, operators})
	}
	for _, m := range pb.Arbiter_ServiceDesc.Methods {
		methods = append(methods, method{m, &arbiter{cfg: cfg}})
	}
	add := func(m proto.Message) {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		for i := range methods {
			f.Add(byte(i), b)
		}
	}
	add(&pb.SetPolicyRequest{Vm: "web", Policy: &pb.Policy{FlowRules: []string{"tcp any > any: pass"}}, Update: &fieldmaskpb.FieldMask{Paths: []string{"flow_rules", ""}}})
	add(&pb.DetachRequest{Vm: "../web", ReplicaId: "r/1"})
	add(&pb.DiscoverRequest{Protocol: 1})
	f.Fuzz(func(t *testing.T, which byte, request []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond) // etcd does not answer
		defer cancel()
		m := methods[int(which)%len(methods)]
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = m.Handler(m.on, ctx, func(into any) error { return proto.Unmarshal(request, into.(proto.Message)) }, nil)
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			t.Fatalf("%s does not answer", m.MethodName)
		}
		if n := len(vms.Local(t.Context())); n != 0 {
			t.Fatalf("%s made %d VMs", m.MethodName, n)
		}
	})
}

package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// releaser releases the last output of each report, and ends the stream after a
// number of them.
type releaser struct {
	pb.UnimplementedArbiterServer
	reports int
}

// Attach implements pb.ArbiterServer.
func (r *releaser) Attach(s pb.Arbiter_AttachServer) error {
	first, err := s.Recv()
	if err != nil || first.GetHello().GetVm() != "toy" {
		return status.Errorf(codes.InvalidArgument, "no Hello: %v, %v", first, err)
	}
	for range r.reports {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		all := m.GetOutputs().GetOutputs()
		if err := s.Send(&pb.ToReplica{Term: m.GetTerm(), Body: &pb.ToReplica_Release{
			Release: &pb.Release{Outputs: []*pb.Released{{Id: all[len(all)-1].GetId()}}}}}); err != nil {
			return err
		}
	}
	return status.Error(codes.Aborted, "enough")
}

// A toy's stream is one to gRPC, also where more is sent than a window holds.
func TestToyStream(t *testing.T) {
	const reports = 300 // of 4 KB each
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer(grpc.InitialWindowSize(1<<16), grpc.InitialConnWindowSize(1<<16))
	pb.RegisterArbiterServer(g, &releaser{reports: reports})
	go func() { _ = g.Serve(l) }() // ends with Stop
	defer g.Stop()

	got, over := make(chan *pb.ToReplica, reports+1), make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	s, err := openToyStream(ctx, l.Addr().String(), &pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: &pb.Hello{Vm: "toy"}}},
		func(m *pb.ToReplica) { got <- m }, func(err error) { over <- err })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.conn.Close() }()
	for i := range uint64(reports) {
		report := &pb.FromReplica{Term: i, Body: &pb.FromReplica_Outputs{Outputs: outputs(i*bulkBatch, (i+1)*bulkBatch)}}
		if err := s.send(report); err != nil {
			t.Fatal(err)
		}
	}
	for i := range uint64(reports) {
		select {
		case m := <-got:
			if m.GetTerm() != i || m.GetRelease().GetOutputs()[0].GetId() != (i+1)*bulkBatch {
				t.Fatalf("release %d: %v", i, m)
			}
		case <-ctx.Done():
			t.Fatalf("%d of %d releases came", i, reports)
		}
	}
	select {
	case err := <-over:
		if !strings.Contains(err.Error(), "enough") {
			t.Errorf("ended by %v", err)
		}
	case <-ctx.Done():
		t.Fatal("the stream does not end")
	}
	if err := s.send(&pb.FromReplica{}); err == nil {
		t.Error("it still sends")
	}
}

package api

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/protocol"

	"github.com/understudy-ft/understudy/arbiter/internal/sessions"
)

const (
	// helloTimeout bounds the wait for a stream's first message, lastTimeout
	// that for a replica to read its last.
	helloTimeout = 5 * time.Second
	lastTimeout  = time.Second
)

type arbiter struct {
	pb.UnimplementedArbiterServer
	cfg Config
}

// Discover implements pb.ArbiterServer.
func (a *arbiter) Discover(ctx context.Context, r *pb.DiscoverRequest) (*pb.DiscoverResponse, error) {
	chosen, err := protocol.Spoken().Agree(protocol.Said(r.Protocol, r.ProtocolMax), "this arbiter", "the replica")
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	var local, remote net.Addr
	if p, ok := peer.FromContext(ctx); ok {
		local, remote = p.LocalAddr, p.Addr
	}
	endpoints, err := a.cfg.Endpoints(local, remote)
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &pb.DiscoverResponse{
		Protocol: chosen, ArbiterId: a.cfg.ArbiterID, Version: a.cfg.Version,
		EtcdEndpoints: endpoints,
		LeaseTtlMs:    uint32(a.cfg.LeaseTTL.Milliseconds()), LeaseMarginMs: uint32(a.cfg.LeaseMargin.Milliseconds()),
	}, nil
}

type attachStream = grpc.BidiStreamingServer[pb.FromReplica, pb.ToReplica]

// Attach implements pb.ArbiterServer.
func (a *arbiter) Attach(g attachStream) error {
	ctx := g.Context()
	log := a.cfg.Log
	if p, ok := peer.FromContext(ctx); ok {
		log = log.With("peer", p.Addr)
	}
	first, err := receiveFirst(g)
	if err != nil {
		return err
	}
	refusal := sessions.CheckHello(first)
	if refusal == nil {
		if err := identity.ActsFor(ctx, first.GetHello().GetVm()); err != nil {
			log.Warn("replica refused", "caller", identity.Name(ctx), "vm", first.GetHello().GetVm(), "error", err)
			return err
		}
	}
	var s *sessions.Stream
	if refusal == nil {
		s, refusal = a.cfg.VMs.Attach(ctx, first)
	}
	if refusal != nil {
		log.Info("replica refused", "detail", refusal.Detail)
		return g.Send(&pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: refusal}})
	}
	why := "stream ended"
	defer func() { s.Detach(why) }()

	read, written := make(chan error, 1), make(chan error, 1)
	go func() { read <- readAll(ctx, g, s) }()
	go func() { written <- writeAll(ctx, g, s) }()
	over := s.Over()
	var late <-chan time.Time
	for {
		select {
		case err := <-read:
			if err == nil || errors.Is(err, io.EOF) {
				why = "stream closed by the replica"
				return nil
			}
			why = "stream broken: " + status.Convert(err).Message()
			return err
		case err := <-written:
			if err != nil {
				why = "stream broken: " + status.Convert(err).Message()
			}
			return err
		case <-over: // the arbiter ends it: the writer has its last messages
			over = nil
			late = time.After(lastTimeout)
		case <-late:
			why = "does not read its messages"
			return status.Error(codes.ResourceExhausted, "the replica does not read its messages")
		}
	}
}

// receiveFirst waits for the first message, but not for ever.
func receiveFirst(g attachStream) (*pb.FromReplica, error) {
	type result struct {
		m   *pb.FromReplica
		err error
	}
	got := make(chan result, 1)
	go func() {
		m, err := g.Recv() // ends with the stream at the latest
		got <- result{m, err}
	}()
	select {
	case r := <-got:
		if errors.Is(r.err, io.EOF) {
			return nil, status.Error(codes.InvalidArgument, "the stream ended before its Hello")
		}
		return r.m, r.err
	case <-time.After(helloTimeout):
		return nil, status.Errorf(codes.DeadlineExceeded, "no Hello within %v", helloTimeout)
	}
}

// readAll hands over what the replica sends.
func readAll(ctx context.Context, g attachStream, s *sessions.Stream) error {
	for {
		m, err := g.Recv()
		if err != nil {
			return err
		}
		if m.Body == nil {
			return status.Error(codes.InvalidArgument, "a message without a body, or of a newer protocol")
		}
		if err := s.Received(ctx, m); err != nil {
			return status.Error(codes.Unavailable, err.Error())
		}
	}
}

// writeAll sends what is queued until the queue's end.
func writeAll(ctx context.Context, g attachStream, s *sessions.Stream) error {
	var msgs []*pb.ToReplica
	var last bool
	for {
		msgs, last = s.Take(msgs)
		for _, m := range msgs {
			if s.Void(m) {
				continue
			}
			if err := g.Send(m); err != nil {
				return err
			}
		}
		if last {
			return nil
		}
		select {
		case <-s.Wake():
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

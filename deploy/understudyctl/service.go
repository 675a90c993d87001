package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/cli"
	"github.com/understudy-ft/understudy/services/health"
)

// probeTimeout bounds the wait for one arbiter to say whether it is well, hops
// how often a VM's owner is followed.
const (
	probeTimeout = 3 * time.Second
	hops         = 3
)

// service is the Admin service of a deployment, whichever arbiter is asked.
type service struct {
	creds credentials.TransportCredentials
	conns []*grpc.ClientConn
}

func (s *service) close() {
	for _, conn := range s.conns {
		_ = conn.Close() // it has served
	}
}

// dial returns a connection that ends where the arbiter falls silent.
func (s *service) dial(addr string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(s.creds),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}))
	if err == nil {
		s.conns = append(s.conns, conn)
	}
	return conn, err
}

func (s *service) probe(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	return health.Check(ctx, addr, s.creds)
}

// reach returns the first arbiter that is well, or else the first that answers.
func (s *service) reach(ctx context.Context, arbiters []string) (string, error) {
	var unwell, problems []string
	for _, addr := range arbiters {
		err := s.probe(ctx, addr)
		if err == nil {
			return addr, nil
		}
		if errors.Is(err, health.ErrUnwell) {
			unwell = append(unwell, addr)
		}
		problems = append(problems, err.Error())
	}
	if len(unwell) > 0 {
		return unwell[0], nil
	}
	return "", fmt.Errorf("no arbiter answers (%s): is one running there (--arbiter), and does it have certificates (--tls-ca, --tls-cert, --tls-key)?",
		strings.Join(problems, "; "))
}

// do calls what the verb says, at the VM's owner where there is one.
func (s *service) do(ctx context.Context, arbiters []string, v verb, in proto.Message, p printer) error {
	addr, err := s.reach(ctx, arbiters)
	if err != nil {
		return err
	}
	var next string
	if r, ok := in.(interface{ GetVm() string }); ok && r.GetVm() != "" {
		if conn, err := s.dial(addr); err == nil {
			// An error is that of the call as well, which tells it.
			vm, _ := pb.NewAdminClient(conn).GetVM(ctx, &pb.GetVMRequest{Vm: r.GetVm()})
			next = vm.GetOwner().GetAddress()
		}
	}
	for range hops {
		if next != "" && next != addr && s.probe(ctx, next) == nil {
			addr = next
		}
		conn, err := s.dial(addr)
		if err != nil {
			return err
		}
		err = call(ctx, conn, v, in, p)
		if next = info(err).GetMetadata()["address"]; next == "" || next == addr || s.probe(ctx, next) != nil {
			return explain(err, addr)
		}
	}
	return fmt.Errorf("the VM goes from arbiter to arbiter, last to %s: try again in a moment", next)
}

func call(ctx context.Context, conn *grpc.ClientConn, v verb, in proto.Message, p printer) error {
	_, out := v.messages()
	// A call with one answer is a stream of one.
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, "/"+pb.Admin_ServiceDesc.ServiceName+"/"+v.method)
	if err == nil {
		err = errors.Join(stream.SendMsg(in), stream.CloseSend())
	}
	for err == nil {
		if err = stream.RecvMsg(out); err == nil {
			err = p.print(out)
		}
	}
	code := status.Code(err)
	if errors.Is(err, io.EOF) || v.method == "WatchEvents" && (code == codes.DeadlineExceeded || code == codes.Canceled) {
		return nil
	}
	return err
}

// info is the ErrorInfo of an arbiter's answer, or nil.
func info(err error) *errdetails.ErrorInfo {
	for _, d := range status.Convert(err).Details() {
		if i, ok := d.(*errdetails.ErrorInfo); ok {
			return i
		}
	}
	return nil
}

// mends say what to do about an answer, by the reason of its ErrorInfo or else its
// code. Others say it themselves, in a PreconditionFailure.
var mends = map[string]string{
	"NO_SUCH_VM":                    "understudyctl list shows what there is",
	"NO_SUCH_REPLICA":               "understudyctl replicas shows what there is",
	"TOO_MANY_DRAINED":              "undrain one",
	"BUSY":                          "try again when it is done",
	"NO_REST":                       "try again when there is less load",
	"OVERTAKEN":                     "look at understudyctl show before you try again",
	"NOT_OWNED":                     "try again in a moment",
	"GIVEN_UP":                      "try again in a moment",
	"ETCD":                          "is etcd running, and can the arbiter reach it?",
	codes.Unavailable.String():      "is the arbiter running? An order may have been carried out: understudyctl show tells",
	codes.DeadlineExceeded.String(): "an order goes on by itself: understudyctl show tells what became of it",
	codes.Canceled.String():         "an order goes on by itself: understudyctl show tells what became of it",
	codes.PermissionDenied.String(): "give the certificate of an operator (--tls-cert operator.pem)",
	codes.Unimplemented.String():    "the arbiter is of another release",
}

// explain makes a sentence of an arbiter's answer that is an error.
func explain(err error, addr string) error {
	if _, ok := status.FromError(err); err == nil || !ok {
		return err
	}
	s := status.Convert(err)
	mend, ok := mends[info(err).GetReason()]
	if !ok {
		mend = mends[s.Code().String()]
	}
	for _, d := range s.Details() {
		if f, ok := d.(*errdetails.PreconditionFailure); ok && len(f.GetViolations()) > 0 {
			mend = f.GetViolations()[0].GetDescription()
		}
	}
	if at := info(err).GetMetadata()["address"]; at != "" {
		mend = at + " owns it and does not answer from here"
	}
	text := clean(strings.TrimSuffix(s.Message()+": "+mend, ": "))
	if s.Code() == codes.InvalidArgument {
		return fmt.Errorf("arbiter %s: %s (%w)", addr, text, cli.ErrUsage)
	}
	return fmt.Errorf("arbiter %s: %s", addr, text)
}

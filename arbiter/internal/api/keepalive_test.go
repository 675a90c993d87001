package api

import (
	"net"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/session"
)

// told tells of the connections that a listener accepts.
type told struct {
	net.Listener
	accepted chan net.Conn
}

func (l told) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.accepted <- c
	}
	return c, err
}

// A replica is lost by its heartbeats, when the VM's policy says so: the
// transport, whose patience with unanswered data is a socket option, must not
// break its stream before.
func TestTransportIsMorePatientThanAnyPolicy(t *testing.T) {
	s := New(Config{Ready: func() bool { return true }, Admin: pb.UnimplementedAdminServer{}, Log: hclog.NewNullLogger(),
		Endpoints: func(net.Addr, net.Addr) ([]string, error) { return nil, nil }})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := told{ln, make(chan net.Conn, 1)}
	go func() { _ = s.Serve(l) }() // ends with Stop
	defer s.Stop()
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pb.NewArbiterClient(conn).Discover(t.Context(), &pb.DiscoverRequest{Protocol: session.ProtocolVersion}); err != nil {
		t.Fatal(err)
	}
	raw, err := (<-l.accepted).(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms int
	if e := raw.Control(func(fd uintptr) { ms, err = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if patience := time.Duration(ms) * time.Millisecond; ms != 0 && patience <= session.MaxHeartbeatTimeout {
		t.Fatalf("the transport gives a connection up after %v, a policy may say %v", patience, session.MaxHeartbeatTimeout)
	}
}

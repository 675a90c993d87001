package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/identity"
	"github.com/understudy-ft/understudy/services/identity/identitytest"
	"github.com/understudy-ft/understudy/services/session"
)

var anArbiter = identity.ID{Role: identity.Arbiter}

func replicaOf(vm string) identity.ID { return identity.ID{Role: identity.Replica, Name: vm} }

// tlsArgs are the flags of a party of the deployment.
func tlsArgs(t *testing.T, d *identitytest.Deployment, id identity.ID) []string {
	f := d.Files(t, id)
	return []string{"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
}

// calls are those of an arbiter's services, each by its name.
var calls = map[string]func(context.Context, *grpc.ClientConn) error{
	"discover": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := pb.NewArbiterClient(c).Discover(ctx, &pb.DiscoverRequest{Protocol: session.ProtocolVersion})
		return err
	},
	"attach as web": attachAs("web"),
	"attach as db":  attachAs("db"),
	"list": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := pb.NewAdminClient(c).ListVMs(ctx, &pb.ListVMsRequest{})
		return err
	},
	"watch": func(ctx context.Context, c *grpc.ClientConn) error {
		w, err := pb.NewAdminClient(c).WatchEvents(ctx, &pb.WatchEventsRequest{})
		if err != nil {
			return err
		}
		// A stream that is refused has no header, but an end.
		if md, err := w.Header(); err != nil || len(md) > 0 {
			return err
		}
		_, err = w.Recv()
		return err
	},
	"fail over": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := pb.NewAdminClient(c).FailOver(ctx, &pb.FailOverRequest{Vm: "nobody"})
		return err
	},
	"resync": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := pb.NewAdminClient(c).Resync(ctx, &pb.ResyncRequest{Vm: "nobody"})
		return err
	},
	"detach": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := pb.NewAdminClient(c).Detach(ctx, &pb.DetachRequest{Vm: "nobody", ReplicaId: "r-1"})
		return err
	},
	"health": func(ctx context.Context, c *grpc.ClientConn) error {
		_, err := healthpb.NewHealthClient(c).Check(ctx, &healthpb.HealthCheckRequest{})
		return err
	},
	"reflection": func(ctx context.Context, c *grpc.ClientConn) error {
		s, err := reflectionpb.NewServerReflectionClient(c).ServerReflectionInfo(ctx)
		if err != nil {
			return err
		}
		_ = s.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}) // Recv says more
		_, err = s.Recv()
		return err
	},
}

// attachAs says Hello as a spare of a VM and reads the first answer.
func attachAs(vm string) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, c *grpc.ClientConn) error {
		s, err := pb.NewArbiterClient(c).Attach(ctx)
		if err != nil {
			return err
		}
		_ = s.Send(&pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: &pb.Hello{
			Protocol: session.ProtocolVersion, Vm: vm, Role: pb.Role_ROLE_SPARE, Replica: &pb.ReplicaRef{Id: "r-1", Address: "127.0.0.1:1"},
		}}}) // Recv says more
		_, err = s.Recv()
		return err
	}
}

func TestWhoMayCallWhat(t *testing.T) {
	ours, others := identitytest.New(t), identitytest.New(t)
	closed := launch(t, tlsArgs(t, ours, anArbiter)...)
	open := launch(t, append(tlsArgs(t, ours, anArbiter), "--open-reads")...)
	client := func(d *identitytest.Deployment, id identity.ID) credentials.TransportCredentials {
		return d.Source(t, id).ClientCredentials(anArbiter)
	}
	as := func(id identity.ID) credentials.TransportCredentials { return client(ours, id) }
	always := []string{"health", "reflection"}
	reads := []string{"list", "watch"}
	for name, c := range map[string]struct {
		creds credentials.TransportCredentials
		// What the caller may do, beside what every party may; none of it for
		// who does not get through at all.
		may     []string
		through bool
	}{
		"replica of web": {as(replicaOf("web")), []string{"discover", "attach as web"}, true},
		"replica of db":  {as(replicaOf("db")), []string{"discover", "attach as db"}, true},
		"operator":       {as(identity.ID{Role: identity.Operator, Name: "alice"}), []string{"discover", "list", "watch", "fail over", "resync", "detach"}, true},
		"arbiter":        {as(anArbiter), []string{"discover"}, true},
		"gateway":        {as(identity.ID{Role: identity.Gateway}), nil, true},
		"etcd":           {as(identity.ID{Role: identity.Etcd}), nil, true},
		"another CA's":   {client(others, replicaOf("web")), nil, false},
		"plain text":     {insecure.NewCredentials(), nil, false},
	} {
		for _, a := range []*running{closed, open} {
			conn, err := grpc.NewClient(a.addr, grpc.WithTransportCredentials(c.creds))
			if err != nil {
				t.Fatal(err)
			}
			may := map[string]bool{}
			for _, what := range c.may {
				may[what] = true
			}
			if c.through {
				for _, what := range always {
					may[what] = true
				}
				for _, what := range reads {
					may[what] = may[what] || a == open
				}
			}
			for what, call := range calls {
				ctx, cancel := context.WithTimeout(t.Context(), patience)
				code := status.Code(call(ctx, conn))
				cancel()
				refused := codes.PermissionDenied
				if !c.through {
					refused = codes.Unavailable
				}
				// An order to a VM that nobody knows fails, but is taken.
				if got := code != codes.PermissionDenied && code != codes.Unavailable && code != codes.DeadlineExceeded; got != may[what] || !got && code != refused {
					t.Errorf("%s, %s, open reads %v: %v", name, what, a == open, code)
				}
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// What a replica of one VM has said to one arbiter does not help it to speak
// for another VM: the certificate of the connection counts, not the message.
func TestReplayOfAnotherVMsHello(t *testing.T) {
	d := identitytest.New(t)
	a := launch(t, tlsArgs(t, d, anArbiter)...)
	web, err := grpc.NewClient(a.addr, grpc.WithTransportCredentials(d.Source(t, replicaOf("web")).ClientCredentials(anArbiter)))
	if err != nil {
		t.Fatal(err)
	}
	defer web.Close()
	hello := &pb.FromReplica{Term: 3, Body: &pb.FromReplica_Hello{Hello: &pb.Hello{
		Protocol: session.ProtocolVersion, Vm: "db", Role: pb.Role_ROLE_ACTIVE, Mode: pb.Mode_MODE_SOLO, Epoch: 1, LeaseId: 7,
		Replica: &pb.ReplicaRef{Id: "db-1", Address: "127.0.0.1:1"},
	}}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := pb.NewArbiterClient(web).Attach(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(hello); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.PermissionDenied || !strings.Contains(status.Convert(err).Message(), "may not act as a replica of VM \"db\"") {
		t.Errorf("got %v", err)
	}
	// The arbiter has taken no notice of db.
	if vms := a.vms.Local(ctx); len(vms) != 0 {
		t.Errorf("the arbiter knows %v", vms)
	}
}

func TestDiscoverTellsOfTLS(t *testing.T) {
	d := identitytest.New(t)
	a := launch(t, tlsArgs(t, d, anArbiter)...)
	conn, err := grpc.NewClient(a.addr, grpc.WithTransportCredentials(d.Source(t, replicaOf("web")).ClientCredentials(anArbiter)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	found, err := pb.NewArbiterClient(conn).Discover(within(t, patience), &pb.DiscoverRequest{Protocol: session.ProtocolVersion})
	if err != nil || len(found.EtcdEndpoints) != 1 || !strings.HasPrefix(found.EtcdEndpoints[0], "https://") {
		t.Errorf("%v, %v", found, err)
	}
}

func TestRefusesToStartUnsecured(t *testing.T) {
	d := identitytest.New(t)
	secure := tlsArgs(t, d, anArbiter)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--listen", "0.0.0.0:0"}, "--listen 0.0.0.0:0 is not a loopback address"},
		{[]string{"--advertise", "arbiter.example:7400"}, "--advertise arbiter.example:7400"},
		{[]string{"--etcd-listen", "0.0.0.0:0"}, "--etcd-listen 0.0.0.0:0"},
		{[]string{"--etcd", "http://10.0.0.3:2379"}, "--etcd 10.0.0.3:2379"},
		{[]string{"--etcd", "https://127.0.0.1:2379"}, "https needs certificates"},
		{append([]string{"--etcd", "http://127.0.0.1:2379"}, secure...), "etcd is reached over https"},
		{append([]string{"--insecure"}, secure...), "exclude each other"},
		{tlsArgs(t, d, replicaOf("web")), "is that of replica of VM web, this is arbiter"},
	} {
		cmd, o := command()
		args := append([]string{"--listen=127.0.0.1:0", "--http=off"}, c.args...)
		if err := cmd.Parse(args, func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		a, err := start(ctx, o, cmd.Logger(t.Output()))
		if err == nil {
			a.close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v: %v; want %q", c.args, err, c.want)
		}
		cancel()
	}
}

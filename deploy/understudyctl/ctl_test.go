package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/protoadapt"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/cli"
)

// played is an arbiter that answers as the test says and remembers what it was
// asked.
type played struct {
	addr   string
	health *health.Server

	mu      sync.Mutex
	asked   []string                 // METHOD {arguments}
	answers map[string]proto.Message // by method
	errors  map[string]error
	hangs   func() // called by FailOver and after an event, which nothing follows then
}

func play(t *testing.T) *played {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &played{addr: ln.Addr().String(), health: health.NewServer(), answers: map[string]proto.Message{}, errors: map[string]error{}}
	s := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, in any, call *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if strings.Contains(call.FullMethod, "Health") {
				return next(ctx, in)
			}
			if _, bounded := ctx.Deadline(); !bounded {
				t.Errorf("%s has no deadline", call.FullMethod)
			}
			if p.hangs != nil && call.FullMethod == pb.Admin_FailOver_FullMethodName {
				p.hangs()
				<-ctx.Done()
			}
			return p.answer(path.Base(call.FullMethod), in.(proto.Message))
		}),
		grpc.StreamInterceptor(func(_ any, ss grpc.ServerStream, call *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
			v := verbs[slices.IndexFunc(verbs, func(v verb) bool { return v.method == path.Base(call.FullMethod) })]
			in, _ := v.messages()
			if err := ss.RecvMsg(in); err != nil {
				return err
			}
			out, err := p.answer(v.method, in)
			if err == nil {
				err = ss.SendMsg(out)
			}
			if err == nil && p.hangs != nil {
				p.hangs()
				<-ss.Context().Done()
				err = ss.Context().Err()
			}
			return err
		}))
	pb.RegisterAdminServer(s, pb.UnimplementedAdminServer{})
	healthpb.RegisterHealthServer(s, p.health)
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	return p
}

func (p *played) answer(method string, in proto.Message) (proto.Message, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := protojson.Marshal(in)
	if err != nil {
		return nil, err
	}
	var tight bytes.Buffer
	if err := json.Compact(&tight, text); err != nil {
		return nil, err
	}
	p.asked = append(p.asked, method+" "+tight.String())
	if err := p.errors[method]; err != nil {
		return nil, err
	}
	if out := p.answers[method]; out != nil {
		return out, nil
	}
	return nil, status.Error(codes.Unimplemented, "not played")
}

// ctl runs the program.
func ctl(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	c, o := command()
	var out, err bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	code = c.Run(ctx, args, func(string) (string, bool) { return "", false }, &out, &err,
		func(ctx context.Context, log hclog.Logger) error { return run(ctx, c.Operands, o, log, &out) })
	return code, out.String(), err.String()
}

func web() *pb.VMStatus {
	return &pb.VMStatus{
		Record: &pb.Record{Vm: "web", Term: 7, Mode: pb.Mode_MODE_PROTECTED, Reason: pb.Reason_REASON_NEW_STANDBY, SinceUnixMs: 1795877770939,
			Active: &pb.ReplicaRef{Id: "r-1", Address: "10.0.0.1:7410"}, Standby: &pb.ReplicaRef{Id: "r-2", Address: "10.0.0.2:7410"}},
		Epoch: 3, Summary: "r-1 is protected by r-2",
		Replicas: []*pb.ReplicaStatus{
			{Replica: &pb.ReplicaRef{Id: "r-1"}, Role: pb.Role_ROLE_ACTIVE, Vm: "web", Version: "v1"},
			{Replica: &pb.ReplicaRef{Id: "r-3"}, Role: pb.Role_ROLE_SPARE, Vm: "web", Drained: true, Unfit: "no room\x1b[2J"},
		},
		Counters: &pb.VMCounters{OutputsReleased: 41, OutputsCompared: 40, Mismatches: 2},
		Policy:   &pb.Policy{CompareMaxMs: 2000, FlowRules: []string{"udp any > any: pass"}},
	}
}

// Each verb asks for what it says and shows the answer.
func TestVerbs(t *testing.T) {
	a := play(t)
	vm := web()
	vm.Owner = &pb.ArbiterRef{Id: "a-1", Address: a.addr}
	a.answers = map[string]proto.Message{
		"ListVMs": &pb.ListVMsResponse{Vms: []*pb.VMStatus{vm, {Record: &pb.Record{Vm: "db", Mode: pb.Mode_MODE_SOLO}}}},
		"GetVM":   vm, "ListReplicas": &pb.ListReplicasResponse{Replicas: vm.Replicas},
		"ListArbiters": &pb.ListArbitersResponse{Arbiters: []*pb.ArbiterStatus{
			{Arbiter: &pb.ArbiterRef{Id: "a-1", Address: a.addr}, Vms: []string{"db", "web"}, NotReady: "etcd is away"}}},
		"WatchEvents": &pb.Event{Sequence: 9, UnixMs: 1795877770939, Vm: "web", Term: 7, Type: pb.EventType_EVENT_TYPE_RESYNC_DONE, Detail: "equal again"},
		"TestFailOver": &pb.TestFailOverResponse{Status: vm, TookOverUs: 31000, ProtectedUs: 1_500_000,
			Detail: "r-1 did not come back"},
		"GetSupportBundle": &pb.SupportBundleChunk{Data: []byte{0, 1, 2, 0xff}},
	}
	for _, method := range []string{"FailOver", "SwitchOver", "Resync", "Drain", "Undrain", "Detach", "SuspendProtection", "ResumeProtection", "SetPolicy"} {
		a.answers[method] = vm
	}
	tried := map[string]bool{}
	for _, tc := range []struct{ args, asked, shows string }{
		{"list", `ListVMs {}`, "web  protected  r-1     r-2      1       2026-11-28 14:56:10Z  " + a.addr + "\ndb   solo       -       -        -"},
		{"show web", `GetVM {"vm":"web"}`, "mode     protected, term 7, epoch 3, since 2026-11-28 14:56:10Z: new standby\n"},
		{"show web", `GetVM {"vm":"web"}`, "outputs  41 released, 40 compared, 2 differed, 0 too late\n"},
		{"show web", `GetVM {"vm":"web"}`, "drained, no room?[2J\n"},
		{"show web --json", `GetVM {"vm":"web"}`, `"outputsReleased": "41",`},
		{"replicas", `ListReplicas {}`, "web  r-1      active  -        0 ms    v1"},
		{"replicas web", `ListReplicas {"vm":"web"}`, "web  r-3      spare"},
		{"arbiters", `ListArbiters {}`, "db web etcd is away\n"},
		{"events web", `WatchEvents {"vm":"web"}`, "9 2026-11-28 14:56:10Z web term 7 epoch 0: resync done: equal again\n"},
		{"events --json", `WatchEvents {}`, `"detail": "equal again"`},
		{"resync web", `Resync {"vm":"web"}`, "r-1 is protected by r-2\n"},
		{"switchover web", `SwitchOver {"vm":"web"}`, "r-1 is protected by r-2\n"},
		{"failover web", `FailOver {"vm":"web"}`, "r-1 is protected by r-2\n"},
		{"test-failover web", `TestFailOver {"vm":"web"}`, "taken over after 31ms, protected 1.5s later, not back: r-1 did not come back\n"},
		{"drain web r-2", `Drain {"vm":"web","replicaId":"r-2"}`, "r-1 is protected by r-2\n"},
		{"undrain web r-2", `Undrain {"vm":"web","replicaId":"r-2"}`, "r-1 is protected by r-2\n"},
		{"detach web r-2", `Detach {"vm":"web","replicaId":"r-2"}`, "r-1 is protected by r-2\n"},
		{"suspend web", `SuspendProtection {"vm":"web"}`, "r-1 is protected by r-2\n"},
		{"resume web", `ResumeProtection {"vm":"web"}`, "r-1 is protected by r-2\n"},
		{"policy web", `GetVM {"vm":"web"}`, "compare_max_ms=2000\n"},
		{"policy web", `GetVM {"vm":"web"}`, "flow_rules=udp any > any: pass\n"},
		{"set-policy web compare_max_ms=1500 flow_rules=a flow_rules=b epoch_max_ms=",
			`SetPolicy {"vm":"web","policy":{"compareMaxMs":1500,"flowRules":["a","b"]},"update":"compareMaxMs,epochMaxMs,flowRules"}`, "compare_max_ms=2000\n"},
		{"bundle web", `GetSupportBundle {"vm":"web"}`, "\x00\x01\x02\xff"},
		{"bundle --json", `GetSupportBundle {}`, "\x00\x01\x02\xff"},
	} {
		a.asked = nil
		args := append(strings.Fields(tc.args), "--arbiter", a.addr)
		code, out, problem := ctl(t, args...)
		if code != cli.ExitOK || problem != "" || !strings.Contains(out, tc.shows) {
			t.Errorf("%s: code %d: %s%s\nwant %s", tc.args, code, problem, out, tc.shows)
		}
		if n := len(a.asked); n == 0 || a.asked[n-1] != tc.asked {
			t.Errorf("%s: asked %q, want %s", tc.args, a.asked, tc.asked)
		}
		tried[args[0]] = true
	}
	for _, v := range verbs {
		if !tried[v.name] {
			t.Errorf("%s was not tried", v.name)
		}
	}
}

// What Admin can do there is a verb for. One replica and one arbiter are lines of
// their lists.
func TestEveryCallHasAVerb(t *testing.T) {
	methods := pb.File_understudy_v1_admin_proto.Services().ByName("Admin").Methods()
	for i := range methods.Len() {
		name := string(methods.Get(i).Name())
		if name != "GetReplica" && name != "GetArbiter" && !slices.ContainsFunc(verbs, func(v verb) bool { return v.method == name }) {
			t.Errorf("there is no verb for %s", name)
		}
	}
}

func refusal(code codes.Code, text, reason string, more ...protoadapt.MessageV1) error {
	return detailed(code, text, append(more, &errdetails.ErrorInfo{Reason: reason, Domain: "understudy"})...)
}

func detailed(code codes.Code, text string, details ...protoadapt.MessageV1) error {
	s, err := status.New(code, text).WithDetails(details...)
	if err != nil {
		panic(err)
	}
	return s.Err()
}

func elsewhere(addr string) error {
	return detailed(codes.FailedPrecondition, "another arbiter owns the VM", &errdetails.ErrorInfo{
		Reason: "OWNED_ELSEWHERE", Domain: "understudy", Metadata: map[string]string{"vm": "web", "address": addr}})
}

// What goes wrong is one line that says what mends it, and an exit code.
func TestErrorsSayWhatMendsThem(t *testing.T) {
	a := play(t)
	unplayed := &errdetails.PreconditionFailure{Violations: []*errdetails.PreconditionFailure_Violation{{Description: "wait until it is protected"}}}
	for _, tc := range []struct {
		args   string
		answer error
		code   int
		says   string
	}{
		{"", nil, cli.ExitUsage, "which verb?"},
		{"fly web", nil, cli.ExitUsage, `there is no verb "fly"`},
		{"failover", nil, cli.ExitUsage, "failover takes VM"},
		{"drain web", nil, cli.ExitUsage, "drain takes VM REPLICA"},
		{"list web", nil, cli.ExitUsage, `list takes no "web"`},
		{"set-policy web", nil, cli.ExitUsage, "set-policy takes VM FIELD=VALUE…"},
		{"set-policy web speed=1", nil, cli.ExitUsage, `"speed=1" is no FIELD=VALUE`},
		{"set-policy web compare_max_ms", nil, cli.ExitUsage, "is no FIELD=VALUE"},
		{"set-policy web compare_max_ms=-1", nil, cli.ExitUsage, "must be a number of milliseconds"},
		{"list --arbiter here", nil, cli.ExitUsage, "must be host:port"},
		{"list --arbiter 192.0.2.1:7400", nil, cli.ExitUsage, "is not a loopback address and there are no certificates"},
		{"list --arbiter 127.0.0.1:1", nil, cli.ExitError, "no arbiter answers"},
		{"failover web", status.Error(codes.InvalidArgument, "vm: no name"), cli.ExitUsage, "vm: no name"},
		{"failover web", refusal(codes.NotFound, "no such VM", "NO_SUCH_VM"), cli.ExitError, "no such VM: understudyctl list shows"},
		{"failover web", refusal(codes.FailedPrecondition, "the VM is not protected", "NOT_PROTECTED", unplayed), cli.ExitError, "not protected: wait until it is protected"},
		{"failover web", refusal(codes.Unavailable, "no leader", "ETCD"), cli.ExitError, "is etcd running"},
		{"failover web", refusal(codes.Aborted, "overtaken", "OVERTAKEN"), cli.ExitError, "look at understudyctl show before you try again"},
		{"failover web", status.Error(codes.PermissionDenied, "replica web may not"), cli.ExitError, "the certificate of an operator"},
		{"failover web", status.Error(codes.Internal, "two\nlines\x1b[2J"), cli.ExitError, "lines?[2J"},
		{"failover web", elsewhere("127.0.0.1:1"), cli.ExitError, "127.0.0.1:1 owns it and does not answer from here"},
	} {
		a.asked, a.errors = nil, map[string]error{"FailOver": tc.answer, "GetVM": refusal(codes.NotFound, "no such VM", "NO_SUCH_VM")}
		args := strings.Fields(tc.args)
		if !slices.Contains(args, "--arbiter") {
			args = append(args, "--arbiter", a.addr)
		}
		code, out, problem := ctl(t, args...)
		if code != tc.code || out != "" || !strings.Contains(problem, tc.says) || strings.Count(problem, "\n") != 1 {
			t.Errorf("%s: code %d: %s%s\nwant %d: %s", tc.args, code, out, problem, tc.code, tc.says)
		}
		orders := 0
		for _, asked := range a.asked {
			if strings.HasPrefix(asked, "FailOver") {
				orders++
			}
		}
		if want := map[bool]int{true: 1}[tc.answer != nil]; orders != want {
			t.Errorf("%s: %d orders were given: %q", tc.args, orders, a.asked)
		}
	}
}

// Who does not wait for the answer is told that the order goes on. Events are
// watched until then.
func TestInterrupted(t *testing.T) {
	a := play(t)
	a.answers["GetVM"], a.answers["WatchEvents"] = web(), &pb.Event{Detail: "it happened"}
	until := func(operands ...string) (string, error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		a.hangs = cancel
		c, o := command()
		if err := c.Parse(append(operands, "--arbiter", a.addr), func(string) (string, bool) { return "", false }); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		err := run(ctx, c.Operands, o, hclog.NewNullLogger(), &out)
		return out.String(), err
	}
	if out, err := until("failover", "web"); err == nil || !strings.Contains(err.Error(), "an order goes on by itself") {
		t.Errorf("%v %s", err, out)
	}
	// The event may have been overtaken by the interruption.
	if out, err := until("events", "web"); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

// The VM's owner is found by whichever arbiter answers, and by its refusal where
// the VM has changed hands.
func TestOwnerIsFollowed(t *testing.T) {
	a, b, sick := play(t), play(t), play(t)
	sick.health.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	vm := web()
	b.answers["FailOver"], b.answers["GetVM"] = vm, vm
	owned := web()
	owned.Owner = &pb.ArbiterRef{Address: b.addr}
	for name, tc := range map[string]struct {
		arbiters string
		knows    *pb.VMStatus
	}{
		"told by GetVM":           {a.addr, owned},
		"told by the refusal":     {a.addr, web()},
		"the first does not live": {"127.0.0.1:1," + a.addr, owned},
		"the first is not well":   {sick.addr + "," + a.addr, owned},
	} {
		a.asked, b.asked = nil, nil
		a.answers["GetVM"], a.errors["FailOver"] = tc.knows, elsewhere(b.addr)
		if code, out, problem := ctl(t, "failover", "web", "--arbiter", tc.arbiters); code != cli.ExitOK {
			t.Errorf("%s: %s%s", name, out, problem)
		}
		if !slices.Equal(b.asked, []string{`FailOver {"vm":"web"}`}) {
			t.Errorf("%s: the owner was asked %q", name, b.asked)
		}
		if _, out, _ := ctl(t, "show", "web", "--arbiter", tc.arbiters); !strings.Contains(out, vm.Summary) {
			t.Errorf("%s: shows %q", name, out)
		}
	}
	// Where only one that is not well is there, it is asked.
	sick.answers["ListVMs"] = &pb.ListVMsResponse{}
	if code, out, problem := ctl(t, "list", "--arbiter", sick.addr); code != cli.ExitOK {
		t.Errorf("of one that is not well: %s%s", out, problem)
	}
	// Two that each say that the other owns the VM are not followed for ever.
	b.errors["FailOver"] = elsewhere(a.addr)
	if code, _, problem := ctl(t, "failover", "web", "--arbiter", a.addr); code != cli.ExitError || !strings.Contains(problem, "from arbiter to arbiter") {
		t.Errorf("code %d: %s", code, problem)
	}
	if n := len(a.asked) + len(b.asked); n > 20 {
		t.Errorf("%d calls", n)
	}
}

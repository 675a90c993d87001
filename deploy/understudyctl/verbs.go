package main

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// verb is a call of Admin. takes names what is set in the request, in brackets
// what may be left out; limit is what an arbiter allows for it, and the way there;
// print is the template of the answer.
type verb struct {
	name, takes, method, print string
	limit                      time.Duration
	does                       string
}

var verbs = []verb{
	{"list", "", "ListVMs", "vms", 15 * time.Second, "every VM: how it is, where it runs, and which arbiter owns it"},
	{"show", "VM", "GetVM", "vm", 15 * time.Second, "a VM with its replicas, counters and policy"},
	{"replicas", "[VM]", "ListReplicas", "replicas", 15 * time.Second, "the replicas of a VM, or of all"},
	{"arbiters", "", "ListArbiters", "arbiters", 15 * time.Second, "the arbiters and what they own"},
	{"events", "[VM]", "WatchEvents", "event", math.MaxInt64, "what has happened and what happens, until interrupted (without VM: to the VMs of one arbiter)"},
	{"resync", "VM", "Resync", "order", 45 * time.Second, "begin a new epoch now"},
	{"switchover", "VM", "SwitchOver", "order", 3 * time.Minute, "make the standby active, in order"},
	{"failover", "VM", "FailOver", "order", 45 * time.Second, "make the standby active at once; the old active comes back as a spare"},
	{"test-failover", "VM", "TestFailOver", "test", 21 * time.Minute, "fail over, wait for protection, switch back"},
	{"drain", "VM REPLICA", "Drain", "order", 3 * time.Minute, "keep a replica from being used; an active is switched over from first"},
	{"undrain", "VM REPLICA", "Undrain", "order", 45 * time.Second, "let it be used again"},
	{"detach", "VM REPLICA", "Detach", "order", 45 * time.Second, "end a standby or a spare; what restarts it brings it back"},
	{"suspend", "VM", "SuspendProtection", "order", 45 * time.Second, "let the active go on alone until resumed"},
	{"resume", "VM", "ResumeProtection", "order", 45 * time.Second, "protect it again"},
	{"policy", "VM", "GetVM", "policy", 15 * time.Second, "the policy in force"},
	{"set-policy", "VM FIELD=VALUE…", "SetPolicy", "policy", 3 * time.Minute, "set fields of it (several flow_rules: one each); FIELD= leaves it to the arbiter"},
	{"bundle", "[VM]", "GetSupportBundle", "", time.Minute, "write a tar.gz of what helps to understand a problem to standard output"},
}

// fields are the arguments' in the requests.
var fields = map[string]protoreflect.Name{"VM": "vm", "REPLICA": "replica_id"}

// parse finds the verb and makes its request.
func parse(operands []string) (verb, proto.Message, error) {
	if len(operands) == 0 {
		return verb{}, nil, errors.New("which verb?")
	}
	for _, v := range verbs {
		if v.name == operands[0] {
			in, err := v.request(operands[1:])
			return v, in, err
		}
	}
	return verb{}, nil, fmt.Errorf("there is no verb %q", operands[0])
}

func (v verb) request(args []string) (proto.Message, error) {
	in, _ := v.messages()
	m := in.ProtoReflect()
	for _, name := range strings.Fields(v.takes) {
		switch r, sets := in.(*pb.SetPolicyRequest); {
		case len(args) == 0 && name[0] == '[':
			continue
		case len(args) == 0:
			return nil, fmt.Errorf("%s takes %s", v.name, v.takes)
		case sets && name != "VM":
			return r, setPolicy(r, args)
		}
		m.Set(m.Descriptor().Fields().ByName(fields[strings.Trim(name, "[]")]), protoreflect.ValueOfString(args[0]))
		args = args[1:]
	}
	if len(args) > 0 {
		return nil, fmt.Errorf("%s takes no %q", v.name, args[0])
	}
	return in, nil
}

// messages are a new request of the verb's call and a new answer.
func (v verb) messages() (in, out proto.Message) {
	blank := func(d protoreflect.MessageDescriptor) proto.Message {
		t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			panic(err) // all of Admin is linked in
		}
		return t.New().Interface()
	}
	m := pb.File_understudy_v1_admin_proto.Services().ByName("Admin").Methods().ByName(protoreflect.Name(v.method))
	return blank(m.Input()), blank(m.Output())
}

// setPolicy takes FIELD=VALUE for each field of a policy.
func setPolicy(r *pb.SetPolicyRequest, args []string) error {
	r.Policy, r.Update = &pb.Policy{}, &fieldmaskpb.FieldMask{}
	m := r.Policy.ProtoReflect()
	for _, arg := range args {
		name, value, is := strings.Cut(arg, "=")
		f := m.Descriptor().Fields().ByName(protoreflect.Name(name))
		if !is || f == nil {
			return fmt.Errorf("%q is no FIELD=VALUE of a policy: understudyctl policy shows them", arg)
		}
		r.Update.Paths = append(r.Update.Paths, name)
		switch {
		case value == "":
			m.Clear(f)
		case f.IsList():
			m.Mutable(f).List().Append(protoreflect.ValueOfString(value))
		default:
			n, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return fmt.Errorf("%q: must be a number of milliseconds", arg)
			}
			m.Set(f, protoreflect.ValueOfUint32(uint32(n)))
		}
	}
	r.Update.Normalize()
	return nil
}

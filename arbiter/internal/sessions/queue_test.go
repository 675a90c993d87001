package sessions

import (
	"testing"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
	"github.com/understudy-ft/understudy/services/protocol"
	"github.com/understudy-ft/understudy/services/session"
)

func release(term, epoch uint64, ids ...uint64) *pb.ToReplica {
	r := &pb.Release{Epoch: epoch}
	for _, id := range ids {
		r.Outputs = append(r.Outputs, &pb.Released{Id: id})
	}
	return &pb.ToReplica{Term: term, Body: &pb.ToReplica_Release{Release: r}}
}

func heartbeat() *pb.ToReplica {
	return &pb.ToReplica{Body: &pb.ToReplica_Heartbeat{Heartbeat: &pb.ArbiterHeartbeat{}}}
}

func refusal() *pb.Refusal { return &pb.Refusal{Detail: "no"} }

func TestQueueKeepsOrderAndEnds(t *testing.T) {
	for name, tc := range map[string]struct {
		do      func(*Queue)
		want    int  // messages taken
		refused bool // the last of them is the refusal
		over    bool
		void    bool // what is not a refusal must not be sent any more
	}{
		"empty":                {func(q *Queue) {}, 0, false, false, false},
		"waiting":              {func(q *Queue) { q.push([]*pb.ToReplica{heartbeat(), heartbeat()}) }, 2, false, false, false},
		"ended":                {func(q *Queue) { q.push([]*pb.ToReplica{heartbeat()}); q.end(nil, false) }, 1, false, true, false},
		"ended with a refusal": {func(q *Queue) { q.push([]*pb.ToReplica{heartbeat()}); q.end(refusal(), false) }, 2, true, true, false},
		"dropped":              {func(q *Queue) { q.push([]*pb.ToReplica{heartbeat()}); q.end(refusal(), true) }, 1, true, true, true},
		"nothing follows":      {func(q *Queue) { q.end(refusal(), false); q.push([]*pb.ToReplica{heartbeat()}) }, 1, true, true, false},
		"ended twice":          {func(q *Queue) { q.end(refusal(), false); q.end(refusal(), false) }, 1, true, true, false},
		"dropped after its end": {func(q *Queue) {
			q.push([]*pb.ToReplica{heartbeat()})
			q.end(refusal(), false)
			q.end(nil, true)
		}, 2, true, true, true},
		"full": {func(q *Queue) {
			for range queueMax + 1 {
				q.push([]*pb.ToReplica{heartbeat()})
			}
		}, 0, false, true, true},
	} {
		q := newQueue()
		tc.do(q)
		woken := false
		select {
		case <-q.Wake():
			woken = true
		default:
		}
		msgs, over := q.Take(nil)
		closed := false
		select {
		case <-q.Over():
			closed = true
		default:
		}
		refused := len(msgs) > 0 && msgs[len(msgs)-1].GetRefusal() != nil
		if len(msgs) != tc.want || refused != tc.refused || over != tc.over || closed != tc.over {
			t.Errorf("%s: %d messages, refused %v, over %v %v", name, len(msgs), refused, over, closed)
		}
		if woken != (len(msgs) > 0 || over) {
			t.Errorf("%s: woken %v", name, woken)
		}
		if q.Void(heartbeat()) != tc.void || q.Void(&pb.ToReplica{Body: &pb.ToReplica_Refusal{Refusal: refusal()}}) {
			t.Errorf("%s: void %v", name, q.Void(heartbeat()))
		}
	}
}

func TestReleasesAreJoined(t *testing.T) {
	many := make([]uint64, 4096)
	for name, tc := range map[string]struct {
		add  []*pb.ToReplica
		want []int // releases in each message, -1: another message
	}{
		"one epoch":        {[]*pb.ToReplica{release(1, 1, 1), release(1, 1, 2, 3), release(1, 1, 4)}, []int{4}},
		"another epoch":    {[]*pb.ToReplica{release(1, 1, 1), release(1, 2, 1), release(1, 2, 2)}, []int{1, 2}},
		"another term":     {[]*pb.ToReplica{release(1, 1, 1), release(2, 1, 1)}, []int{1, 1}},
		"something else":   {[]*pb.ToReplica{release(1, 1, 1), heartbeat(), release(1, 1, 2)}, []int{1, -1, 1}},
		"not without end":  {[]*pb.ToReplica{release(1, 1, many...), release(1, 1, 2)}, []int{4096, 1}},
		"others as it is":  {[]*pb.ToReplica{heartbeat(), heartbeat()}, []int{-1, -1}},
		"up to the bounds": {[]*pb.ToReplica{release(1, 1, many[:4095]...), release(1, 1, 2)}, []int{4096}},
	} {
		var s Stream
		for _, m := range tc.add {
			s.add(m)
		}
		if len(s.pending) != len(tc.want) {
			t.Errorf("%s: %d messages", name, len(s.pending))
			continue
		}
		for i, m := range s.pending {
			n := -1
			if r := m.GetRelease(); r != nil {
				n = len(r.Outputs)
			}
			if n != tc.want[i] {
				t.Errorf("%s: message %d has %d releases, want %d", name, i, n, tc.want[i])
			}
		}
	}
}

func TestCheckHello(t *testing.T) {
	hello := func(edit func(*pb.Hello)) *pb.FromReplica {
		h := &pb.Hello{Protocol: session.ProtocolVersion, Vm: "web", Replica: &pb.ReplicaRef{Id: "r-1", Address: "h:1"}, Role: pb.Role_ROLE_SPARE}
		edit(h)
		return &pb.FromReplica{Body: &pb.FromReplica_Hello{Hello: h}}
	}
	long := string(make([]byte, 10000))
	for name, tc := range map[string]struct {
		m    *pb.FromReplica
		want pb.Refusal_Action
	}{
		"good":            {hello(func(*pb.Hello) {}), pb.Refusal_ACTION_UNSPECIFIED},
		"no message":      {nil, pb.Refusal_ACTION_EXIT},
		"no body":         {&pb.FromReplica{}, pb.Refusal_ACTION_EXIT},
		"nil hello":       {&pb.FromReplica{Body: &pb.FromReplica_Hello{}}, pb.Refusal_ACTION_EXIT},
		"another body":    {&pb.FromReplica{Body: &pb.FromReplica_Heartbeat{}}, pb.Refusal_ACTION_EXIT},
		"older protocol":  {hello(func(h *pb.Hello) { h.Protocol = 0 }), pb.Refusal_ACTION_RETRY},
		"newer protocol":  {hello(func(h *pb.Hello) { h.Protocol = protocol.Spoken().Max + 1 }), pb.Refusal_ACTION_RETRY},
		"no VM":           {hello(func(h *pb.Hello) { h.Vm = "" }), pb.Refusal_ACTION_EXIT},
		"VM with a slash": {hello(func(h *pb.Hello) { h.Vm = "a/owner" }), pb.Refusal_ACTION_EXIT},
		"no replica":      {hello(func(h *pb.Hello) { h.Replica = nil }), pb.Refusal_ACTION_EXIT},
		"bad replica":     {hello(func(h *pb.Hello) { h.Replica.Id = "../r" }), pb.Refusal_ACTION_EXIT},
		"long address":    {hello(func(h *pb.Hello) { h.Replica.Address = long }), pb.Refusal_ACTION_EXIT},
		"long version":    {hello(func(h *pb.Hello) { h.Version = long }), pb.Refusal_ACTION_EXIT},
	} {
		r := CheckHello(tc.m)
		if r.GetAction() != tc.want || r != nil && (r.Detail == "" || len(r.Detail) > 500) {
			t.Errorf("%s: %v", name, r)
		}
	}
}

func TestWords(t *testing.T) {
	for v, want := range map[interface{ String() string }]string{
		pb.Mode_MODE_PROTECTED: "protected", pb.Reason_REASON_LOST_REPLICA: "lost replica",
		pb.EventType_EVENT_TYPE_RESYNC_DONE: "resync done", pb.Role_ROLE_SPARE: "spare", pb.Mode(99): "99",
	} {
		if got := Words(v); got != want {
			t.Errorf("%v: %q, want %q", v, got, want)
		}
	}
}

package fence

import (
	"encoding/json"
	"reflect"
	"testing"

	"google.golang.org/protobuf/proto"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// newer is a record as a release may write it that knows more of everything.
const newer = `{
	"vm": "web", "term": "7", "mode": "MODE_PROTECTED", "suspended": true,
	"active": {"id": "a", "address": "a:1", "rack": {"row": 3}},
	"standby": {"id": "b", "address": "b:1", "rack": {"row": 4}},
	"policy": {"compareMaxMs": 1000, "flow_rules": ["udp any > any: pass"], "quorum": [1, 2, {"x": null}]},
	"drained": [{"process": "P1"}, {"process": "P2", "until": "tomorrow"}],
	"witness": {"id": "w"}, "weight": 12345678901234567890
}`

func object(t *testing.T, text string) (o map[string]any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// What this release does not know of a record goes the way of the message that
// it is in: it stays as long as that message does.
func TestFieldsOfANewerReleaseStay(t *testing.T) {
	r, err := decodeRecord([]byte(newer))
	if err != nil {
		t.Fatal(err)
	}
	// Over the network it comes to replicas, too, which may change it.
	b, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	told := &pb.Record{}
	if err := proto.Unmarshal(b, told); err != nil {
		t.Fatal(err)
	}
	next := proto.CloneOf(told)
	next.Term, next.Mode, next.Active, next.Standby = 8, pb.Mode_MODE_SOLO, next.Standby, nil
	next.Policy.CompareMaxMs = 500
	text, err := encodeRecord(next)
	if err != nil {
		t.Fatal(err)
	}
	want := object(t, `{
		"vm": "web", "term": "8", "mode": "MODE_SOLO", "suspended": true,
		"active": {"id": "b", "address": "b:1", "rack": {"row": 4}},
		"policy": {"compareMaxMs": 500, "flowRules": ["udp any > any: pass"], "quorum": [1, 2, {"x": null}]},
		"drained": [{"process": "P1"}, {"process": "P2", "until": "tomorrow"}],
		"witness": {"id": "w"}, "weight": 12345678901234567890
	}`)
	if got := object(t, text); !reflect.DeepEqual(got, want) {
		t.Fatalf("got  %v\nwant %v", got, want)
	}
	again, err := decodeRecord([]byte(text))
	if err != nil || !proto.Equal(again, next) {
		t.Fatalf("reads as %v (%v), not as %v", again, err, next)
	}
}

func TestRecordOfThisReleaseIsPlain(t *testing.T) {
	for _, r := range []*pb.Record{
		{},
		{Vm: "web", Term: 3, Policy: &pb.Policy{}, Drained: []*pb.Drained{{}, {Process: "p"}}},
	} {
		text, err := encodeRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := decodeRecord([]byte(text))
		if err != nil || !proto.Equal(got, r) {
			t.Errorf("%s reads as %v (%v)", text, got, err)
		}
	}
}

// Whatever somebody has put into etcd: an error, or a record that is read the
// same after it was written.
func FuzzRecord(f *testing.F) {
	f.Add([]byte(newer))
	f.Add([]byte(`{"policy":null,"drained":[null],"active":{}}`))
	f.Add([]byte(`{"vm":"a","VM":"b","x":{"y":[{}]},"x":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		text, err := encodeRecord(r)
		if err != nil {
			t.Fatalf("%v cannot be written: %v", r, err)
		}
		if again, err := decodeRecord([]byte(text)); err != nil || !proto.Equal(again, r) {
			t.Fatalf("%s reads as %v (%v), not as %v", text, again, err, r)
		}
	})
}

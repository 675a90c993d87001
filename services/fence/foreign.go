package fence

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	pb "github.com/understudy-ft/understudy/proto/understudy/v1"
)

// A record that a newer release has written may have fields that this one does
// not know. They stay in it: protobuf keeps unknown fields of a message that is
// copied, but only in its binary form, and etcd holds the record as JSON, for
// people. So the members of a JSON object that its message has no field for
// become an unknown field of that message, and members again when it is
// written. Whoever changes a record changes a copy of it.
//
// foreign is that field's number, which no message can have for its own
// (protobuf reserves it).
const foreign protowire.Number = 19_000

func encodeRecord(r *pb.Record) (string, error) {
	b, err := protojson.Marshal(r)
	if err != nil {
		return "", err
	}
	b, err = restore(b, r.ProtoReflect())
	return string(b), err
}

func decodeRecord(b []byte) (*pb.Record, error) {
	r := new(pb.Record)
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(b, r); err != nil {
		return nil, err
	}
	return r, keep(b, r.ProtoReflect())
}

// keep puts the members of an object that m has no field for into m.
func keep(object []byte, m protoreflect.Message) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return fmt.Errorf("read it once more for unknown fields: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		switch fd := field(m.Descriptor(), name); {
		case fd == nil:
			one, err := json.Marshal(map[string]json.RawMessage{name: members[name]})
			if err != nil {
				return err
			}
			b := protowire.AppendTag(m.GetUnknown(), foreign, protowire.BytesType)
			m.SetUnknown(protowire.AppendBytes(b, one))
		case fd.Message() == nil || fd.IsMap() || !m.Has(fd):
		case fd.IsList():
			var items []json.RawMessage
			list := m.Get(fd).List()
			if err := json.Unmarshal(members[name], &items); err != nil || len(items) != list.Len() {
				return fmt.Errorf("read %s once more for unknown fields: %d items, then %d (%w)", name, list.Len(), len(items), err)
			}
			for i, item := range items {
				if err := keep(item, list.Get(i).Message()); err != nil {
					return err
				}
			}
		default:
			if err := keep(members[name], m.Get(fd).Message()); err != nil {
				return err
			}
		}
	}
	return nil
}

// restore adds what keep has put into m to an object, m's JSON form.
func restore(object []byte, m protoreflect.Message) ([]byte, error) {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(object, &members); err != nil {
		return nil, err
	}
	for b := m.GetUnknown(); len(b) > 0; {
		number, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return nil, fmt.Errorf("unknown fields: %w", protowire.ParseError(n))
		}
		if _, _, tag := protowire.ConsumeTag(b); number == foreign {
			one, _ := protowire.ConsumeBytes(b[tag:n])
			if err := json.Unmarshal(one, &members); err != nil {
				return nil, fmt.Errorf("unknown fields: %w", err)
			}
		}
		b = b[n:]
	}
	var err error
	inner := func(part *json.RawMessage, m protoreflect.Message) {
		if err == nil {
			*part, err = restore(*part, m)
		}
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := fd.JSONName()
		switch {
		case fd.Message() == nil || fd.IsMap():
		case fd.IsList():
			var items []json.RawMessage
			if err = json.Unmarshal(members[name], &items); err != nil {
				return false
			}
			for i := range items {
				inner(&items[i], v.List().Get(i).Message())
			}
			if err == nil {
				members[name], err = json.Marshal(items)
			}
		default:
			part := members[name]
			inner(&part, v.Message())
			members[name] = part
		}
		return err == nil
	})
	if err != nil {
		return nil, err
	}
	return json.Marshal(members)
}

// field is the field of a message that a member of its JSON form stands for.
func field(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	if fd := d.Fields().ByJSONName(name); fd != nil {
		return fd
	}
	return d.Fields().ByTextName(name)
}
